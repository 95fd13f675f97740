"""The store gives back what went in, and says so where it cannot."""

import numpy as np
import pytest

from voxfit.core.errors import WorkspaceError
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.volume import Volume
from voxfit.planning.grid import Grid, ZScore
from voxfit.preprocessing.case import prepare
from voxfit.preprocessing.store import Store, is_written, write_case, write_manifest


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
    write_manifest(tmp_path, ["a"], "x")
    return tmp_path, case


def test_round_trip(stored):
    folder, case = stored
    store = Store(folder)
    assert np.array_equal(store.image("a"), case.image)
    assert np.array_equal(store.label("a"), case.label)
    assert store.placement("a") == case.placement
    assert store.manifest.voxels == {"a": case.label.size}


@pytest.mark.parametrize("lost", ["a.image.npy", "a.label.npy", "a.index.npy", "a.case.json"])
def test_a_case_is_written_only_as_a_whole(stored, lost):
    folder, _ = stored
    assert is_written(folder, "a")
    assert not is_written(folder, "b")
    (folder / lost).unlink()
    assert not is_written(folder, "a")


@pytest.mark.parametrize("kind", ["image", "label", "index"])
def test_a_case_whose_content_did_not_reach_the_disk_is_not_written(stored, kind):
    folder, _ = stored
    path = folder / f"a.{kind}.npy"
    content = path.read_bytes()
    path.write_bytes(content[:128] + bytes(len(content) - 128))  # the header, and blocks that were never filled
    assert not is_written(folder, "a")
    path.write_bytes(b"")
    assert not is_written(folder, "a")
    path.write_bytes(content)
    assert is_written(folder, "a")


@pytest.mark.parametrize("content", ["", "{}", '{"schema": "voxfit.prepared_case/1"}'])
def test_a_placement_cut_short_means_that_the_case_is_not_there(stored, content):
    folder, _ = stored
    (folder / "a.case.json").write_text(content)
    assert not is_written(folder, "a")
    with pytest.raises(WorkspaceError, match=r"a\.case\.json.*Delete the store folder"):
        Store(folder).placement("a")


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
