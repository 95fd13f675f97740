"""Which patches are drawn, counted on a small store."""

from time import perf_counter, sleep

import numpy as np
import pytest
import scipy.stats
import torch

from builders.records import configuration_of
from builders.stores import write_store
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.labels import IGNORED, Label, Labels, Region
from voxfit.imaging.volume import Volume
from voxfit.learning.prefetch import Prefetcher, ResidentStore, stored_bytes
from voxfit.learning.sampling import TRAINING, VALIDATION, PatchSampler, Previous
from voxfit.planning.grid import Divide, Grid, ZScore
from voxfit.planning.recipes import AugmentationSet, PreviousStageAugmentation, Recipe
from voxfit.preprocessing.case import prepare
from voxfit.preprocessing.store import Store, write_case, write_manifest

LABELS = Labels(classes=(Label(name="a", value=1), Label(name="b", value=2)))
SHAPES = {"a": (20, 24, 28), "b": (9, 30, 16), "c": (16, 16, 16)}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    cases = {}
    for seed, (name, shape) in enumerate(SHAPES.items()):
        rng = np.random.default_rng(seed)
        image = rng.random((1, *shape)).astype(np.float32) + 1
        label = np.zeros(shape, np.int16)
        label[2:4, 3:5, 2:6] = 1
        if name != "c":
            label[-2:, -3:, -1:] = 2
        cases[name] = image, label
    return write_store(folder, cases, 3)


KINDS = {
    "3d": configuration_of((12, 16, 12), 7),
    "2d": configuration_of((16, 12), 7),
    "2d along y": configuration_of((16, 12), 7, slice_axis=1),
    "slices": configuration_of((4, 16, 12), 7, augmentation="2d_slices"),
    "slices along x": configuration_of((16, 12, 4), 7, augmentation="2d_slices"),
}


def sampler(store, kind, seed=0, labels=LABELS):
    return PatchSampler(store, list(SHAPES), KINDS[kind], Recipe(), labels=labels, channels=1, seed=seed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stream", [TRAINING, VALIDATION])
def test_batches_have_the_planned_shape(store, kind, stream):
    drawn = sampler(store, kind)
    image, label = drawn.finish(drawn.batch(stream, 0, 0), torch.device("cpu"))
    assert image.shape == (7, 1, *KINDS[kind].patch_size)
    assert label.shape == (7, *KINDS[kind].patch_size)
    assert torch.isfinite(image).all()
    assert set(label.unique().tolist()) <= {-1, 0, 1, 2}


@pytest.mark.parametrize("kind", KINDS)
def test_more_than_a_third_contain_foreground(store, kind):
    drawn = sampler(store, kind)
    for step in range(20):
        samples = drawn.batch(VALIDATION, 0, step)
        assert all((sample.label > 0).any() for sample in samples[-3:])  # floor(7 / 3) + 1


def test_unaugmented_patches_are_pieces_of_the_case(store):
    drawn = sampler(store, "3d")
    images = {name: np.pad(store.image(name)[0], 12) for name in SHAPES}
    for sample in drawn.batch(VALIDATION, 0, 0):
        found = False
        for padded in images.values():
            windows = np.lib.stride_tricks.sliding_window_view(padded, (12, 16, 12))
            anchor = sample.image[0, 6, 8, 6].item()
            for at in np.argwhere(windows[..., 6, 8, 6] == anchor):
                found |= np.array_equal(windows[tuple(at)], sample.image[0])
        assert found


def placed(folder, label):
    """A case whose voxels know their place, of which the three channels are 1 + (z, y, x)."""
    image = np.indices(label.shape).astype(np.float32) + 1
    grid = Grid(spacing_mm=(1.0, 1.0, 1.0), normalization=(Divide(by=1.0),) * 3)
    case = prepare(Volume(image, Geometry(label.shape, (1.0, 1.0, 1.0))), grid, label)
    write_case(folder, "a", case, 3)
    write_manifest(folder, ["a"], "x")
    return Store(folder)


def starts_of(store, patch, steps, last=None):
    """Where the patches of some batches begin; of `last`, only the last ones of each batch."""
    drawn = PatchSampler(store, ["a"], configuration_of(patch, 7), Recipe(), labels=LABELS, channels=3, seed=0)
    samples = [one for step in range(steps) for one in drawn.batch(VALIDATION, 0, step)[-last if last else 0 :]]
    return np.array([one.image[:, 0, 0, 0].numpy() - 1 for one in samples]).astype(int)


def test_patches_without_foreground_lie_anywhere_in_a_case(tmp_path):
    """From its first slice to its last, all places being equally likely."""
    shape, patch = (6, 9, 5), (4, 4, 4)
    starts = starts_of(placed(tmp_path, np.zeros(shape, np.int16)), patch, 100)
    for axis, (length, edge) in enumerate(zip(shape, patch, strict=True)):
        hits = np.bincount(starts[:, axis], minlength=length - edge + 1)
        assert len(hits) == length - edge + 1
        assert scipy.stats.chisquare(hits).pvalue > 1e-4


@pytest.mark.parametrize("voxel", [(5, 7, 9), (0, 0, 0), (10, 13, 17), (1, 13, 8)])
def test_the_chosen_voxel_lies_in_the_middle_of_its_patch(tmp_path, voxel):
    """As near to it as a patch inside of the case allows."""
    patch = (4, 6, 8)
    label = np.zeros((11, 14, 18), np.int16)
    label[voxel] = 2
    starts = starts_of(placed(tmp_path, label), patch, 3, last=3)
    for axis, (at, edge, length) in enumerate(zip(voxel, patch, label.shape, strict=True)):
        nearest = min(abs(at - start - (edge - 1) / 2) for start in range(length - edge + 1))
        assert set(np.abs(at - starts[:, axis] - (edge - 1) / 2)) == {nearest}


def test_the_chosen_foreground_voxel_is_uniform(store):
    drawn = sampler(store, "3d")
    counts = np.zeros(SHAPES["a"])
    label = store.label("a")
    total = 6000
    for number in range(total):
        voxel = drawn.locations.foreground_voxel(np.random.default_rng([number]), "a", label)
        counts[voxel] += 1
    for value in (1, 2):
        hits = counts[label == value]
        expected = total / 2 / len(hits)  # a random class first, then a random voxel of it
        chi_squared = ((hits - expected) ** 2 / expected).sum()
        assert chi_squared < len(hits) + 6 * np.sqrt(2 * len(hits))
    assert counts[label == 0].sum() == 0


def test_a_case_without_foreground_is_sampled_anywhere(store):
    empty = np.zeros(SHAPES["a"], np.int8)

    class Empty(Store):
        def __init__(self):
            pass

        def index(self, name):
            return np.stack([(empty == value).sum(axis=(1, 2)) for value in range(3)])

    drawn = PatchSampler(Empty(), ["a"], KINDS["3d"], Recipe(), labels=LABELS, channels=1, seed=0)
    assert drawn.locations.foreground_voxel(np.random.default_rng(0), "a", empty) is None


@pytest.mark.parametrize(("kind", "axis"), [("slices", 0), ("slices along x", 2)])
def test_slices_of_a_stretched_patch_are_transformed_alike_and_never_mixed(tmp_path, kind, axis):
    """Voxels know their slice (in the label) and their place in it (in two channels)."""
    shape = (24, 24, 24)
    place = np.stack(np.meshgrid(*(np.arange(24),) * 3, indexing="ij"))
    still, moved = place[axis], np.delete(place, axis, axis=0)
    grid = Grid(spacing_mm=(1.0, 1.0, 1.0), normalization=(Divide(by=1.0),) * 2)
    labels = Labels(classes=tuple(Label(name=str(value), value=value) for value in range(1, 25)))
    case = prepare(
        Volume(moved.astype(np.float32) + 1, Geometry(shape, (1.0, 1.0, 1.0))), grid, (still + 1).astype(np.int16)
    )
    write_case(tmp_path, "a", case, 25)
    write_manifest(tmp_path, ["a"], "x")
    always = AugmentationSet(
        rotation_degrees=180.0,
        stretched_rotation_degrees=180.0,
        rotation_probability=1.0,
        scale_probability=1.0,
        elastic_amplitude=(0.0, 200.0),
        elastic_probability=1.0,
        gamma_probability=0.0,
        mirror_probability=0.0,
    )
    recipe = Recipe(augmentation_2d=always)
    drawn = PatchSampler(Store(tmp_path), ["a"], KINDS[kind], recipe, labels=labels, channels=2, seed=0)
    assert drawn.settings == recipe.augmentation_2d  # the 2D set, whatever the patch's dimension
    image, label = drawn.finish(drawn.batch(TRAINING, 0, 0), torch.device("cpu"))
    image, label = image.movedim(axis + 2, 1), label.movedim(axis + 1, 1)  # (batch, slice, ...)
    for sample, values in zip(image, label, strict=True):
        numbers = [set(one.unique().tolist()) - {-1} for one in values]
        assert all(len(found) == 1 for found in numbers)
        first = min(numbers[0])
        assert [min(found) for found in numbers] == list(range(first, first + len(numbers)))
        for one in sample[1:]:
            assert torch.equal(one, sample[0])
        assert not torch.equal(sample[0], sample[0].round())  # they did move: places are whole numbers


@pytest.fixture
def sparse(tmp_path):
    """A case of which one slice of twenty is annotated, and there the most part is background."""
    label = np.full((20, 24, 28), IGNORED, np.int16)
    label[13] = 0
    label[13, 3:6, 20:22] = 1
    label[13, 4:6, 21:22] = 2
    image = np.random.default_rng(0).random((1, *label.shape)).astype(np.float32) + 1
    grid = Grid(spacing_mm=(1.0, 1.0, 1.0), normalization=(ZScore(),))
    case = prepare(Volume(image, Geometry(label.shape, (1.0, 1.0, 1.0))), grid, label)
    write_case(tmp_path, "a", case, 3)
    write_manifest(tmp_path, ["a"], "x")
    return Store(tmp_path)


def test_every_patch_has_annotated_voxels_where_few_are(sparse):
    labels = LABELS.model_copy(update={"ignore": 9})
    drawn = PatchSampler(sparse, ["a"], KINDS["3d"], Recipe(), labels=labels, channels=1, seed=0)
    for step in range(20):
        _, label = drawn.finish(drawn.batch(VALIDATION, 0, step), torch.device("cpu"))
        assert (label != IGNORED).flatten(1).any(dim=1).all()
        assert (label > 0).flatten(1).any(dim=1).sum() >= drawn.num_foreground_patches
    # A rotated patch, too, keeps what nobody annotated apart from background.
    _, label = drawn.finish(drawn.batch(TRAINING, 0, 0), torch.device("cpu"))
    assert set(label.unique().tolist()) <= {IGNORED, -1, 0, 1, 2}


def test_regions_are_equally_likely_whatever_their_size(sparse):
    regions = (Region(name="all", values=(1, 2), paste=1), Region(name="core", values=(2,), paste=2))
    labels = LABELS.model_copy(update={"regions": regions})
    drawn = PatchSampler(sparse, ["a"], KINDS["3d"], Recipe(), labels=labels, channels=1, seed=0)
    label = sparse.label("a")
    found = [label[drawn.locations.foreground_voxel(np.random.default_rng(seed), "a", label)] for seed in range(600)]
    # Half of the draws are from the core (2 voxels); a third of the other half (2 of 6) hits it by chance.
    assert np.mean(np.array(found) == 2) == pytest.approx(1 / 2 + 1 / 6, abs=0.08)  # four standard deviations


def content(samples):
    """All that a batch is made of."""
    return [
        (one.case, one.image.numpy().tobytes(), one.label.numpy().tobytes(), repr((one.spatial, one.drawn)))
        for one in samples
    ]


@pytest.mark.parametrize("stream", [TRAINING, VALIDATION])
def test_draws_depend_on_counters_only(store, stream):
    """Each counter makes a difference; what was drawn before makes none, and neither does another sampler."""
    counters = [(0, stream, 3, 5), (1, stream, 3, 5), (0, 1 - stream, 3, 5), (0, stream, 4, 5), (0, stream, 3, 6)]
    drawn = {item: content(sampler(store, "3d", item[0]).batch(*item[1:])) for item in counters}
    assert len({tuple(batch) for batch in drawn.values()}) == len(counters)
    assert all(len(set(batch)) > 3 for batch in drawn.values())  # nor is a batch one sample, seven times
    one = sampler(store, "3d")
    for item in reversed(counters):
        if item[0] == 0:
            assert content(one.batch(*item[1:])) == drawn[item]


# A segmentation of the previous stage that is known at each voxel: by the reference, of which it differs everywhere.
AFTER = {-1: 0, 0: 1, 1: 2, 2: 0}


def staged(store, previous_stage_augmentation, still=True):
    """A sampler of a second stage, which leaves images alone unless `still` is False."""

    def segmentation(name):
        return np.vectorize(AFTER.__getitem__)(store.label(name)).astype(np.int16)

    recipe = Recipe(previous_stage_augmentation=previous_stage_augmentation)
    if still:
        kept = {key: 0.0 for key in type(recipe.augmentation_3d).model_fields if key.endswith("_probability")}
        recipe = recipe.model_copy(update={"augmentation_3d": recipe.augmentation_3d.model_copy(update=kept)})
    previous = Previous(segmentation, 2)
    return PatchSampler(store, list(SHAPES), KINDS["3d"], recipe, labels=LABELS, channels=1, seed=0, previous=previous)


def one_hot_of(label):
    """The two channels that belong to a batch of references, inside of the image."""
    after = np.vectorize(AFTER.__getitem__)(label.numpy())
    return torch.from_numpy(np.stack([after == 1, after == 2], axis=1).astype(np.float32))


NEVER = PreviousStageAugmentation(morphology_probability=0.0, removal_probability=0.0)
ALWAYS = PreviousStageAugmentation(morphology_probability=1.0, removal_probability=1.0)


@pytest.mark.parametrize(
    ("stream", "previous_stage_augmentation", "still"),
    [(VALIDATION, NEVER, False), (VALIDATION, ALWAYS, False), (TRAINING, NEVER, True), (TRAINING, NEVER, False)],
)
def test_the_previous_stage_comes_as_one_channel_for_each_class(store, stream, previous_stage_augmentation, still):
    """It moves with the image, and is disturbed in training only."""
    drawn, seen = staged(store, previous_stage_augmentation, still), set()
    for step in range(3):
        image, label = drawn.finish(drawn.batch(stream, 0, step), torch.device("cpu"))
        assert image.shape[1] == 3
        assert torch.equal(image[:, 1:], one_hot_of(label))
        seen |= set(label.unique().tolist())
    assert {0, 1, 2} <= seen


def test_the_previous_stage_is_disturbed_in_training(store):
    drawn = staged(store, ALWAYS)
    image, label = drawn.finish(drawn.batch(TRAINING, 0, 0), torch.device("cpu"))
    assert not torch.equal(image[:, 1:], one_hot_of(label))
    assert set(image[:, 1:].unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(("first", "steps"), [(0, 1), (0, 2), (0, 3), (0, 8), (5, 8), (8, 8)])
def test_prefetching_keeps_the_order(store, first, steps):
    drawn = sampler(store, "2d")
    loader = Prefetcher(drawn, threads=2)
    ahead = list(loader.batches(TRAINING, 2, steps, first))
    loader.close()
    assert len(ahead) == steps - first
    for step, made in enumerate(ahead, first):
        samples = drawn.batch(TRAINING, 2, step)
        image, label = drawn.finish(samples, torch.device("cpu"))
        assert torch.equal(made.image, image)
        assert torch.equal(made.label, label)
        assert made.cases == tuple(sample.case for sample in samples)


class Slow(PatchSampler):
    """A sampler that takes its time."""

    def batch(self, stream, epoch, step):
        sleep(0.05)
        return super().batch(stream, epoch, step)


@pytest.mark.parametrize("slow", ["the sampler", "the network"])
def test_waiting_is_what_the_network_has_no_batch_for(store, slow):
    kind = Slow if slow == "the sampler" else PatchSampler
    drawn = kind(store, list(SHAPES), KINDS["2d"], Recipe(), labels=LABELS, channels=1, seed=0)
    loader, used, begun = Prefetcher(drawn, threads=1), 0.0, perf_counter()
    for _ in loader.batches(TRAINING, 0, 8):
        had = perf_counter()
        sleep(0.0 if slow == "the sampler" else 0.05)
        used += perf_counter() - had
    whole = perf_counter() - begun
    loader.close()
    assert loader.waited <= whole - used
    if slow == "the sampler":
        assert loader.waited > whole / 2  # of eight batches, each of which takes 0.05 seconds


@pytest.mark.parametrize(("begun", "asked"), [((3, 8, 2), (3, 8, 2)), ((3, 8, 2), (3, 8, 0)), ((4, 2, 0), (4, 2, 0))])
def test_what_was_begun_early_is_what_comes(store, begun, asked):
    """And where something else is asked for, that comes."""
    drawn = sampler(store, "2d")
    loader = Prefetcher(drawn, threads=2)
    called = []
    loader.begin(TRAINING, *begun)
    made = list(loader.batches(TRAINING, *asked, then=lambda: called.append(True)))
    loader.close()
    epoch, steps, first = asked
    assert called == [True]
    assert len(made) == steps - first
    for step, batch in enumerate(made, first):
        image, _ = drawn.finish(drawn.batch(TRAINING, epoch, step), torch.device("cpu"))
        assert torch.equal(batch.image, image)


@pytest.mark.parametrize("kind", KINDS)
def test_cases_kept_on_a_device_give_the_same_batches(store, kind):
    kept = sampler(store, kind)
    kept.patches = ResidentStore(store, torch.device("cpu"))
    for step in range(3):
        ours, theirs = (drawn.batch(TRAINING, 0, step) for drawn in (kept, sampler(store, kind)))
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a.image, b.image)
            assert torch.equal(a.label, b.label)
            assert a.case == b.case


def test_the_memory_of_cases_is_known_without_reading_them(store):
    """float32 images, and labels that are kept as int16 at most."""
    voxels = sum(int(np.prod(shape)) for shape in SHAPES.values())
    assert stored_bytes(store, list(SHAPES), channels=3) == voxels * (3 * 4 + 2)
