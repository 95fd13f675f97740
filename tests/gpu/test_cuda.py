"""What a GPU computes is what a CPU computes, and what it trains can be trained again, byte for byte.

VOXFIT_GPU_TESTS=cpu compares the CPU with itself: that shows on any machine that these tests run.
"""

import os
import statistics

import numpy as np
import pytest
import scipy.ndimage
import SimpleITK as sitk
import torch

import voxfit
from builders.records import configuration_of, topology_of
from builders.stores import write_store
from synthetic import write_boxes
from voxfit.core.progress import Listener
from voxfit.imaging.labels import Label, Labels
from voxfit.inference.predictor import Predictor
from voxfit.inference.torch_networks import TorchArrays, TorchNetwork, by_torch
from voxfit.learning.engine import Engine, StepMode, determinism, free_bytes, is_out_of_memory, release_memory
from voxfit.learning.prefetch import Prefetcher, ResidentStore, resident
from voxfit.learning.sampling import TRAINING, VALIDATION, PatchSampler
from voxfit.learning.task import TrainingTask, measure_step, task_loss
from voxfit.learning.training import Training
from voxfit.networks.unet import build_network
from voxfit.planning.plan import Limits
from voxfit.planning.recipes import PolynomialDecay, Recipe, recipe_named

DEVICE = os.environ.get("VOXFIT_GPU_TESTS", "cuda")
GPU = DEVICE == "cuda"
# cuBLAS reads this once, when it is first used in a process.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

pytestmark = [
    pytest.mark.skipif(GPU and not torch.cuda.is_available(), reason="needs a GPU"),
    # Compilers and deterministic algorithms warn of much that does not matter here.
    pytest.mark.filterwarnings("default"),
]
only_gpu = pytest.mark.skipif(not GPU, reason="is about GPUs")

LABELS = Labels(classes=(Label(name="a", value=1), Label(name="b", value=2)))
SHAPE = (40, 48, 44)
WAYS = [StepMode(channels_last=last, compiled=compiled) for compiled in (False, True) for last in (False, True)]


@pytest.fixture(autouse=True)
def exact_products():
    """Full single precision, so that tolerances say something; a test may turn that off again."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    release_memory()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three cases of smooth noise, with two structures that follow from it."""
    folder = tmp_path_factory.mktemp("store")
    cases = {}
    for seed, name in enumerate("abc"):
        rng = np.random.default_rng(seed)
        image = scipy.ndimage.gaussian_filter(rng.normal(size=SHAPE), 3).astype(np.float32)
        image /= image.std()
        label = np.digitize(image, [0.8, 1.5]).astype(np.int16)
        image += rng.normal(0, 0.1, SHAPE).astype(np.float32)
        cases[name] = image[None], label
    return write_store(folder, cases, 3)


def configuration(dimension=3, augmentation="3d", batch=4, features=8):
    patch = {"2d_slices": (8, 32, 32)}.get(augmentation, (32,) * dimension)
    return configuration_of(
        patch,
        batch,
        median_shape=SHAPE[:dimension],
        num_pool=(2,) * dimension,
        base_features=features,
        dice="batch",
        augmentation=augmentation,
    )


KINDS = {
    "3d": configuration(),
    "2d": configuration(2, "2d", batch=12),
    "slices": configuration(3, "2d_slices"),
}
RECIPES = {"the paper's": Recipe(), "nnU-Net's": recipe_named("nnunet-v2")}


def topology(dimension=3, features=8, inputs=1):
    return topology_of((2,) * dimension, features, inputs, 3)


def sampler(store, kind="3d", recipe="nnU-Net's", patches=None):
    return PatchSampler(store, "abc", KINDS[kind], RECIPES[recipe], labels=LABELS, channels=1, seed=5, patches=patches)


def task(epochs=3, **changes):
    recipe = recipe_named("nnunet-v2").model_copy(
        update={
            "steps_per_epoch": 10,
            "validation_steps": 2,
            "schedule": PolynomialDecay(learning_rate=1e-2, epochs=epochs, warmup_steps=2),
        }
    )
    fields = {
        "name": "test",
        "labels": LABELS,
        "topology": topology(),
        "configuration": KINDS["3d"],
        "recipe": recipe,
        "training_cases": ("a", "b"),
        "validation_cases": ("c",),
        "seed": 1,
    }
    return TrainingTask(**(fields | changes))


class Stop(Exception):
    """Ends a training as a kill would: nothing is written after it."""


class Ear(Listener):
    def __init__(self, stop_after=None):
        self.reports, self.warnings, self.stop_after = [], [], stop_after

    def epoch(self, report):
        self.reports.append(report)
        if len(self.reports) == self.stop_after:
            raise Stop

    def warn(self, text):
        self.warnings.append(text)


def weights(network):
    return {name: tensor.cpu().clone() for name, tensor in network.state_dict().items()}


def separate_axis(found, expected):
    """The distance of two tensors, as a share of the length of the second, in double precision."""
    found, expected = found.double().cpu(), expected.double().cpu()
    return float((found - expected).norm() / expected.norm())


# --- the network ---


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_forward_pass_is_that_of_double_precision_on_the_cpu(dimension, record_property):
    image = torch.randn(2, 1, *(32,) * dimension, generator=torch.Generator().manual_seed(0))
    network = build_network(topology(dimension), 0).eval()
    with torch.inference_mode():
        exact = network.double()(image.double())
        network = network.float()
        here, there = network(image), network.to(DEVICE)(image.to(DEVICE))
        torch.backends.cudnn.allow_tf32 = True
        usual = network(image.to(DEVICE))
    record_property("as used (TF32)", separate_axis(usual, exact))
    assert separate_axis(here, exact) < 1e-5
    assert separate_axis(there, exact) < 1e-5
    assert separate_axis(usual, exact) < 5e-3


@pytest.mark.parametrize("backend", ["torch", "torch-channels-last", "torch-compiled"])
def test_every_backend_gives_the_same_logits(backend):
    image = torch.randn(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    network = build_network(topology(), 0).to(DEVICE).eval()
    expected = build_network(topology(), 0).eval()(image)
    run = by_torch(network, backend)
    with torch.inference_mode():
        assert separate_axis(run(image.to(DEVICE)), expected.detach()) < 1e-4


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("mirror", [(), (0, 1, 2)])
def test_a_whole_image_is_predicted_as_on_the_cpu(dimension, mirror):
    image = np.random.default_rng(0).normal(size=(1, 41, 50, 37)).astype(np.float32)
    network = build_network(topology(dimension), 0).eval()
    found = {}
    for device in ("cpu", DEVICE):
        predictor = Predictor(
            [TorchNetwork(network.to(device), "softmax")],
            (1, 32, 32) if dimension == 2 else (32, 32, 32),
            slice_axis=0 if dimension == 2 else None,
            outputs=3,
            arrays=TorchArrays(device),
            mirror_axes=mirror,
        )
        found[device] = predictor.predict(image)
    # The step of half precision at one, 2^-10, is what probabilities differ by on the whole. Roundings of a dozen
    # layers add up to more at single voxels (an H200 had 6.5 steps among 2.3e5 voxels).
    differences = found[DEVICE] - found["cpu"]
    assert np.sqrt(np.mean(differences**2)) < 2**-10
    assert np.abs(differences).max() < 16 * 2**-10
    np.testing.assert_allclose(found[DEVICE].sum(axis=0), 1, atol=1e-5)


def test_single_precision_is_there_where_half_overflows():
    """Half precision ends at 65504."""
    convolution = torch.nn.Conv3d(1, 2, 1).to(DEVICE)
    with torch.no_grad():
        convolution.weight.fill_(1e5)
        convolution.bias.zero_()
    image = np.random.default_rng(0).normal(size=(1, 20, 20, 20)).astype(np.float32)
    predictor = Predictor(
        [TorchNetwork(convolution, None)], (16, 16, 16), slice_axis=None, outputs=2, arrays=TorchArrays(DEVICE)
    )
    found = predictor.predict(image)
    np.testing.assert_allclose(found, 1e5 * np.repeat(image, 2, axis=0), rtol=1e-5, atol=1)


@only_gpu
def test_sums_stay_on_the_gpu_while_they_leave_it_two_thirds():
    def identity(batch):
        return torch.cat([-batch, batch], dim=1)

    arrays = TorchArrays(DEVICE)
    predictor = Predictor([TorchNetwork(identity, "softmax")], (32, 32, 32), slice_axis=None, outputs=2, arrays=arrays)
    free, _ = torch.cuda.mem_get_info()
    assert arrays.for_sums(1024).device.type == "cuda"
    # Others may take and give back some of it meanwhile.
    assert arrays.for_sums(free // 6).device.type == "cuda"
    assert arrays.for_sums(free // 2).device.type == "cpu"
    image = np.random.default_rng(0).normal(size=(1, 40, 50, 60)).astype(np.float32)
    on_gpu = predictor.predict(image)
    arrays.for_sums = lambda size: TorchArrays()
    np.testing.assert_allclose(predictor.predict(image), on_gpu, atol=1e-6)
    # A network that returns its input has a closed form.
    np.testing.assert_allclose(on_gpu[1], 1 / (1 + np.exp(-2 * image[0])), atol=1e-5)


# --- the data ---


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("kind", KINDS)
def test_augmented_batches_are_those_of_the_cpu(store, kind, recipe):
    drawn = sampler(store, kind, recipe)
    different, voxels = 0, 0
    for step in range(6):
        samples = drawn.batch(TRAINING, 0, step)
        (image, label), (there, label_there) = (
            drawn.finish(samples, torch.device(device)) for device in ("cpu", DEVICE)
        )
        assert there.device.type == DEVICE
        # Where a line between labels goes through a voxel's centre, rounding decides; and the image is cut off there.
        far = (there.cpu() - image).abs() > 1e-3 * image.std()
        different += int((label_there.cpu() != label).sum()) + int(far.sum())
        voxels += label.numel()
        assert separate_axis(there, image) < 5e-3
    assert different / voxels < 1e-3


def test_patches_in_memory_are_those_of_the_files(store):
    device = torch.device(DEVICE)
    kept = resident(store, "abc", 1, device) if GPU else ResidentStore(store, device)
    assert kept is not None
    for step in range(4):
        stored, resided = (
            drawn.finish(drawn.batch(TRAINING, 0, step), device)
            for drawn in (sampler(store), sampler(store, patches=kept))
        )
        assert all(torch.equal(first, second) for first, second in zip(stored, resided, strict=True))


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("kept", [False, True])
def test_batches_made_ahead_are_those_made_one_after_the_other(store, threads, kept):
    """Also while the network's stream is busy with what it was given before."""
    device = torch.device(DEVICE)
    patches = ResidentStore(store, device) if kept else None
    serial = sampler(store)
    loader = Prefetcher(sampler(store, patches=patches), device, threads=threads)
    busy = torch.randn(1500, 1500, device=device)
    try:
        for stream in (TRAINING, VALIDATION):
            for step, batch in enumerate(loader.batches(stream, 3, 12)):
                for _ in range(5):
                    busy = torch.tanh(busy @ busy)
                found = batch.image * 1, batch.label * 1
                del batch
                expected = serial.finish(serial.batch(stream, 3, step), device)
                assert torch.equal(found[0], expected[0])
                assert torch.equal(found[1], expected[1])
    finally:
        loader.close()


# --- the training ---


def train(store, folder, ear=None, **changes):
    return weights(Training(task(), store, folder, DEVICE, ear or Ear(), **changes).run())


@pytest.mark.parametrize("way", [WAYS[0], WAYS[1]], ids=lambda way: way.description)
def test_a_deterministic_training_ends_in_the_same_bytes_and_goes_on_to_them(store, tmp_path, way):
    with determinism(True):
        whole = train(store, tmp_path / "whole", execution=way)
        again = train(store, tmp_path / "again", execution=way)
        with pytest.raises(Stop):
            train(store, tmp_path / "part", Ear(stop_after=1), execution=way)
        ear = Ear()
        resumed = train(store, tmp_path / "part", ear, execution=way)
    assert [report.epoch for report in ear.reports] == [2, 3]
    for other in (again, resumed):
        assert all(torch.equal(whole[name], other[name]) for name in whole)
    assert not torch.equal(whole["head.weight"], weights(build_network(topology(), 1))["head.weight"])


def test_a_training_learns_and_says_how_fast_it_was(store, tmp_path):
    ear = Ear()
    settings = task(epochs=8)
    Training(settings, store, tmp_path, DEVICE, ear).run()
    assert ear.warnings == []
    assert ear.reports[-1].validation_loss < ear.reports[0].validation_loss - 0.1
    assert statistics.median(report.wait_share for report in ear.reports) < 1
    assert all(0 < report.peak_share < 2 and report.teraflops > 0 for report in ear.reports)


@pytest.mark.parametrize("way", WAYS[1:], ids=lambda way: way.description)
def test_every_way_of_execution_takes_about_the_same_steps(store, way, record_property):
    """Gradients in bfloat16 differ by its rounding, so the loss is compared, and the first step of the weights."""
    settings, device = task(), torch.device(DEVICE)
    drawn = sampler(store)
    losses, moved = {}, {}
    for chosen in (WAYS[0], way):
        engine = Engine(settings.topology, settings.recipe, 0, DEVICE, chosen)
        before = torch.cat([weight.detach().flatten().clone() for weight in engine.network.parameters()])
        losses[chosen] = []
        for step in range(4):
            image, label = drawn.finish(drawn.batch(TRAINING, 0, step), device)
            loss = task_loss(settings, engine.levels(image), label)
            assert engine.update(loss)
            losses[chosen].append(float(loss.detach()))
            if step == 0:
                after = torch.cat([weight.detach().flatten() for weight in engine.network.parameters()])
                moved[chosen] = after - before
    record_property("first step", separate_axis(moved[way], moved[WAYS[0]]))
    assert losses[way] == pytest.approx(losses[WAYS[0]], rel=2e-2, abs=2e-2)
    assert separate_axis(moved[way], moved[WAYS[0]]) < 0.1


@only_gpu
def test_memory_of_the_gpu_that_does_not_suffice_is_recognised(store):
    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(2**50, device=DEVICE)
    assert is_out_of_memory(caught.value)
    # The same in the middle of a training step, at a small share of the memory.
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(2**29 / total)
    try:
        with pytest.raises(RuntimeError) as caught:
            measure_step(task(configuration=configuration(batch=256), topology=topology(features=32)), DEVICE)
        assert is_out_of_memory(caught.value)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        del caught
        release_memory()
    assert free_bytes(torch.device(DEVICE)) > total // 4
    assert measure_step(task(), DEVICE) > 0


# --- the whole method ---


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The whole method on the device, with all its rooms."""
    data = write_boxes(tmp_path_factory.mktemp("data") / "boxes")
    folder = tmp_path_factory.mktemp("run")
    request = voxfit.FitRequest(
        data,
        folder,
        configurations=("2d", "3d"),
        folds=(0,),
        epochs=6,
        device=DEVICE,
        limits=Limits(voxel_budget=16**3, plane_voxels=2048, base_features=8, cascade_factor=100),
        recipe=Recipe(folds=3, steps_per_epoch=40, validation_steps=2),
        workers=1,
        deterministic=True,
    )
    voxfit.fit(request)
    return data, folder


@pytest.mark.parametrize("mirror", [False, True])
def test_a_model_finds_the_same_labels_on_both(run, mirror, record_property):
    data, folder = run
    models = [voxfit.Model.open(folder, device, mirror=mirror, backend="torch") for device in ("cpu", DEVICE)]
    torch.backends.cudnn.allow_tf32 = True  # as users have it
    equal, voxels, foreground, right = 0, 0, 0, 0
    for path in sorted((data / "imagesTs").glob("*.nii.gz")):
        image = sitk.ReadImage(str(path))
        here, there = (sitk.GetArrayFromImage(model.predict(image)) for model in models)
        truth = sitk.GetArrayFromImage(sitk.ReadImage(str(data / "labelsTs" / path.name.replace("_0000", ""))))
        equal, voxels = equal + int((here == there).sum()), voxels + here.size
        foreground, right = foreground + int((truth > 0).sum()), right + int(((truth == there) & (truth > 0)).sum())
    record_property("equal", equal / voxels)
    assert equal / voxels >= 0.999
    assert right / foreground > 0.7
