"""What compares cases or files with each other: outliers in `check` and `fit`, and files that were edited."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import SimpleITK as sitk

from synthetic import write_boxes
from voxfit.core.errors import DatasetError
from voxfit.core.parallel import LocalExecutor
from voxfit.core.progress import Listener
from voxfit.imaging.dataset import Dataset
from voxfit.running.cases import digest_of_files, measure_dataset
from voxfit.running.checking import check_dataset


@pytest.fixture
def in_metres(tmp_path: Path) -> Dataset:
    """Five cases; the spacing of one is in metres."""
    folder = write_boxes(tmp_path / "boxes", cases=5, test_cases=0)
    for path in (folder / "imagesTr" / "box_02_0000.nii.gz", folder / "labelsTr" / "box_02.nii.gz"):
        image = sitk.ReadImage(str(path))
        image.SetSpacing([size / 1000 for size in image.GetSpacing()])
        sitk.WriteImage(image, str(path))
    return Dataset.open(folder)


@pytest.mark.parametrize("work", [check_dataset, measure_dataset])
def test_a_spacing_in_metres_is_an_error(in_metres: Dataset, work: Callable[..., object]) -> None:
    with pytest.raises(DatasetError, match=r"box_02: its spacing is .*would become 1 x 1 x 1\.") as caught:
        work(in_metres, Listener(), LocalExecutor(1))
    assert len(caught.value.problems) == 1


def test_such_a_case_can_be_left_out(in_metres: Dataset) -> None:
    usable = check_dataset(in_metres, Listener(), LocalExecutor(1), skip=True)
    assert [case.name for case in usable.cases] == ["box_00", "box_01", "box_03", "box_04"]
    measured = measure_dataset(in_metres, Listener(), LocalExecutor(1), skip=True)
    assert [case.name for case in measured.skipped] == ["box_02"]
    assert "would become 1 x 1 x 1" in measured.skipped[0].reasons[0]
    without = measure_dataset(in_metres.without({"box_02"}), Listener(), LocalExecutor(1))
    assert measured == without.model_copy(update={"skipped": measured.skipped})


def test_an_edit_that_keeps_the_size_of_a_file_is_seen(tmp_path: Path) -> None:
    dataset = Dataset.open(write_boxes(tmp_path / "boxes", cases=2, test_cases=0))
    files = [Path(path) for case in dataset.cases for path in (*case.images, case.label or "")]
    seen = {digest_of_files(dataset)}
    for path in files:
        status = path.stat()
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))  # as if a millisecond later
        assert path.stat().st_size == status.st_size
        seen.add(digest_of_files(dataset))
    assert len(seen) == 1 + len(files)
    assert digest_of_files(Dataset.open(dataset.folder)) in seen
