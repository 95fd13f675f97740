"""docs/paper.md cannot rot: every statement has a row, every place and test it names exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "paper.md").read_text().splitlines()
    if re.match(r"\| [NAPTI]\d \|", line)
]


def names_in(path):
    """Top-level functions and classes of a Python file."""
    kinds = ast.FunctionDef | ast.ClassDef
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, kinds)}


def test_every_statement_has_one_row(shared_paper):
    text = (shared_paper / "method.md").read_text()
    statements = re.findall(r"^- \[([NAPTI]\d)\]", text, re.MULTILINE)
    assert len(statements) > 20
    assert [row[0] for row in ROWS] == statements


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_places_and_tests_exist(row):
    for cell, base in ((row[2], ROOT / "src" / "voxfit"), (row[3], ROOT)):
        path, name = cell.strip("`").split(":")
        assert name in names_in(base / path)


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_the_code_cites_the_statement(row):
    """The place itself, or what it is part of, says which statement it follows."""
    path = ROOT / "src" / "voxfit" / row[2].strip("`").split(":")[0]
    assert re.search(rf"\[{row[0]}\]", path.read_text()), f"{path} does not cite [{row[0]}]"
