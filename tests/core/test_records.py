from __future__ import annotations

import hashlib
import json
import os
import resource
import string
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, JsonValue, PositiveInt

from voxfit.core.errors import RecordError, WorkspaceError
from voxfit.core.records import Record, checksum_of, digest_of, read_json, write_atomically


class Part(Record):
    size: PositiveInt
    tag: str = ""


class Sample(Record):
    schema_name: ClassVar[str] = "test.sample/1"
    name: str
    spacing: tuple[float, ...] = ()
    parts: tuple[Part, ...] = ()
    counts: dict[str, int] = Field(default_factory=dict)
    note: str | None = None


class Anything(Record):
    value: JsonValue


# Few distinct values, so that two drawn records are equal often enough. -0.0 equals 0.0 but is another JSON text.
floats = st.sampled_from([0.0, 0.1, 1.0, 1e-300, 2.5]) | st.floats(allow_nan=False, allow_infinity=False).map(
    lambda value: value + 0.0
)
names = st.sampled_from(["a", "b", 'ü\n"', "\u2028"]) | st.text()
records = st.builds(
    Sample,
    name=names,
    spacing=st.lists(floats, max_size=3).map(tuple),
    parts=st.lists(st.builds(Part, size=st.integers(1, 3), tag=names), max_size=2).map(tuple),
    counts=st.dictionaries(names, st.integers(), max_size=2),
    note=st.none() | names,
)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)

VALID = {"schema": "test.sample/1", "name": "x"}


@given(records)
def test_a_record_survives_its_json_form(record: Sample) -> None:
    text = record.to_json()
    assert next(iter(json.loads(text))) == "schema"
    again = Sample.from_json(text)
    assert again == record
    assert again.to_json() == text
    assert again.digest() == record.digest()


@given(json_values)
def test_the_readable_form_says_the_same_as_plain_json(value: JsonValue) -> None:
    assert json.loads(Anything(value=value).to_json()) == {"value": value}


@given(records, records)
def test_digests_agree_exactly_when_contents_do(one: Sample, other: Sample) -> None:
    assert (one.digest() == other.digest()) == (one == other)


@given(records)
def test_a_change_of_any_field_changes_the_digest(record: Sample) -> None:
    changes = {
        "name": record.name + "x",
        "spacing": (*record.spacing, 1.0),
        "parts": (*record.parts, Part(size=1)),
        "counts": record.counts | {"another key": 1, **{key: value + 1 for key, value in record.counts.items()}},
        "note": "" if record.note is None else None,
    }
    assert set(changes) == set(Sample.model_fields)
    digests = {record.model_copy(update={key: value}).digest() for key, value in changes.items()}
    assert len(digests | {record.digest()}) == len(changes) + 1


def test_the_digest_ignores_the_order_of_keys_and_the_layout_of_the_file(tmp_path: Path) -> None:
    record = Sample(name="x", spacing=(1.0, 0.5), counts={"a": 1, "b": 2})
    assert Sample(name="x", spacing=(1.0, 0.5), counts={"b": 2, "a": 1}).digest() == record.digest()
    record.save(tmp_path / "r.json")
    body = json.loads((tmp_path / "r.json").read_text())
    (tmp_path / "r.json").write_text(json.dumps(dict(reversed(body.items()))))
    assert Sample.load(tmp_path / "r.json").digest() == record.digest()
    assert len(record.digest()) == 16
    assert set(record.digest()) <= set(string.hexdigits.lower())


def test_the_digest_is_the_same_in_another_process() -> None:
    # Hash randomisation must not reach it.
    code = "from voxfit.core.records import digest_of; print(digest_of({'b': [1, 2.5, None], 'a': 'ü'}))"
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert digests == {(digest_of({"a": "ü", "b": [1, 2.5, None]}) + "\n").encode()}


def test_records_are_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Sample(name="x").name = "y"  # type: ignore[misc]


def test_shapes_stand_on_one_line() -> None:
    text = Sample(name="x", spacing=(1.0, 0.5, 0.25)).to_json()
    assert ' "spacing": [1.0, 0.5, 0.25]' in text.splitlines()[3]


@pytest.mark.parametrize(
    ("content", "fragments"),
    [
        (b"", ["not valid JSON"]),
        (b'{"name": ', ["not valid JSON"]),
        (b"\xff\xfe\x00", ["cannot be read"]),
        (b"[1, 2]", ["list", "not an object"]),
        (b"null", ["not an object"]),
        (b'{"name": "x"}', ["schema", "None", "test.sample/1"]),
        (b'{"schema": "test.sample/2", "name": "x"}', ["schema", "test.sample/2", "test.sample/1"]),
        (b'{"schema": ["test.sample/1"], "name": "x"}', ["schema", "test.sample/1"]),
        (b"[" * 100_000, ["not valid JSON"]),
        (b"1" * 10_000, ["not valid JSON"]),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else "",
)
def test_a_file_that_is_no_record_is_named(tmp_path: Path, content: bytes, fragments: list[str]) -> None:
    path = tmp_path / "sample.json"
    path.write_bytes(content)
    with pytest.raises(RecordError) as caught:
        Sample.load(path)
    for fragment in [str(path), *fragments]:
        assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        ({"name": None}, ["name", "string", "None"]),
        ({"name": 7}, ["name", "string", "'7'"]),
        ({"spacing": "1 mm"}, ["spacing", "1 mm"]),
        ({"spacing": [1.0, "0.5"]}, ["spacing.1", "number", "0.5"]),
        ({"spacing": [float("nan")]}, ["spacing.0", "finite"]),
        ({"spacing": [float("inf")]}, ["spacing.0", "finite"]),
        ({"parts": [{"size": 1}, {"size": 0}]}, ["parts.1.size", "greater than 0"]),
        ({"parts": [{"size": 1.5}]}, ["parts.0.size", "1.5"]),
        ({"parts": [{"size": True}]}, ["parts.0.size", "True"]),
        ({"parts": [{}]}, ["parts.0.size", "required"]),
        ({"counts": {"a": "1"}}, ["counts.a", "integer"]),
        ({"nmae": "x"}, ["nmae", "not permitted"]),
        ({"note": "\ud800"}, ["sample.json"]),
        ({"name": 1, "spacing": 2}, ["name", "spacing"]),
    ],
    ids=repr,
)
def test_a_wrong_value_is_named_with_file_key_and_reason(
    tmp_path: Path, change: dict[str, JsonValue], fragments: list[str]
) -> None:
    path = tmp_path / "sample.json"
    path.write_text(json.dumps(VALID | change))
    with pytest.raises(RecordError) as caught:
        Sample.load(path)
    for fragment in [str(path), *fragments]:
        assert fragment in str(caught.value)


def test_a_missing_key_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"here\.json: name: Field required"):
        Sample.from_json('{"schema": "test.sample/1"}', "here.json")
    with pytest.raises(RecordError, match=r"absent\.json: there is no such file"):
        Sample.load(tmp_path / "absent.json")
    with pytest.raises(RecordError, match="cannot be read"):
        Sample.load(tmp_path)


def test_saving_makes_folders_and_leaves_only_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "sample.json"
    Sample(name="old").save(path)
    Sample(name="new").save(path)
    assert Sample.load(path).name == "new"
    assert [file.name for file in path.parent.iterdir()] == ["sample.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_path_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file" / "sample.json", tmp_path / "file" / "deeper" / "sample.json"):
        with pytest.raises(WorkspaceError, match="cannot be written") as caught:
            Sample(name="x").save(path)
        assert str(path) in str(caught.value)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_folder_in_the_way_is_kept_and_nothing_half_made_stays(tmp_path: Path) -> None:
    path = tmp_path / "sample.json"
    path.mkdir()
    (path / "inside").write_text("kept")
    with pytest.raises(WorkspaceError):
        Sample(name="x").save(path)
    assert list(tmp_path.iterdir()) == [path]
    assert (path / "inside").read_text() == "kept"


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    # A limit on the size of files stands for the full disk; a process of its own, because it holds for all files.
    path = tmp_path / "sample.json"
    write_atomically(path, b"old")
    code = f"""
import pathlib, resource
from voxfit.core.errors import WorkspaceError
from voxfit.core.records import write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, {resource.RLIM_INFINITY}))
try:
    write_atomically(pathlib.Path({str(path)!r}), b"new" * 100_000)
except WorkspaceError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"{path}: cannot be written (File too large)" in done.stdout
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_readers_see_one_version_or_the_other(tmp_path: Path) -> None:
    path = tmp_path / "sample.json"
    versions = [letter * 300_000 for letter in (b"a", b"b")]
    write_atomically(path, versions[0])
    writer = threading.Thread(target=lambda: [write_atomically(path, versions[turn % 2]) for turn in range(20)])
    writer.start()
    seen = {path.read_bytes()}
    while writer.is_alive():
        seen.add(path.read_bytes())
    writer.join()
    assert seen <= set(versions)


def test_foreign_json_is_read_or_named(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_bytes(b"\xef\xbb\xbf" + '{"name": "Leber mit Köpfchen"}'.encode())
    assert read_json(path) == {"name": "Leber mit Köpfchen"}
    with pytest.raises(RecordError, match="no such file"):
        read_json(tmp_path / "absent.json")
    for content in (b"{'a': 1}", b"\xff\xfe", b"[" * 100_000, b"1" * 10_000):
        path.write_bytes(content)
        with pytest.raises(RecordError, match="is not readable JSON") as caught:
            read_json(path)
        assert str(path) in str(caught.value)
    os.truncate(path, 257 * 2**20)
    with pytest.raises(RecordError, match="64 MiB"):
        read_json(path)


@pytest.mark.parametrize("place", [0, 2**20, 3 * 2**20 + 4])
def test_a_checksum_is_of_the_whole_file(tmp_path: Path, place: int) -> None:
    content = bytearray(3 * 2**20 + 5)
    content[place] = 1
    (tmp_path / "x").write_bytes(content)
    assert checksum_of(tmp_path / "x") == hashlib.sha256(content).hexdigest()
