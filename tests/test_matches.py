"""Every `match` says what becomes of each case: no kind of a closed union falls into a branch for the others."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src" / "voxfit").rglob("*.py"))

OPEN = {
    ("nnunet_network.py", "_their_name"): "the parts of a name, of any number; unknown ones raise",
    ("nnunet_plans.py", "_normalization"): "a word of a foreign file; unknown ones raise",
    ("torch_networks.py", "by_torch"): "of the backends, two are other than the module itself",
}
"""Matches with a branch for all the rest, and why they may have one."""


def matches():
    """Every `match`, with the file and the function that it stands in."""
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        for function in functions:
            for node in ast.walk(function):
                if isinstance(node, ast.Match):
                    yield path.name, function.name, node


def is_proof(case):
    """Whether the last branch is the one that mypy proves to be never taken."""
    return ast.unparse(case.body).startswith("assert_never(")


def takes_the_rest(case):
    return case.guard is None and isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None


def test_a_branch_for_the_rest_is_a_proof_that_there_is_none():
    found = {
        (path, function)
        for path, function, node in matches()
        if takes_the_rest(node.cases[-1]) and not is_proof(node.cases[-1])
    }
    assert found == set(OPEN)


def test_every_match_was_seen():
    lines = [line.strip() for path in SOURCES for line in path.read_text().splitlines()]
    written = [line for line in lines if line.startswith("match ") and line.endswith(":")]
    assert len(list(matches())) == len(written) >= 8


@pytest.mark.parametrize("kinds", ["A | B", "A | B | C"])
def test_mypy_as_the_project_sets_it_refuses_a_match_that_leaves_a_kind_out(tmp_path, kinds):
    """A match without a branch for the rest needs no proof: mypy refuses it where a kind is missing."""
    pytest.importorskip("mypy")
    (tmp_path / "kinds.py").write_text(
        "class A: ...\nclass B: ...\nclass C: ...\n"
        f"def show(found: {kinds}) -> None:\n"
        "    match found:\n        case A():\n            pass\n        case B():\n            pass\n"
    )
    arguments = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "kinds.py"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ("unhandled" in done.stdout) == ("C" in kinds), done.stdout + done.stderr
    assert (done.returncode == 0) == ("C" not in kinds)
