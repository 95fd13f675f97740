"""Fixtures of all rooms: the real data beside the checkout, which may be absent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

FACTS = Path(__file__).parent / "data"
SHARED = Path(__file__).resolve().parents[1].parent / "shared"

# A busy machine makes single examples slow; the number of examples bounds the time instead.
settings.register_profile("voxfit", deadline=None)
settings.load_profile("voxfit")


def _folder(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VOXFIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real datasets, see its README."""
    return _folder("data")


@pytest.fixture(scope="session")
def decathlon() -> Path:
    """Geometry of every training case of the Decathlon's tasks 1 to 7, and nnU-Net v2's plans; see its README."""
    return FACTS / "decathlon"


@pytest.fixture(scope="session")
def table_1() -> dict[str, Any]:
    """Table 1 of the paper."""
    found: dict[str, Any] = json.loads((FACTS / "table1.json").read_text())
    return found
