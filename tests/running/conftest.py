"""Fixtures of the running room."""

from __future__ import annotations

from pathlib import Path

import pytest

from synthetic import write_boxes


@pytest.fixture(scope="session")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset, never changed by a test."""
    return write_boxes(tmp_path_factory.mktemp("data") / "boxes")


@pytest.fixture
def own_boxes(tmp_path: Path) -> Path:
    """The dataset, for a test that damages it."""
    return write_boxes(tmp_path / "boxes")
