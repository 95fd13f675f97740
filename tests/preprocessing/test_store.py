"""The store gives back what went in, and says so where it cannot."""

import json

import numpy as np
import pytest

from voxfit.core.errors import WorkspaceError
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.volume import Volume
from voxfit.planning.grid import Grid, ZScore
from voxfit.preprocessing.case import prepare
from voxfit.preprocessing.store import Store, StoreManifest, write_case


@pytest.fixture
def stored(tmp_path):
    rng = np.random.default_rng(0)
    volume = Volume(rng.random((2, 5, 6, 7)).astype(np.float32) + 1, Geometry((5, 6, 7), (2.0, 1.0, 1.0)))
    case = prepare(
        volume,
        Grid(spacing_mm=(2.0, 1.0, 1.0), normalization=(ZScore(), ZScore())),
        rng.integers(0, 3, (5, 6, 7), np.int16),
    )
    write_case(tmp_path, "a", case, 3)
    StoreManifest(made_from="x", placements={"a": case.placement}).save(tmp_path / "manifest.json")
    return tmp_path, case


def test_round_trip(stored):
    folder, case = stored
    store = Store(folder)
    assert np.array_equal(store.image("a"), case.image)
    assert np.array_equal(store.label("a"), case.label)
    assert store.manifest.placements["a"] == case.placement


def test_manifests_from_before_axes_were_apart(stored):
    folder, case = stored
    path = folder / "manifest.json"
    body = json.loads(path.read_text())
    assert body["placements"]["a"].pop("coarse_axis") is None
    path.write_text(json.dumps(body))
    assert Store(folder).manifest.placements["a"] == case.placement


def test_the_index_counts_voxels(stored):
    folder, case = stored
    index = Store(folder).index("a")
    for value in range(3):
        for z in range(5):
            assert index[value, z] == np.count_nonzero(case.label[z] == value)


def test_a_damaged_file_is_named(stored):
    folder, _ = stored
    path = folder / "a.image.npy"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(WorkspaceError, match=r"a\.image\.npy: cannot be read"):
        Store(folder).image("a")
