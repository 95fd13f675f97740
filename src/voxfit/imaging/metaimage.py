"""MetaImage files (.mha, .mhd), checked before SimpleITK reads them.

SimpleITK's reader opens whatever file the header names for the voxels, drops the sign of a spacing, and some numbers
in the header end the whole process. So the header must be what the format says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from voxfit.core.errors import DatasetError
from voxfit.imaging.headers import INCOMPLETE, MOST_HEADER, Source, fault
from voxfit.imaging.itk_reader import ItkReader

_DATA = re.compile(rb"elementdatafile\s*[=:]\s*([^\r\n]*)", re.IGNORECASE)
_LAST = re.compile(rb"^ElementDataFile[ \t]*=[^\n]*\n?", re.MULTILINE)
_MOST_LINE = 480  # the reader's own buffers end soon after
_MOST_DIMENSIONS = 5

_WHOLE = re.compile(r"\d{1,18}")
_SIGNED = re.compile(r"-?\d{1,9}")
_REAL = re.compile(r"[-+]?(\d{1,40}\.?\d{0,60}|\.\d{1,60})([eE][-+]?\d{1,3})?")
_WORD = re.compile(r"\S{1,64}")

_FIELDS: dict[str, tuple[int, re.Pattern[str]]] = {
    "NDims": (0, _WHOLE),
    "DimSize": (1, _WHOLE),
    **dict.fromkeys(
        ("ElementSpacing", "ElementSize", "Offset", "Origin", "Position", "CenterOfRotation", "SequenceID"), (1, _REAL)
    ),
    **dict.fromkeys(("TransformMatrix", "Rotation", "Orientation"), (2, _REAL)),
    **dict.fromkeys(("CompressedDataSize", "ElementNumberOfChannels"), (0, _WHOLE)),
    **dict.fromkeys(("HeaderSize", "ElementNBits", "ID", "ParentID"), (0, _SIGNED)),
    **dict.fromkeys(("ElementMin", "ElementMax", "ElementToIntensityFunctionSlope"), (0, _REAL)),
    **dict.fromkeys(("ElementToIntensityFunctionOffset",), (0, _REAL)),
    **dict.fromkeys(("ObjectType", "ElementType", "ElementSizeValid", "Modality", "AnatomicalOrientation"), (0, _WORD)),
    **dict.fromkeys(("BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB", "CompressedData"), (0, _WORD)),
}
"""What the format's reader makes numbers of: how many words (NDims to this power), and what each looks like."""

_SYNONYMS = (
    {"Offset", "Origin", "Position"},
    {"TransformMatrix", "Rotation", "Orientation"},
    {"BinaryDataByteOrderMSB", "ElementByteOrderMSB"},
)
_FOREIGN = ("Color",)
"""Known to the reader, and numbers too, but nobody writes it into images."""


def locate_metaimage(path: Path) -> Source:
    """Read the header of a MetaImage file: where its voxels are.

    Raises:
        DatasetError: it is none, is incomplete, or its voxels are neither inside nor beside it.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        header = stream.read(MOST_HEADER)
    last = _LAST.search(header)
    if last is None:
        raise fault(path, "is not a MetaImage file (it has no ElementDataFile).", "Replace or remove the file.")
    fields = _read_fields(path, header[: last.start()])
    packed = fields.get("CompressedData", ["False"])[0].lower().startswith(("t", "1"))
    # Every place that could be read as the file's name must be harmless, whichever the reader takes.
    names = {match.strip() for match in _DATA.findall(header)}
    if len(names) > 1:
        raise fault(path, "its header names several files for the voxels.", "Save it with the voxels inside (.mha).")
    name = names.pop()
    if name != b"LOCAL":
        return Source(_beside(path, name).stat().st_size, packed)
    inside = path.stat().st_size - last.end()
    missing = int(fields["CompressedDataSize"][0]) - inside if packed and "CompressedDataSize" in fields else 0
    if missing > 0:
        raise fault(path, f"{missing} bytes of its voxels are missing.", INCOMPLETE)
    return Source(inside, packed)


def _read_fields(path: Path, header: bytes) -> dict[str, list[str]]:
    """The words of each field that the reader makes numbers of."""
    fields: dict[str, list[str]] = {}
    for line in header.replace(b"\r\n", b"\n").split(b"\n"):
        key, mark, value = (part.strip() for part in line.decode("latin-1").partition("="))
        sound = len(line) <= _MOST_LINE and "\0" not in key + value and (bool(mark and key) or not line.strip())
        if not sound or key in fields or key in _FOREIGN:
            raise _senseless(path, key)
        if key in _FIELDS:
            fields[key] = value.split()
    _check_fields(path, fields)
    return fields


def _check_fields(path: Path, fields: dict[str, list[str]]) -> None:
    """Whether each has the number of words that NDims asks for, and each word the right form."""
    if any(len(names & set(fields)) > 1 for names in _SYNONYMS):
        raise _senseless(path, "a field is there under two names")
    for needed in ("NDims", "DimSize", "ElementType"):
        if needed not in fields:
            raise _senseless(path, needed)
    dimensions = int(fields["NDims"][0]) if _matches(fields["NDims"], 1, _WHOLE) else 0
    if not 1 <= dimensions <= _MOST_DIMENSIONS or _late(list(fields)):
        raise _senseless(path, "NDims")
    for key, words in fields.items():
        power, form = _FIELDS[key]
        if not _matches(words, dimensions**power, form):
            raise _senseless(path, key)
    if any(word.startswith("-") for key in ("ElementSpacing", "ElementSize") for word in fields.get(key, ())):
        spacing = " ".join(fields.get("ElementSpacing", fields.get("ElementSize", [])))
        raise fault(path, f"has the spacing {spacing}.", "Correct the header: it must be positive, and in mm.")


def _late(keys: list[str]) -> bool:
    """Whether a field whose length depends on NDims comes before it."""
    return any(_FIELDS[key][0] for key in keys[: keys.index("NDims")])


def _matches(words: Sequence[str], count: int, form: re.Pattern[str]) -> bool:
    return len(words) == count and all(form.fullmatch(word) for word in words)


def _senseless(path: Path, key: str) -> DatasetError:
    return fault(path, f"its header makes no sense at {key[:40]!r}.", "Replace or remove the file, or save it again.")


def _beside(path: Path, name: bytes) -> Path:
    """The file of the voxels, which lies beside its header and is no way out of the folder."""
    remedy = "Name a file beside the header, or save both as one file (.mha)."
    shown = name.decode("utf-8", "replace")[:200]
    file = Path(os.fsdecode(name))
    if file.name != os.fsdecode(name) or "%" in shown or "\0" in shown or shown.upper().startswith("LIST"):
        raise fault(path, f"its header looks for the voxels in {shown!r}.", remedy)
    found = path.parent / file
    if found.resolve().parent != path.parent.resolve():
        raise fault(path, f"its header looks for the voxels in {shown!r}, a link to another folder.", remedy)
    if not found.is_file():
        raise fault(path, f"the file {shown!r} with its voxels does not exist.", "Copy it beside the header.")
    return found


METAIMAGE = ItkReader((".mha", ".mhd"), "MetaImageIO", locate_metaimage)
