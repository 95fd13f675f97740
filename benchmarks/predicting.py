"""Rows: images to label maps, as commands, with the same weights; and a hundred classes in little memory."""

from __future__ import annotations

import subprocess
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from benchmarks.hippocampus import DATASET, PLANS, imported, test_images, trained, workspace, write_raw
from benchmarks.measuring import fresh
from benchmarks.outputs import label_maps
from benchmarks.peer import Trained
from benchmarks.row import BIN, PYTHON, Command, Row, Setting, Target

PEER = "nnU-Net v2"
EQUAL = 0.999
"""Of the foreground. nnU-Net adds tiles up in half precision; in single precision every voxel is equal
(docs/nnunet.md)."""
INT8_DICE = 0.95
"""Of each label, between eight bits and nnU-Net: less would be another model. The accuracy against references is
measured where the model is quantised."""
OURS, BY_TORCH = "voxfit", "voxfit, PyTorch"

CLASSES = 100
LIMIT = "4G"


def cases(setting: Setting) -> int:
    """How many small images."""
    return 2 if setting.quick else 20


@lru_cache
def offered(command: str, option: str) -> bool:
    """Whether `voxfit COMMAND` has an option."""
    said = subprocess.run([str(BIN / "voxfit"), command, "--help"], capture_output=True, text=True, check=False)
    return option in said.stdout


def our_lines(options: tuple[str, ...], images: Any, setting: Setting, output: Path) -> list[list[str]]:
    """`voxfit predict`."""
    model = setting.work / "bench" / "model"
    return [[*_predict(model, images(setting), output), "--device", setting.device, *options]]


def their_sequential(mirror: bool, setting: Setting, output: Path) -> list[list[str]]:
    """Its sequential API as a command: it starts no processes, which is its best for small images."""
    folder = _results(setting)
    line = [PYTHON, "-m", "benchmarks.sequential", str(folder), str(test_images(setting, cases(setting))), str(output)]
    return [[*line, setting.device, *(["mirror"] if mirror else [])]]


def their_command(setting: Setting, output: Path) -> list[list[str]]:
    """`nnUNetv2_predict` with its defaults, not mirrored."""
    folder = _results(setting)
    trainer, plans, configuration = folder.name.split("__")
    line = [str(BIN / "nnUNetv2_predict"), "-i", str(large_image(setting)), "-o", str(output)]
    line += ["-d", folder.parent.name, "-p", plans, "-c", configuration, "-tr", trainer, "-f", "0"]
    return [[*line, "-device", setting.device, "--disable_tta", "--disable_progress_bar"]]


def their_environment(setting: Setting, output: Path) -> dict[str, str]:
    """Its folders."""
    return workspace(setting).environment


def large_image(setting: Setting) -> Path:
    """A folder with one image of 160x256x256, made of a small one and its mirror images."""
    folder = setting.folder("images_large")
    path = folder / "large_0000.nii.gz"
    if not path.exists():
        _write_large(setting, path, (60, 84, 60) if setting.quick else (160, 256, 256))
    return folder


def ready(setting: Setting) -> None:
    """A trained network, and the same imported; the images."""
    trained(setting)
    imported(setting)
    test_images(setting, cases(setting))
    large_image(setting)


def ready_large(setting: Setting) -> None:
    """The same, and the INT8 form where there is one."""
    ready(setting)
    done = setting.work / "bench" / "quantized"
    if not missing_int8(setting) and not done.exists():
        model, labelled = setting.work / "bench" / "model", write_raw(setting)
        subprocess.run([str(BIN / "voxfit"), "quantize", str(model), str(labelled)], check=True)
        done.touch()


def missing_int8(setting: Setting) -> str | None:
    """Why there is no INT8 row."""
    if setting.device != "cpu":
        return "INT8 is for CPUs"
    return None if offered("predict", "--precision") else "voxfit predict has no --precision yet"


def check_small(setting: Setting, folder: Path) -> str:
    """Every image."""
    return _each_way(folder, (OURS, BY_TORCH))


def check_large(setting: Setting, folder: Path) -> str:
    """Every way."""
    said = _each_way(folder, ("exact", "exact, PyTorch"))
    if missing_int8(setting):
        return said
    return f"{said}; INT8: {label_maps(folder / 'INT8', folder / PEER, dice=INT8_DICE)}"


def _each_way(folder: Path, names: tuple[str, ...]) -> str:
    there = [name for name in names if (folder / name).is_dir()]
    return "; ".join(f"{name}: {label_maps(folder / name, folder / PEER, EQUAL)}" for name in there)


def missing_engine(setting: Setting) -> str | None:
    """Why PyTorch is no way of its own."""
    return "it is PyTorch anyway" if setting.device != "cpu" else None


def our_precision(device: str) -> str:
    """Of networks and sums."""
    return "float32" if device == "cpu" else "autocast to float16, sums float32"


def their_precision(device: str) -> str:
    """Of networks and sums."""
    return f"{'float32' if device == 'cpu' else 'autocast to float16'}, sums float16"


def ready_classes(setting: Setting) -> None:
    """A model of a hundred classes with a trivial network, an image of 512x512x600 at half its spacing, and a crop."""
    import numpy as np
    import SimpleITK as sitk

    folder = setting.folder("classes100")
    if not (folder / "model" / "model.json").exists():
        write_trivial_model(folder / "model", CLASSES)
    shape = (100, 96, 96) if setting.quick else (600, 512, 512)
    for name, part in (("whole", shape), ("crop", tuple(size // 3 for size in shape))):
        path = folder / f"{name}.nii.gz"
        if not path.exists():
            coarse = np.random.default_rng(0).normal(0, 100, [size // 8 + 1 for size in shape]).astype(np.int16)
            grown = coarse.repeat(8, 0).repeat(8, 1).repeat(8, 2)[tuple(map(slice, part))]
            image = sitk.GetImageFromArray(grown)
            image.SetSpacing((1.5, 1.5, 1.5))
            sitk.WriteImage(image, str(path), True, 1)


def missing_limit(setting: Setting) -> str | None:
    """Why memory cannot be bounded."""
    return None if offered("predict", "--max-memory") else "voxfit predict has no --max-memory yet"


def classes_lines(setting: Setting, output: Path) -> list[list[str]]:
    """Within the limit."""
    folder = setting.folder("classes100")
    return [[*_predict(folder / "model", folder / "whole.nii.gz", output), *_PLAIN, "--max-memory", LIMIT]]


def check_classes(setting: Setting, folder: Path) -> str:
    """A crop of the image, computed with and without a limit; and that the whole one has many labels."""
    import numpy as np
    import SimpleITK as sitk

    found = {}
    # A limit at which the crop, too, must be computed in parts: one pass of the network takes 1.1 GiB.
    for name, limit in (("limited", ["--max-memory", LIMIT if setting.quick else "1500M"]), ("unlimited", [])):
        output = fresh(folder / name)
        line = [*_predict(folder / "model", folder / "crop.nii.gz", output), *_PLAIN, *limit]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-300:] + done.stderr[-300:]
        found[name] = sitk.GetArrayFromImage(sitk.ReadImage(str(output / "crop.nii.gz")))
    different = int((found["limited"] != found["unlimited"]).sum())
    assert not different, f"{different} voxels of the crop differ"
    whole = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "voxfit" / "whole.nii.gz")))
    several = len(np.unique(whole))
    assert several > CLASSES // 4, f"only {several} labels occur"
    return f"a crop of {found['limited'].size} voxels equal with and without a limit; {several} labels occur"


def write_trivial_model(folder: Path, classes: int) -> Path:
    """A model folder whose network has two feature maps; random weights, but for the last layer.

    Args:
        folder: the new model.
        classes: of foreground.
    """
    import safetensors.torch
    import torch

    from voxfit.imaging.labels import Label, Labels
    from voxfit.inference.model_json import Member, ModelDescription
    from voxfit.networks.unet import build_network, inference_weights
    from voxfit.planning.grid import ClipAndScale
    from voxfit.planning.plan import Configuration, Plan

    configuration = Configuration(
        spacing=(3.0, 3.0, 3.0),
        median_shape=(256, 256, 300),
        patch_size=(96, 96, 96),
        batch_size=2,
        num_pool=(1, 1, 1),
        base_features=2,
        max_features=None,
        dice="batch",
        augmentation="3d",
    )
    plan = Plan(
        dataset="trivial",
        channel_names=("CT",),
        labels=Labels(classes=tuple(Label(name=f"class {value}", value=value) for value in range(1, classes + 1))),
        num_cases=1,
        normalization=(ClipAndScale(lower=-300.0, upper=300.0, mean=0.0, standard_deviation=100.0),),
        configurations={"3d": configuration},
    )
    folder.mkdir(parents=True, exist_ok=True)
    network = build_network(plan.topology("3d"), 0)
    head = network.get_submodule("head")
    assert isinstance(head, torch.nn.Conv3d)
    # Directions on a circle: every class is the largest for some pair of features.
    angles = torch.linspace(0, 2 * torch.pi, classes + 2)[:-1]
    with torch.no_grad():
        head.weight.copy_(torch.stack([angles.cos(), angles.sin()], dim=1).reshape(head.weight.shape))
    weights = inference_weights(network)
    (folder / "weights.safetensors").write_bytes(safetensors.torch.save(weights))
    ModelDescription(
        name="3d",
        plan=plan,
        members=(Member(configuration="3d", weights=("weights.safetensors",)),),
        cross_validated_dice=None,
        inputs_digest="",
        made_by="benchmarks",
    ).save(folder / "model.json")
    return folder


def _predict(model: Path, images: Path, output: Path) -> list[str]:
    return [str(BIN / "voxfit"), "predict", str(model), str(images), "-o", str(output)]


_PLAIN = ("--no-mirror", "--device", "cpu")


def _results(setting: Setting) -> Path:
    """Where `trained` left its network."""
    return Trained(workspace(setting), DATASET, PLANS, "3d_fullres").folder


def _write_large(setting: Setting, path: Path, shape: tuple[int, ...]) -> None:
    import numpy as np
    import SimpleITK as sitk

    source = sorted((setting.data / "Task04_Hippocampus" / "imagesTs").glob("*.nii.gz"))[0]
    small = sitk.GetArrayFromImage(sitk.ReadImage(str(source)))
    missing = [(0, max(size - edge, 0)) for size, edge in zip(shape, small.shape, strict=True)]
    grown = np.pad(small, missing, mode="symmetric")[tuple(map(slice, shape))]
    sitk.WriteImage(sitk.GetImageFromArray(grown), str(path))


def _small(setting: Setting) -> Path:
    return test_images(setting, cases(setting))


def _row20(name: str, title: str, mirror: bool, target: Target) -> Row:
    options = () if mirror else ("--no-mirror",)
    return Row(
        name=name,
        title=f"segment 20 Hippocampus cases as a command, {title}",
        ours=(
            Command(OURS, partial(our_lines, options, _small), target=target, precision=our_precision),
            Command(
                BY_TORCH,
                partial(our_lines, (*options, "--backend", "torch"), _small),
                missing=missing_engine,
                precision=our_precision,
            ),
        ),
        theirs=(Command(PEER, partial(their_sequential, mirror), their_environment, precision=their_precision),),
        check=check_small,
        ready=ready,
        warm=not mirror,
        devices=("cpu", "cuda"),
    )


ROWS = (
    _row20("predict20", "not mirrored", False, Target(speed=2)),
    _row20("predict20_mirrored", "mirrored", True, Target(speed=1.5)),
    Row(
        name="predict_large",
        title="segment one image of 160x256x256 as a command, not mirrored",
        ours=(
            Command(
                "exact",
                partial(our_lines, ("--no-mirror",), large_image),
                target=Target(speed=1.5, memory=1.5),
                precision=our_precision,
            ),
            Command(
                "exact, PyTorch",
                partial(our_lines, ("--no-mirror", "--backend", "torch"), large_image),
                missing=missing_engine,
                precision=our_precision,
            ),
            Command(
                "INT8",
                partial(our_lines, ("--no-mirror", "--precision", "int8", "--accept-loss"), large_image),
                target=Target(speed=4, memory=1.5),
                missing=missing_int8,
                precision=lambda device: "int8, sums float32",
            ),
        ),
        theirs=(Command(PEER, their_command, their_environment, precision=their_precision),),
        check=check_large,
        ready=ready_large,
        warm=False,
        devices=("cpu", "cuda"),
    ),
    Row(
        name="classes100",
        title="100 classes, one image of 600x512x512, a trivial network, as a command",
        ours=(Command("voxfit", classes_lines, target=Target(mib=4096), missing=missing_limit),),
        check=check_classes,
        ready=ready_classes,
        repeats=1,
        warm=False,
    ),
)
