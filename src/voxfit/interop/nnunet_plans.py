"""What nnU-Net v2 says of a trained model (`plans.json`, `dataset.json`) as our plan.

nnU-Net turns the axes of every case by `transpose_forward`, and all that its plans say is in turned order. Here it is
turned back to (z, y, x). Only what our preparation, network and inference do in the same way is taken; the rest is
refused by name. Source: nnU-Net v2.0 to v2.8, dynamic_network_architectures 0.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import AliasChoices, Field, ValidationError

from voxfit.core.errors import ModelError, RecordError
from voxfit.core.records import explain, read_json
from voxfit.imaging.labels import Labels
from voxfit.interop.nnunet_network import Foreign, each_axis, expect, read_stages
from voxfit.planning.grid import ClipAndScale, Divide, Normalization, Preparation, UnitRange, ZScore
from voxfit.planning.plan import Configuration, ConfigurationName, Inference, Plan

FileKind = TypeVar("FileKind", bound=Foreign)

_READERS = ("SimpleITKIO", "NibabelIO", "NaturalImage2DIO", "Tiff3DIO")
"""All of nnU-Net's but `NibabelIOWithReorient`, which turns images to RAS before the network sees them."""

_RESAMPLING = {
    "is_seg": False,
    "order": 3,
    "order_z": 0,
    "force_separate_z": False,
    "separate_z_anisotropy_threshold": 3,
}
"""What the arguments of `resample_data_or_seg_to_shape` are where plans do not name them."""

_RESAMPLED = {"data": (False, 3), "seg": (True, 1), "probabilities": (False, 1)}
"""For each kind of volume, whether it is a segmentation, and the order of the spline."""


@dataclass(frozen=True)
class ImportedConfiguration:
    """One configuration of nnU-Net in our terms.

    Attributes:
        name: ours.
        plan: has this configuration only, without its previous stage.
        previous: nnU-Net's name of the configuration whose segmentation is extra input.
        axes: the one of (z, y, x) behind each spatial axis of nnU-Net's network.
    """

    name: ConfigurationName
    plan: Plan
    previous: str | None
    axes: tuple[int, ...]


class _Dataset(Foreign):
    """`dataset.json`."""

    channel_names: dict[str, str] = Field(validation_alias=AliasChoices("channel_names", "modality"))
    labels: dict[str, Any]
    regions_class_order: list[int] | None = None
    num_training: int = Field(1, validation_alias="numTraining")


class _Plans(Foreign):
    """`plans.json`."""

    dataset_name: str
    transpose_forward: list[int]
    image_reader_writer: str = _READERS[0]
    label_manager: str = "LabelManager"
    configurations: dict[str, dict[str, Any]]
    intensities: dict[str, Any] = Field(
        default_factory=dict,
        validation_alias=AliasChoices(
            "foreground_intensity_properties_per_channel", "foreground_intensity_properties_by_modality"
        ),
    )


class _Configuration(Foreign):
    """What `plans.json` says of one configuration, except its network."""

    preprocessor_name: str
    spacing: list[float]
    median_image_size_in_voxels: list[float]
    patch_size: list[int]
    batch_size: int
    batch_dice: bool = False
    normalization_schemes: list[str]
    use_mask_for_norm: list[bool | None]
    resampling_fn_data: str
    resampling_fn_data_kwargs: dict[str, Any]
    resampling_fn_seg: str
    resampling_fn_seg_kwargs: dict[str, Any]
    resampling_fn_probabilities: str
    resampling_fn_probabilities_kwargs: dict[str, Any]
    previous_stage: str | None = None


class _Intensities(Foreign):
    """Of the foreground of one CT channel in all training cases."""

    mean: float
    std: float
    percentile_00_5: float
    percentile_99_5: float


def read_part(folder: Path, name: str, mirror_axes: Sequence[int]) -> ImportedConfiguration:
    """Read the plans of a results folder.

    Args:
        folder: has `plans.json` and `dataset.json`.
        name: nnU-Net's name of the configuration, "3d_fullres".
        mirror_axes: of the network's axes, along which nnU-Net mirrors predictions.

    Raises:
        ModelError: they are missing or damaged, or hold what voxfit does not do as nnU-Net does it.
    """
    plans, dataset = _read(folder / "plans.json", _Plans), _read(folder / "dataset.json", _Dataset)
    try:
        labels = Labels.from_description(dataset.labels, dataset.regions_class_order)
    except ValueError as error:
        raise ModelError(f"{folder / 'dataset.json'}: {error}") from None
    try:
        return _translate(plans, dataset, labels, name, mirror_axes)
    except ValidationError as error:
        reason = explain(error)
    except ValueError as error:
        reason = str(error)
    raise ModelError(f"{folder / 'plans.json'}: {name}: {reason}. Use nnU-Net itself for this model.")


def combine(folder: Path, low: ImportedConfiguration, cascade: ImportedConfiguration) -> Plan:
    """The plan of a cascade.

    Raises:
        ModelError: the two stages differ where they must not; it names `folder`.
    """
    reason = ""
    if low.previous or low.plan.configurations[low.name].dimension != 3:
        reason = "its first stage is itself a cascade, or 2D"
    keys = [key for key in Plan.model_fields if key != "configurations"]
    if differing := [key for key in keys if getattr(low.plan, key) != getattr(cascade.plan, key)]:
        reason = f"its first stage has a different {' and '.join(differing)}"
    if reason:
        raise ModelError(f"{folder}: {reason}, so it cannot be imported. Use nnU-Net itself.")
    fine = cascade.plan.configurations[cascade.name].revised(previous="3d_lowres")
    stages = {"3d_lowres": low.plan.configurations[low.name], "3d_cascade": fine}
    return low.plan.revised(configurations=stages)


def _read(path: Path, kind: type[FileKind]) -> FileKind:
    try:
        return kind.model_validate(read_json(path))
    except RecordError as error:
        raise ModelError(str(error)) from None
    except ValidationError as error:
        raise ModelError(f"{path}: {explain(error)}. Restore the file from nnU-Net's results.") from None


def _translate(
    plans: _Plans, dataset: _Dataset, labels: Labels, name: str, mirror_axes: Sequence[int]
) -> ImportedConfiguration:
    if sorted(plans.transpose_forward) != [0, 1, 2]:
        raise ValueError(f"transpose_forward is {plans.transpose_forward}")
    expect("image_reader_writer", plans.image_reader_writer, *_READERS)
    expect("label_manager", plans.label_manager, "LabelManager")
    merged = _inherited(plans.configurations, name)
    found = _Configuration.model_validate(merged)
    expect("preprocessor_name", found.preprocessor_name, "DefaultPreprocessor")
    _check_resampling(found)
    # A 2D network sees slices along the first of the turned axes.
    axes = tuple(plans.transpose_forward[3 - len(found.patch_size) :])
    if any(axis >= len(axes) for axis in mirror_axes):
        raise ValueError(f"its network has {len(axes)} axes, but is mirrored along {list(mirror_axes)}")
    channels = sorted(dataset.channel_names.items(), key=lambda item: int(item[0]) if item[0].isdecimal() else 0)
    ours = _name(name, found)
    plan = Plan(
        dataset=plans.dataset_name,
        channel_names=tuple(channel for _, channel in channels),
        labels=labels,
        num_cases=max(dataset.num_training, 1),
        normalization=_normalization(found, plans.intensities),
        preparation=Preparation(first="normalize", coarse_axis_ratio=3.0, labels="linear"),
        inference=Inference(
            average_over="logits",
            gaussian_center="shifted",
            mirror_axes=tuple(sorted(axes[axis] for axis in mirror_axes)),
            cascade_input="segmentation",
        ),
        configurations={ours: _configuration(found, merged, axes, plans.transpose_forward[0])},
    )
    return ImportedConfiguration(ours, plan, found.previous_stage, axes)


def _inherited(configurations: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """A configuration with what it inherits from others."""
    merged: dict[str, Any] = {}
    seen: list[str] = []
    following: Any = name
    while following is not None:
        if not isinstance(following, str) or following not in configurations or following in seen:
            raise ValueError(f"configuration {following!r} is missing, or inherits from itself")
        seen.append(following)
        merged = configurations[following] | merged
        following = configurations[following].get("inherits_from")
    return merged


def _name(name: str, found: _Configuration) -> ConfigurationName:
    """Ours: users of nnU-Net name variants as they like, `3d_fullres_bs8`."""
    if found.previous_stage:
        return "3d_cascade"
    if len(found.patch_size) == 2:
        return "2d"
    return "3d_lowres" if "lowres" in name else "3d"


def _check_resampling(found: _Configuration) -> None:
    for kind, (is_segmentation, order) in _RESAMPLED.items():
        key = f"resampling_fn_{kind}"
        expect(key, getattr(found, key), "resample_data_or_seg_to_shape")
        wanted = _RESAMPLING | {"is_seg": is_segmentation, "order": order, "force_separate_z": None}
        expect(f"{key}_kwargs", _RESAMPLING | getattr(found, f"{key}_kwargs"), wanted)


def _normalization(found: _Configuration, intensities: dict[str, Any]) -> tuple[Normalization, ...]:
    if len(found.normalization_schemes) != len(found.use_mask_for_norm):
        raise ValueError("normalization_schemes and use_mask_for_norm are not of the same length")
    rules: list[Normalization] = []
    for number, scheme in enumerate(found.normalization_schemes):
        match scheme:
            case "ZScoreNormalization":
                rules.append(ZScore(inside_mask=bool(found.use_mask_for_norm[number])))
            case "CTNormalization":
                rules.append(_clip_and_scale(_Intensities.model_validate(intensities.get(str(number)))))
            case "NoNormalization":
                rules.append(Divide(by=1.0))
            case "RescaleTo01Normalization":
                rules.append(UnitRange())
            case "RGBTo01Normalization":
                rules.append(Divide(by=255.0))
            case _:
                raise ValueError(f"normalization_schemes has {scheme!r}, which is none of nnU-Net's own")
    return tuple(rules)


def _clip_and_scale(found: _Intensities) -> ClipAndScale:
    return ClipAndScale(
        lower=found.percentile_00_5,
        upper=found.percentile_99_5,
        mean=found.mean,
        standard_deviation=max(found.std, 1e-8),
    )


def _configuration(
    found: _Configuration, merged: dict[str, Any], axes: Sequence[int], slice_axis: int
) -> Configuration:
    """Ours, with axes in (z, y, x) order."""
    stages, dimension = read_stages(merged, axes), len(axes)
    # The poolings that our record asks for; strides themselves may have other factors too.
    halvings = tuple((edge & -edge).bit_length() - 1 for edge in stages.divisor)
    patch = each_axis("patch_size", found.patch_size, axes)
    if any(edge % factor for edge, factor in zip(patch, stages.divisor, strict=True)):
        raise ValueError(f"patch_size is {found.patch_size}, which its strides do not divide")
    median = each_axis("median_image_size_in_voxels", found.median_image_size_in_voxels, axes)
    return Configuration(
        spacing=each_axis("spacing", found.spacing, axes),
        median_shape=tuple(max(round(edge), 1) for edge in median),
        patch_size=patch,
        batch_size=found.batch_size,
        num_pool=halvings,
        base_features=stages.features[0],
        max_features=max(stages.features),
        pooling="strided",
        dice="batch" if found.batch_dice else "sample",
        augmentation="2d" if dimension == 2 else "3d",
        slice_axis=slice_axis if dimension == 2 else None,
        stages=stages,
    )
