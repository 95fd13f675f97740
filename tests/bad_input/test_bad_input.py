"""Every fault ends as docs/bad-input.md says; `python -m pytest tests/bad_input --write-docs` writes that page."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from bad_input import faults_names, faults_options, faults_outputs, faults_places, faults_runs, faults_training  # noqa: F401 - each adds its rows
from bad_input.faults import FAULTS, Fault
from bad_input.place import Place, Seen, without_privileges

PAGE = Path(__file__).resolve().parents[2] / "docs" / "bad-input.md"

HEAD = """# Bad input

What each fault ends in, and what the user sees. The rows are written by the tests that provoke them
(`tests/bad_input`); a test fails where this page differs from what is seen. `DATA` is the dataset, `MODEL` the model,
`FOLDER` the folder around them. No fault shows a traceback; `voxfit --debug` does.

Errors of a dataset are listed all at once, before anything is trained, and end in exit code 1. `--skip-bad-cases`
leaves such cases out instead: the console, `fingerprint.json`, `dataset.json` of the run, and the report name them. A
bad image does not end a prediction: the others are written, and the exit code is 2. A command line that asks for what
cannot be ends in exit code 64.

Nothing that is read can run code: weights are safetensors, everything else is JSON, images or `.npy` without objects.
The checkpoints of nnU-Net that `voxfit import` reads are opened with PyTorch's restricted reader (`weights_only=True`).
Voxfit unpacks no archives. JSON beyond 64 MiB is refused before it is read.
"""


def rows() -> dict[str, str]:
    """The rows of the page by title."""
    lines = PAGE.read_text(encoding="utf-8").splitlines() if PAGE.exists() else []
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.startswith("| ")}


def row_of(fault: Fault, command: str, seen: Seen) -> str:
    said = "<br>".join(f"`{line.replace('|', '/').replace('`', chr(39))}`" for line in seen.lines) or "nothing"
    return f"| {fault.title} | {command} | {fault.ending}, {seen.code} | {said} |"


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.title for fault in FAULTS])
def test_a_fault_ends_as_the_page_says(
    fault: Fault, place: Place, request: pytest.FixtureRequest, written: dict[str, str]
) -> None:
    arguments = fault.provoke(place)
    before = {path: path.read_bytes() for path in place.data.rglob("*") if path.is_file() and path.stat().st_size < 1e6}
    if fault.unprivileged:
        _open_to_others(place)
    with without_privileges() if fault.unprivileged else contextlib.nullcontext():
        seen = place.see(arguments)
    assert "Traceback" not in seen.output
    assert seen.code == fault.code, seen.output
    text = "\n".join(seen.lines)
    for word in fault.words:
        assert word in text, seen.output
    assert ("error:" in text) == (fault.ending == "error"), text
    assert ("warning:" in text) == (fault.ending == "warning") or fault.ending == "error", text
    assert bool(text) == (fault.ending != "silent"), text
    assert all(path.read_bytes() == content for path, content in before.items())
    row = row_of(fault, arguments[0], seen)
    written[fault.title] = row
    if not request.config.getoption("--write-docs", False):
        assert rows().get(fault.title) == row


def test_the_page_has_these_rows_and_no_others(request: pytest.FixtureRequest, written: dict[str, str]) -> None:
    assert len({fault.title for fault in FAULTS}) == len(FAULTS)
    if request.config.getoption("--write-docs", False):
        assert len(written) == len(FAULTS), "run all of them to write the page"
        PAGE.write_text(_page(written), encoding="utf-8")
    found = rows()
    assert len(FAULTS) >= 40
    assert _page(found) == PAGE.read_text(encoding="utf-8")


def _page(found: dict[str, str]) -> str:
    parts = [HEAD]
    for section in dict.fromkeys(fault.section for fault in FAULTS):
        parts.append(f"\n## {section}\n\n|fault|command|ends in|what the user sees|\n|---|---|---|---|\n")
        parts += [f"{found[fault.title]}\n" for fault in FAULTS if fault.section == section]
    return "".join(parts)


def _open_to_others(place: Place) -> None:
    """Let a user without privileges reach the place."""
    for path in (place.root, *list(place.root.parents)[:3], *place.model.rglob("*")):
        if path.stat().st_uid == os.geteuid() and path != Path(path.anchor):
            path.chmod(path.stat().st_mode | 0o055)
