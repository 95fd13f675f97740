"""What a folder of label maps was made from: what is skipped when `predict` goes on, and what is not."""

import os

import pytest

from voxfit.core.durability import UNFINISHED
from voxfit.core.errors import WorkspaceError
from voxfit.imaging.files import Case
from voxfit.running.outputs import open_outputs


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "images" / "a.nii.gz"
    path.parent.mkdir()
    path.write_bytes(b"voxels")
    return path


@pytest.fixture
def case(image):
    return Case(name="a", images=(str(image),))


@pytest.fixture
def out(tmp_path, case):
    """A folder with the finished label map of the case, made by model "one"."""
    folder = tmp_path / "out"
    with open_outputs(folder, "one") as outputs:
        (folder / "a.nii.gz").write_bytes(b"labels")
        outputs.mark_done(case, folder / "a.nii.gz")
    return folder


def is_done(out, case, made_by="one", name="a.nii.gz"):
    with open_outputs(out, made_by) as outputs:
        return outputs.is_done(case, out / name)


def test_what_was_finished_is_done(out, case):
    assert is_done(out, case)
    assert sorted(path.name for path in out.iterdir()) == [".voxfit", "a.nii.gz"]


def test_a_label_map_without_a_line_is_not_done(tmp_path, case):
    """A kill between the two, or a file of another program."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.nii.gz").write_bytes(b"labels")
    assert not is_done(tmp_path / "out", case)


def _another_model(out, image):
    return "two"


def _shorter(out, image):
    (out / "a.nii.gz").write_bytes(b"lab")


def _changed(out, image):
    (out / "a.nii.gz").write_bytes(b"LABELS")


def _gone(out, image):
    (out / "a.nii.gz").unlink()


def _longer_image(out, image):
    image.write_bytes(b"more voxels")


def _newer_image(out, image):
    status = image.stat()
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


@pytest.mark.parametrize("change", [_another_model, _shorter, _changed, _gone, _longer_image, _newer_image])
def test_what_no_longer_fits_is_not_done(out, image, case, change):
    assert not is_done(out, case, change(out, image) or "one")


def test_a_line_cut_short_costs_its_case_alone(out, case, tmp_path):
    lines = out / ".voxfit" / "outputs.jsonl"
    other = case.model_copy(update={"name": "b"})
    with open_outputs(out, "one") as outputs:
        (out / "b.nii.gz").write_bytes(b"labels of b")
        outputs.mark_done(other, out / "b.nii.gz")
    whole = lines.read_bytes()
    for cut in range(1, len(whole) - whole.index(b"\n")):
        lines.write_bytes(whole[:-cut])
        assert is_done(out, case)
        assert not is_done(out, other, name="b.nii.gz")
        with open_outputs(out, "one") as outputs:
            outputs.mark_done(other, out / "b.nii.gz")
        assert lines.read_bytes() == whole


def test_lines_that_are_none_are_passed_over(out, case):
    with (out / ".voxfit" / "outputs.jsonl").open("ab") as stream:
        stream.write(b'[1]\n{"file": 3}\n\xff\xfe\x00\n')
    assert is_done(out, case)


def test_one_prediction_at_a_time_and_litter_goes(out):
    half = out / f".b{UNFINISHED}.nii.gz"
    half.write_bytes(b"half")
    with open_outputs(out, "one"):
        assert not half.exists()
        with pytest.raises(WorkspaceError, match=f"process {os.getpid()} on .* has been writing here since"):
            open_outputs(out, "one").__enter__()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match="out: cannot be written"):
        open_outputs(tmp_path / "file" / "out", "one").__enter__()
