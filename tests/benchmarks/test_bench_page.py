"""The table says what was measured, and nothing that was not."""

import pytest

from benchmarks.measuring import Measured
from benchmarks.results import (
    BEGIN,
    END,
    PAGE,
    RESULTS,
    added,
    key,
    lines,
    load,
    make_entry,
    markdown,
    reached,
    save,
    write_page,
)
from benchmarks.row import Kernel, Row, Setting, Target, asked_for
from benchmarks.rows import ROWS

FACTS = {
    "date": "2026-01-02",
    "commit": "abc1234",
    "device": "cpu",
    "quick": False,
    "load": 0.25,
    "machine": {"cpu": "A CPU", "cores": 2, "memory_gib": 24},
    "versions": {"torch": "2.13.0", "nnunetv2": "2.8.1"},
    "check": "every voxel equal",
    "same": True,
}


def side(name, target=Target()):  # noqa: B008 - frozen
    return Kernel(name, lambda setting: lambda: None, target)


def row(name="one", target=Target(speed=3, memory=2), **options):  # noqa: B008 - frozen
    return Row(name, "some work", (side("ours", target),), (side("A"), side("B")), **options)


def entry(name="one", target=Target(speed=3, memory=2), whole=False, pace=1.0, **facts):  # noqa: B008 - frozen
    measured = {
        "ours": Measured([1.0 * pace, 2.0 * pace, 1.0 * pace], 100.0, 50.0),
        "A": Measured([4.0 * pace, 8.0 * pace, 5.0 * pace], 400.0, 50.0),
        "B": Measured([3.5 * pace, 7.0 * pace, 2.9 * pace], 250.0, 50.0),
    }
    return make_entry(row(name, target, whole=whole), measured, {}, **FACTS | facts)


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_line_has_every_figure():
    (line,) = lines(entry())
    assert cells(line) == [
        "one",
        "some work",
        "A; B",
        "float32 / float32; float32",
        "1 / 5; 3.5",
        "**4.00** (4.00 to 5.00); **3.50** (2.90 to 3.50)",
        "3x",
        "50+50 / 50+350; 50+200",
        "7.00; 4.00",
        "2x",
        "every voxel equal",
        "2026-01-02, abc1234, load 0.2, 3 runs",
        "-",
    ]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Target(speed=3, memory=2), True),
        (Target(speed=3.6), False),  # A is slow enough, B is not
        (Target(memory=3), True),
        (Target(memory=5), False),  # B has 4 times ours
        (Target(seconds=1), True),
        (Target(seconds=0.9), False),
        (Target(mib=99), False),
        (Target(), True),
    ],
)
def test_a_target_holds_against_every_peer(target, expected):
    assert reached(entry(target=target), "ours") is expected


def test_what_was_not_measured_says_why():
    two = Row("two", "some work", (side("exact"), side("INT8", Target(speed=4))), (side("A"),))
    measured = {"exact": Measured([1.0], 10.0), "A": Measured([2.0], 10.0)}
    exact, missing = map(cells, lines(make_entry(two, measured, {"INT8": "there is no VNNI"}, **FACTS)))
    assert exact[1] == "some work: exact"
    assert exact[5] == "**2.00** (2.00 to 2.00)"
    assert missing[2:11] == [""] * 8 + ["not measured: there is no VNNI"]


def test_peers_that_were_not_measured_are_named():
    one = Row("one", "some work", (side("ours"),), (side("A"), side("B")))
    measured = {"ours": Measured([1.0], 10.0), "A": Measured([2.0], 10.0)}
    (line,) = lines(make_entry(one, measured, {"B": "does not work here"}, **FACTS))
    assert cells(line)[2] == "A; (B: does not work here)"


def test_rows_that_are_not_run_stay(tmp_path):
    results, page = tmp_path / "results.json", tmp_path / "page.md"
    page.write_text(f"# Before\n{BEGIN}\nold\n{END}\n## After\n")
    save(results, {"one": entry("one", date="2025-12-31")})
    save(results, load(results) | {"two": entry("two"), key("one", "cuda"): entry("one", device="cuda")})
    write_page(page, load(results), ["two", "one", "three"])
    text = page.read_text()
    assert text.startswith(f"# Before\n{BEGIN}\n")
    assert text.endswith(f"{END}\n## After\n")
    assert "old" not in text
    cpu, gpu = text.split("### On a GPU")
    assert cpu.index("| two |") < cpu.index("| one |")
    assert "2025-12-31" in cpu
    assert gpu.count("| one |") == 1
    assert "A CPU, 2 cores, 24 GiB; torch 2.13.0, nnunetv2 2.8.1." in cpu


def test_a_page_without_markers_is_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# By hand\n")
    with pytest.raises(ValueError, match="make bench: begin"):
        write_page(page, {"one": entry()}, ["one"])
    assert page.read_text() == "# By hand\n"


def test_the_page_says_what_the_results_say():
    """The committed ones: neither was changed by hand."""
    text = PAGE.read_text()
    written = text.partition(BEGIN)[2].partition(END)[0]
    assert written == f"\n{markdown(load(RESULTS), [item.name for item in ROWS])}"
    for result in load(RESULTS).values():
        for pair in result["pairs"]:
            ours, theirs = (result["sides"][pair[who]]["seconds"] for who in ("ours", "theirs"))
            ratios = sorted(their / our for our, their in zip(ours, theirs, strict=True))
            middle = (ratios[(len(ratios) - 1) // 2] + ratios[len(ratios) // 2]) / 2
            assert pair["speed"]["median"] == pytest.approx(middle)
            assert (pair["speed"]["low"], pair["speed"]["high"]) == pytest.approx((ratios[0], ratios[-1]))


def test_whole_processes_where_functions_keep_their_memory():
    """Those of A have 400 and 100 MiB; what they added is 350 and 50."""
    assert [pair["memory"] for pair in entry()["pairs"]] == [7.0, 4.0]
    assert [pair["memory"] for pair in entry(whole=True)["pairs"]] == [4.0, 2.5]


def test_every_run_of_a_row_stays():
    """Also those in which ours was faster, or slower."""
    entries = {}
    for number, load_before in ((1, 0.1), (2, 0.7), (3, 0.2)):
        entries = added(entries, entry("one", date=f"2026-01-0{number}", load=load_before, pace=number))
        entries = added(entries, entry("one", device="cuda"))
    assert added(entries, entries["one"]) == entries
    assert [run["date"] for run in entries["one"]["earlier"]] == ["2026-01-01", "2026-01-02"]
    (line,) = lines(entries["one"])
    assert cells(line)[-1] == (
        "4.00; 3.50 (2026-01-01, abc1234, load 0.1)<br>4.00; 3.50 (2026-01-02, abc1234, **load 0.7**)"
    )
    assert "2026-01-03, abc1234, load 0.2, 3 runs" in line


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"load": 0.5}, "load 0.5,"),
        ({"load": 0.6}, "**load 0.6**,"),
        ({"load": 3.0, "others": 0.04}, "other work 0.0,"),  # the load was that of the row before
        ({"load": 0.0, "others": 0.8}, "**other work 0.8**,"),
    ],
)
def test_busy_machines_are_marked(facts, words):
    assert words in cells(lines(entry(**facts))[0])[-2]


def test_quick_inputs_are_marked():
    assert "QUICK INPUTS" in lines(entry(quick=True))[0]


def test_other_machines_are_named():
    entries = {"one": entry("one"), "two": entry("two", machine=FACTS["machine"] | {"cores": 8})}
    assert "otherwise: two" in markdown(entries, ["one", "two"])


def test_rows_by_the_beginning_of_their_names():
    assert {"predict20", "predict20_mirrored", "predict_large"} <= {
        item.name for item in asked_for(ROWS, "resample, predict", "cpu")
    }
    assert [item.name for item in asked_for(ROWS, "predict20$", "cpu")] == ["predict20"]
    assert "train128" not in {item.name for item in asked_for(ROWS, "", "cpu")}
    assert "train128" in {item.name for item in asked_for(ROWS, "", "cuda")}
    with pytest.raises(ValueError, match="predikt: no row of cpu"):
        asked_for(ROWS, "predikt", "cpu")


def test_names_are_unique_and_sides_too():
    names = [item.name for item in ROWS]
    assert len(set(names)) == len(names)
    for item in ROWS:
        assert len({one.name for one in item.sides}) == len(item.sides)


def test_quick_folders_are_apart(tmp_path):
    full, quick = Setting(tmp_path, tmp_path), Setting(tmp_path, tmp_path, quick=True)
    assert full.folder("row") != quick.folder("row")
