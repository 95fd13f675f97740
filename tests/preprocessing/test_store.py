"""The store gives back what went in, and says so where it cannot."""

import gc
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxfit.core.durability import open_array, save_array
from voxfit.core.errors import WorkspaceError
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.volume import Volume
from voxfit.planning.grid import Grid, ZScore
from voxfit.preprocessing.case import PreparedCase, prepare
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


@pytest.fixture
def collecting():
    """Garbage is collected at every allocation, and every collection lets another thread in, as finalisers do."""
    before = gc.get_threshold()

    def let_others_in(phase, info):
        time.sleep(0)

    gc.callbacks.append(let_others_in)
    gc.set_threshold(1)
    yield
    gc.set_threshold(*before)
    gc.callbacks.remove(let_others_in)


@pytest.mark.usefixtures("collecting")
def test_threads_open_a_case_again_and_again(stored):
    """Before 3.11.8 and 3.12.2 Python's parser, which reads `.npy` headers for NumPy, fails in this test."""
    folder, case = stored

    def open_often(_):
        for _again in range(250):
            store = Store(folder)  # has nothing open yet
            assert store.image("a").shape == case.image.shape
            assert store.label("a").shape == case.label.shape
            assert store.index("a").shape == (3, 5)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(open_often, range(4)))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["?", "<i1", "<i2", ">i4", "<u4", "<f2", "<f4", "<f8"])
@settings(max_examples=20)
@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_an_array_opens_as_numpy_reads_it(tmp_path_factory, order, kind, shape):
    path = tmp_path_factory.getbasetemp() / "opened.npy"
    array = np.random.default_rng(0).integers(0, 100, shape).astype(kind, order)
    save_array(path, array, durable=False)
    opened, read = open_array(path, ""), np.load(path)
    assert opened.dtype == read.dtype
    assert np.array_equal(opened, read)
    assert opened.flags.f_contiguous == read.flags.f_contiguous
    with pytest.raises(ValueError, match="read-only"):
        opened[...] = 0


def cut_short(content):
    return content[:-1]


def too_long(content):
    return content + b"0"


def without_a_header(content):
    return content[128:]


def of_other_sizes(content):
    return content.replace(b"(2, 5, 6, 7)", b"(2, 9, 6, 7)")


def of_huge_sizes(content):
    return content.replace(b"(2, 5, 6, 7), }" + b" " * 17, b"(2, 9999999999999999999, 6, 7)")


def of_objects(content):
    return content.replace(b"'<f4'", b"'|O8'")


def of_no_type(content):
    return content.replace(b"'<f4'", b"'<f3'")


def with_a_longer_header(content):
    return content[:8] + b"\xff" + content[9:]


@pytest.mark.parametrize(
    "damage",
    [
        cut_short,
        too_long,
        without_a_header,
        of_other_sizes,
        of_huge_sizes,
        of_objects,
        of_no_type,
        with_a_longer_header,
        lambda content: b"",
        lambda content: b"PK" + content,
    ],
)
def test_damage_of_any_kind_is_named_with_its_remedy(stored, damage):
    folder, _ = stored
    path = folder / "a.image.npy"
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert path.read_bytes() != content
    with pytest.raises(WorkspaceError, match=r"a\.image\.npy: cannot be read \(.*\)\. Delete the store folder"):
        Store(folder).image("a")
    assert not is_written(folder, "a")


@pytest.mark.parametrize("classes", [127, 128, 129, 200, 256, 300])
def test_labels_of_many_classes_are_stored_as_they_are(tmp_path, classes):
    """Class indices up to the last, and both marks below 0; whatever fits into a byte."""
    marks = np.arange(-2, classes, dtype=np.int16)
    label = np.resize(marks, (3, 11, 13))
    image = np.zeros((1, *label.shape), np.float32)
    placement = prepare(
        Volume(image, Geometry(label.shape, (1.0, 1.0, 1.0))),
        Grid(spacing_mm=(1.0, 1.0, 1.0), normalization=(ZScore(),)),
    ).placement
    write_case(tmp_path, "a", PreparedCase(image, label, placement), classes)
    write_manifest(tmp_path, ["a"], "x")
    store = Store(tmp_path)
    assert np.array_equal(store.label("a"), label)
    counts = [np.count_nonzero(label == value) for value in range(classes)]
    assert store.index("a").sum(axis=1).tolist() == counts


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
