"""What was measured: a JSON file, and the tables of `docs/benchmarks.md` that are written from it."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measuring import Measured
from benchmarks.ratios import Ratio, ratio_of_pairs
from benchmarks.row import ROOT, Row, Target

RESULTS = ROOT / "benchmarks" / "results.json"
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- make bench: begin -->", "<!-- make bench: end -->"
_HEAD = (
    "row",
    "what",
    "against",
    "precision, ours / theirs",
    "seconds, ours / theirs",
    "times faster (least to most)",
    "at least",
    "peak MiB, ours / theirs",
    "times leaner",
    "at least",
    "the same?",
    "measured",
    "earlier runs: times faster",
)
BUSY = 0.5
"""Cores: a row beside more work of others is marked."""

Entry = dict[str, Any]


def make_entry(row: Row, measured: dict[str, Measured], missing: dict[str, str], **facts: Any) -> Entry:
    """One row as JSON.

    Args:
        row: what was measured.
        measured: of each side.
        missing: why other sides were not.
        facts: date, commit, machine, what the check said, and so on.
    """
    ours = [side for side in row.ours if side.name in measured]
    theirs = [side for side in row.theirs if side.name in measured]
    return facts | {
        "name": row.name,
        "title": row.title,
        "threads": row.threads,
        "warm_up": row.warm,
        "whole_processes": row.whole,
        "sides": {
            name: asdict(cost)
            | {"median": statistics.median(cost.seconds), "precision": row.side(name).precision(facts["device"])}
            for name, cost in measured.items()
        },
        "missing": missing,
        "targets": {side.name: asdict(side.target) for side in row.ours},
        "pairs": [
            {
                "ours": our.name,
                "theirs": their.name,
                "speed": asdict(ratio_of_pairs(measured[their.name].seconds, measured[our.name].seconds)),
                "memory": measured[their.name].own_mib(row.whole) / measured[our.name].own_mib(row.whole),
            }
            for our in ours
            for their in theirs
        ],
    }


def added(entries: dict[str, Entry], entry: Entry) -> dict[str, Entry]:
    """All rows with a new result of one of them; what was measured of it before stays beneath it."""
    name = key(entry["name"], entry["device"])
    old = entries.get(name)
    earlier = old.get("earlier", []) if old else []
    if old and old["sides"] != entry["sides"]:  # the same file may be taken over twice
        earlier = [*earlier, {what: old[what] for what in _KEPT if what in old}]
    return entries | {name: entry | {"earlier": earlier}}


_KEPT = ("date", "commit", "load", "others", "quick", "same", "title", "sides", "pairs")
"""Of an earlier run."""


def load(path: Path) -> dict[str, Entry]:
    """All rows that were measured so far, by name and device."""
    return json.loads(path.read_text())["rows"] if path.exists() else {}


def save(path: Path, entries: dict[str, Entry]) -> None:
    """Write all rows."""
    path.write_text(json.dumps({"schema": "voxfit.benchmarks/1", "rows": entries}, indent=1) + "\n")


def key(name: str, device: str) -> str:
    """Of a row on a device."""
    return name if device == "cpu" else f"{name}@{device}"


def write_page(path: Path, entries: dict[str, Entry], order: list[str]) -> None:
    """Replace what is between the markers of a page.

    Raises:
        ValueError: the page has no markers.
    """
    page = path.read_text()
    if BEGIN not in page or END not in page:
        raise ValueError(f"{path}: the lines {BEGIN} and {END} are missing")
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n{markdown(entries, order)}{END}{after}")


def markdown(entries: dict[str, Entry], order: list[str]) -> str:
    """A table for each device, the rows in `order`."""
    parts = []
    for device, heading in (("cpu", "On CPU cores"), ("cuda", "On a GPU")):
        rows = [entries[key(name, device)] for name in order if key(name, device) in entries]
        if rows:
            table = ["| " + " | ".join(_HEAD) + " |", "|" + "---|" * len(_HEAD)]
            table += [line for entry in rows for line in lines(entry)]
            parts.append("\n".join([f"### {heading}", "", *_where(rows), "", *table, ""]))
    return "\n".join(parts)


def lines(entry: Entry) -> list[str]:
    """Table lines of a row: one for each way of ours that was measured or left out."""
    return [
        "| " + " | ".join(_cells(entry, ours, Target(**target))) + " |" for ours, target in entry["targets"].items()
    ]


def reached(entry: Entry, ours: str) -> bool:
    """Whether one way of ours reached its target against every peer."""
    target, side = Target(**entry["targets"][ours]), entry["sides"][ours]
    pairs = [pair for pair in entry["pairs"] if pair["ours"] == ours]
    return (
        all(target.speed is None or pair["speed"]["median"] >= target.speed for pair in pairs)
        and all(target.memory is None or pair["memory"] >= target.memory for pair in pairs)
        and (target.seconds is None or side["median"] <= target.seconds)
        and (target.mib is None or side["peak_mib"] <= target.mib)
    )


def _cells(entry: Entry, ours: str, target: Target) -> list[str]:
    several = len(entry["targets"]) > 1
    first = [entry["name"], entry["title"] + (f": {ours}" if several else "")]
    if ours in entry["missing"]:
        return [*first, *[""] * 8, f"not measured: {entry['missing'][ours]}", _when(entry), _earlier(entry, ours)]
    side = entry["sides"][ours]
    pairs = [pair for pair in entry["pairs"] if pair["ours"] == ours]
    sides = [entry["sides"][pair["theirs"]] for pair in pairs]
    return [
        *first,
        _each([*(pair["theirs"] for pair in pairs), *_missing_peers(entry)]) or "-",
        f"{side.get('precision', '-')} / {_each(their.get('precision', '-') for their in sides) or '-'}",
        f"{_seconds(side['median'])} / {_each(_seconds(their['median']) for their in sides) or '-'}",
        _each(_speed(Ratio(**pair["speed"])) for pair in pairs),
        _limit(target.speed, "x", target.seconds, "s"),
        f"{_memory(side)} / {_each(_memory(their) for their in sides) or '-'}",
        _each(f"{pair['memory']:.2f}" for pair in pairs),
        _limit(target.memory, "x", target.mib, "MiB"),
        entry["check"] or "-",
        _when(entry),
        _earlier(entry, ours),
    ]


def _missing_peers(entry: Entry) -> list[str]:
    return [f"({name}: {why})" for name, why in entry["missing"].items() if name not in entry["targets"]]


def _earlier(entry: Entry, ours: str) -> str:
    """The median of each earlier run, whatever it was."""
    said = []
    for run in entry.get("earlier", []):
        ratios = [_digits(pair["speed"]["median"]) for pair in run["pairs"] if pair["ours"] == ours]
        seconds = f"{_seconds(run['sides'][ours]['median'])} s" if ours in run["sides"] else ""
        if found := _each(ratios) or seconds:
            said.append(f"{found} ({run['date']}, {run['commit']}, {_other_work(run)})")
    return "<br>".join(said) or "-"


def _other_work(run: Entry) -> str:
    """How busy others kept the machine; of older runs, the load before them."""
    cores: float = run["others"] if "others" in run else run["load"]
    words = f"other work {cores:.1f}" if "others" in run else f"load {cores:.1f}"
    return f"**{words}**" if cores > BUSY else words


def _each(items: Any) -> str:
    return "; ".join(items)


def _speed(ratio: Ratio) -> str:
    return f"**{_digits(ratio.median)}** ({_digits(ratio.low)} to {_digits(ratio.high)})"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _memory(side: dict[str, Any]) -> str:
    before = side["before_mib"]
    return f"{side['peak_mib']:.0f}" if before is None else f"{before:.0f}+{side['peak_mib'] - before:.0f}"


def _limit(ratio: float | None, sign: str, most: float | None, unit: str) -> str:
    return f"{ratio:g}{sign}" if ratio else f"at most {most:g} {unit}" if most else "-"


def _when(entry: Entry) -> str:
    counts = {len(side["seconds"]) for side in entry["sides"].values()}
    runs = f"{max(counts, default=0)} runs{'' if entry['warm_up'] else ', no warm-up'}"
    quick = ", QUICK INPUTS" if entry["quick"] else ""
    return f"{entry['date']}, {entry['commit']}, {_other_work(entry)}, {runs}{quick}"


def _where(rows: list[Entry]) -> list[str]:
    """Machine and versions of the newest row, and of others that differ."""
    newest = max(rows, key=lambda entry: entry["date"])
    others = [entry["name"] for entry in rows if _place(entry) != _place(newest)]
    return [_place(newest) + (f" (But otherwise: {', '.join(others)}; see results.json.)" if others else "")]


def _place(entry: Entry) -> str:
    machine = entry["machine"]
    gpu = f", {machine['gpu']}" if "gpu" in machine and entry["device"] == "cuda" else ""
    packages = ", ".join(f"{name} {number}" for name, number in entry["versions"].items())
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB{gpu}; {packages}."
