"""Kill `voxfit fit` and `voxfit predict` at random moments until they are done, and compare with runs left alone.

    python tests/soak/soak.py [--kills 50] [--seed 0] [--write docs/reliability.md]

A third of the kills comes at a random time, the others at a random write: see launch.py. Five hit one run.
"""

import argparse
import os
import platform
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from commands import Command, checkpoints, write_inputs
from snapshot import differences, take
from victims import Moment, Outcome, run

KILLS_OF_A_RUN = 5
EXIT_CODES = {signal.SIGKILL: {-9}, signal.SIGTERM: {143, 75}, signal.SIGINT: {130}}
_STARTUP_SECONDS = 1.5
"""Before this, Python itself is still starting, and answers to SIGINT and SIGTERM by itself."""
_HEAD = ("kill", "command", "signal", "to", "at", "stage reached", "checkpoint", "exit", "recovered", "identical")


@dataclass(frozen=True)
class Kill:
    """A row of the table.

    Attributes:
        command, moment, outcome: what was killed, when, how it ended.
        stage: that was reached.
        damage: what was done to the newest checkpoint afterwards; empty for nothing.
        faults: what was not as it must be; empty once everything was.
        recovered, identical: the run went on to its end; which was that of the run left alone.
    """

    command: str
    moment: Moment
    outcome: Outcome
    stage: str
    damage: str = ""
    faults: tuple[str, ...] = ()
    recovered: bool = False
    identical: bool = False

    @property
    def good(self):
        return self.recovered and self.identical and not self.faults

    def row(self, number):
        moment = self.moment
        when = f"{moment.seconds:.1f} s" if moment.seconds else f"`{moment.write}`"
        verdict = ["yes" if done else "**no**" for done in (self.recovered, self.identical)]
        notes = f" ({'; '.join(self.faults)})" if self.faults else ""
        cells = [number, self.command, moment.number.name, moment.whom, when, self.stage, self.damage or "-"]
        return "| " + " | ".join(map(str, [*cells, f"{self.outcome.code}{notes}", *verdict])) + " |"


class Soak:
    """One command, what it makes when left alone, and kills of it.

    Args:
        command: to kill.
        scratch: an empty folder for everything.
        dice: draws moments and damages.
        say: hears of each kill.
    """

    def __init__(self, command: Command, scratch, dice: random.Random, say=print):
        self.command, self.scratch, self.dice, self.say = command, scratch, dice, say
        scratch.mkdir(parents=True)
        self.reference = scratch / "reference"
        self.alone = run(command.into(self.reference), self.reference, scratch)
        if self.alone.code:
            raise SystemExit(f"{command.name} does not work at all:\n{self.alone.output}")
        self.wanted = take(self.reference)
        say(f"{command.name} left alone: {self.alone.seconds:.1f} s, {len(self.alone.writes)} writes")

    def kills(self, count, of_a_run=KILLS_OF_A_RUN):
        """As many kills; runs are begun until there are."""
        found: list[Kill] = []
        runs = 0
        while len(found) < count:
            runs += 1
            if runs > 3 * count:
                raise SystemExit("the commands end before they can be killed; is the machine much faster now?")
            folder = self.scratch / f"run_{runs}"
            found += self._run(folder, min(of_a_run, count - len(found)), len(found))
        return found

    def _run(self, folder, count, done):
        """Kill one run `count` times, once in each equal part of its work, and let it end."""
        rows, texts, before = [], [], 0.0
        for part in range(count):
            share = (part + self.dice.random()) / count
            moment = self._moment(before, share, done + part)
            before = share
            outcome = run(self.command.into(folder), folder, self.scratch, moment)
            texts.append(outcome.output)
            if outcome.hit:
                rows.append(self._look(folder, moment, outcome))
            elif outcome.code:
                raise SystemExit(f"{self.command.name} failed without a kill:\n{outcome.output}")
            else:  # it was done before
                break
        last = run(self.command.into(folder), folder, self.scratch)
        texts.append(last.output)
        wrong = differences(self.wanted, take(folder)) if last.code == 0 else ["did not end"]
        rows = [self._judge(row, texts[index + 1 :], last, wrong) for index, row in enumerate(rows)]
        for index, row in enumerate(rows):
            self.say(row.row(done + index + 1))
        return rows

    def _moment(self, before, share, number):
        """A moment at a share of the work, the last one having been at `before`: every third by the clock."""
        name = self.dice.choice([signal.SIGKILL] * 4 + [signal.SIGTERM, signal.SIGINT])
        whom = self.dice.choice(["process", "group"])
        alone, startup = self.alone, self.dice.random() * self.alone.first
        if number % 3:
            return Moment(name, whom, write=alone.writes[int(share * len(alone.writes))])
        seconds = startup + (share - before) * (alone.seconds - alone.first)
        return Moment(name if seconds > _STARTUP_SECONDS else signal.SIGKILL, whom, seconds=max(0.05, seconds))

    def _look(self, folder, moment, outcome):
        """What a killed run is like; every second newest checkpoint is damaged then."""
        faults = []
        if outcome.code not in EXIT_CODES[moment.number]:
            faults.append(f"exit {outcome.code}")
        if "Traceback" in outcome.output:
            faults.append("traceback")
        if outcome.left:
            faults.append(f"{outcome.left} processes left")
        stage, damage = self.command.stage(folder), ""
        if (files := checkpoints(folder)) and self.dice.random() < 0.5:
            damage = self._damage(files[-1])
        return Kill(self.command.name, moment, outcome, stage, damage, tuple(faults))

    def _damage(self, path):
        content = bytearray(path.read_bytes())
        if self.dice.random() < 0.5:
            path.write_bytes(content[: len(content) // 2])
            return "truncated"
        content[self.dice.randrange(len(content))] ^= 1 << self.dice.randrange(8)
        path.write_bytes(content)
        return "bit flipped"

    def _judge(self, row, later, last, wrong):
        faults = list(row.faults)
        if row.damage and not any("damaged" in text for text in later):
            faults.append("the damaged checkpoint was not mentioned")
        if last.code:
            faults.append(f"resumed: exit {last.code}: {last.output.strip()[-300:]}")
        elif wrong:
            faults.append("differs: " + ", ".join(wrong[:5]))
        return replace(row, recovered=last.code == 0, identical=not wrong, faults=tuple(faults))


def soak(folder, kills, seed, *, of_fit=0.8, images=12, folds=3, steps=6, epochs=3, say=print):
    """Kill `fit`, then `predict`.

    Args:
        folder: an empty one.
        kills: of both together.
        seed: of everything drawn.
        of_fit: share of the kills that hit `fit`.
        images, folds, steps, epochs: the sizes of the work.

    Returns:
        the kills.
    """
    dice = random.Random(seed)
    arguments = write_inputs(folder, images, folds, steps, epochs)
    fits = round(kills * of_fit)
    fit = Soak(Command("fit", arguments), folder / "fit", dice, say)
    found = fit.kills(fits, KILLS_OF_A_RUN if kills > 10 else fits)
    images_at = str(folder / "boxes" / "imagesTs")
    predict = Command("predict", ("predict", str(fit.reference), images_at, "--device", "cpu"))
    found += Soak(predict, folder / "predict", dice, say).kills(kills - fits)
    return found


def summary(kills):
    """One sentence."""
    count = len(kills)
    recovered, identical = sum(kill.recovered for kill in kills), sum(kill.identical for kill in kills)
    good = sum(kill.good for kill in kills)
    signals = Counter(kill.moment.number.name for kill in kills)
    names = ", ".join(f"{number} {name}" for name, number in signals.items())
    damaged = sum(bool(kill.damage) for kill in kills)
    left = sum(kill.outcome.left for kill in kills)
    return (
        f"{count} kills ({names}): {recovered} of {count} recovered, {identical} of {count} identical, "
        f"{count - good} with faults; {damaged} newest checkpoints damaged, {left} processes left behind."
    )


def table(kills):
    """Markdown."""
    rows = ["| " + " | ".join(_HEAD) + " |", "|" + " --- |" * len(_HEAD)]
    return "\n".join([*rows, *(kill.row(index + 1) for index, kill in enumerate(kills))])


def machine():
    """Where this ran."""
    import torch

    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{cpu}, {os.cpu_count()} cores, {platform.system()}, {versions}"


def write_between(path, text):
    """Put text between the markers of a page."""
    begin, end = "<!-- soak: begin -->", "<!-- soak: end -->"
    page = path.read_text()
    before, after = page.split(begin)[0], page.split(end)[1]
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def main():
    parser = argparse.ArgumentParser(description="Kill voxfit at random moments; see the head of this file.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help="a page with markers for the table")
    options = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        kills = soak(Path(folder), options.kills, options.seed)
    print(summary(kills))
    if options.write:
        command = f"make soak` (`python tests/soak/soak.py --kills {options.kills} --seed {options.seed}"
        when = datetime.now(timezone.utc).date().isoformat()
        minutes = (time.monotonic() - begun) / 60
        head = f"`{command}`), {when}, {minutes:.0f} minutes on {machine()}.\n\n**{summary(kills)}**\n\n"
        write_between(options.write, head + table(kills))
    sys.exit(0 if all(kill.good for kill in kills) else 1)


if __name__ == "__main__":
    main()
