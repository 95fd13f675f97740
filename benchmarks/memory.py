"""Peak memory of check, fingerprint and preprocessing, which must not grow with the number of cases.

`python -m benchmarks.memory` writes synthetic datasets of volumes of 256x512x512 (int16, labels uint8) to a temporary
folder, prepares them with two workers, and prints a Markdown table. Memory is that of all processes of the command,
what they share counted once, looked at every half second.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.peer import measure

SHAPE = (256, 512, 512)


def main(arguments: list[str]) -> None:
    """Measure each command on a few cases and on many."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default="4,20", help="numbers of cases")
    options = parser.parse_args(arguments)
    voxfit = str(Path(sys.executable).parent / "voxfit")
    print("| command, 2 workers | cases | seconds | peak memory, MiB |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        files = write_volumes(Path(folder))
        for count in map(int, options.cases.split(",")):
            data = write_dataset(Path(folder) / f"data_{count}", files, count)
            run = Path(folder) / f"run_{count}"
            for name, line in {
                "check": [voxfit, "check", str(data), "--workers", "2"],
                "plan --prepare": [voxfit, "plan", str(data), "-o", str(run), "--prepare", "--workers", "2"],
            }.items():
                cost = measure([line], {})
                print(f"| {name} | {count} | {cost.seconds:.0f} | {cost.peak_mib:.0f} |", flush=True)


def write_volumes(folder: Path) -> list[tuple[Path, Path]]:
    """Two distinct images with their labels: noise on a coarse grid, and blocks of two classes."""
    import numpy as np
    import SimpleITK as sitk

    made = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        coarse = rng.normal(0, 300, [size // 8 for size in SHAPE]).astype(np.int16)
        label = np.zeros(SHAPE, np.uint8)
        label[64:128, 128:256, 128:256], label[128:160, 256:320, 256:320] = 1, 2
        image: Any = coarse.repeat(8, 0).repeat(8, 1).repeat(8, 2)
        paths = folder / f"image_{seed}.nii.gz", folder / f"label_{seed}.nii.gz"
        for path, array in zip(paths, (image, label), strict=True):
            volume = sitk.GetImageFromArray(array)
            volume.SetSpacing((0.8, 0.8, 1.5))
            sitk.WriteImage(volume, str(path), True, 1)
        made.append(paths)
    return made


def write_dataset(folder: Path, files: list[tuple[Path, Path]], count: int) -> Path:
    """A raw dataset of `count` cases, hard links to the two."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        image, label = files[number % len(files)]
        os.link(image, folder / "imagesTr" / f"case_{number:03}_0000.nii.gz")
        os.link(label, folder / "labelsTr" / f"case_{number:03}.nii.gz")
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "large": 1, "small": 2},
        "numTraining": count,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


if __name__ == "__main__":
    main(sys.argv[1:])
