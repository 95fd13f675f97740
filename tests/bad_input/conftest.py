"""The table of docs/bad-input.md: where faults are provoked, and the option that writes it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bad_input.place import Place, make_model
from synthetic import write_boxes


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-docs", action="store_true", help="Write docs/bad-input.md from what is seen.")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound dataset of five cases, and a model for it with two folds of random weights."""
    root = tmp_path_factory.mktemp("template")
    write_boxes(root / "data", cases=5)
    make_model(root / "data", root / "plan", root / "model")
    return root


@pytest.fixture
def place(template: Path, tmp_path: Path) -> Iterator[Place]:
    """A copy of both, for one test to damage."""
    for name in ("data", "model"):
        shutil.copytree(template / name, tmp_path / name)
    yield Place(tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)


@pytest.fixture(scope="session")
def written() -> dict[str, str]:
    """The rows that this session has seen."""
    return {}
