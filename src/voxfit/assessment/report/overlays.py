"""Slices of a case with the outlines of reference and prediction, as SVG over a PNG of our own making."""

from __future__ import annotations

import base64
import itertools
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voxfit.assessment.report.markup import Markup, element
from voxfit.imaging.geometry import Box, Geometry, Scalar, Spacing, nonzero_box

_CONTEXT = 20
"""Pixels at least, around the structures in a close view."""


def png(pixels: NDArray[np.uint8]) -> bytes:
    """The PNG file of a grey image (rows, columns) of 8 bits; W3C PNG, third edition, filter type 1 in every row."""
    height, width = pixels.shape
    rows = np.ones((height, width + 1), np.uint8)
    rows[:, 1:] = pixels
    rows[:, 2:] -= pixels[:, :-1]  # differences modulo 256, which is what the filter asks for
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def shrink(image: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Means of blocks of `factor` x `factor` pixels; the last row and column are repeated to fill the last blocks."""
    padding = [(0, -size % factor) for size in image.shape]
    padded = np.pad(image, padding, mode="edge")
    height, width = (size // factor for size in padded.shape)
    return np.asarray(padded.reshape(height, factor, width, factor).mean(axis=(1, 3)), np.float32)


_SIDES = (((0, -1), (0, 0), (1, 0)), ((1, 0), (1, 0), (0, 1)), ((0, 1), (1, 1), (-1, 0)), ((-1, 0), (0, 1), (0, -1)))
"""Of a pixel, clockwise, all (x, y): the neighbour beyond the side, the corner where it starts, its direction."""


def outline(mask: NDArray[np.bool_]) -> str:
    """SVG path data of the closed lines between the pixels inside and outside of a mask (rows, columns)."""
    height, width = mask.shape
    padded = np.pad(mask, 1)
    leaving: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for (right, below), (x_start, y_start), step in _SIDES:
        border = mask & ~padded[1 + below : 1 + below + height, 1 + right : 1 + right + width]
        for y, x in np.argwhere(border).tolist():
            leaving.setdefault((x + x_start, y + y_start), []).append(step)
    paths = []
    while leaving:
        start = next(iter(leaving))
        paths.append(f"M{start[0]} {start[1]}{_walk(start, leaving)}z")
    return "".join(paths)


def _walk(position: tuple[int, int], leaving: dict[tuple[int, int], list[tuple[int, int]]]) -> str:
    """Follow sides, using them up, until there is none: as many lead to each corner as leave it, so that is at home."""
    steps: list[list[int]] = []
    while position in leaving:
        x, y = leaving[position].pop()
        if not leaving[position]:
            del leaving[position]
        position = position[0] + x, position[1] + y
        if steps and ((steps[-1][0] and x) or (steps[-1][1] and y)):
            steps[-1] = [steps[-1][0] + x, steps[-1][1] + y]
        else:
            steps.append([x, y])
    return "".join(f"h{x}" if x else f"v{y}" for x, y in steps)


@dataclass(frozen=True)
class View:
    """A slice, or a part of one, as it is looked at.

    Attributes:
        image: (rows, columns), 0 to 255.
        pixel: height and width of a pixel in `unit`.
        outlined: masks (rows, columns) whose outlines are drawn, with the class of the line and what it is.
        frame: a box of pixels to mark.
        edges: letters at the left, right, top and bottom edge, for instance RLAP; or empty.
        unit: of `pixel`, for the scale bar.
    """

    image: NDArray[np.float32]
    pixel: tuple[float, float]
    outlined: Sequence[tuple[str, str, NDArray[np.bool_]]] = ()
    frame: Box | None = None
    edges: str = ""
    unit: str = "mm"


def picture(view: View, description: str, *, room: float, most_pixels: int) -> Markup:
    """An SVG of a view in its true proportions, with a scale bar.

    Args:
        view: what is shown.
        description: for those who cannot see it.
        room: the longer side in CSS pixels.
        most_pixels: an image with a longer side is shrunk; so are masks, where what is thin stays.
    """
    rows, columns = view.image.shape
    scale = room / max(rows * view.pixel[0], columns * view.pixel[1])
    down, across = (size * scale for size in view.pixel)
    width, height = columns * across, rows * down
    factor = math.ceil(max(rows, columns) / most_pixels)
    small = np.clip(np.rint(shrink(view.image, factor)), 0, 255).astype(np.uint8)
    lines = [
        element("path", element("title", what), class_=kind, d=outline(shrink(mask.astype(np.float32), factor) > 0))
        for kind, what, mask in view.outlined
        if mask.any()
    ]
    return element(
        "svg",
        element(
            "image",
            href="data:image/png;base64," + base64.b64encode(png(small)).decode(),
            width=small.shape[1] * factor * across,
            height=small.shape[0] * factor * down,
            preserveAspectRatio="none",
        ),
        element("g", *lines, transform=f"scale({across * factor:.4f} {down * factor:.4f})"),
        _frame(view.frame, down, across),
        _edge_letters(view.edges, width, height),
        _scale_bar(width, height, scale, view.unit),
        class_="view",
        viewBox=f"0 0 {width:.1f} {height:.1f}",
        width=width,
        height=height,
        role="img",
        aria_label=description,
    )


def _frame(box: Box | None, down: float, across: float) -> Markup:
    if box is None:
        return Markup()
    (top, left), (high, wide) = box.start, box.shape
    return element("rect", class_="frame", x=left * across, y=top * down, width=wide * across, height=high * down)


def _edge_letters(edges: str, width: float, height: float) -> Markup:
    places = ((9.0, height / 2), (width - 9, height / 2), (width / 2, 13.0), (width / 2, height - 5))
    letters = (element("text", letter, x=x, y=y) for letter, (x, y) in zip(edges, places, strict=False))
    return element("g", *letters, class_="edges")


def _scale_bar(width: float, height: float, scale: float, unit: str) -> Markup:
    """A bar of a round length, at most a quarter of the width."""
    most = width / 4 / scale
    power = 10.0 ** math.floor(math.log10(most))
    length = next(step * power for step in (5, 2, 1) if step * power <= most * (1 + 1e-9))
    text = element("text", f"{length:g} {unit}", x=8.0, y=height - 13)
    line = element("path", d=f"M8 {height - 8:.1f}h{length * scale:.1f}")
    return element("g", text, line, class_="scale")


_LETTERS = ("RL", "AP", "IS")
"""Where an axis of a patient begins and ends, in the order of the file formats (x to the left, y to the back, z up)."""
_PLANES = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class Slice:
    """How to cut a slice out of a volume and turn it as it is usually looked at.

    Attributes:
        axis, index: of the volume (z, y, x): what is cut.
        transposed, flipped: rows and columns exchanged, then turned around.
        edges: letters at the left, right, top and bottom; empty where the patient's position is not known.
        plane: its name; empty likewise.
    """

    axis: int
    index: int
    transposed: bool = False
    flipped: tuple[bool, bool] = (False, False)
    edges: str = ""
    plane: str = ""

    def of(self, volume: NDArray[Scalar]) -> NDArray[Scalar]:
        """The slice (rows, columns) of a volume (z, y, x)."""
        plane: NDArray[Scalar] = np.take(volume, self.index, self.axis)
        plane = plane.T if self.transposed else plane
        return plane[:: -1 if self.flipped[0] else 1, :: -1 if self.flipped[1] else 1]

    def pixel(self, spacing_mm: Spacing) -> tuple[float, float]:
        """Height and width of a pixel."""
        first, second = (size for axis, size in enumerate(spacing_mm) if axis != self.axis)
        return (second, first) if self.transposed else (first, second)


def choose_slice(
    reference: NDArray[np.integer], predicted: NDArray[np.integer], geometry: Geometry, *, oriented: bool
) -> Slice:
    """The slice with the most wrong voxels, or without errors that with most foreground, as radiologists look at it.

    It is cut across the axis of the largest spacing, where slices have the finest pixels (z among equals).

    Args:
        reference: (z, y, x).
        predicted: the same.
        geometry: of both.
        oriented: the geometry says how the patient lies.
    """
    axis = max(range(3), key=lambda number: (geometry.shape[number] == 1, geometry.spacing_mm[number], -number))
    others = tuple(number for number in range(3) if number != axis)
    wrong = np.count_nonzero(reference != predicted, axis=others)
    index = int(np.argmax(wrong if wrong.any() else np.count_nonzero(reference, axis=others)))
    if not oriented or geometry.dimension == 2:
        return Slice(axis, index)
    matrix = np.reshape(geometry.direction, (3, 3))
    order = max(itertools.permutations(range(3)), key=lambda way: sum(abs(matrix[way[i], i]) for i in range(3)))
    # For each array axis (z, y, x): which axis of the patient it runs along, and whether backwards.
    along = [(order[i], bool(matrix[order[i], i] < 0)) for i in (2, 1, 0)]
    (rows, rows_back), (columns, columns_back) = (along[number] for number in others)
    transposed = rows < columns
    if transposed:
        rows, rows_back, columns, columns_back = columns, columns_back, rows, rows_back
    upright = rows == 2  # the head is at the top, though the axis runs up and rows run down
    edges = _LETTERS[columns] + (_LETTERS[rows][::-1] if upright else _LETTERS[rows])
    return Slice(axis, index, transposed, (rows_back != upright, columns_back), edges, _PLANES[3 - rows - columns])


def overlay(
    image: NDArray[np.float32],
    reference: NDArray[np.integer],
    predicted: NDArray[np.integer],
    geometry: Geometry,
    names: Sequence[str],
    description: str,
    *,
    oriented: bool,
) -> tuple[list[Markup], str]:
    """A whole slice of a case, and the part of it around the structures with both outlines.

    Args:
        image: (z, y, x).
        reference: class indices 0..n, the same shape.
        predicted: the same.
        geometry: of all three.
        names: of the classes 1..n.
        description: for those who cannot see it.
        oriented: the geometry says how the patient lies.

    Returns:
        the two pictures, and which slice they show, in words.
    """
    at = choose_slice(reference, predicted, geometry, oriented=oriented)
    grey, maps = at.of(image), {"reference": at.of(reference), "predicted": at.of(predicted)}
    low, high = (float(value) for value in np.percentile(grey, (1, 99)))
    grey = (grey - low) * (255 / ((high - low) or 1.0))
    box = _around(maps["reference"] + maps["predicted"] > 0)
    part = box.to_slices()
    outlined = [
        (kind, f"{kind}: {name}", classes[part] == index)
        for kind, classes in maps.items()
        for index, name in enumerate(names, 1)
    ]
    # A picture without a spacing of its own has pixels, not millimetres.
    unit = "px" if geometry.dimension == 2 and set(geometry.spacing_mm) == {1.0} else "mm"
    pixel, frame = at.pixel(geometry.spacing_mm), None if box == Box.whole(grey.shape) else box
    whole = View(grey, pixel, frame=frame, edges=at.edges, unit=unit)
    close = View(grey[part], pixel, outlined, edges=at.edges, unit=unit)
    place = f"{'zyx'[at.axis]} = {at.index} of 0 to {image.shape[at.axis] - 1}"
    where = "" if image.shape[at.axis] == 1 else f"{at.plane} slice {place}".strip()
    return [
        picture(whole, f"{description}: {where} without outlines", room=200, most_pixels=320),
        picture(close, f"{description}: outlines of reference and prediction", room=300, most_pixels=400),
    ], where


def _around(mask: NDArray[np.bool_]) -> Box:
    """A box of twice the size of what the mask (rows, columns) holds, or everything where that is most of it."""
    box, whole = nonzero_box(mask), Box.whole(mask.shape)
    if box is None:
        return whole
    room = [max(size // 2, _CONTEXT) for size in box.shape]
    start = tuple(max(first - more, 0) for first, more in zip(box.start, room, strict=True))
    stop = tuple(min(last + more, size) for last, more, size in zip(box.stop, room, mask.shape, strict=True))
    found = Box(start, stop)
    return whole if math.prod(found.shape) > 0.6 * mask.size else found
