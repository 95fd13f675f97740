"""NRRD files (.nrrd), checked before SimpleITK reads them: it would open any file that the header names for voxels."""

from __future__ import annotations

import re
from pathlib import Path

from voxfit.imaging.headers import MOST_HEADER, Source, fault
from voxfit.imaging.itk_reader import ItkReader

_DATA_FILE = re.compile(rb"^[ \t]*data[ \t]*file[ \t]*:", re.MULTILINE | re.IGNORECASE)
_RAW = re.compile(rb"^[ \t]*encoding[ \t]*:[ \t]*raw", re.MULTILINE | re.IGNORECASE)


def locate_nrrd(path: Path) -> Source:
    """Read the header of an NRRD file: where its voxels are.

    Raises:
        DatasetError: they are in another file.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        header = stream.read(MOST_HEADER)
    if _DATA_FILE.search(header):
        what = "its header names another file for the voxels."
        raise fault(path, what, "Save it with the voxels inside.")
    end = re.search(rb"\r?\n\r?\n", header)
    return Source(path.stat().st_size - (end.end() if end else 0), packed=_RAW.search(header) is None)


NRRD = ItkReader((".nrrd",), "NrrdImageIO", locate_nrrd)
