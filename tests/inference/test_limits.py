"""`max_memory`: fewer tiles a pass, an image in columns, and the same label map; what cannot be kept is an error."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from builders.records import case_of, fingerprint_of
from voxfit.core.errors import DatasetError, MemoryLimitError
from voxfit.core.memory import used_bytes
from voxfit.imaging.files import Case
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.labels import Label, Labels
from voxfit.inference.arrays import Arrays
from voxfit.inference.model import Model
from voxfit.inference.model_json import Member, ModelDescription
from voxfit.inference.predictor import Predictor
from voxfit.networks.unet import build_network
from voxfit.planning.plan import Limits
from voxfit.planning.planners.paper import make_plan

CLASSES, SHAPE = 60, (32, 64, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of many classes, whose outputs are most of what it holds."""
    import safetensors.torch

    labels = Labels(classes=tuple(Label(name=str(value), value=value) for value in range(1, CLASSES + 1)))
    facts = fingerprint_of((case_of(SHAPE),) * 4, labels=labels)
    plan = make_plan(facts, Limits(voxel_budget=24**3, plane_voxels=2048, base_features=2, cascade_factor=1000))
    path = tmp_path_factory.mktemp("model")
    weights = build_network(plan.topology("3d"), 0).state_dict()
    (path / "3d.safetensors").write_bytes(safetensors.torch.save(weights))
    ModelDescription(
        name="3d",
        plan=plan,
        members=(Member(configuration="3d", weights=("3d.safetensors",)),),
        cross_validated_dice=None,
        inputs_digest="",
        made_by="test",
    ).save(path / "model.json")
    return path


def opened(folder, limit=None):
    """The model with a network that sees a class in each range of intensities, and the tiles that it has seen."""
    model = Model.open(folder, "cpu", mirror=False, backend="torch", max_memory=limit)
    seen = []
    levels = torch.linspace(-3, 3, CLASSES + 1)[:, None, None, None]

    def network(batch):
        seen.append(len(batch))
        return torch.softmax(-20 * (batch - levels) ** 2, dim=1)

    for predictor in model.predictors.values():
        predictor.networks = (network,)
    return model, seen


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    return np.repeat(np.repeat(rng.normal(size=tuple(size // 4 for size in SHAPE)), 4, 1), 4, 2).repeat(4, 0)


def test_an_image_in_columns_has_the_label_map_of_the_whole(folder, image):
    model, seen = opened(folder)
    expected = model.predict(image, (1.0, 1.0, 1.0))
    whole = sum(seen)
    geometry, free = Geometry(SHAPE, (1.0, 1.0, 1.0)), model.estimate(Geometry(SHAPE, (1.0, 1.0, 1.0)))
    # The tightest limits that are said to be kept, but for what a process takes and gives back meanwhile.
    possible = []
    for share in np.arange(0.9, 0.05, -0.1):
        limit = int(used_bytes() + share * (free - used_bytes()))
        model, seen = opened(folder, limit)
        try:
            assert model.estimate(geometry) <= limit
        except MemoryLimitError:
            break
        possible.append(limit)
    assert len(possible) > 1
    model, seen = opened(folder, possible[-2])
    np.testing.assert_array_equal(model.predict(image, (1.0, 1.0, 1.0)), expected)
    assert sum(seen) > whole  # tiles at the borders of columns are seen twice


def test_larger_images_are_estimated_to_take_more(folder):
    model, _ = opened(folder)
    sizes = [(16, 32, 32), (32, 64, 64), (64, 128, 128)]
    read, unread = (
        [model.estimate(Geometry(size, (1.0,) * 3), is_read=is_read) for size in sizes] for is_read in (True, False)
    )
    assert read == sorted(read)
    for size, less, more in zip(sizes, read, unread, strict=True):
        assert more - less >= 0.9 * 2 * 4 * np.prod(size)  # the image and the prepared one, float32
    coarse = model.estimate(Geometry(sizes[1], (2.0,) * 3))
    assert coarse - unread[1] > 0.9 * 4 * 7 * np.prod(sizes[1])  # eight times the voxels at the model's spacing


def test_a_limit_that_cannot_be_kept_is_an_error_before_anything_is_read(folder):
    model, seen = opened(folder, used_bytes() // 2)
    with pytest.raises(MemoryLimitError, match="The program, this image and one pass of the networks take"):
        model.estimate(Geometry(SHAPE, (1.0, 1.0, 1.0)))
    assert seen == []
    # Outputs, not the image, are too much.
    model, seen = opened(folder)
    large = Geometry((160, 160, 160), (1.0,) * 3)
    model.max_memory = int(used_bytes() + 0.05 * (model.estimate(large, is_read=True) - used_bytes()))
    with pytest.raises(MemoryLimitError):
        model.estimate(large, is_read=True)


def test_an_image_beyond_the_limit_is_refused_by_its_header(folder, tmp_path):
    """Before its voxels, which are unusable, are read."""
    path = tmp_path / "image.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.full(SHAPE, np.nan, np.float32)), str(path))
    for limit, error in ((used_bytes() // 2, MemoryLimitError), (2**40, DatasetError), (None, DatasetError)):
        model, _ = opened(folder, limit)
        with pytest.raises(error):
            model.predict_case(Case(name="a", images=(str(path),)))


@pytest.mark.parametrize("most", [1, 2, 5])
def test_passes_take_a_quarter_of_the_limit_at_most(most):
    patch, outputs, tile_bytes = (8, 8, 8), 3, 10_000
    seen = []

    def network(batch):
        seen.append(len(batch))
        return np.repeat(batch, outputs, axis=1)

    def sizes(memory):
        predictor = Predictor([network], patch, slice_axis=None, outputs=outputs, arrays=Arrays(), mirror_axes=())
        predictor.limit_pass(tile_bytes, memory)
        seen.clear()
        predictor.predict(np.zeros((1, 24, 40, 40), np.float32))
        return list(seen), predictor.pass_bytes

    held = tile_bytes + 3 * 4 * outputs * 8**3  # of a tile: the network, logits, what is made of them, their mean
    free, _ = sizes(None)
    assert max(free) > 5
    for memory in (4 * most * held, 4 * (most + 1) * held - 1):
        found, said = sizes(memory)
        assert max(found) == most
        assert said == most * held <= memory / 4
    assert sum(found) == sum(free)
    found, _ = sizes(1)
    assert set(found) == {1}  # with less there would be no pass at all


def test_shares_of_a_pass_do_not_change_what_is_predicted(folder, image):
    label_maps = []
    for limit in (None, 2**40):
        model, _ = opened(folder, limit)
        for count, predictor in itertools.product((1, 3), model.predictors.values()):
            predictor.per_batch = count
            label_maps.append(model.predict(image[:24, :40, :40], (1.0,) * 3))
    for other in label_maps[1:]:
        np.testing.assert_array_equal(other, label_maps[0])
