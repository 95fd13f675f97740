"""The environment of the peers is tried again when what it is made from changed, and only then."""

import shutil

import pytest

from benchmarks.smoke import ROOT, digest_of


@pytest.fixture
def project(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    for name in ("constraints.txt", "benchmarks/constraints.txt", "pyproject.toml", "Makefile"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("constraints.txt", "torch==", "torch==1."),
        ("benchmarks/constraints.txt", "monai==", "monai==9."),
        ("pyproject.toml", '"monai>=', '"monai>=9.'),
        ("pyproject.toml", '"torch>=', '"torch>=9.'),
        ("Makefile", "--no-deps nnunetv2", "nnunetv2"),
    ],
)
def test_a_change_of_what_is_installed(project, name, old, new):
    before = digest_of(project)
    text = (project / name).read_text()
    assert old in text
    (project / name).write_text(text.replace(old, new))
    assert digest_of(project) != before


@pytest.mark.parametrize(
    ("name", "old", "new"), [("pyproject.toml", "line-length = 120", "line-length = 99"), ("Makefile", "# make", "#")]
)
def test_other_changes(project, name, old, new):
    before = digest_of(project)
    text = (project / name).read_text()
    assert old in text
    (project / name).write_text(text.replace(old, new))
    assert digest_of(project) == before
