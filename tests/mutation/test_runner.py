"""The runner itself: what it counts as noticed, that it leaves the tree alone, and that it goes on where it was."""

import pytest

from tests.mutation.mutation import ROOT, Mutation
from tests.mutation.run import Results, try_all
from tests.mutation.table import below_aim, table, write
from tests.mutation.trial import Outcome


def planted(new, only="kind", **changes):
    return Mutation(
        "planning/patch_rules.py", "while size >= min_edge", new, "planning/test_patch_rules.py", "x", only, **changes
    )


NOTICED = planted("while size > min_edge", "poolings")
UNNOTICED = planted("while size > min_edge", "cascade")
STOPPED = planted("while size >= min_edge and undefined", "poolings")
UNTESTED = planted("while size > min_edge", "no_test_has_this_name")


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    path = tmp_path_factory.mktemp("build") / "build" / "results.json"
    return path, try_all([NOTICED, UNNOTICED, STOPPED, UNTESTED], Results(path), jobs=1)


def test_a_mutation_is_noticed_where_a_test_fails(tried):
    path, _ = tried
    results = Results(path)
    assert [results.noticed(item) for item in (NOTICED, UNNOTICED, STOPPED)] == [True, False, True]
    assert "test_poolings" in results[NOTICED.digest].by


def test_the_tree_is_as_it_was(tried):
    assert "while size >= min_edge and poolings < most" in (ROOT / NOTICED.path).read_text()


def test_what_was_tried_is_not_tried_again(tried):
    path, _ = tried
    before = path.read_bytes()
    assert try_all([NOTICED, UNNOTICED], Results(path), jobs=1) == []
    assert path.read_bytes() == before
    assert NOTICED.digest not in Results(path, fresh=True)


def test_tests_that_fail_anyway_count_for_nothing(tried):
    path, faults = tried
    assert len(faults) == 1
    assert "no_test_has_this_name" in faults[0]
    assert UNTESTED.digest not in Results(path)


def test_the_score_leaves_out_what_is_equivalent(tmp_path):
    results = Results(tmp_path / "results.json")
    same = planted("while min_edge <= size", equivalent="the same comparison")
    results.note(NOTICED.digest, Outcome(False, "test", 1.0))
    results.note(UNNOTICED.digest, Outcome(True, "", 1.0))
    assert "| **all** | 3 | 1 | 2 | 1 | 50% |" in table([NOTICED, UNNOTICED, same], results)
    assert below_aim([NOTICED, UNNOTICED, same], results)
    assert not below_aim([NOTICED, same], results)
    assert below_aim([NOTICED, same, STOPPED], results)  # not tried yet


def test_the_table_replaces_the_one_before(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n<!-- mutation: begin -->\nold\n<!-- mutation: end -->\nrest\n")
    write(page, "| new |")
    text = page.read_text()
    assert "old" not in text
    assert "| new |\n<!-- mutation: end -->\nrest\n" in text
    page.write_text("# Title\n")
    with pytest.raises(SystemExit, match="no place for the table"):
        write(page, "| new |")
