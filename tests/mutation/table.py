"""The score by room, and its place in a page."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from tests.mutation.mutation import ROOT, Mutation
from tests.mutation.run import Results

AIM, AIM_OF_A_ROOM = 0.95, 0.90
_MARKS = re.compile(r"(<!-- mutation: begin -->\n).*?(<!-- mutation: end -->)", re.DOTALL)


def below_aim(items: Sequence[Mutation], results: Results) -> bool:
    """Whether too few were noticed, of all or in a room."""
    rooms = {item.room for item in items}
    tried = all(item.digest in results for item in items if not item.equivalent)
    return (
        not tried
        or _score(items, results) < AIM
        or any(_score(_of(room, items), results) < AIM_OF_A_ROOM for room in rooms)
    )


def table(items: Sequence[Mutation], results: Results) -> str:
    """The rows in Markdown."""
    lines = ["| room | planted | equivalent | tried | noticed | score |", "| --- | --- | --- | --- | --- | --- |"]
    lines += [_row(room, _of(room, items), results) for room in dict.fromkeys(item.room for item in items)]
    lines.append(_row("**all**", items, results))
    return "\n".join(lines)


def write(page: Path, rows: str) -> None:
    """Put the table between its marks, with date and commit."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    head = f"`make mutate`, {datetime.now(timezone.utc):%Y-%m-%d}, commit {commit}, Python {platform.python_version()}."
    text = page.read_text()
    changed, times = _MARKS.subn(lambda match: f"{match[1]}{head}\n\n{rows}\n{match[2]}", text)
    if times != 1:
        raise SystemExit(f"{page}: has no place for the table (mutation: begin, mutation: end).")
    page.write_text(changed)


def _of(room: str, items: Sequence[Mutation]) -> list[Mutation]:
    return [item for item in items if item.room == room]


def _counts(items: Sequence[Mutation], results: Results) -> tuple[int, int]:
    """How many that should be noticed were tried, and noticed."""
    wanted = [item for item in items if not item.equivalent and item.digest in results]
    return len(wanted), sum(map(results.noticed, wanted))


def _score(items: Sequence[Mutation], results: Results) -> float:
    wanted, noticed = _counts(items, results)
    return noticed / wanted if wanted else 1.0


def _row(name: str, items: Sequence[Mutation], results: Results) -> str:
    equivalent = sum(bool(item.equivalent) for item in items)
    tried, noticed = _counts(items, results)
    score = f"{noticed / tried:.0%}" if tried else "-"
    return f"| {name} | {len(items)} | {equivalent} | {tried} | {noticed} | {score} |"
