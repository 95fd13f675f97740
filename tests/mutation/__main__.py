"""Plant faults in a copy of the source, one at a time, and see which of them the tests notice.

    python -m tests.mutation [--jobs 2] [--only ROOM] [--only-survivors] [--fresh] [--search] [--write PAGE]

Each mutation's tests must pass without it first. What was found is kept in build/mutation.json, so that a run that was
ended goes on; it holds as long as the mutated file and the tests are what they were. Exit code 1 below the aim.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.mutation.catalogue import ALL, ROOMS
from tests.mutation.mutation import ROOT, Mutation
from tests.mutation.run import Results, try_all
from tests.mutation.table import below_aim, table, write


def main() -> int:
    """Run, and say what nobody noticed."""
    options = _options()
    results = Results(ROOT / "build" / "mutation.json", fresh=options.fresh)
    chosen = [item for item in ALL if not options.only or item.room in options.only]
    if options.only_survivors:
        chosen = [item for item in chosen if item.digest in results and not results.noticed(item)]
        results.forget(chosen)
    faults = try_all([item.widened() if options.search else item for item in chosen], results, options.jobs)
    if faults or options.search:
        print("\n".join(["These tests fail without any mutation:", *faults] if faults else _found(chosen, results)))
        return 1
    for item in chosen:
        if not item.equivalent and not results.noticed(item):
            print(_in_words(item))
    print(table(chosen, results))
    if options.write and len(chosen) == len(ALL):
        write(options.write, table(chosen, results))
    return 1 if below_aim(chosen, results) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, help="mutations at a time; default: the available cores")
    parser.add_argument("--only", action="append", choices=ROOMS, help="a room; may be given again")
    parser.add_argument("--only-survivors", action="store_true", help="try again what nobody noticed")
    parser.add_argument("--fresh", action="store_true", help="forget what was found before")
    parser.add_argument("--search", action="store_true", help="try all tests of the room, and name those that notice")
    parser.add_argument("--write", type=Path, help="the page that gets the table, after a run of all rooms")
    return parser.parse_args()


def _in_words(item: Mutation) -> str:
    return f"NOT NOTICED {item.file}: {item.meaning}\n  - {item.old!r}\n  + {item.new!r}\n  tests: {item.tests}"


def _found(items: list[Mutation], results: Results) -> list[str]:
    """Which test of the room notices each."""
    wide = [item.widened() for item in items]
    return [f"{item.file}: {item.meaning}: {results[item.digest].by or 'nothing'}" for item in wide]


sys.exit(main())
