"""Imported networks against nnU-Net v2 itself, where it is installed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from golden.inputs import COARSE, FLAT, ISOTROPIC, UNPOOLED, architecture
from voxfit.inference.model import Model
from voxfit.inference.model_json import ModelDescription
from voxfit.inference.torch_networks import load_network
from voxfit.interop.nnunet_model import import_nnunet
from voxfit.interop.nnunet_network import axis_order, read_stages, translate_weights
from voxfit.networks.unet import UNet
from voxfit.planning.architecture import Topology

# Its own warnings, while it is imported too, are not ours.
pytestmark = pytest.mark.filterwarnings("ignore")
pytest.importorskip("nnunetv2", exc_type=ImportError)
pytest.importorskip("dynamic_network_architectures", exc_type=ImportError)

NAME = "Dataset001_Test"


def peer_network(network: dict[str, Any], inputs: int, outputs: int) -> torch.nn.Module:
    """The real one; where nnU-Net starts at zero, weights are drawn too."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    torch.manual_seed(0)
    made: torch.nn.Module = get_network_from_plans(
        network["network_class_name"],
        network["arch_kwargs"],
        network["_kw_requires_import"],
        inputs,
        outputs,
        deep_supervision=False,
    )
    draw_vectors(made)
    return made.double().eval()


def draw_vectors(network: torch.nn.Module) -> None:
    """Biases and norms become random: nnU-Net starts them at 0 and 1."""
    for weight in network.parameters():
        if weight.ndim == 1:
            torch.nn.init.normal_(weight, mean=0.5)


@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("axes", "levels"),
    [
        ((1, 2), FLAT),
        ((0, 2), FLAT),
        ((2, 1), FLAT),
        ((1, 2), ISOTROPIC),
        ((0, 1, 2), ISOTROPIC),
        ((0, 1, 2), COARSE),
        ((1, 0, 2), COARSE),
        ((2, 0, 1), COARSE),
        ((1, 2, 0), UNPOOLED),
        ((2, 1, 0), UNPOOLED),
    ],
)
def test_the_network_says_the_same(kind: str, bias: bool, axes: tuple[int, ...], levels: dict[str, Any]) -> None:
    network = architecture(kind, len(axes), conv_bias=bias, **levels)
    peer = peer_network(network, 2, 3)
    stages = read_stages({"architecture": network}, axes)
    topology = Topology(in_channels=2, out_channels=3, **dict(stages))
    ours = UNet(topology).eval()
    ours.load_state_dict(translate_weights(peer.state_dict(), topology, axes))
    shape = [math.lcm(4, edge) * 2 for edge in stages.divisor]
    image = torch.randn(2, 2, *shape, dtype=torch.float64)
    order = axis_order(axes)
    turned = image.permute(0, 1, *(2 + int(place) for place in np.argsort(order)))
    with torch.inference_mode():
        # Where they are held in single precision, both hold the same numbers.
        found = ours.double()(image)
        expected = peer.float().double()(turned).permute(0, 1, *(2 + place for place in order))
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nnU-Net's three folders, with a described dataset: two channels, slices of 4 mm along x."""
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name / NAME).mkdir(parents=True)
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    monkeypatch.setenv("nnUNet_compile", "false")
    dataset = {
        "channel_names": {"0": "CT", "1": "T1"},
        "labels": {"background": 0, "organ": 1, "tumour": 2},
        "numTraining": 3,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "dataset": {"case": {"images": ["imagesTr/case_0000.nii.gz"], "label": "labelsTr/case.nii.gz"}},
    }
    properties = {"mean": 40.0, "std": 25.0, "percentile_00_5": -20.0, "percentile_99_5": 130.0}
    fingerprint = {
        "spacings": [[1.0, 1.0, 4.0], [1.1, 1.0, 4.0], [1.0, 1.0, 4.0]],
        "shapes_after_crop": [[40, 48, 14], [40, 44, 15], [44, 48, 13]],
        "foreground_intensity_properties_per_channel": {"0": properties, "1": properties},
        "median_relative_size_after_cropping": 0.5,
    }
    (tmp_path / "raw" / NAME / "dataset.json").write_text(json.dumps(dataset))
    (tmp_path / "preprocessed" / NAME / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    return tmp_path


def train(folders: Path, planner_name: str, configuration: str) -> Path:
    """What planning and an unfinished training of nnU-Net leave behind: its results folder."""
    from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner
    from nnunetv2.experiment_planning.experiment_planners.residual_unets import residual_encoder_unet_planners
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    module = default_experiment_planner if planner_name == "ExperimentPlanner" else residual_encoder_unet_planners
    planner = getattr(module, planner_name)(NAME)
    planner.UNet_base_num_features, planner.UNet_max_features_2d, planner.UNet_max_features_3d = 4, 12, 12
    plans = planner.plan_experiment()
    preprocessed = folders / "preprocessed" / NAME / plans["configurations"][configuration]["data_identifier"]
    preprocessed.mkdir()
    (preprocessed / "case.b2nd").touch()
    description = json.loads((folders / "preprocessed" / NAME / f"{plans['plans_name']}.json").read_text())
    dataset = json.loads((folders / "raw" / NAME / "dataset.json").read_text())
    for fold in (0, 1):
        torch.manual_seed(fold)
        trainer = nnUNetTrainer(
            description | {"continue_training": False}, configuration, fold, dataset, torch.device("cpu")
        )
        trainer.initialize()
        trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        draw_vectors(trainer.network)
        # As `on_validation_epoch_end` does, of counts per class.
        true, false = np.array([3.0, 4.0]), np.array([1.0, 0.0])
        dice = list(2 * true / (2 * true + false))
        trainer.logger.log("dice_per_class_or_region", dice, 0)
        trainer.logger.log("mean_fg_dice", np.nanmean(dice), 0)
        trainer.logger.log("train_losses", np.mean([np.float32(0.3)]), 0)
        trainer._best_ema = trainer.logger.get_value("ema_fg_dice", step=-1)
        trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    results = Path(trainer.output_folder_base)
    (results / "plans.json").write_text(json.dumps(trainer.plans_manager.plans))
    (results / "dataset.json").write_text(json.dumps(trainer.dataset_json))
    return results


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("planner", ["ExperimentPlanner", "nnUNetPlannerResEncM"])
def test_a_results_folder_becomes_a_model(folders: Path, planner: str, configuration: str) -> None:
    """Planned, built and saved by nnU-Net, opened by its predictor and by ours."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    results = train(folders, planner, configuration)
    output = import_nnunet(results, folders / "model")
    description = ModelDescription.load(output / "model.json")
    plan, member = description.plan, description.members[0]
    ours = plan.configurations[member.configuration]

    peer = nnUNetPredictor(device=torch.device("cpu"))
    peer.initialize_from_trained_model_folder(str(results), None)
    forward = peer.plans_manager.transpose_forward
    assert forward == [2, 0, 1]
    axes = forward[3 - ours.dimension :]
    assert tuple(sorted(axes[axis] for axis in peer.allowed_mirroring_axes)) == plan.inference.mirror_axes
    assert [ours.patch_box[axis] for axis in axes] == list(peer.configuration_manager.patch_size)
    assert [ours.spacing_mm[axis] for axis in axes] == list(peer.configuration_manager.spacing)
    assert plan.topology(member.configuration).out_channels == peer.label_manager.num_segmentation_heads

    volume = torch.randn(1, 2, *ours.patch_box, dtype=torch.float64)
    turned = volume.permute(0, 1, *(2 + axis for axis in forward))
    assert len(member.weights) == len(peer.list_of_parameters) == 2
    for file, weights in zip(member.weights, peer.list_of_parameters, strict=True):
        network = load_network(plan, member.configuration, output / file).double().eval()
        peer.network.load_state_dict(weights)
        peer.network.double().eval()
        with torch.inference_mode():
            if ours.slice_axis is None:
                found, expected = network(volume), peer.network(turned)
                expected = expected.permute(0, 1, *(2 + int(place) for place in np.argsort(forward)))
            else:
                found, expected = network(volume.squeeze(2 + ours.slice_axis)), peer.network(turned[:, :, 0])
        assert expected.std() > 0.1
        np.testing.assert_allclose(found, expected, atol=1e-9)
    assert set(Model.open(output, "cpu").predictors) == {member.configuration}
