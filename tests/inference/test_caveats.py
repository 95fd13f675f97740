"""Images are doubted that lie far from those of the training, and no others."""

import json

import numpy as np
import pytest

from builders.records import case_of, fingerprint_of
from voxfit.core.errors import ModelError
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.labels import Label, Labels
from voxfit.imaging.volume import Volume
from voxfit.inference.caveats import TrainingRanges, caveats_of, percentiles, ranges_of
from voxfit.inference.model_json import Member, ModelDescription, model_folder
from voxfit.planning.grid import ClipAndScale
from voxfit.planning.planners.paper import make_plan
from voxfit.preprocessing.case import prepare

SHAPE, SPACING = (20, 30, 40), (3.0, 1.0, 0.5)
CT = ClipAndScale(lower=-100.0, upper=200.0, mean=50.0, standard_deviation=40.0)


def plan_of(*channels):
    labels = Labels(classes=(Label(name="organ", value=1),))
    plan = make_plan(fingerprint_of((case_of(SHAPE, SPACING),) * 4, channels, labels))
    rules = tuple(CT if name == "CT" else rule for name, rule in zip(channels, plan.normalization, strict=True))
    return plan.model_copy(update={"normalization": rules})


def scan(seed, shape=SHAPE, spacing=SPACING, change=lambda array: array, channels=1):
    """Dark, with a bright structure in a tenth of it, as MR and CT are."""
    rng = np.random.default_rng(seed)
    array = rng.gamma(2.0, 20.0, size=(channels, *shape))
    array[:, : shape[0] // 3, : shape[1] // 2, : shape[2] // 2] += 300 * rng.uniform(0.8, 1.2)
    return Volume(change(array).astype(np.float32), Geometry(shape, spacing))


def seen_by(plan, volume):
    return prepare(volume, plan.grid("3d")).image


def doubts(plan, volume, known):
    return caveats_of(volume, seen_by(plan, volume), plan, known)


@pytest.fixture(scope="module", params=["MRI", "CT"])
def trained(request):
    """A plan of one channel, and what five training scans say."""
    plan, scans = plan_of(request.param), [scan(seed) for seed in range(5)]
    grids = [(item.geometry.shape, item.geometry.spacing_mm) for item in scans]
    return plan, ranges_of(grids, [percentiles(seen_by(plan, item)) for item in scans])


@pytest.mark.parametrize("seed", range(10, 20))
def test_other_scans_of_the_same_kind_are_not_doubted(trained, seed):
    plan, known = trained
    for facts in (known, None):
        assert doubts(plan, scan(seed), facts) == ()
        assert doubts(plan, scan(seed, (30, 40, 50), (2.0, 1.5, 0.7)), facts) == ()
        # Stored along other axes.
        assert doubts(plan, scan(seed, SHAPE[::-1], SPACING[::-1]), facts) == ()


@pytest.mark.parametrize(
    ("shape", "spacing", "words"),
    [
        (SHAPE, (0.003, 0.001, 0.0005), "the spacing is 0.0005 x 0.001 x 0.003 mm, but 0.5 x 1 x 3 mm in training"),
        (SHAPE, (0.3, 0.1, 0.05), "the spacing is 0.05 x 0.1 x 0.3 mm"),
        ((5, 5, 5), (30.0, 10.0, 5.0), "the spacing is 5 x 10 x 30 mm"),
        ((3, 3, 3), SPACING, "the image measures 1.5 x 3 x 9 mm, but 20 x 30 x 60 mm in training"),
        ((2, 30, 40), SPACING, "the image measures 6 x 20 x 30 mm"),
        ((100, 30, 40), SPACING, "the image measures 20 x 30 x 300 mm"),
    ],
)
def test_images_of_another_size_are_doubted(trained, shape, spacing, words):
    plan, known = trained
    assert words in " ".join(doubts(plan, scan(9, shape, spacing), known))


@pytest.mark.parametrize("factor", [0.001, 0.1, 10.0])
def test_another_unit_of_length_is_noticed_without_the_training_too(trained, factor):
    """Of a model that does not say what it was trained on, the plan knows the median case."""
    spacing = tuple(factor * size for size in SPACING)
    shape = (8, 8, 8) if factor > 1 else SHAPE
    assert "Look at the header" in " ".join(doubts(trained[0], scan(9, shape, spacing), None))


@pytest.mark.parametrize("change", [lambda array: -array, lambda array: array.max() - array], ids=["minus", "inverted"])
def test_inverted_images_are_doubted(trained, change):
    plan, known = trained
    (text,) = doubts(plan, scan(9, change=change), known)
    assert "are unlike those of the training" in text


def test_an_image_without_contrast_is_doubted_by_any_model(trained):
    plan, known = trained
    for facts in (known, None):
        for value in (0, 7):
            flat = scan(9, change=lambda array, value=value: 0 * array + value)
            assert doubts(plan, flat, facts) == ("all voxels of the image are equal: there is nothing to see.",)


@pytest.mark.parametrize("change", [lambda array: array / 1e4, lambda array: array + 3000], ids=["scaled", "shifted"])
def test_a_ct_in_another_unit_is_doubted_by_any_model(change):
    plan, scans = plan_of("CT"), [scan(seed) for seed in range(5)]
    known = ranges_of([(SHAPE, SPACING)], [percentiles(seen_by(plan, item)) for item in scans])
    assert doubts(plan, scan(9, change=change), known)
    (text,) = doubts(plan, scan(9, change=change), None)
    assert "the channel CT has hardly any contrast between -100 and 200" in text


def test_mr_may_have_any_unit():
    plan, scans = plan_of("MRI"), [scan(seed) for seed in range(5)]
    known = ranges_of([(SHAPE, SPACING)], [percentiles(seen_by(plan, item)) for item in scans])
    assert doubts(plan, scan(9, change=lambda array: array / 1e4 + 3), known) == ()


def test_a_channel_without_contrast_is_named():
    plan = plan_of("T1", "T2")

    def lost(array):
        array[1] = 0
        return array

    assert doubts(plan, scan(9, change=lost, channels=2), None) == ("all voxels of the channel T2 are equal.",)


def test_percentiles_are_those_of_numpy_and_of_large_images_nearly():
    small = np.random.default_rng(0).normal(size=(2, 20, 30, 40)).astype(np.float32)
    np.testing.assert_allclose(percentiles(small), np.percentile(small, (0.5, 50, 99.5), axis=(1, 2, 3)).T, atol=1e-6)
    large = np.random.default_rng(0).normal(size=(1, 160, 160, 160)).astype(np.float32)
    np.testing.assert_allclose(percentiles(large), [[-2.576, 0, 2.576]], atol=0.05)


# -- in model.json --


def describe(folder, plan, **more):
    ModelDescription(
        name="3d",
        plan=plan,
        members=(Member(configuration="3d", weights=("3d.safetensors",)),),
        cross_validated_dice=None,
        inputs_digest="",
        made_by="test",
        **more,
    ).save(folder / "model.json")
    return json.loads((folder / "model.json").read_text())


def test_ranges_are_kept_with_a_model_and_older_models_open_without(tmp_path, trained):
    plan, known = trained
    body = describe(tmp_path, plan, trained_on=known)
    assert model_folder(tmp_path)[1].trained_on == known
    del body["trained_on"]
    (tmp_path / "model.json").write_text(json.dumps(body))
    assert model_folder(tmp_path)[1].trained_on is None


def test_ranges_of_other_channels_are_an_error(tmp_path, trained):
    plan, known = trained
    body = describe(tmp_path, plan, trained_on=known)
    body["trained_on"]["intensities"] *= 2
    (tmp_path / "model.json").write_text(json.dumps(body))
    with pytest.raises(ModelError, match="intensities needs one entry for each channel"):
        model_folder(tmp_path)
    with pytest.raises(ValueError, match="spacing_mm"):
        TrainingRanges(spacing_mm=known.spacing_mm[:2], extent_mm=known.extent_mm)
