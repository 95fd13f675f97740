"""Rows: from image files to what training reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.hippocampus import workspace, write_raw
from benchmarks.outputs import array, within
from benchmarks.resampling import double
from benchmarks.row import BIN, Command, Kernel, Row, Setting, Target

DATASET = "Dataset060_Hippocampus"
WORKERS = 2
TOLERANCE = 1e-4
"""Of the range. nnU-Net resamples in double precision, ours in single; networks compute in half."""


def cases(setting: Setting) -> int:
    """How many are prepared."""
    return 6 if setting.quick else 60


def dataset(setting: Setting) -> str:
    """nnU-Net's name."""
    return DATASET.replace("060", "906") if setting.quick else DATASET


def ready(setting: Setting) -> None:
    """The raw dataset."""
    write_raw(setting, dataset(setting), cases(setting))


def our_lines(setting: Setting, output: Path) -> list[list[str]]:
    """Check, measure, plan by nnU-Net v2's rules, and fill the stores of both models."""
    raw = setting.work / "raw" / dataset(setting)
    voxfit = str(BIN / "voxfit")
    return [[voxfit, "plan", str(raw), "-o", str(output / "run"), "--recipe", "nnunet-v2", "--prepare"]]


def their_lines(setting: Setting, output: Path) -> list[list[str]]:
    """nnU-Net's command."""
    number = str(int(dataset(setting)[7:10]))
    line = [str(BIN / "nnUNetv2_plan_and_preprocess"), "-d", number, "--verify_dataset_integrity"]
    line += ["-c", "2d", "3d_fullres", "-np", str(WORKERS), str(WORKERS), "-npfp", str(WORKERS), "--no_pbar"]
    return [line]


def their_environment(setting: Setting, output: Path) -> dict[str, str]:
    """It writes into its output folder, anew each time."""
    return workspace(setting).environment | {"nnUNet_preprocessed": str(output), "nnUNet_n_proc_DA": "1"}


def check(setting: Setting, folder: Path) -> str:
    """Every voxel of every case in 3D."""
    import blosc2
    import numpy as np

    theirs = sorted((folder / "nnU-Net v2" / dataset(setting) / "nnUNetPlans_3d_fullres").glob("*[0-9].b2nd"))
    store = folder / "voxfit" / "run" / "store" / "1x1x1"
    assert len(theirs) == cases(setting), f"nnU-Net prepared {len(theirs)} cases"
    largest, different, voxels = 0.0, 0, 0
    for path in theirs:
        name = path.name.split(".")[0]
        image, label = (
            blosc2.open(urlpath=str(path), mode="r")[:],
            blosc2.open(urlpath=str(path.with_name(f"{name}_seg.b2nd")), mode="r")[:],
        )
        ours = np.load(store / f"{name}.image.npy")
        assert ours.shape == image.shape, f"{name}: shapes {ours.shape} and {image.shape}"
        largest = max(largest, float(np.abs(ours - image).max() / np.ptp(image)))
        different += int((np.load(store / f"{name}.label.npy") != label[0]).sum())
        voxels += label.size
    assert largest <= TOLERANCE, f"images differ by {largest:.1e} of their range"
    assert not different, f"{different} label voxels differ"
    return f"3D images within {largest:.0e} of the range (tolerance {TOLERANCE:g}), {voxels} label voxels equal"


def ct(setting: Setting) -> tuple[Path, Path]:
    """Image and label, 78x512x512; quick: 26x166x164."""
    name = "spleen_2" if setting.quick else "chaos_ct_001"
    folder = setting.data / "ct_cases"
    return folder / f"{name}_image.nii.gz", folder / f"{name}_label.nii.gz"


CT = {"mean": 60.0, "std": 50.0, "percentile_00_5": -100.0, "percentile_99_5": 220.0}


def our_ct(setting: Setting) -> Callable[[], Any]:
    """Read and prepare, in nnU-Net v2's way."""
    import numpy as np

    from voxfit.imaging.volume import read_image, read_label
    from voxfit.planning.grid import ClipAndScale, Grid, Preparation
    from voxfit.preprocessing.case import prepare

    rule = ClipAndScale(
        lower=CT["percentile_00_5"],
        upper=CT["percentile_99_5"],
        mean=CT["mean"],
        standard_deviation=CT["std"],
    )
    way = Preparation(first="normalize", coarse_axis_ratio=3.0, labels="linear")
    grid = Grid(spacing_mm=(1.0, 1.0, 1.0), normalization=(rule,), preparation=way)
    image, label = ct(setting)
    return lambda: _stacked(prepare(read_image(image), grid, read_label(label).array.astype(np.int16)))


def their_ct(setting: Setting) -> Callable[[], Any]:
    """Its preprocessor, from the same files."""
    import numpy as np

    workspace(setting)
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    preprocessor, plans = DefaultPreprocessor(verbose=False), their_plans()
    image, label = map(str, ct(setting))
    description = {"labels": {"background": 0, "organ": 1}, "file_ending": ".nii.gz"}

    def run() -> Any:
        data, seg, _ = preprocessor.run_case([image], label, plans, plans.get_configuration("it"), description)
        return np.stack([data[0], seg[0]])

    return run


def their_plans() -> Any:
    """Plans without a folder: 1 mm, its defaults."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    configuration: dict[str, Any] = {
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "architecture": {},
    }
    for kind, (is_seg, order) in {"data": (False, 3), "seg": (True, 1), "probabilities": (False, 1)}.items():
        configuration[f"resampling_fn_{kind}"] = "resample_data_or_seg_to_shape"
        arguments = {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None}
        configuration[f"resampling_fn_{kind}_kwargs"] = arguments
    return PlansManager(
        {
            "transpose_forward": [0, 1, 2],
            "configurations": {"it": configuration},
            "label_manager": "LabelManager",
            "image_reader_writer": "SimpleITKIO",
            "foreground_intensity_properties_per_channel": {"0": CT},
        }
    )


def check_ct(setting: Setting, folder: Path) -> str:
    """Image and label."""
    ours, theirs = array(folder, "voxfit"), array(folder, "nnU-Net v2")
    assert ours.shape == theirs.shape, f"shapes {ours.shape[1:]} and {theirs.shape[1:]}"
    different = int((ours[1] != theirs[1]).sum())
    assert not different, f"{different} label voxels differ"
    return within(ours[0], theirs[0], TOLERANCE, "image") + ", labels equal"


def _stacked(case: Any) -> Any:
    import numpy as np

    return np.stack([case.image[0], case.label])


ROWS = (
    Row(
        name="preprocess60",
        title="check, plan and prepare 60 Hippocampus cases, 2D and 3D, commands; nnU-Net with 2 processes",
        ours=(Command("voxfit", our_lines, target=Target(speed=10)),),
        theirs=(Command("nnU-Net v2", their_lines, their_environment, precision=double),),
        check=check,
        ready=ready,
        threads=1,
    ),
    Row(
        name="ct_preprocess",
        title="read and prepare one CT of 78x512x512 at 1 mm, with its label",
        ours=(Kernel("voxfit", our_ct, Target(speed=10)),),
        theirs=(Kernel("nnU-Net v2", their_ct, precision=double),),
        check=check_ct,
    ),
)
