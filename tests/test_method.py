"""docs/method.md cannot rot: every statement has a row, all places and tests it names exist, citations lead there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
METHOD = (ROOT / "docs" / "method.md").read_text()
STATEMENTS = re.findall(r"^- \*\*\[([NAPTI]\d)\]\*\*", METHOD, re.MULTILINE)
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in METHOD.splitlines()
    if re.match(r"\| [NAPTI]\d \|", line)
]


def names_in(path):
    """Top-level functions and classes of a Python file."""
    kinds = ast.FunctionDef | ast.ClassDef
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, kinds)}


def test_every_statement_has_one_row():
    assert [len([tag for tag in STATEMENTS if tag[0] == part]) for part in "NAPTI"] == [4, 5, 4, 8, 6]
    assert [row[0] for row in ROWS] == STATEMENTS


def test_every_citation_leads_to_a_statement():
    for path in [*ROOT.glob("src/**/*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]:
        for cited in re.findall(r"method\.md (\[\w+\](?:(?:, |-| and )\[\w+\])*)", path.read_text()):
            assert set(re.findall(r"\w+", cited)) - {"and"} <= set(STATEMENTS), f"{path} cites {cited}"


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
