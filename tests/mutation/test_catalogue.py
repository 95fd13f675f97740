"""The list of mutations follows the code; `make mutate` tries them."""

import ast
from collections import Counter

import pytest

from tests.mutation.catalogue import ALL
from tests.mutation.mutation import ROOT

LEAST, LEAST_OF_A_ROOM = 170, 10


def test_every_room_has_mutations():
    counts = Counter(item.room for item in ALL)
    rooms = {path.name for path in (ROOT / "src" / "voxfit").iterdir() if (path / "__init__.py").is_file()}
    assert counts.keys() == rooms | {"command line"}
    assert len(ALL) >= LEAST
    assert min(counts.values()) >= LEAST_OF_A_ROOM, counts


def test_no_mutation_is_there_twice():
    assert not [item.old for item, times in Counter(ALL).items() if times > 1]


@pytest.mark.parametrize("item", ALL, ids=[f"{item.file}: {item.meaning}" for item in ALL])
def test_a_mutation_changes_code_that_is_there(item):
    source = (ROOT / item.path).read_text()
    assert source.count(item.old) == 1, "give the list another text that stands there once"
    assert ast.dump(ast.parse(item.apply(source))) != ast.dump(ast.parse(source))
    assert item.meaning
    assert item.test_files
    for path in item.test_files:
        assert path.is_file(), f"{path} should notice it"
