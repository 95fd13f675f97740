"""Our planner of nnU-Net v2 against nnU-Net v2 itself, where it is installed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golden.fingerprints import NAMES, draw, ours
from voxfit.imaging.labels import Labels
from voxfit.planning.fingerprint import Fingerprint, load_fingerprint
from voxfit.planning.planners.nnunet_v2_networks import PRESETS, Preset, plan_networks

# Its own warnings, while it is imported too, are not ours.
pytestmark = pytest.mark.filterwarnings("ignore")
pytest.importorskip("nnunetv2", exc_type=ImportError)

NAME = "Dataset001_Test"


class Oracle:
    """The real planners, on folders of their own."""

    def __init__(self, folder: Path) -> None:
        self.raw, self.preprocessed = folder / "raw" / NAME, folder / "preprocessed" / NAME
        self.raw.mkdir(parents=True)
        self.preprocessed.mkdir(parents=True)

    def plans(self, fingerprint: Fingerprint, preset: Preset) -> dict[str, Any]:
        import torch
        from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner
        from nnunetv2.experiment_planning.experiment_planners.residual_unets import residual_encoder_unet_planners

        planner = {
            "nnunet-v2": default_experiment_planner.ExperimentPlanner,
            "nnunet-v2-resenc-m": residual_encoder_unet_planners.nnUNetPlannerResEncM,
            "nnunet-v2-resenc-l": residual_encoder_unet_planners.nnUNetPlannerResEncL,
            "nnunet-v2-resenc-xl": residual_encoder_unet_planners.nnUNetPlannerResEncXL,
        }[preset.name]
        for old in self.preprocessed.iterdir():
            old.unlink()
        (self.raw / "dataset.json").write_text(json.dumps(dataset_json(fingerprint)))
        (self.preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint_json(fingerprint)))
        # Its networks are only asked for the size of their feature maps: weights would take minutes.
        with torch.device("meta"):
            plans: dict[str, Any] = planner(NAME, gpu_memory_target_in_gb=preset.vram_gb).plan_experiment()
        return plans


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner

    folder = tmp_path_factory.mktemp("nnunet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_n_proc_DA", "1")
        patch.setattr(default_experiment_planner, "nnUNet_raw", str(folder / "raw"))
        patch.setattr(default_experiment_planner, "nnUNet_preprocessed", str(folder / "preprocessed"))
        yield Oracle(folder)


def dataset_json(fingerprint: Fingerprint) -> dict[str, Any]:
    return {
        "channel_names": {str(index): name for index, name in enumerate(fingerprint.channel_names)},
        "labels": labels_json(fingerprint.labels),
        "numTraining": len(fingerprint.cases),
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "dataset": {"case": {"images": ["imagesTr/case_0000.nii.gz"], "label": "labelsTr/case.nii.gz"}},
    }


def labels_json(labels: Labels) -> dict[str, Any]:
    entries: dict[str, Any] = {"background": 0}
    entries |= {region.name: list(region.values) for region in labels.regions} or {
        label.name: label.value for label in labels.classes
    }
    return entries | ({} if labels.ignore is None else {"ignore": labels.ignore})


def fingerprint_json(fingerprint: Fingerprint) -> dict[str, Any]:
    # Its readers put 2D images into the third dimension with a spacing that no image has.
    across = [999.0] if fingerprint.dimension == 2 else []
    return {
        "spacings": [[*across, *case.spacing_mm[len(across) :]] for case in fingerprint.cases],
        "shapes_after_crop": [list(case.shape) for case in fingerprint.cases],
        "foreground_intensity_properties_per_channel": {},
        "median_relative_size_after_cropping": 1.0,
    }


def as_numbers(values: Any) -> Any:
    """Tuples and arrays of NumPy's numbers as nested lists of Python's."""
    return np.asarray(values).tolist()


def theirs(configuration: dict[str, Any], residual: bool) -> dict[str, Any]:
    network = configuration["architecture"]["arch_kwargs"]
    return {
        "spacing": as_numbers(configuration["spacing"]),
        "median_shape": [round(size) for size in configuration["median_image_size_in_voxels"]],
        "patch_size": as_numbers(configuration["patch_size"]),
        "batch_size": configuration["batch_size"],
        "batch_dice": configuration["batch_dice"],
        "features": as_numbers(network["features_per_stage"]),
        "strides": as_numbers(network["strides"]),
        "kernels": as_numbers(network["kernel_sizes"]),
        "encoder_blocks": as_numbers(network["n_blocks_per_stage" if residual else "n_conv_per_stage"]),
        "decoder_blocks": as_numbers(network["n_conv_per_stage_decoder"]),
    }


def assert_same(oracle: Oracle, fingerprint: Fingerprint, preset: Preset) -> None:
    plans = oracle.plans(fingerprint, preset)
    rules = plan_networks(fingerprint, preset)
    configurations = plans["configurations"]
    assert set(rules) == {NAMES[name] for name in configurations}
    for name, configuration in configurations.items():
        rule = rules[NAMES[name]]
        assert rule.previous == NAMES.get(configuration.get("previous_stage", ""))
        inherited = configurations[configuration.get("inherits_from", name)]
        assert ours(rule, plans["transpose_forward"]) == theirs(inherited, preset.residual), name


@pytest.mark.parametrize(("dimension", "seeds"), [(2, range(8)), (3, range(8, 28))])
@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_the_plan_is_that_of_nnunet(oracle: Oracle, preset: Preset, dimension: int, seeds: range) -> None:
    for seed in seeds:
        assert_same(oracle, draw(seed, dimension), preset)


@pytest.mark.parametrize("vram_gb", [4, 11, 80])
@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_other_memory(oracle: Oracle, preset: Preset, vram_gb: float) -> None:
    for seed in range(40, 46):
        assert_same(oracle, draw(seed, 3), replace(preset, vram_gb=vram_gb))


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_the_decathlon(oracle: Oracle, shared_data: Path, preset: Preset) -> None:
    for path in sorted((shared_data / "fingerprints").glob("*.json")):
        assert_same(oracle, load_fingerprint(path), preset)
