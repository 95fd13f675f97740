"""What a folder of label maps was made from: what is skipped when `predict` goes on, and what is not."""

import json
import os
from contextlib import suppress

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
    write(tmp_path / "out", case)
    return tmp_path / "out"


def write(out, case, content=b"labels", made_by="one", name="a.nii.gz", beside=None, **options):
    """Write a label map, perhaps with files that belong to it; returns what was in its way."""
    with open_outputs(out, made_by) as outputs:
        staged = outputs.staged(out / name)
        staged.parent.mkdir()
        staged.write_bytes(content)
        for other, more in (beside or {}).items():
            staged.with_name(other).write_bytes(more)
        return outputs.replace_durably(case, out / name, **options)


def state(out, case, made_by="one", name="a.nii.gz"):
    with open_outputs(out, made_by) as outputs:
        return outputs.look(case, out / name).state


def is_done(*arguments, **options):
    return state(*arguments, **options) == "done"


def test_what_was_finished_is_done(out, case):
    assert is_done(out, case)
    assert sorted(path.name for path in out.iterdir()) == [".voxfit", "a.nii.gz"]


def _another_programs(tmp_path, out, case):
    (out / "b.nii.gz").write_bytes(b"labels")  # the same bytes, but not under this name


def _shorter(tmp_path, out, case):
    write(out, case, name="b.nii.gz")
    (out / "b.nii.gz").write_bytes(b"lab")


def _corrected(tmp_path, out, case):
    write(out, case, name="b.nii.gz")
    (out / "b.nii.gz").write_bytes(b"LABELS")


def _a_link(tmp_path, out, case):
    (tmp_path / "elsewhere").write_bytes(b"a reference")
    (out / "b.nii.gz").symlink_to(tmp_path / "elsewhere")


def _a_link_to_nothing(tmp_path, out, case):
    (out / "b.nii.gz").symlink_to(tmp_path / "unmounted")


def _read_only(tmp_path, out, case):
    (out / "b.nii.gz").write_bytes(b"labels")
    (out / "b.nii.gz").chmod(0o444)


FOREIGN = [_another_programs, _shorter, _corrected, _a_link, _a_link_to_nothing, _read_only]


@pytest.mark.parametrize("put", FOREIGN)
def test_what_voxfit_did_not_write_stays(tmp_path, out, case, put):
    put(tmp_path, out, case)
    before = snapshot(out)
    assert state(out, case, name="b.nii.gz") == "foreign"
    assert write(out, case, b"new", name="b.nii.gz").where == str(out / "b.nii.gz")
    assert snapshot(out) == before
    # Asked to, it replaces it; a link, not what it leads to.
    assert write(out, case, b"new", name="b.nii.gz", overwrite=True) is None
    assert is_done(out, case, name="b.nii.gz")
    assert (out / "b.nii.gz").read_bytes() == b"new"
    assert not (tmp_path / "elsewhere").exists() or (tmp_path / "elsewhere").read_bytes() == b"a reference"


def snapshot(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_folder_is_never_replaced(out, case):
    (out / "b.nii.gz").mkdir()
    assert "no file" in write(out, case, name="b.nii.gz", overwrite=True).what


def test_what_was_put_there_meanwhile_stays(out, case):
    """Between the look and the end of a segmentation lie minutes."""
    with open_outputs(out, "one") as outputs:
        assert outputs.look(case, out / "b.nii.gz").state == "missing"
        outputs.staged(out / "b.nii.gz").parent.mkdir()
        outputs.staged(out / "b.nii.gz").write_bytes(b"labels")
        (out / "b.nii.gz").write_bytes(b"by hand")
        assert "did not write" in outputs.replace_durably(case, out / "b.nii.gz").what
    assert (out / "b.nii.gz").read_bytes() == b"by hand"


def test_an_older_label_map_of_ours_is_replaced(out, case):
    assert write(out, case, b"other labels", made_by="two") is None
    assert (out / "a.nii.gz").read_bytes() == b"other labels"
    assert is_done(out, case, "two")


def test_files_beside_a_label_map_belong_to_it(out, case):
    """The voxels of an .mhd, say: who changes them has corrected the label map."""
    assert write(out, case, b"header", name="a.mhd", beside={"a.zraw": b"voxels"}) is None
    assert is_done(out, case, name="a.mhd")
    (out / "a.zraw").unlink()
    assert state(out, case, name="a.mhd") == "outdated"
    write(out, case, b"header", name="a.mhd", beside={"a.zraw": b"voxels"})
    (out / "a.zraw").write_bytes(b"by hand")
    assert state(out, case, name="a.mhd") == "foreign"
    # It is no label map, so that nobody has asked to replace it.
    assert write(out, case, b"new", name="a.mhd", beside={"a.zraw": b"new"}, overwrite=True).where.endswith("a.zraw")
    assert [(out / name).read_bytes() for name in ("a.mhd", "a.zraw")] == [b"header", b"by hand"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_kill_at_any_point_costs_nothing(out, case, monkeypatch, call):
    """A label map of ours is never taken for a stranger's, nor a half-made one for whole."""
    alone = out.parent / "alone"
    write(alone, case)
    write(alone, case, b"new", "two")
    killed = 0
    while kill(monkeypatch, call, killed, lambda: write(out, case, b"new", "two")):
        killed += 1
        assert state(out, case) in ("done", "outdated")
        assert state(out, case, "two") in ("done", "outdated")
    assert killed > 0
    assert list(snapshot(out).values()) == list(snapshot(alone).values())


def kill(monkeypatch, call, after, work):
    """Whether some work was killed when it wanted to call a function of the system once more."""
    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr(os, call, Dying(getattr(os, call), after))
        work()
        return False
    return True


class Killed(BaseException):
    pass


class Dying:
    """A function of the system that is not reached, from some call on."""

    def __init__(self, function, after):
        self.function, self.left = function, after

    def __call__(self, *arguments):
        if not self.left:
            raise Killed
        self.left -= 1
        return self.function(*arguments)


def test_lines_are_on_the_disk_before_label_maps_have_their_names(out, case, monkeypatch):
    """After a power cut, a label map without its line would be taken for another program's."""
    done = []
    fsync, replace = os.fsync, os.replace
    lines = os.stat(out / ".voxfit" / "outputs.jsonl").st_ino

    def noted_fsync(handle):
        done.append("line" if os.fstat(handle).st_ino == lines else "other")
        fsync(handle)

    def noted_replace(source, target):
        done.append(os.path.basename(target))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write(out, case, b"new", "two")
    assert "line" in done
    assert done.index("line") < done.index("a.nii.gz")


def test_caveats_are_kept_with_their_label_map(out, case):
    write(out, case, name="b.nii.gz", caveats=("it is empty.",))
    with open_outputs(out, "one") as outputs:
        assert outputs.look(case, out / "b.nii.gz").caveats == ("it is empty.",)
        assert outputs.look(case, out / "a.nii.gz").caveats == ()
    last = (out / ".voxfit" / "outputs.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["caveats"] == ["it is empty."]


def test_nothing_but_the_lines_stays(out, tmp_path):
    assert [path.name for path in (out / ".voxfit").iterdir()] == ["outputs.jsonl"]
    with open_outputs(tmp_path / "unused", "one"):
        pass
    assert not list((tmp_path / "unused").iterdir())


def _another_model(out, image):
    return "two"


def _gone(out, image):
    (out / "a.nii.gz").unlink()


def _longer_image(out, image):
    image.write_bytes(b"more voxels")


def _newer_image(out, image):
    status = image.stat()
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


@pytest.mark.parametrize("change", [_another_model, _gone, _longer_image, _newer_image])
def test_what_no_longer_fits_is_not_done(out, image, case, change):
    assert not is_done(out, case, change(out, image) or "one")


def test_a_line_cut_short_costs_its_case_alone(out, case, tmp_path):
    lines = out / ".voxfit" / "outputs.jsonl"
    other = case.model_copy(update={"name": "b"})
    write(out, other, b"labels of b", name="b.nii.gz")
    whole = lines.read_bytes()
    for cut in range(1, len(whole) - whole.index(b"\n")):
        lines.write_bytes(whole[:-cut])
        assert is_done(out, case)
        assert not is_done(out, other, name="b.nii.gz")
        write(out, other, b"labels of b", name="b.nii.gz", overwrite=True)
        assert lines.read_bytes() == whole


def test_lines_that_are_none_are_passed_over(out, case):
    with (out / ".voxfit" / "outputs.jsonl").open("ab") as stream:
        stream.write(b'[1]\n{"file": 3}\n{"file": [], "inputs_digest": 1, "label": {}}\n\xff\xfe\x00\n')
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
