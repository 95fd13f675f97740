"""What `predict` writes, keeps and warns of, and what its options change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from bad_input.place import make_model, run_voxfit
from synthetic import write_boxes
from voxfit.core.errors import UsageError
from voxfit.core.progress import Listener
from voxfit.imaging.files import Case
from voxfit.imaging.labels import Label, Labels
from voxfit.inference.model import Model
from voxfit.running.prediction import Predicted, find_cases, predict_cases
from voxfit.running.reporting import DatasetRecord


class Ear(Listener):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, and a model of it with random weights: 2D and 3D, two folds each."""
    root = tmp_path_factory.mktemp("prediction")
    write_boxes(root / "data", cases=3, test_cases=3)
    make_model(root / "data", root / "run", root / "model")
    return root


@pytest.fixture
def place(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template / "data" / "imagesTs", tmp_path / "in")
    (tmp_path / "model").symlink_to(template / "model")
    return tmp_path


def predict(place: Path, *more: str, output: str = "out") -> tuple[int, str]:
    arguments = ["predict", str(place / "model"), str(place / "in"), "-o", str(place / output), "--device", "cpu"]
    return run_voxfit([*arguments, "--backend", "torch", "--fast", *more])


def labels(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((place / "out").glob("*.nii.gz"))}


def correct(path: Path) -> bytes:
    """As a person would: another program writes it again, with another value at one voxel."""
    image = sitk.ReadImage(str(path))
    image[0, 0, 0] = 5 - image[0, 0, 0]
    sitk.WriteImage(image, str(path))
    return path.read_bytes()


def test_what_was_written_kept_and_not_made_is_counted(place: Path) -> None:
    images = sorted((place / "in").iterdir())
    broken = images[2].read_bytes()
    images[2].write_bytes(broken[:-50])
    code, said = predict(place)
    assert (code, "2 of 3 label maps written to" in said, ", 1 not made" in said) == (2, True, True)
    assert " kept" not in said.splitlines()[-1]
    images[2].write_bytes(broken)
    code, said = predict(place)
    assert (code, "1 of 3 label maps written to" in said, ", 2 kept" in said) == (0, True, True)
    code, said = predict(place)
    assert (code, "0 of 3 label maps written to" in said, ", 3 kept" in said) == (0, True, True)
    assert "not made" not in said


def test_corrections_stay_until_somebody_wants_them_replaced(place: Path) -> None:
    predict(place)
    made = labels(place)
    name = sorted(made)[1]
    corrected = correct(place / "out" / name)
    (place / "out" / sorted(made)[2]).unlink()
    code, said = predict(place)
    assert code == 2
    assert f"{name}: was changed after voxfit wrote it" in said
    assert labels(place) == made | {name: corrected}
    code, said = predict(place, "--overwrite")
    assert (code, labels(place)) == (0, made)
    assert "3 of 3 label maps written" in said


def test_overwrite_makes_again_what_would_be_kept(place: Path) -> None:
    predict(place)
    before = {path: path.stat().st_ino for path in (place / "out").glob("*.nii.gz")}
    predict(place)
    assert {path: path.stat().st_ino for path in before} == before
    predict(place, "--overwrite")
    assert all(path.stat().st_ino != number for path, number in before.items())


def test_the_folder_of_the_images_is_refused_before_anything_is_written(place: Path) -> None:
    before = {path.name: path.read_bytes() for path in (place / "in").iterdir()}
    for more in ((), ("--overwrite",)):
        code, said = predict(place, *more, output="in")
        assert (code, "is the folder of the images" in said) == (64, True)
        assert {path.name: path.read_bytes() for path in (place / "in").iterdir()} == before


def test_an_image_never_becomes_its_own_label_map(place: Path) -> None:
    """Also for a program that asks for it."""
    image = next((place / "in").iterdir())
    case = Case(name=image.name.removesuffix(".nii.gz"), images=(str(image),))
    before = image.read_bytes()
    model = Model.open(place / "model", "cpu", fast=True, backend="torch")
    with pytest.raises(UsageError, match="is read here and would be replaced"):
        predict_cases(model, [case], place / "in", Listener(), overwrite=True)
    assert image.read_bytes() == before
    assert not (place / "in" / ".voxfit").exists()


def test_a_folder_named_like_a_file_may_be_there_already(place: Path) -> None:
    code, said = predict(place, output="seg.nii.gz")
    assert (code, "named like a file" in said, (place / "seg.nii.gz").exists()) == (64, True, False)
    (place / "seg.nii.gz").mkdir()
    assert predict(place, output="seg.nii.gz")[0] == 0


def test_formats_of_several_files_are_written_kept_and_guarded(place: Path) -> None:
    for path in sorted((place / "in").iterdir()):
        sitk.WriteImage(sitk.ReadImage(str(path)), str(path).replace(".nii.gz", ".mhd"))
        path.unlink()
    assert predict(place)[0] == 0
    header = sorted((place / "out").glob("*.mhd"))[0]
    assert (
        sitk.ReadImage(str(header)).GetSize() == sitk.ReadImage(str(place / "in" / f"{header.stem}_0000.mhd")).GetSize()
    )
    assert ", 3 kept" in predict(place)[1]
    header.with_suffix(".zraw").write_bytes(b"by hand")
    code, said = predict(place)
    assert (code, "was changed after voxfit wrote it" in said) == (2, True)
    assert header.with_suffix(".zraw").read_bytes() == b"by hand"


def put(place: Path, name: str, change: object) -> None:
    """An image made of the first one."""
    image = sitk.ReadImage(str(sorted((place / "in").glob("box*"))[0]))
    array = sitk.GetArrayFromImage(image)
    changed = sitk.GetImageFromArray(change(array))  # type: ignore[operator]
    changed.SetSpacing(image.GetSpacing())
    sitk.WriteImage(changed, str(place / "in" / f"{name}_0000.nii.gz"))


def test_doubts_are_said_and_kept_with_the_label_map(place: Path) -> None:
    put(place, "zero", lambda array: 0 * array)
    put(place, "tiny", lambda array: array[:3, :3, :3])
    ear, model = Ear(), Model.open(place / "model", "cpu", fast=True, backend="torch")
    cases = find_cases([place / "in"], 1)
    done = predict_cases(model, cases, place / "out", ear)
    assert (done.written, done.kept, done.problems) == (5, 0, [])
    doubts = [text for text in ear.warned if "no foreground" not in text]
    assert [text.split(":")[0] for text in doubts] == ["tiny", "zero"]
    assert "measures 3 x 3.6 x 4.5 mm" in doubts[0]
    lines = [json.loads(text) for text in (place / "out" / ".voxfit" / "outputs.jsonl").read_text().splitlines()]
    kept = {line["file"]: [text for text in line["caveats"] if "no foreground" not in text] for line in lines}
    assert kept["zero.nii.gz"] == [doubts[1].removeprefix("zero: ")]
    assert sum(map(len, kept.values())) == 2
    # Whoever runs it again is told again.
    again = Ear()
    assert predict_cases(model, cases, place / "out", again).kept == 5
    assert sorted(again.warned) == sorted(ear.warned)


def test_label_maps_without_foreground_are_named_in_one_line(place: Path) -> None:
    ear, model = Ear(), Model.open(place / "model", "cpu", fast=True, backend="torch")
    cases = find_cases([place / "in"], 1)
    wanted = model.plan.labels.values[1:]
    threshold(model, 1e6)
    predict_cases(model, cases, place / "out", ear)
    names = ", ".join(case.name for case in cases)
    assert ear.warned == [f"3 of 3 label maps have no foreground: {names}."]
    ear = Ear()
    threshold(model, -1e6)
    assert predict_cases(model, cases, place / "out", ear, overwrite=True) == Predicted(
        written=3, caveats={case.name: () for case in cases}
    )
    assert ear.warned == []
    assert set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(place / "out" / "box_03.nii.gz"))))) <= {0, *wanted}


def threshold(model: Model, level: float) -> None:
    """Networks that see the last class above a level."""

    def network(batch):  # type: ignore[no-untyped-def]
        import torch

        scores = torch.zeros((len(batch), model.plan.labels.outputs, *batch.shape[2:]))
        scores[:, -1] = torch.sign(batch[:, 0] - level)
        return torch.softmax(20 * scores, 1)

    for predictor in model.predictors.values():
        predictor.networks = (network,)


def test_many_doubts_do_not_fill_the_screen(place: Path) -> None:
    put(place, "zero", lambda array: 0 * array)
    zero = place / "in" / "zero_0000.nii.gz"
    for path in (place / "in").glob("box*"):
        path.unlink()
    for number in range(30):
        shutil.copyfile(zero, place / "in" / f"copy{number:02}_0000.nii.gz")
    ear, model = Ear(), Model.open(place / "model", "cpu", fast=True, backend="torch")
    predict_cases(model, find_cases([place / "in"], 1), place / "out", ear)
    equal = [text for text in ear.warned if "are equal" in text]
    assert len(equal) == 20
    assert any(text.startswith("11 more such lines") for text in ear.warned)


def test_an_image_of_other_channels_is_told_what_the_model_needs(place: Path) -> None:
    image = sitk.ReadImage(str(sorted((place / "in").glob("box*"))[0]))
    sitk.WriteImage(sitk.JoinSeries([image, image]), str(place / "in" / "two_0000.nii.gz"))
    code, said = predict(place)
    assert code == 2
    assert "two_0000.nii.gz: the image has 2 channels, but the model was trained on 1 channel: MRI." in said
    assert "dataset.json" not in said


# -- options --


def test_fast_is_the_best_configuration_alone_with_one_fold_and_no_mirroring(template: Path, tmp_path: Path) -> None:
    """The 2D model is made the better one, though it is neither the last nor the whole."""
    shutil.copytree(template / "model", tmp_path / "model")
    body = json.loads((tmp_path / "model" / "model.json").read_text())
    for best in ("2d", "3d"):
        body |= {"fast": {"configuration": best, "cross_validated_dice": 0.5}, "cross_validated_dice": 0.75}
        (tmp_path / "model" / "model.json").write_text(json.dumps(body))
        fast = Model.open(tmp_path / "model", "cpu", fast=True, backend="torch")
        assert list(fast.predictors) == [best] == list(fast.members)
        assert len(fast.predictors[best].networks) == 1
        assert fast.predictors[best].flips == [[]]
        # It predicts as a model that holds nothing else.
        alone = body | {"name": best, "fast": None}
        alone["members"] = [
            member | {key: member[key][:1] for key in ("weights", "checksums")}
            for member in body["members"]
            if member["configuration"] == best
        ]
        other = tmp_path / f"alone_{best}"
        shutil.copytree(tmp_path / "model", other)
        (other / "model.json").write_text(json.dumps(alone))
        image = sitk.ReadImage(str(next((template / "data" / "imagesTs").iterdir())))
        expected = Model.open(other, "cpu", mirror=False, backend="torch").predict(image)
        np.testing.assert_array_equal(*map(sitk.GetArrayFromImage, (fast.predict(image), expected)))


def test_without_mirroring_each_tile_is_seen_once(template: Path) -> None:
    """Seen by a network that only answers where nothing was mirrored."""
    shape, counts = (16, 16, 16), {}
    for mirror in (True, False):
        model = Model.open(template / "model", "cpu", mirror=mirror, backend="torch")
        seen = []

        def network(batch, seen=seen, outputs=model.plan.labels.outputs):  # type: ignore[no-untyped-def]
            seen.append(len(batch))
            return batch[:, :1].repeat(1, outputs, *(1,) * (batch.ndim - 2))

        for predictor in model.predictors.values():
            predictor.networks = (network,)
        model.predict(np.random.default_rng(0).normal(size=shape), (1.0, 1.0, 1.0))
        counts[mirror] = sum(seen)
        variants = {name: len(predictor.flips) for name, predictor in model.predictors.items()}
        assert variants == ({"2d": 4, "3d": 8} if mirror else {"2d": 1, "3d": 1})
    assert counts[True] > 4 * counts[False] > 0


def test_what_predicts_otherwise_makes_other_label_maps(place: Path) -> None:
    """A label map is kept only where the same options would make it."""
    arguments = ["predict", str(place / "model"), str(place / "in"), "-o", str(place / "out"), "--backend", "torch"]
    for more in ((), ("--no-mirror",), ("--fast",)):
        assert ", 3 kept" not in run_voxfit([*arguments, *more])[1]
        assert ", 3 kept" in run_voxfit([*arguments, *more])[1]


def test_label_maps_of_an_older_model_json_are_kept(place: Path, template: Path) -> None:
    """What it says of the training images changes no label map; its plan does."""
    (place / "model").unlink()
    shutil.copytree(template / "model", place / "model")
    predict(place)
    path = place / "model" / "model.json"
    body = json.loads(path.read_text())
    del body["trained_on"]
    path.write_text(json.dumps(body))
    assert ", 3 kept" in predict(place)[1]
    body["plan"]["single_component_labels"] = [1]
    path.write_text(json.dumps(body))
    assert "3 of 3 label maps written" in predict(place)[1]


# -- other commands that write one file --


@pytest.mark.parametrize("way", ["itself", "link", "hard link"])
def test_a_sheet_replaces_no_image_that_its_run_was_fitted_to(tmp_path: Path, way: str) -> None:
    image, output, run = tmp_path / "images" / "a.png", tmp_path / "sheet.png", tmp_path / "run"
    image.parent.mkdir()
    sitk.WriteImage(sitk.Image((4, 4), sitk.sitkUInt8), str(image))
    case = Case(name="a", images=(str(image),), label=str(image))
    labels = Labels(classes=(Label(name="x", value=1),))
    record = DatasetRecord(folder=str(tmp_path), name="x", channel_names=("EM",), labels=labels, cases=(case,))
    record.save(run / "dataset.json")
    if way == "itself":
        output = image
    elif way == "link":
        output.symlink_to(image)
    else:
        output.hardlink_to(image)
    before = image.read_bytes()
    code, said = run_voxfit(["sheet", str(run), "-o", str(output)])
    assert (code, "is read here and would be replaced" in said) == (64, True)
    assert image.read_bytes() == before


def test_a_sheet_replaces_no_other_picture_unasked(tmp_path: Path) -> None:
    picture = tmp_path / "holiday.png"
    picture.write_bytes(b"mine")
    code, said = run_voxfit(["sheet", str(tmp_path), "-o", str(picture)])
    assert (code, "is there already" in said, picture.read_bytes()) == (64, True, b"mine")
    code, said = run_voxfit(["sheet", str(tmp_path), "-o", str(picture), "--overwrite"])
    assert "is no run folder" in said


def test_a_sheet_is_a_picture(tmp_path: Path) -> None:
    code, said = run_voxfit(["sheet", str(tmp_path), "-o", str(tmp_path / "sheet.nii.gz")])
    assert (code, "name a PNG file" in said) == (64, True)
