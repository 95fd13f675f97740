"""Where a fault is provoked: a small dataset, a model, and the command line in this process."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nibabel as nib
import numpy as np
import safetensors.torch
import SimpleITK as sitk
from numpy.typing import NDArray

from builders.steps import begin
from voxfit import cli
from voxfit.core.records import checksum_of
from voxfit.inference.caveats import ranges_of
from voxfit.inference.model_json import Member, ModelDescription
from voxfit.networks.unet import build_network
from voxfit.planning.plan import Limits
from voxfit.running.request import FitRequest

Array = NDArray[Any]


@dataclass(frozen=True)
class Seen:
    """How a command ended: its exit code, and the lines that are errors, warnings or news of a correction."""

    code: int
    lines: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Place:
    """A folder with `data` (an nnU-Net v2 dataset of five volumes) and `model`."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def model(self) -> Path:
        return self.root / "model"

    def image(self, number: int = 0) -> Path:
        return self.data / "imagesTr" / f"box_{number:02}_0000.nii.gz"

    def label(self, number: int = 0) -> Path:
        return self.data / "labelsTr" / f"box_{number:02}.nii.gz"

    def describe(self, **changes: Any) -> None:
        """Replace keys of dataset.json; `...` removes one."""
        self.edit(self.data / "dataset.json", lambda body: body.update(changes))

    def edit(self, path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
        body = json.loads(path.read_text())
        change(body)
        path.write_text(json.dumps({key: value for key, value in body.items() if value is not ...}))

    def voxels(self, path: Path, change: Callable[[Array], Array | None], kind: type = np.float32) -> None:
        """Write an image again with other voxels, by nibabel: SimpleITK would not write all that is needed here."""
        old = sitk.ReadImage(str(path))
        array = sitk.GetArrayFromImage(old).astype(kind)
        changed = change(array)
        array = array if changed is None else changed
        image = nib.Nifti1Image(array.transpose(), None)
        affine = np.diag([-1, -1, 1, 1]) @ np.block(
            [[np.diag(old.GetSpacing()), np.array(old.GetOrigin())[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]]
        )
        image.set_sform(affine, 1)
        image.set_qform(affine, 1)
        image.header.set_zooms((*old.GetSpacing(), *(1,) * (array.ndim - 3))[: array.ndim])
        nib.save(image, path)

    def header(self, path: Path, change: Callable[[sitk.Image], Any]) -> None:
        """Write an image again with another header."""
        image = sitk.ReadImage(str(path))
        change(image)
        sitk.WriteImage(image, str(path))

    def bytes_at(self, path: Path, position: int, content: bytes) -> None:
        """Overwrite bytes of a file, or of what is compressed in it."""
        packed = path.name.endswith(".gz")
        body = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
        body[position : position + len(content)] = content
        path.write_bytes(gzip.compress(bytes(body), 1) if packed else bytes(body))

    def as_format(self, ending: str, *, pack: bool = False) -> Path:
        """The same dataset in another format; returns its first image."""
        for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
            for path in sorted((self.data / folder).iterdir()):
                image = sitk.ReadImage(str(path))
                if ending in (".png", ".bmp"):
                    image = sitk.Cast(image[:, :, 10], sitk.sitkUInt8)
                sitk.WriteImage(image, str(path).removesuffix(".nii.gz") + ending, useCompression=pack)
                path.unlink()
        self.describe(file_ending=ending)
        return self.data / "imagesTr" / f"box_00_0000{ending}"

    def in_msd_form(self) -> None:
        """List the cases in dataset.json, as the Decathlon does."""
        names = [f"box_{number:02}" for number in range(5)]
        for name in names:
            (self.data / "imagesTr" / f"{name}_0000.nii.gz").rename(self.data / "imagesTr" / f"{name}.nii.gz")
        listed = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
        self.describe(training=listed)

    def plan(self, change: Callable[[dict[str, Any]], Any]) -> list[str]:
        """Plan into `run`, edit the plan; the command that goes on from there."""
        limits = ["--limit", "voxel_budget=4096", "--limit", "plane_voxels=2048", "--limit", "base_features=4"]
        assert run_voxfit(["plan", str(self.data), "-o", str(self.root / "run"), "--workers", "1", *limits])[0] == 0
        self.edit(self.root / "run" / "plan.json", change)
        return self.fit()

    def check(self, *more: str) -> list[str]:
        return ["check", str(self.data), "--workers", "1", *more]

    def fit(self, *more: str) -> list[str]:
        return ["fit", str(self.data), "-o", str(self.root / "run"), "--epochs", "1", "--workers", "1", *more]

    def predict(self, *images: Path) -> list[str]:
        names = [str(image) for image in images or (self.data / "imagesTs",)]
        return ["predict", str(self.model), *names, "-o", str(self.root / "out"), "--device", "cpu"]

    def see(self, arguments: list[str]) -> Seen:
        """Run a command; paths in what it says are replaced by placeholders."""
        code, output = run_voxfit(arguments)
        for path, name in ((self.data, "DATA"), (self.model, "MODEL"), (self.root, "FOLDER")):
            output = output.replace(str(path.resolve()), name).replace(str(path), name)
        output = re.sub(r"\d+ voxels take \d+ GiB", "... voxels take ... GiB", output)
        output = re.sub(r"this machine has \d+ GiB", "this machine has ... GiB", output)
        said = "stored along other axes|has the image's header now|labels? were corrected"
        kept = re.compile(rf"^(error|warning):|^Nothing to fix|{said}|^Usage")
        lines = tuple(line.strip() for line in output.splitlines() if kept.search(line.strip()))
        return Seen(code, lines, output)


def run_voxfit(arguments: list[str]) -> tuple[int, str]:
    """The command line with all of its frame: exit code and what was printed."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    said = io.StringIO()
    try:
        with (
            patch.object(sys, "argv", ["voxfit", *arguments]),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            cli.main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return code, said.getvalue()


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Root may write everywhere; nobody may not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def make_model(data: Path, run: Path, folder: Path) -> None:
    """A model folder with two folds of a 2D and a 3D network that nobody trained."""
    limits = Limits(voxel_budget=4096, plane_voxels=2048, base_features=4)
    made = begin(FitRequest(data, run, limits=limits, workers=1))
    plan, cases = made.plan, made.fingerprint.cases
    (folder / "weights").mkdir(parents=True)
    members = []
    for name in ("2d", "3d"):
        files = [f"weights/{name}_fold_{fold}.safetensors" for fold in range(2)]
        for fold, file in enumerate(files):
            network = build_network(plan.topology(name), seed=fold)
            safetensors.torch.save_file(network.state_dict(), folder / file)
        sums = tuple(checksum_of(folder / file) for file in files)
        members.append(Member(configuration=name, weights=tuple(files), checksums=sums))
    ModelDescription(
        name="2d+3d",
        plan=plan,
        members=tuple(members),
        cross_validated_dice=None,
        inputs_digest="",
        made_by="a test",
        trained_on=ranges_of([(case.uncropped_shape, case.spacing_mm) for case in cases]),
    ).save(folder / "model.json")
