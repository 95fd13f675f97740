"""With the wish to skip bad cases, only those go that cannot be used."""

import SimpleITK as sitk

from voxfit.core.parallel import LocalExecutor
from voxfit.core.progress import Listener
from voxfit.imaging.dataset import Dataset
from voxfit.running.cases import measure_dataset
from voxfit.running.checking import check_dataset


class Ear(Listener):
    def __init__(self):
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


def test_a_warning_is_no_reason_to_leave_a_case_out(own_boxes):
    """One label is empty, one says nothing that dataset.json knows."""
    for name, value in (("box_01", 0), ("box_03", 9)):
        path = own_boxes / "labelsTr" / f"{name}.nii.gz"
        label = sitk.ReadImage(str(path))
        sitk.WriteImage(label * 0 + value, str(path))
    ear = Ear()
    usable = check_dataset(Dataset.open(own_boxes), ear, LocalExecutor(1), skip=True)
    assert [case.name for case in usable.cases] == ["box_00", "box_01", "box_02", "box_04", "box_05"]
    assert any("box_01: the label is empty" in text for text in ear.warnings)
    fingerprint = measure_dataset(Dataset.open(own_boxes), Ear(), LocalExecutor(1), skip=True)
    assert [case.name for case in fingerprint.skipped] == ["box_03"]
    assert len(fingerprint.cases) == 5
