"""Which store serves training best: random 128^3 boxes of a 1x256x512x512 float32 image, warm.

Run with the candidates installed: `pip install blosc2 zarr`, then `python benchmarks/store.py`. Prints Markdown;
docs/benchmarks.md holds what it said.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import blosc2
import numpy as np
import scipy.ndimage
import zarr
from numpy.typing import NDArray

SHAPE, EDGE, ROUNDS = (256, 512, 512), 128, 15
Read = Callable[[tuple[slice, ...]], NDArray[np.float32]]


def main() -> None:
    """Write the image in every format, read the same boxes alternately, print medians."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(size=[size // 8 for size in SHAPE])
    image = scipy.ndimage.zoom(coarse, 8, order=1).astype(np.float32) + rng.normal(0, 0.1, SHAPE).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        readers, lines = {}, {}
        for name, write in {"npy, memory map": npy, "blosc2": blosc, "zarr": zarr_array}.items():
            place = Path(folder) / name
            place.mkdir()
            begun = perf_counter()
            readers[name] = write(image, place)
            seconds = perf_counter() - begun
            size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
            lines[name] = f"{seconds:.2f} s | {size / 2**20:.0f} MiB"
        times: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(ROUNDS):
            start = [int(rng.integers(size - EDGE)) for size in SHAPE]
            box = tuple(slice(low, low + EDGE) for low in start)
            for name, read in readers.items():
                begun = perf_counter()
                part = read(box)
                times[name].append(perf_counter() - begun)
                assert np.array_equal(part, image[box])
    print("| store | box, median | written in | size |\n|---|---|---|---|")
    for name, values in times.items():
        print(f"| {name} | {1000 * statistics.median(values):.1f} ms | {lines[name]} |")


def npy(image: NDArray[np.float32], place: Path) -> Read:
    """NumPy's own file, mapped."""
    np.save(place / "image.npy", image)
    mapped = np.load(place / "image.npy", mmap_mode="r")
    return lambda box: np.array(mapped[box])


def blosc(image: NDArray[np.float32], place: Path) -> Read:
    """Blosc2 with chunks of 64x256x256 and blocks of 32x64x64."""
    array = blosc2.asarray(image, urlpath=str(place / "image.b2nd"), chunks=(64, 256, 256), blocks=(32, 64, 64))
    return lambda box: np.asarray(array[box])


def zarr_array(image: NDArray[np.float32], place: Path) -> Read:
    """Zarr 3 with chunks of 64^3."""
    array = zarr.create_array(place / "image.zarr", shape=image.shape, chunks=(64, 64, 64), dtype=image.dtype)
    array[:] = image
    return lambda box: np.asarray(array[box])


main()
