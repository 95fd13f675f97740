"""`python -m benchmarks`: measure rows, and write `benchmarks/results.json` and `docs/benchmarks.md`."""

from __future__ import annotations

import argparse
import math
import os
import sys
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter

from benchmarks.machine import OtherWork, commit, describe_machine, versions
from benchmarks.measuring import BenchmarkError, check_row, counted, make_ready, measure_row, numbers_of
from benchmarks.results import PAGE, RESULTS, Entry, added, load, make_entry, reached, save, write_page
from benchmarks.row import ROOT, Row, Setting, asked_for
from benchmarks.rows import ROWS


def main(arguments: list[str]) -> int:
    """Run from the command line; returns the exit code: 1 where a row failed or its sides differ."""
    options = _parser().parse_args(arguments)
    if options.take:
        _take(options.take)
        return 0
    try:
        rows = asked_for(ROWS, options.rows, options.device)
    except ValueError as error:
        print(error)
        return 2
    work = (options.work or ROOT / "build" / "bench").resolve()
    setting = Setting(options.data.resolve(), work, options.device, options.quick)
    # As few cores as asked for, for all sides alike.
    if options.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    results = options.results or (work / "quick.json" if options.quick else RESULTS)
    begun, failed = perf_counter(), []
    for number, row in enumerate(rows, 1):
        print(f"[{number}/{len(rows)}, {perf_counter() - begun:.0f} s] {row.name}: {row.title}", flush=True)
        try:
            if options.ready:
                make_ready(row, setting, _say)
                continue
            entry = _measure(row, setting, options)
        except BenchmarkError as error:
            print(f"  FAILED: {error}", flush=True)
            failed.append(row.name)
            continue
        entries = added(load(results), entry)
        save(results, entries)
        if results == RESULTS:
            write_page(PAGE, entries, [row.name for row in ROWS])
        failed += [] if entry["same"] else [row.name]
    print(f"{len(rows)} rows in {(perf_counter() - begun) / 60:.1f} minutes; {results}")
    if failed:
        print(f"Failed, or different from the peer: {', '.join(failed)}")
    return 1 if failed else 0


def _take(path: Path) -> None:
    """Put the rows that another machine measured into ours, and onto the page."""
    entries = load(RESULTS)
    for entry in load(path).values():
        entries = added(entries, entry)
    save(RESULTS, entries)
    write_page(PAGE, entries, [row.name for row in ROWS])


def _measure(row: Row, setting: Setting, options: argparse.Namespace) -> Entry:
    reasons = {side.name: side.missing(setting) for side in row.sides}
    if options.ours:
        reasons |= {side.name: "not asked for" for side in row.theirs}
    missing = {name: reason for name, reason in reasons.items() if reason}
    sides = [side for side in row.sides if side.name not in missing]
    if all(side.name in missing for side in row.ours):
        sides = []
    if sides:
        make_ready(row, setting, _say)
    load_before, begun, others = os.getloadavg()[0], perf_counter(), OtherWork()
    measured = measure_row(row, sides, setting, options.repeats, _say, options.seconds) if sides else {}
    busy = others.cores()
    missing |= {side.name: "does not work here" for side in sides if side.name not in measured}
    said = check_row(row, setting) if sides and not options.ours else {"same": True, "words": ""}
    entry = make_entry(
        row,
        measured,
        missing,
        date=f"{datetime.now(timezone.utc):%Y-%m-%d}",
        commit=commit(),
        device=setting.device,
        quick=setting.quick,
        load=round(load_before, 2),
        others=round(busy, 2),
        outputs={name: numbers_of(row, name, setting) for name in measured},
        machine=describe_machine(),
        versions=versions(),
        repeats=counted(row, options.repeats),
        minutes=round((perf_counter() - begun) / 60, 1),
        check=said["words"],
        same=said["same"],
    )
    _tell(entry)
    return entry


def _tell(entry: Entry) -> None:
    for pair in entry["pairs"]:
        speed = pair["speed"]
        print(
            f"  {pair['ours']} against {pair['theirs']}: {speed['median']:.2f} times as fast "
            f"({speed['low']:.2f} to {speed['high']:.2f}), {pair['memory']:.2f} times less memory"
        )
    for ours, target in entry["targets"].items():
        if why := entry["missing"].get(ours):
            print(f"  {ours}: left out: {why}")
        elif any(target.values()):
            print(f"  {ours}: {'reached' if reached(entry, ours) else 'BELOW ITS AIM'}")
    print(f"  {entry['check'] or 'nothing to compare'} ({entry['minutes']} minutes)", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--rows", default="", help="how names begin: resample,predict; or predict20$ alone; default: all"
    )
    parser.add_argument("--repeats", type=int, default=5, help="counted runs of each side")
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="of a row, after which it is not repeated again"
    )
    parser.add_argument("--ours", action="store_true", help="leave the peers out")
    parser.add_argument("--ready", action="store_true", help="only make what rows need")
    parser.add_argument("--results", type=Path, help="another file of results; the page stays as it is")
    parser.add_argument("--take", type=Path, help="measure nothing; take the rows of such a file over")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--cores", type=int, default=2, help="how many may be used; 0 for all")
    parser.add_argument("--quick", action="store_true", help="small inputs, to see that rows run; changes no page")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of real datasets")
    parser.add_argument(
        "--work", type=Path, default=os.environ.get("VOXFIT_ORACLES"), help="keeps what is trained and written"
    )
    return parser


def _say(words: str) -> None:
    print(words, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
