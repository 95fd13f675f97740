"""Preparing cases goes on where it was ended, and begins again where what is there no longer fits."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from builders.steps import begin
from voxfit.core.progress import Listener
from voxfit.running.request import FitRequest


class Stop(Exception):
    """Ends preparing as a signal would."""


class Ear(Listener):
    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.preparing = False
        self.sentences: list[str] = []
        self.warnings: list[str] = []
        self.counts: list[tuple[int, int]] = []

    def stage(self, text: str) -> None:
        self.preparing = text.startswith("Preparing")

    def say(self, text: str) -> None:
        self.sentences.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def progress(self, done: int, total: int) -> None:
        if self.preparing:
            self.counts.append((done, total))
            if done == self.stop_after:
                raise Stop


def store_of(boxes: Path, folder: Path, ear: Ear) -> Path:
    """Where the cases of a run are, prepared."""
    return begin(FitRequest(boxes, folder, workers=1), ear).store().folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(boxes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The store of a run that was left alone."""
    return contents(store_of(boxes, tmp_path_factory.mktemp("whole"), Ear()))


def leave(path: Path) -> None:
    """Nothing is damaged."""


def lose_an_image(part: Path) -> None:
    (part / "box_01.image.npy").unlink()


def lose_content(part: Path) -> None:
    """As a power cut may, before the files are on the disk."""
    path = part / "box_01.label.npy"
    path.write_bytes(path.read_bytes()[:200].ljust(path.stat().st_size, b"\0"))


@pytest.mark.parametrize(("damage", "kept"), [(leave, 4), (lose_an_image, 3), (lose_content, 3)])
def test_what_was_prepared_is_not_prepared_again(
    boxes: Path, tmp_path: Path, whole: dict[str, bytes], damage: Callable[[Path], None], kept: int
) -> None:
    with pytest.raises(Stop):
        store_of(boxes, tmp_path, Ear(stop_after=4))
    (part,) = (tmp_path / "store").glob("*.part-*")
    damage(part)
    before = {path.name: path.stat().st_mtime_ns for path in part.iterdir()}
    folder = store_of(boxes, tmp_path, ear := Ear())
    assert f"{kept} of 6 cases are prepared already." in ear.sentences
    assert ear.counts == [(done, 6) for done in range(kept + 1, 7)]
    assert contents(folder) == whole
    same = {name for name, stamp in before.items() if (folder / name).stat().st_mtime_ns == stamp}
    assert len(same) >= 4 * kept


@pytest.mark.parametrize("content", ["", '{"schema": "voxfit.store/1", "inputs_digest": "x", "placements": {}}'])
def test_a_manifest_that_is_no_longer_understood_means_preparing_again(
    boxes: Path, tmp_path: Path, whole: dict[str, bytes], content: str
) -> None:
    manifest = store_of(boxes, tmp_path, Ear()) / "manifest.json"
    manifest.write_text(content)
    ear = Ear()
    assert contents(store_of(boxes, tmp_path, ear)) == whole
    (warning,) = ear.warnings
    assert str(manifest) in warning
    assert "made again" in warning


def test_a_finished_store_is_found_again(boxes: Path, tmp_path: Path) -> None:
    folder = store_of(boxes, tmp_path, Ear())
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    ear = Ear()
    assert store_of(boxes, tmp_path, ear) == folder
    assert not ear.counts
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert json.loads((folder / "manifest.json").read_text())["voxels"].keys() == {f"box_{n:02}" for n in range(6)}


def test_a_store_of_another_plan_is_not_trained_on(boxes: Path, tmp_path: Path) -> None:
    """The spacing, and with it the place, is the same; the normalization is not."""
    folder = store_of(boxes, tmp_path, Ear())
    before = contents(folder)
    path = tmp_path / "plan.json"
    plan = json.loads(path.read_text())
    plan["normalization"] = [
        {"kind": "clip_and_scale", "lower": 90.0, "upper": 110.0, "mean": 100.0, "standard_deviation": 5.0}
    ]
    path.write_text(json.dumps(plan))
    ear = Ear()
    assert store_of(boxes, tmp_path, ear) == folder
    assert ear.counts[-1] == (6, 6)
    image = np.load(folder / "box_00.image.npy")
    assert image.min() >= -2
    assert image.max() <= 2
    assert contents(folder)["box_00.label.npy"] == before["box_00.label.npy"]


def test_a_corrected_label_is_prepared_again_though_its_file_has_the_same_size(boxes: Path, tmp_path: Path) -> None:
    dataset = Path(shutil.copytree(boxes, tmp_path / "dataset"))
    path = dataset / "labelsTr" / "box_01.nii.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    path.write_bytes(gzip.compress(content, compresslevel=0))
    size = path.stat().st_size
    folder = store_of(dataset, tmp_path / "run", Ear())
    before = np.load(folder / "box_01.label.npy")
    assert (before[-1, -1, -1], content[-1]) == (0, 0)
    content[-1] = 5
    path.write_bytes(gzip.compress(content, compresslevel=0))
    assert path.stat().st_size == size
    assert store_of(dataset, tmp_path / "run", Ear()) == folder
    after = np.load(folder / "box_01.label.npy")
    assert np.argwhere(after != before).tolist() == [[size - 1 for size in after.shape]]
