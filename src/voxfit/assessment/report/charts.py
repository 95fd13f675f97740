"""SVG charts: curves, scatter plots and strips of points.

Colours are the CSS classes `c0` to `c7`, which the page defines for light and dark. Every chart is a `role="img"` with
its content in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from voxfit.assessment.report.markup import Markup, element

COLOURS = 8


_LEFT, _RIGHT, _TOP = 46.0, 330.0, 12.0
"""Of the plotting area of a chart; its bottom depends on the chart."""
_STRIP = (440.0, 38.0)
_INSET = 14.0
"""Room beside a strip for its first and last point and their tick labels."""
MOST_DOTS = 500
"""Of more cases so many are drawn, from the whole range of values."""
_MOST_POINTS = 200
"""A curve of more values is averaged over neighbours."""


Item = TypeVar("Item")


def thinned(items: Sequence[Item]) -> Sequence[Item]:
    """Of many sorted items `MOST_DOTS`: the first, the last, and as many of every part between them."""
    if len(items) <= MOST_DOTS:
        return items
    return [items[round(rank)] for rank in np.linspace(0, len(items) - 1, MOST_DOTS)]


@dataclass(frozen=True)
class Axis:
    """From values to places along one direction of a chart; values outside are drawn at the end.

    Attributes:
        low, high: values at the ends, low < high.
        start, stop: their places.
        log: by logarithm.
        whole: only whole numbers are marked.
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = False
    whole: bool = False

    def place(self, value: float) -> float:
        """Where a value is."""
        low, high, at = (math.log(item) if self.log else item for item in (self.low, self.high, max(value, self.low)))
        return self.start + (self.stop - self.start) * min((at - low) / (high - low), 1.0)

    def ticks(self) -> list[float]:
        """Round values between the ends, about five."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            tens = [10.0**power for power in powers]
            found = _within(tens, self)
            return found if len(found) >= 3 else _within([step * ten for ten in tens for step in (1, 2, 5)], self)
        rough = (self.high - self.low) / 4
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.7)
        step = max(step, 1) if self.whole else step
        first = math.ceil(self.low / step - 1e-9)
        return _within([number * step for number in range(first, first + 12)], self)


def _within(values: Sequence[float], axis: Axis) -> list[float]:
    slack = (axis.high - axis.low) * 1e-9
    return [value for value in values if axis.low - slack <= value <= axis.high + slack]


@dataclass(frozen=True)
class Curve:
    """A line of a chart: its name, values (None: a gap), colour number, and whether it is dashed."""

    name: str
    values: Sequence[float | None]
    colour: int
    dashed: bool = False


def curves(
    lines: Sequence[Curve], description: str, *, log: bool = False, ends: tuple[float, float] | None = None
) -> Markup:
    """A chart of values after epoch 1, 2, ...

    Args:
        lines: the curves.
        description: for those who cannot see it.
        log: logarithmic values; those of 0 and less are gaps.
        ends: of the vertical axis; default: the smallest and the largest value.
    """
    shown = [value for line in lines for value in line.values if value is not None and (value > 0 or not log)]
    low, high = ends or (min(shown, default=1.0), max(shown, default=1.0))
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    epochs = max((len(line.values) for line in lines), default=0)
    first, last = (1, epochs) if epochs > 1 else (0, 2)
    x, y = Axis(first, last, _LEFT, _RIGHT, whole=True), Axis(low, high, _TOP + 156, _TOP, log)
    return _chart(x, y, "epoch", [_line(line, x, y) for line in lines], description)


def _line(line: Curve, x: Axis, y: Axis) -> Markup:
    """One curve: pieces between gaps; round ends make a single value a point."""
    parts, pen = [], "M"
    size = max(math.ceil(len(line.values) / _MOST_POINTS), 1)
    for first in range(0, len(line.values), size):
        block = [value for value in line.values[first : first + size] if value is not None and (value > 0 or not y.log)]
        if not block:
            pen = "M"
            continue
        epoch, mean = first + (min(size, len(line.values) - first) + 1) / 2, math.fsum(block) / len(block)
        parts.append(f"{pen}{x.place(epoch):.1f} {y.place(mean):.1f}" + ("h0" if pen == "M" else ""))
        pen = "L"
    kind = f"line c{line.colour % COLOURS}" + (" dashed" if line.dashed else "")
    return element("path", element("title", line.name), class_=kind, d="".join(parts))


def scatter(points: Mapping[str, tuple[float, float]], names: tuple[str, str], colour: int, description: str) -> Markup:
    """A chart of pairs (x, y) of one unit, by name, with the line of equality.

    Args:
        points: by the name that appears over each.
        names: of the axes.
        colour: number.
        description: for those who cannot see it.
    """
    high = max((value for pair in points.values() for value in pair), default=0.0) * 1.04 or 1.0
    bottom = _TOP + _RIGHT - _LEFT
    x, y = Axis(0.0, high, _LEFT, _RIGHT), Axis(0.0, high, bottom, _TOP)
    equal = element("path", class_="equal", d=f"M{_LEFT} {bottom}L{_RIGHT} {_TOP}")
    dots = [
        element(
            "circle", element("title", name), class_=f"dot c{colour % COLOURS}", cx=x.place(a), cy=y.place(b), r=3.0
        )
        for name, (a, b) in thinned(sorted(points.items(), key=lambda item: item[1][1] - item[1][0]))
    ]
    side = element("text", names[1], class_="name", x=_LEFT + 6, y=_TOP + 8)
    return _chart(x, y, names[0], [equal, *dots, side], description)


def _chart(x: Axis, y: Axis, name: str, drawn: Sequence[Markup], description: str) -> Markup:
    """A chart's axes and grid around what is drawn."""
    width, height = x.stop + 10, y.start + 42
    grid = []
    for value in y.ticks():
        at = y.place(value)
        grid += [element("path", class_="grid", d=f"M{x.start} {at:.1f}H{x.stop}")]
        grid += [element("text", f"{value:.6g}", class_="end", x=x.start - 6, y=at + 4)]
    for value in x.ticks():
        grid += [element("text", f"{value:.6g}", class_="middle", x=x.place(value), y=y.start + 16)]
    grid += [element("path", class_="axis", d=f"M{x.start} {y.stop}V{y.start}H{x.stop}")]
    grid += [element("text", name, class_="middle name", x=(x.start + x.stop) / 2, y=height - 6)]
    size = f"0 0 {width:g} {height:g}"
    return element("svg", *grid, *drawn, class_="chart", viewBox=size, role="img", aria_label=description)


def strip(values: Mapping[str, float], low: float, colour: int, description: str) -> Markup:
    """Values between `low` and 1, by name, as points over a box of quartiles with the median.

    Args:
        values: by the name that appears over each point.
        low: the value at the left end.
        colour: number.
        description: for those who cannot see it.
    """
    width, height = _STRIP
    axis = Axis(low, 1.0, _INSET, width - _INSET)
    quartiles = [axis.place(float(value)) for value in np.percentile(list(values.values()) or [low], (25, 50, 75))]
    box = element(
        "rect",
        class_=f"box c{colour % COLOURS}",
        x=quartiles[0],
        y=4.0,
        width=quartiles[2] - quartiles[0],
        height=height - 8,
    )
    # Points of equal value would hide each other: neighbours in rank get different heights, always the same.
    lifts = (0.5, 0.2, 0.8, 0.35, 0.65)
    dots = [
        element(
            "circle",
            element("title", f"{name}: {value:.3f}"),
            class_=f"dot c{colour % COLOURS}",
            cx=axis.place(value),
            cy=height * (0.12 + 0.76 * lifts[rank % len(lifts)]),
            r=2.6,
        )
        for rank, (name, value) in enumerate(thinned(sorted(values.items(), key=lambda item: item[1])))
    ]
    median = element("path", class_="median", d=f"M{quartiles[1]:.1f} 1V{height - 1:g}")
    size = f"0 0 {width:g} {height:g}"
    drawn = [box, *dots, median] if values else []
    return element("svg", *drawn, class_="strip", viewBox=size, role="img", aria_label=description)


def strip_axis(low: float) -> Markup:
    """The scale below strips."""
    width, _ = _STRIP
    axis = Axis(low, 1.0, _INSET, width - _INSET)
    marks = [element("path", class_="axis", d=f"M{axis.start} 1H{axis.stop}")]
    for value in axis.ticks():
        marks += [element("path", class_="axis", d=f"M{axis.place(value):.1f} 1v5")]
        marks += [element("text", f"{value:.3g}", class_="middle", x=axis.place(value), y=18.0)]
    return element("svg", *marks, class_="strip", viewBox=f"0 0 {width:g} 22", aria_hidden="true")
