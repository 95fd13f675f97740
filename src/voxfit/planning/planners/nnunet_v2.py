"""Plans of nnU-Net v2's planners: its networks (`nnunet_v2_networks`), and how it prepares cases and predicts."""

from __future__ import annotations

from typing import cast

from voxfit.planning.architecture import Stages
from voxfit.planning.fingerprint import Fingerprint
from voxfit.planning.grid import Divide, Normalization, Preparation, UnitRange, ZScore
from voxfit.planning.plan import Configuration, ConfigurationName, Inference, Limits, Plan
from voxfit.planning.planners.nnunet_v2_networks import ANISOTROPY, NetworkRule, Preset, divisor, plan_networks
from voxfit.planning.planners.paper import MASK_SHARE, normalization_of, plan_with

PREPARATION = Preparation(first="normalize", coarse_axis_ratio=ANISOTROPY, labels="linear")
INFERENCE = Inference(average_over="logits", gaussian_center="shifted", cascade_input="segmentation")


def plan_nnunet_v2(preset: Preset, fingerprint: Fingerprint, limits: Limits) -> Plan:
    """Plan every configuration that a planner of nnU-Net v2 offers.

    Args:
        preset: the planner, one of `PRESETS`.
        fingerprint: the measured facts.
        limits: kept in the plan; these rules have their own constants.
    """
    configurations = {
        cast(ConfigurationName, name): _configuration(rule, preset, fingerprint)
        for name, rule in plan_networks(fingerprint, preset).items()
    }
    plan = plan_with(fingerprint, limits, _normalization(fingerprint), configurations)
    return plan.revised(preparation=PREPARATION, inference=INFERENCE)


def _configuration(rule: NetworkRule, preset: Preset, fingerprint: Fingerprint) -> Configuration:
    axis = rule.slice_axis
    spacing = tuple(size for number, size in enumerate(rule.spacing_mm) if number != axis)
    # Slices of a coarse axis are transformed one by one where the patch is much shorter along it.
    coarse = max(range(len(spacing)), key=lambda number: (spacing[number], -number))
    slices = axis is None and max(rule.patch_size) > ANISOTROPY * rule.patch_size[coarse]
    return Configuration(
        spacing=spacing,
        median_shape=rule.median_shape,
        patch_size=rule.patch_size,
        batch_size=rule.batch_size,
        num_pool=tuple(step.bit_length() - 1 for step in divisor(rule.strides)),
        base_features=rule.features[0],
        max_features=max(rule.features),
        pooling="strided",
        dice="batch" if rule.batch_dice else "sample",
        augmentation="2d" if axis is not None else "2d_slices" if slices else "3d",
        slice_axis=axis,
        stages=Stages(
            features=rule.features,
            strides=rule.strides,
            kernels=rule.kernels,
            encoder_blocks=rule.encoder_blocks,
            decoder_blocks=rule.decoder_blocks,
            block="residual" if rule.residual else "plain",
            downsampling="strided",
            bias=True,
        ),
        previous=cast("ConfigurationName | None", rule.previous),
        why=_why(rule, preset, fingerprint),
    )


def _why(rule: NetworkRule, preset: Preset, fingerprint: Fingerprint) -> dict[str, str]:
    across = "" if rule.slice_axis is None else f"; slices along {'zyx'[rule.slice_axis]} keep their own spacing"
    share = f"{preset.dataset_share:.0%} of the dataset's voxels"
    reasons = {
        "spacing": f"median of {len(fingerprint.cases)} cases, finer where one axis is coarse and short{across}",
        "patch_size": f"the proportions of the median case, as large as {preset.vram_gb:g} GB allow by {preset.name}",
        "batch_size": f"what {preset.vram_gb:g} GB hold, at most {share}, at least {preset.min_batch_size}",
        "num_pool": "halved while at least 8 voxels long; coarse axes wait for the fine ones",
        "dice": "over the batch: a patch is a small part of a patient"
        if rule.batch_dice
        else "of each sample: a patch covers most of a patient",
    }
    if rule.previous:
        reasons["previous"] = f"refines the segmentation of {rule.previous}, given as extra channels"
    return reasons


def _normalization(fingerprint: Fingerprint) -> tuple[Normalization, ...]:
    """By the channel's name, as nnU-Net v2 reads it; the paper's rule for all other names."""
    masked = fingerprint.size_after_cropping() < MASK_SHARE
    special: dict[str, Normalization] = {
        "nonorm": Divide(by=1.0),
        "rescale_to_0_1": UnitRange(),
        "rgb_to_0_1": Divide(by=255.0),
        "zscore": ZScore(inside_mask=masked),
    }
    return tuple(
        special.get(name.casefold(), rule)
        for name, rule in zip(fingerprint.channel_names, normalization_of(fingerprint), strict=True)
    )
