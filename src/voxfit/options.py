"""What is written behind the options of the command line, as the records and numbers that it stands for."""

from __future__ import annotations

import json
import re
from pathlib import Path

from voxfit.core.errors import RecordError, UsageError
from voxfit.core.memory import UNITS
from voxfit.planning.plan import Limits
from voxfit.planning.planners import PLANNERS
from voxfit.planning.recipes import Recipe, recipe_named


def parse_limits(pairs: list[str] | None) -> Limits | None:
    """Pairs KEY=VALUE; None where there are none."""
    if not pairs:
        return None
    values: dict[str, object] = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        if key not in Limits.model_fields:
            raise UsageError(f"--limit {pair}: there is no such limit. Limits: {', '.join(Limits.model_fields)}.")
        if key in values:
            raise UsageError(f"--limit {pair}: {key} is given twice. Give it once.")
        try:
            values[key] = json.loads(text)
        except (ValueError, RecursionError):
            usual = Limits.model_fields[key].default
            raise UsageError(f"--limit {pair}: give one number, such as {key}={usual}.") from None
    try:
        return Limits.from_json(json.dumps(values), "--limit")
    except RecordError as error:
        raise UsageError(str(error)) from None


def parse_recipe(name: str) -> Recipe:
    """The name of a recipe, or a JSON file."""
    if name.endswith(".json"):
        return Recipe.load(Path(name))
    if name not in PLANNERS:
        raise UsageError(f"--recipe {name}: there are {', '.join(PLANNERS)}; or name a .json file.")
    return recipe_named(name)


def parse_numbers(text: str, option: str) -> tuple[int, ...]:
    """A list "0,1"; `option` is named where it is none."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text}: give numbers, such as 0,1.") from None


def parse_seconds(text: str) -> float:
    """A time such as "20m"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"--budget {text}: give a number and a unit: 90s, 20m, 2h or 1d.")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def parse_size(text: str) -> int:
    """A size such as "4G", in bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT])(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"--max-memory {text}: give a number and a unit: 800M, 4G or 0.5T.")
    return int(float(match[1]) * UNITS[match[2].upper()])
