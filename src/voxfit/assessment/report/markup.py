"""Markup that escapes itself: elements, tables, and numbers as text."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

NONE = "\N{EN DASH}"
"""Stands where there is no value."""


class Markup(str):
    """Text that is HTML or SVG already; any other text is escaped when it becomes part of an element."""

    __slots__ = ()


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """An element with its end tag; children and attributes are escaped.

    Args:
        tag: its name.
        children: markup, or anything else as text.
        attributes: `class_` is class, `text_anchor` is text-anchor; None is left out.
    """
    pairs = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    inside = "".join(f' {name}="{html.escape(_number(value))}"' for name, value in pairs.items())
    return Markup(f"<{tag}{inside}>{join(*children)}</{tag}>")


def join(*parts: object) -> Markup:
    """Parts one after another; what is no markup is escaped."""
    return Markup("".join(part if isinstance(part, Markup) else html.escape(_number(part)) for part in parts))


def _number(value: object) -> str:
    """Coordinates with one decimal at most, anything else as it is."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def fixed(value: float | None, digits: int = 3) -> str:
    """A number with so many decimals."""
    return NONE if value is None else f"{value:.{digits}f}"


def size(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:,.{digits_of_size(value)}f}"


def digits_of_size(value: float) -> int:
    """Decimals that leave three significant digits, 6 at most."""
    return min(max(2 - math.floor(math.log10(abs(value))), 0), 6) if value else 2


def count(number: int, one: str, many: str = "") -> str:
    """A number and what it counts."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def by(values: Iterable[object]) -> str:
    """Sizes joined by x."""
    return " x ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)


def duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s" if rest >= 60 else f"{rest} s"


def paragraph(*parts: object) -> Markup:
    """A paragraph."""
    return element("p", *parts)


def listing(items: Iterable[object]) -> Markup:
    """A bulleted list."""
    return element("ul", *(element("li", item) for item in items))


def notice(*parts: object) -> Markup:
    """What a reader must not miss."""
    return element("div", *parts, class_="notice", role="note")


def table(
    caption: str,
    head: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    groups: Markup | None = None,
    kind: str = "",
) -> Markup:
    """A table whose first column heads the rows; a wide one scrolls for itself."""
    top = element("tr", *(element("th", name, scope="col") for name in head))
    body = [
        element("tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:])) for row in rows
    ]
    table = element(
        "table", element("caption", caption), element("thead", groups or Markup(), top), element("tbody", *body)
    )
    return element("div", table, class_=f"table {kind}".strip(), tabindex="0", role="region", aria_label=caption)
