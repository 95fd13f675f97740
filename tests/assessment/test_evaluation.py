"""Evaluation of folders against plain counts, the rules for what is absent, and what users get wrong."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from voxfit.assessment.evaluation import evaluate
from voxfit.assessment.scores import (
    CaseScores,
    LabelScores,
    Scores,
    require_place,
    save_scores,
    score_case,
    summarize,
    to_csv,
)
from voxfit.core.errors import DatasetError, UsageError
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.labels import Label, Labels
from voxfit.imaging.volume import read_label
from voxfit.imaging.writing import write_label

SPACING = (3.0, 0.8, 0.5)
LABELS = Labels(classes=(Label(name="liver", value=1), Label(name="tumour", value=2)))
HIPPOCAMPUS = Path(__file__).parents[2].parent / "shared" / "data" / "Task04_Hippocampus" / "labelsTr"


def save(path, array, spacing=SPACING, origin=(0.0, 0.0, 0.0)):
    array = np.asarray(array, np.uint8)
    write_label(path, array, Geometry(array.shape, spacing, origin))


def random_maps(seed, values=(0, 1, 2), shape=(6, 9, 8)):
    return np.random.default_rng(seed).choice(values, shape)


def counted_dice(reference, predicted, value):
    both = int(((reference == value) & (predicted == value)).sum())
    total = int((reference == value).sum()) + int((predicted == value).sum())
    return 2 * both / total if total else None


@pytest.fixture
def folders(tmp_path):
    """Two folders with three cases of equal names, and the maps by name: (reference, predicted)."""
    maps = {f"case_{seed}": (random_maps(seed), random_maps(seed + 100)) for seed in range(3)}
    for name, (reference, predicted) in maps.items():
        save(tmp_path / "labels" / f"{name}.nii.gz", reference)
        save(tmp_path / "predictions" / f"{name}.nii.gz", predicted)
    return tmp_path / "predictions", tmp_path / "labels", maps


def test_equals_counts(folders):
    predictions, references, maps = folders
    scores = evaluate(predictions, references, labels=LABELS, workers=1)
    assert [case.name for case in scores.cases] == sorted(maps)
    assert (scores.missing, scores.warnings, scores.labels) == ((), (), ("liver", "tumour"))
    for case in scores.cases:
        reference, predicted = maps[case.name]
        for name, value in (("liver", 1), ("tumour", 2)):
            item = case.labels[name]
            assert item.dice == pytest.approx(counted_dice(reference, predicted, value))
            assert item.reference_voxels == (reference == value).sum()
            assert item.predicted_voxels == (predicted == value).sum()
            assert item.reference_ml == pytest.approx((reference == value).sum() * 3.0 * 0.8 * 0.5 / 1000)
            assert item.predicted_ml == pytest.approx((predicted == value).sum() * 3.0 * 0.8 * 0.5 / 1000)
    means = [np.mean([counted_dice(*pair, value) for pair in maps.values()]) for value in (1, 2)]
    assert [item.dice for item in scores.mean.labels.values()] == pytest.approx(means)
    assert scores.mean.foreground_dice == pytest.approx(np.mean(means))


def test_several_workers_give_the_same_and_report_progress(folders):
    predictions, references, _ = folders
    seen = []
    alone = evaluate(predictions, references, labels=LABELS, workers=1)
    shared = evaluate(predictions, references, labels=LABELS, workers=2, progress=lambda *step: seen.append(step))
    assert shared == alone
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_spacing_of_the_file_is_used(tmp_path):
    reference, predicted = np.zeros((2, 8, 6, 6))
    reference[2], predicted[4] = 1, 1
    save(tmp_path / "labels" / "a.nii.gz", reference)
    save(tmp_path / "predictions" / "a.nii.gz", predicted)
    item = evaluate(tmp_path / "predictions", tmp_path / "labels", tolerance_mm=5.9, workers=1).cases[0].labels["1"]
    assert (item.dice, item.surface_dice) == (0, 0)
    assert item.hausdorff_95_mm == pytest.approx(6.0)
    scores = evaluate(tmp_path / "predictions", tmp_path / "labels", tolerance_mm=6.0, workers=1)
    assert (scores.tolerance_mm, scores.cases[0].labels["1"].surface_dice) == (6.0, 1)


def test_what_is_absent():
    empty, liver, both = np.zeros((2, 3, 3), int), np.zeros((2, 3, 3), int), np.zeros((2, 3, 3), int)
    liver[0] = 1
    both[0], both[1] = 1, 2
    cases = [
        score_case("liver only", liver, liver, SPACING, LABELS),
        score_case("missed tumour", both, liver, SPACING, LABELS),
        score_case("invented tumour", liver, both, SPACING, LABELS),
        score_case("found", both, both, SPACING, LABELS),
        score_case("nothing", empty, empty, SPACING, LABELS),
    ]
    found = [case.labels["tumour"] for case in cases]
    assert [item.dice for item in found] == [None, 0, 0, 1, None]
    assert [item.surface_dice for item in found] == [None, 0, 0, 1, None]
    assert [item.hausdorff_95_mm for item in found] == [None, None, None, 0, None]
    assert [item.reference_voxels for item in found] == [0, 9, 0, 9, 0]
    scores = summarize(cases, LABELS, 1.0)
    assert scores.mean.labels["tumour"].dice == pytest.approx(1 / 3)
    assert scores.mean.labels["tumour"].hausdorff_95_mm == 0
    assert scores.mean.labels["liver"].dice == 1
    assert scores.mean.foreground_dice == pytest.approx((1 + 1 / 3) / 2)


def test_regions_are_unions_and_what_nobody_annotated_is_not_compared() -> None:
    labels = Labels.from_description({"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, [1, 2])
    reference, _ = labels.to_indices(np.array([[[0, 1, 2, 2, 3, 3, 1, 0]]]))
    predicted, _ = labels.to_indices(np.array([[[1, 1, 1, 2, 2, 1, 0, 0]]]))
    scores = score_case("x", reference, predicted, SPACING, labels).labels
    assert list(scores) == ["whole", "core"]
    # whole: reference in 1, 2, 3, 6; predicted in 0, 1, 2, 3 (4 and 5 do not count).
    assert (scores["whole"].dice, scores["whole"].predicted_voxels) == (2 * 3 / 8, 4)
    assert (scores["core"].dice, scores["core"].reference_voxels) == (pytest.approx(2 * 1 / 3), 2)


def test_labels_without_a_value_are_left_out_of_the_mean():
    liver, nothing = np.ones((1, 2, 2), int), np.zeros((1, 2, 2), int)
    scores = summarize([score_case("a", liver, liver, SPACING, LABELS)], LABELS)
    assert (scores.mean.foreground_dice, scores.mean.labels["tumour"].dice) == (1, None)
    assert summarize([score_case("a", nothing, nothing, SPACING, LABELS)], LABELS).mean.foreground_dice is None
    assert summarize([], LABELS).mean.foreground_dice is None


def test_surfaces_can_be_left_out():
    array = random_maps(1)
    item = score_case("a", array, array, SPACING, LABELS, surface=False).labels["liver"]
    assert (item.dice, item.hausdorff_95_mm, item.surface_dice) == (1, None, None)


def test_scores_are_a_record(folders, tmp_path):
    predictions, references, _ = folders
    scores = evaluate(predictions, references, labels=LABELS, workers=1)
    scores.save(tmp_path / "scores.json")
    assert Scores.load(tmp_path / "scores.json") == scores
    body = json.loads((tmp_path / "scores.json").read_text())
    assert body["schema"] == "voxfit.scores/1"
    assert body["mean"]["foreground_dice"] == scores.mean.foreground_dice
    assert {"dice", "reference_voxels", "predicted_voxels"} <= set(body["cases"][0]["labels"]["liver"])


def test_csv_has_a_row_for_each_case_and_label():
    absent = LabelScores(
        dice=None,
        hausdorff_95_mm=None,
        surface_dice=None,
        reference_voxels=0,
        predicted_voxels=0,
        reference_ml=0.0,
        predicted_ml=0.0,
    )
    present = absent.model_copy(update={"dice": 0.25, "reference_voxels": 7})
    case = CaseScores(name="a,b", labels={"liver": present, "tumour": absent})
    rows = list(csv.DictReader(io.StringIO(to_csv(summarize([case], LABELS)))))
    assert [(row["case"], row["label"], row["dice"]) for row in rows] == [
        ("a,b", "liver", "0.25"),
        ("a,b", "tumour", ""),
    ]
    assert rows[0]["reference_voxels"] == "7"


def test_file_values_become_classes(tmp_path):
    labels = Labels(classes=(Label(name="cyst", value=200), Label(name="kidney", value=4)))
    reference, predicted = random_maps(1, (0, 4, 200)), random_maps(2, (0, 4, 200))
    save(tmp_path / "labels" / "a.nii.gz", reference)
    save(tmp_path / "predictions" / "a.nrrd", predicted)  # endings may differ
    case = evaluate(tmp_path / "predictions", tmp_path / "labels", labels=labels, workers=1).cases[0]
    for name, value in (("kidney", 4), ("cyst", 200)):
        assert case.labels[name].dice == pytest.approx(counted_dice(reference, predicted, value))
        assert case.labels[name].reference_voxels == (reference == value).sum()


@pytest.mark.parametrize("place", [".", "labels"])
def test_labels_of_a_dataset_description(folders, tmp_path, place):
    predictions, references, _ = folders
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "spleen": 1, "mass": 2, "never": 3}}
    (tmp_path / place / "dataset.json").write_text(json.dumps(description))
    scores = evaluate(predictions, references, workers=1)
    assert scores.labels == ("spleen", "mass", "never")
    assert scores.mean.labels["never"].dice is None
    assert scores.mean.foreground_dice == pytest.approx(
        evaluate(predictions, references, labels=LABELS, workers=1).mean.foreground_dice
    )


def test_labels_are_the_values_that_occur_without_a_description(tmp_path):
    save(tmp_path / "labels" / "a.nii.gz", random_maps(1, (0, 5)))
    save(tmp_path / "predictions" / "a.nii.gz", random_maps(2, (0, 5, 9)))
    scores = evaluate(tmp_path / "predictions", tmp_path / "labels", workers=1)
    assert scores.labels == ("5", "9")
    assert scores.mean.labels["9"].dice == 0


def test_two_dimensional_images(tmp_path):
    array = np.zeros((1, 12, 12), np.uint8)
    array[0, 3:9, 3:9] = 1
    for folder, shift in (("labels", 0), ("predictions", 2)):
        (tmp_path / folder).mkdir()
        sitk.WriteImage(sitk.GetImageFromArray(np.roll(array[0], shift, 1)), str(tmp_path / folder / "cell.png"))
    item = evaluate(tmp_path / "predictions", tmp_path / "labels", workers=1).cases[0].labels["1"]
    assert item.dice == pytest.approx(4 / 6)
    assert item.hausdorff_95_mm == pytest.approx(2.0)


def test_references_without_prediction_are_named(folders):
    predictions, references, _ = folders
    (predictions / "case_1.nii.gz").unlink()
    scores = evaluate(predictions, references, labels=LABELS, workers=1)
    assert scores.missing == ("case_1",)
    assert [case.name for case in scores.cases] == ["case_0", "case_2"]


def test_predictions_without_reference_are_all_named(folders):
    predictions, references, _ = folders
    (references / "case_0.nii.gz").unlink()
    (references / "case_2.nii.gz").unlink()
    with pytest.raises(UsageError, match="case_0, case_2 have no reference"):
        evaluate(predictions, references, labels=LABELS, workers=1)


def test_folders_that_do_not_belong_together(folders):
    predictions, references, _ = folders
    for path in list(predictions.iterdir()):
        path.rename(path.with_name(path.name.replace("case", "CASE")))
    with pytest.raises(UsageError, match=r"CASE_0, CASE_1, CASE_2.*case_0, case_1, case_2"):
        evaluate(predictions, references, labels=LABELS, workers=1)


def test_folders_that_cannot_be_used(folders, tmp_path):
    predictions, references, _ = folders
    with pytest.raises(UsageError, match="no such folder"):
        evaluate(tmp_path / "nowhere", references, workers=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no label files"):
        evaluate(predictions, tmp_path / "empty", workers=1)
    save(predictions / "case_0.nrrd", random_maps(0))
    with pytest.raises(UsageError, match="several files of case_0"):
        evaluate(predictions, references, workers=1)


def test_all_unusable_files_are_named_at_once(folders):
    predictions, references, _ = folders
    save(predictions / "case_0.nii.gz", random_maps(0, shape=(6, 9, 5)))
    save(predictions / "case_1.nii.gz", random_maps(0, values=(0, 2, 7)))
    (references / "case_2.nii.gz").write_bytes(b"no image")
    with pytest.raises(DatasetError) as caught:
        evaluate(predictions, references, labels=LABELS, workers=1)
    text = str(caught.value).splitlines()
    assert len(text) == 3
    assert "predictions/case_0.nii.gz" in text[0]
    assert "6 x 9 x 5" in text[0]
    assert "6 x 9 x 8" in text[0]
    assert "predictions/case_1.nii.gz: has the values 7," in text[1]
    assert "labels/case_2.nii.gz" in text[2]
    with pytest.raises(DatasetError, match=r"labels/case_2\.nii\.gz"):
        evaluate(predictions, references, workers=1)  # also when labels must be found first


def test_arrays_of_different_shapes_are_named():
    with pytest.raises(DatasetError, match=r"case_7: the prediction has the shape 2 x 4 x 4 .* has 1 x 4 x 4"):
        score_case("case_7", np.zeros((1, 4, 4), int), np.zeros((2, 4, 4), int), SPACING, LABELS)


def test_headers_that_differ_are_a_warning(folders):
    predictions, references, maps = folders
    save(predictions / "case_1.nii.gz", maps["case_1"][1], origin=(5.0, 0.0, 0.0))
    scores = evaluate(predictions, references, labels=LABELS, workers=1)
    assert len(scores.warnings) == 1
    assert "case_1.nii.gz" in scores.warnings[0]
    assert "10 voxels apart" in scores.warnings[0]


def test_images_are_not_taken_for_labels(tmp_path):
    ramp = sitk.GetImageFromArray(np.arange(2000, dtype=np.int16).reshape(1, 40, 50))
    for folder in ("labels", "predictions"):
        (tmp_path / folder).mkdir()
        sitk.WriteImage(ramp, str(tmp_path / folder / "a.nii.gz"))
    with pytest.raises(UsageError, match="1999 different values"):
        evaluate(tmp_path / "predictions", tmp_path / "labels", workers=1)


def test_other_requests_that_make_no_sense(folders, tmp_path):
    predictions, references, _ = folders
    for tolerance in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="tolerance"):
            evaluate(predictions, references, tolerance_mm=tolerance, workers=1)
    twice = Labels(classes=(Label(name="liver", value=1), Label(name="liver", value=2)))
    with pytest.raises(UsageError, match="the name liver"):
        evaluate(predictions, references, labels=twice, workers=1)
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0}}')
    with pytest.raises(DatasetError, match=r"dataset\.json: defines no usable label"):
        evaluate(predictions, references, workers=1)


@pytest.mark.skipif(not HIPPOCAMPUS.is_dir(), reason="the Hippocampus data are not here")
def test_hippocampus_against_itself_and_a_shifted_copy(tmp_path):
    files = sorted(HIPPOCAMPUS.glob("*.nii.gz"))[:3]
    for path in files:
        label = read_label(path)
        write_label(tmp_path / "same" / path.name, label.array, label.geometry)
        write_label(tmp_path / "shifted" / path.name, np.roll(label.array, 1, axis=0), label.geometry)
    same = evaluate(tmp_path / "same", HIPPOCAMPUS, workers=1)
    assert same.labels == ("Anterior", "Posterior")
    assert same.mean.foreground_dice == 1
    assert {item.hausdorff_95_mm for case in same.cases for item in case.labels.values()} == {0}
    assert len(same.missing) == len(list(HIPPOCAMPUS.glob("*.nii.gz"))) - 3

    shifted = evaluate(tmp_path / "shifted", HIPPOCAMPUS, workers=1)
    for path, case in zip(files, shifted.cases, strict=True):
        overlap = sitk.LabelOverlapMeasuresImageFilter()
        overlap.Execute(
            *(sitk.ReadImage(str(file), sitk.sitkUInt8) for file in (path, tmp_path / "shifted" / path.name))
        )
        for value, item in enumerate(case.labels.values(), 1):
            assert item.dice == pytest.approx(overlap.GetDiceCoefficient(value))
            assert 0 < item.hausdorff_95_mm <= read_label(path).geometry.spacing_mm[0]
            assert item.surface_dice == 1  # nothing moved by more than 1 mm


def test_distances_and_volumes_are_measured_with_the_reference_s_voxels(tmp_path):
    """A prediction whose header lies about its voxels is warned of, and changes no number."""
    reference, predicted = np.zeros((2, 8, 12, 10), np.uint8)
    reference[2:5, 3:8, 2:7] = 1
    predicted[2:5, 3:8, 4:9] = 1  # two voxels further along x
    for name, spacing in (("honest", SPACING), ("lying", (1.0, 2.0, 4.0))):
        save(tmp_path / name / "a.nii.gz", predicted, spacing)
    save(tmp_path / "labels" / "a.nii.gz", reference)
    scores = {
        name: evaluate(tmp_path / name, tmp_path / "labels", labels=LABELS, tolerance_mm=0.6, workers=1)
        for name in ("honest", "lying")
    }
    assert scores["lying"].cases == scores["honest"].cases
    assert [len(item.warnings) for item in scores.values()] == [0, 1]
    liver = scores["lying"].cases[0].labels["liver"]
    assert liver.hausdorff_95_mm == pytest.approx(2 * SPACING[2])
    assert liver.reference_ml == liver.predicted_ml == pytest.approx(75 * np.prod(SPACING) / 1000)


def test_what_has_no_partner_is_named_on_both_sides(folders):
    predictions, references, _ = folders
    (predictions / "case_1.nii.gz").rename(predictions / "case_1_0000.nii.gz")
    with pytest.raises(UsageError, match=r"case_1_0000 have no reference in .*, where case_1 have no prediction"):
        evaluate(predictions, references, labels=LABELS, workers=1)


def test_scores_replace_older_scores_and_nothing_else(tmp_path, folders):
    predictions, references, _ = folders
    scores = evaluate(predictions, references, labels=LABELS, workers=1)
    for _ in range(2):
        path, table = require_place(tmp_path / "scores.json")
        assert save_scores(scores, path) == table == tmp_path / "scores.csv"
    assert Scores.load(tmp_path / "scores.json") == scores
    for name in ("x.csv", "x", "x.txt", "x.json.csv"):
        with pytest.raises(UsageError, match="name the JSON file"):
            require_place(tmp_path / name)
    foreign = [("plan.json", '{"schema": "voxfit.plan/2"}'), ("empty.json", ""), ("folder.json", None)]
    foreign += [("a.json", '{"scores": []}'), ("b.json", '[{"schema": "voxfit.scores/1"}]'), ("c.csv", "case,name\n")]
    for name, text in foreign:
        if text is None:
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).write_text(text)
        with pytest.raises(UsageError, match=f"{name}: is there already"):
            require_place((tmp_path / name).with_suffix(".json"))
