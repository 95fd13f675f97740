"""A model in closed form: its label maps lie where the images are, in millimetres, as SimpleITK sees it."""

import itertools
import math
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import safetensors.torch
import SimpleITK as sitk
import torch

from builders.records import case_of, fingerprint_of
from voxfit.core.errors import DatasetError
from voxfit.core.progress import Listener
from voxfit.imaging.files import Case
from voxfit.imaging.labels import Label, Labels
from voxfit.inference.model import Model
from voxfit.inference.model_json import Fast, Member, ModelDescription
from voxfit.networks.unet import build_network
from voxfit.planning.grid import ClipAndScale
from voxfit.planning.plan import Limits
from voxfit.planning.planners.paper import make_plan

CENTRE = np.array([13.0, -41.0, 7.0])
RADIUS = 11.0

COSINE, SINE = math.cos(0.4), math.sin(0.4)
OBLIQUE = (COSINE, -SINE, 0.0, SINE * COSINE, COSINE * COSINE, -SINE, SINE * SINE, SINE * COSINE, COSINE)
FLIPPED = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
MIRRORED = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
SWAPPED = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def threshold(image: torch.Tensor) -> torch.Tensor:
    """The network: foreground where the intensity is above 0."""
    return 20 * torch.cat([-image, image], dim=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of two configurations, weights at random, on a grid of 1.5 mm."""
    labels = Labels(classes=(Label(name="ball", value=3),))
    fingerprint = fingerprint_of((case_of((20, 24, 28), (1.5, 1.5, 1.5)),) * 4, ("CT",), labels, dataset="balls")
    plan = make_plan(fingerprint, Limits(voxel_budget=16**3, plane_voxels=2048, base_features=4, cascade_factor=100))
    rule = ClipAndScale(lower=-1e3, upper=1e3, mean=0.0, standard_deviation=1.0)
    plan = plan.model_copy(update={"normalization": (rule,)})
    path = tmp_path_factory.mktemp("model")
    for name in ("2d", "3d"):
        weights = build_network(plan.topology(name), 0).state_dict()
        (path / f"{name}.safetensors").write_bytes(safetensors.torch.save(weights))
    ModelDescription(
        name="2d+3d",
        plan=plan,
        members=tuple(Member(configuration=name, weights=(f"{name}.safetensors",)) for name in ("2d", "3d")),
        cross_validated_dice=None,
        inputs_digest="",
        made_by="test",
    ).save(path / "model.json")
    return path


@pytest.fixture(scope="module")
def model(folder):
    opened = Model.open(folder, "cpu", backend="torch")
    for predictor in opened.predictors.values():
        predictor.networks = (threshold,)
    return opened


def ball(size, spacing, direction):
    """Distance to the ball's surface, positive inside, on a grid around it; voxels are placed by SimpleITK."""
    reference = sitk.Image(size, sitk.sitkFloat32)
    reference.SetSpacing(spacing)
    reference.SetDirection(direction)
    middle = reference.TransformContinuousIndexToPhysicalPoint([(edge - 1) / 2 + 0.3 for edge in size])
    reference.SetOrigin((CENTRE - np.array(middle)).tolist())
    points = sitk.PhysicalPointSource(
        sitk.sitkVectorFloat64, size, reference.GetOrigin(), reference.GetSpacing(), reference.GetDirection()
    )
    distance = RADIUS - np.linalg.norm(sitk.GetArrayFromImage(points) - CENTRE, axis=-1)
    image = sitk.GetImageFromArray(distance.astype(np.float32))
    image.CopyInformation(reference)
    return image


@pytest.mark.parametrize("direction", [OBLIQUE, FLIPPED, MIRRORED, SWAPPED], ids=["oblique", "flip", "mirror", "swap"])
@pytest.mark.parametrize(("size", "spacing"), [((34, 31, 9), (0.9, 1.0, 4.0)), ((20, 19, 23), (1.5, 1.7, 1.4))])
def test_the_segmentation_overlays_the_image_in_space(model, size, spacing, direction):
    image = ball(size, spacing, direction)
    label = model.predict(image)
    assert label.GetSize() == image.GetSize()
    for get in ("GetOrigin", "GetSpacing", "GetDirection"):
        assert getattr(label, get)() == pytest.approx(getattr(image, get)(), abs=1e-9)
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.Execute(sitk.Cast(label, sitk.sitkUInt8))
    assert shapes.GetLabels() == (3,)
    assert np.linalg.norm(np.array(shapes.GetCentroid(3)) - CENTRE) < 0.2 * max(spacing)
    assert shapes.GetPhysicalSize(3) == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.05)
    # On a grid along the axes of space, it fits the ball as well as the image's own voxels can.
    best = overlap(image > 0)
    assert overlap(label == 3) > max(best - 0.02, 0.9)


def overlap(mask):
    """Dice with the ball, on a fine grid along the axes of space."""
    grid = ball((60, 60, 60), (0.5, 0.5, 0.5), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    moved = sitk.GetArrayFromImage(sitk.Resample(mask, grid, sitk.Transform(), sitk.sitkNearestNeighbor)) > 0
    expected = sitk.GetArrayFromImage(grid) > 0
    return 2 * (moved & expected).sum() / (moved.sum() + expected.sum())


def test_labels_are_found_voxel_by_voxel_where_nothing_is_resampled(model):
    """On the model's own grid the whole way there and back changes nothing."""
    image = ball((21, 26, 18), (1.5, 1.5, 1.5), OBLIQUE)
    expected = 3 * (sitk.GetArrayFromImage(image) > 0)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(model.predict(image)), expected)


def test_turning_an_array_turns_its_segmentation(model):
    array = sitk.GetArrayFromImage(ball((20, 20, 20), (1.5, 1.5, 1.5), OBLIQUE))
    plain = model.predict(array, (1.5, 1.5, 1.5))
    for axes in itertools.permutations(range(3)):
        np.testing.assert_array_equal(model.predict(array.transpose(axes), (1.5,) * 3), plain.transpose(axes))


class Ear(Listener):
    def __init__(self):
        self.heard = []

    def warn(self, text):
        self.heard.append(text)


def test_a_program_hears_what_speaks_against_a_segmentation(folder, tmp_path):
    ear = Ear()
    opened = Model.open(folder, "cpu", backend="torch", listener=ear)
    for predictor in opened.predictors.values():
        predictor.networks = (threshold,)
    image = ball((20, 19, 23), (1.5, 1.7, 1.4), FLIPPED)
    opened.predict(image)
    assert ear.heard == []
    sitk.WriteImage(image - 100, str(tmp_path / "a.nii.gz"))
    opened.predict(image - 100)
    label, _ = opened.predict_case(Case(name="a", images=(str(tmp_path / "a.nii.gz"),)))
    assert not label.any()
    assert ear.heard == ["the label map has no foreground."] * 2
    ear.heard.clear()
    opened.predict(0 * image)
    assert ear.heard[0] == "all voxels of the image are equal: there is nothing to see."


@pytest.mark.parametrize(
    ("array", "spacing", "words"),
    [
        (np.zeros((2, 20, 20, 20)), (1.0,) * 3, "the image has 2 channels, but the model was trained on 1 channel: CT"),
        (np.zeros((20, 20)), (1.0,) * 2, "the image is 2D, but the model was trained on 3D images"),
    ],
)
def test_what_does_not_go_with_the_model_is_told_what_it_needs(model, array, spacing, words):
    with pytest.raises(DatasetError, match=words) as raised:
        model.predict(array, spacing)
    assert "dataset.json" not in str(raised.value)


def test_an_image_whose_place_is_said_twice_is_doubted(folder, tmp_path):
    """Whoever overlays the label map may see the image elsewhere."""
    ear = Ear()
    opened = Model.open(folder, "cpu", backend="torch", listener=ear)
    for predictor in opened.predictors.values():
        predictor.networks = (threshold,)
    voxels = sitk.GetArrayFromImage(ball((20, 19, 23), (1.5, 1.5, 1.5), FLIPPED)).transpose()
    for name, shift in (("same", 0.0), ("other", 40.0)):
        image = nib.Nifti1Image(voxels, np.diag([1.5, 1.5, 1.5, 1.0]))
        affine = image.affine.copy()
        affine[0, 3] += shift
        image.set_sform(image.affine, 1)
        image.set_qform(affine, 1)
        nib.save(image, tmp_path / f"{name}.nii.gz")
        opened.predict_case(Case(name=name, images=(str(tmp_path / f"{name}.nii.gz"),)))
        assert len(ear.heard) == (shift > 0)
    assert "its sform and qform place it up to 40 mm apart" in ear.heard[0]


@pytest.fixture(scope="module")
def folds(folder, tmp_path_factory):
    """A model of two configurations and two folds, its networks, and an image that is one tile of the 3D ones."""
    plan, path = ModelDescription.load(folder / "model.json").plan, tmp_path_factory.mktemp("folds")
    networks, members = {}, []
    for name in ("2d", "3d"):
        files = tuple(f"{name}_{fold}.safetensors" for fold in range(2))
        for fold, file in enumerate(files):
            network = networks[name, fold] = build_network(plan.topology(name), 7 + fold).eval()
            (path / file).write_bytes(safetensors.torch.save(network.state_dict()))
        members.append(Member(configuration=name, weights=files))
    ModelDescription(
        name="2d+3d",
        plan=plan,
        members=tuple(members),
        cross_validated_dice=0.9,
        fast=Fast(configuration="3d", cross_validated_dice=0.8),
        inputs_digest="",
        made_by="test",
    ).save(path / "model.json")
    image = np.random.default_rng(0).normal(size=plan.configurations["3d"].patch_size).astype(np.float32)
    return path, networks, image


@torch.inference_mode()
def by_hand(network, image, mirrored):
    """Foreground probability of one tile: the mean over all ways to mirror it, or as it is."""
    batch, axes = torch.from_numpy(image)[None, None], (2, 3, 4)
    ways = [way for count in range(4) for way in itertools.combinations(axes, count)] if mirrored else [()]
    return torch.stack([network(batch.flip(way)).softmax(dim=1).flip(way) for way in ways]).mean(dim=0)[0, 1].numpy()


@pytest.mark.parametrize("mirror", [True, False])
def test_mirroring_is_left_out_where_it_is_not_wanted(folds, tmp_path, mirror):
    path, networks, image = folds
    description = ModelDescription.load(path / "model.json")
    member = Member(configuration="3d", weights=("3d_0.safetensors",))
    description.model_copy(update={"members": (member,)}).save(tmp_path / "model.json")
    (tmp_path / "3d_0.safetensors").write_bytes((path / "3d_0.safetensors").read_bytes())
    found = Model.open(tmp_path, "cpu", backend="torch", mirror=mirror).predict(image, (1.5, 1.5, 1.5))
    expected, other = (3 * (by_hand(networks["3d", 0], image, way) > 0.5) for way in (mirror, not mirror))
    np.testing.assert_array_equal(found, expected)
    assert np.mean(expected != other) > 0.05


def test_fast_is_one_fold_of_the_fastest_configuration_without_mirroring(folds):
    path, networks, image = folds
    found = Model.open(path, "cpu", backend="torch", fast=True).predict(image, (1.5, 1.5, 1.5))
    first, second, mirrored = (
        by_hand(networks["3d", fold], image, way) for fold, way in ((0, False), (1, False), (0, True))
    )
    np.testing.assert_array_equal(found, 3 * (first > 0.5))
    for other in (second, (first + second) / 2, mirrored):
        assert np.mean((first > 0.5) != (other > 0.5)) > 0.05


def alone(script):
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_openvino_does_without_pytorch(folder):
    """Its import takes more than a second and 170 MiB."""
    script = (
        "import sys, numpy\n"
        "from voxfit.inference.model import Model\n"
        f"model = Model.open({str(folder)!r}, 'cpu')\n"
        "model.predict(numpy.zeros((20, 24, 28), numpy.float32), (1.5, 1.5, 1.5))\n"
        "print('torch' in sys.modules)"
    )
    assert alone(script) == "False"


def test_a_gpu_is_found_without_asking_pytorch_first():
    script = "import sys; from voxfit.inference.device import choose_device; print(choose_device('auto'))"
    import_first = script.replace("import sys", "import sys, torch")
    assert alone(script) == alone(import_first)


def test_a_backend_that_fails_is_left_with_a_word(folder, monkeypatch, tmp_path):
    """Whether it fails when it is made or when it runs, and the segmentation is PyTorch's."""
    from voxfit.inference import openvino_graph

    monkeypatch.setenv("VOXFIT_CACHE", str(tmp_path))
    image = ball((20, 19, 23), (1.5, 1.7, 1.4), FLIPPED)
    expected = sitk.GetArrayFromImage(Model.open(folder, "cpu", backend="torch").predict(image))

    class Broken:
        def __init__(self, *arguments):
            pass

        def __call__(self, batch):
            raise RuntimeError("no such instruction\nand more")

    def unmade(*arguments):
        raise RuntimeError("no such processor")

    for broken, reason in ((Broken, "no such instruction"), (unmade, "no such processor")):
        ear = Ear()
        monkeypatch.setattr(openvino_graph, "OpenVinoNetwork", broken)
        found = Model.open(folder, "cpu", listener=ear).predict(image)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(found), expected)
        # Once for each of the two configurations.
        assert [text for text in ear.heard if "foreground" not in text] == [
            f"openvino does not work here, PyTorch goes on without it ({reason})."
        ] * 2
