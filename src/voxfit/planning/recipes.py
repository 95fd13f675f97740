"""Recipes: how every model is trained, whatever the dataset.

The default is the paper's (method.md [T1]-[T8]); `recipe_named` gives those of nnU-Net v2, too.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)
from typing_extensions import Self

from voxfit.core.records import Record
from voxfit.planning.architecture import UNET
from voxfit.planning.plan import PAPER
from voxfit.planning.planners import PLANNERS
from voxfit.planning.planners.nnunet_v2_networks import PRESETS

DICE_CROSS_ENTROPY = "dice_cross_entropy"

FEW_STEPS = 300
"""Trainings with fewer steps are reported as short. A choice: the shortest training in docs/benchmarks.md had 614."""

Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]


class Plateau(Record):
    """The paper's schedule (method.md [T4]): a drop on a plateau of the training loss, an end on one of validation.

    Attributes:
        learning_rate: the first one.
        factor: of the learning rate at a plateau.
        patience, stop_patience: epochs without improvement.
        min_delta: by how much the averaged loss must fall to count.
        stop_below: training never ends above this learning rate.
        train_loss_ema, val_loss_ema: weight of the old value in the moving averages.
        epochs: at most.
    """

    kind: Literal["plateau"] = "plateau"
    learning_rate: PositiveFloat = 3e-4
    factor: PositiveFloat = 0.2
    patience: PositiveInt = 30
    stop_patience: PositiveInt = 60
    min_delta: PositiveFloat = 5e-3
    stop_below: PositiveFloat = 1e-6
    train_loss_ema: Probability = 0.93
    val_loss_ema: Probability = 0.9
    epochs: PositiveInt = 1000


class PolynomialDecay(Record):
    """Polynomial decay of given length: linear warm-up, then (1 - progress)^power down to zero.

    Attributes:
        learning_rate: the highest one.
        power: 1 is a straight line.
        warmup_steps: training steps until `learning_rate` is reached.
        every: when the rate changes.
        epochs: the length; or
        seconds: the length in seconds of training, whatever the number of steps becomes.
    """

    kind: Literal["polynomial"] = "polynomial"
    learning_rate: PositiveFloat
    power: PositiveFloat = 0.9
    warmup_steps: NonNegativeInt = 50
    every: Literal["step", "epoch"] = "step"
    epochs: PositiveInt | None = None
    seconds: PositiveFloat | None = None

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.epochs is None) == (self.seconds is None):
            raise ValueError("a polynomial schedule has either epochs or seconds")
        return self


class IntensitySet(Record):
    """Ranges and probabilities of changes of intensity alone, in the order of their application (nnU-Net v2).

    Attributes:
        noise_deviation: range of the standard deviation of Gaussian noise, the same in all channels. nnU-Net v2 calls
            it variance, but does not take its root.
        blur_sigma: range of the standard deviation of a smoothing Gaussian, voxels, drawn for each axis.
        brightness: range of a factor on the intensities.
        contrast: range of a factor on their distances from the mean; no value leaves the old range.
        resolution: range of a factor on the number of voxels along all axes, which is then restored.
        inverted_gamma: range of the exponent of a gamma correction of the inverted image.
        *_probability: per sample.
        *_channel_probability: per channel of such a sample; other changes are made in all of its channels.
    """

    noise_deviation: tuple[NonNegativeFloat, NonNegativeFloat] = (0.0, 0.1)
    blur_sigma: tuple[PositiveFloat, PositiveFloat] = (0.5, 1.0)
    brightness: tuple[PositiveFloat, PositiveFloat] = (0.75, 1.25)
    contrast: tuple[PositiveFloat, PositiveFloat] = (0.75, 1.25)
    resolution: tuple[Share, Share] = (0.5, 1.0)
    inverted_gamma: tuple[PositiveFloat, PositiveFloat] = (0.7, 1.5)
    noise_probability: Probability = 0.1
    blur_probability: Probability = 0.2
    blur_channel_probability: Probability = 0.5
    brightness_probability: Probability = 0.15
    contrast_probability: Probability = 0.15
    resolution_probability: Probability = 0.25
    resolution_channel_probability: Probability = 0.5
    inverted_gamma_probability: Probability = 0.1


class AugmentationSet(Record):
    """Ranges and probabilities of the augmentation of one kind of patch (method.md [T5]).

    Attributes:
        rotation_degrees: largest angle about each axis.
        stretched_rotation_degrees: the same where the longest side of the patch is more than 1.5 times its shortest.
        scale: range of the factor on coordinates: above 1 shows more of the image, smaller.
        elastic_amplitude: range; random displacements in [-1, 1] are smoothed, then multiplied by this (voxels).
        elastic_sigma: range of the smoothing Gaussian's standard deviation, voxels.
        gamma: range of the exponent.
        *_probability: per sample; mirroring per axis.
        intensity: further changes, of intensity alone; None for none, as in the paper.
    """

    rotation_degrees: NonNegativeFloat
    stretched_rotation_degrees: NonNegativeFloat
    scale: tuple[PositiveFloat, PositiveFloat] = (0.85, 1.25)
    elastic_amplitude: tuple[NonNegativeFloat, NonNegativeFloat]
    elastic_sigma: tuple[PositiveFloat, PositiveFloat] = (9.0, 13.0)
    gamma: tuple[PositiveFloat, PositiveFloat] = (0.7, 1.5)
    rotation_probability: Probability = 0.2
    scale_probability: Probability = 0.2
    elastic_probability: Probability = 0.2
    gamma_probability: Probability = 0.3
    mirror_probability: Probability = 0.5
    intensity: IntensitySet | None = None


class PreviousStageAugmentation(Record):
    """How the segmentation of the previous stage is corrupted (method.md [T7]).

    Attributes:
        morphology_probability: per sample, of erosion, dilation, opening or closing each class.
        radius: range of the ball's radius, voxels, both ends included.
        removal_probability: per sample, of removing a component of each class.
        removal_share: only components smaller than this share of the patch.
    """

    morphology_probability: Probability = 0.4
    radius: tuple[PositiveInt, PositiveInt] = (1, 8)
    removal_probability: Probability = 0.2
    removal_share: Probability = 0.15


class Adam(Record):
    """The paper's optimiser (method.md [T3])."""

    kind: Literal["adam"] = "adam"
    weight_decay: NonNegativeFloat = 3e-5
    amsgrad: bool = True


class SGD(Record):
    """nnU-Net v2's optimiser: stochastic gradient descent with Nesterov's momentum."""

    kind: Literal["sgd"] = "sgd"
    weight_decay: NonNegativeFloat = 3e-5
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99


class Recipe(Record):
    """Training settings, the same for all datasets and configurations.

    Attributes:
        name: of the recipe.
        planner: whose rules make the plan, a name in `voxfit.planning.planners.PLANNERS`.
        folds: of the cross-validation [T1].
        steps_per_epoch, validation_steps: batches [T3].
        schedule: of the learning rate, and when to stop.
        optimizer: what is done with gradients [T3].
        max_grad_norm: norm to which the gradient of a step is cut; None for any.
        deep_supervision: whether coarse decoder levels have losses of their own, each half of the finer one's, the
            coarsest left out (nnU-Net v2).
        dice_smoothing: added above and below [T2].
        foreground_oversampling: samples of a batch that are centred on foreground: more than a third [T8], or a third
            rounded (nnU-Net v2).
        augmentation_2d, augmentation_3d: parameter sets [T5].
        augmentation_slices: of patches that are transformed slice by slice; None for the 2D set [T6].
        previous_stage_augmentation: of the first stage's segmentation, where it is input [T7].
        seed: of everything random.
        network: "unet", or what an installed package offers under this name; see `voxfit.core.extensions`.
        loss: "dice_cross_entropy" [T2], or what a package offers.
        augmentations: what packages offer; applied after those of voxfit, in this order.
        metrics: what packages offer, measured in cross-validation beside those of voxfit.
    """

    schema_name: ClassVar[str] = "voxfit.recipe/2"
    name: str = PAPER
    planner: str = PAPER
    folds: Annotated[int, Field(ge=2)] = 5
    steps_per_epoch: PositiveInt = 250
    validation_steps: PositiveInt = 50
    schedule: Annotated[Plateau | PolynomialDecay, Field(discriminator="kind")] = Plateau()
    optimizer: Annotated[Adam | SGD, Field(discriminator="kind")] = Adam()
    max_grad_norm: PositiveFloat | None = None
    deep_supervision: bool = False
    foreground_oversampling: Literal["above_third", "third"] = "above_third"
    dice_smoothing: PositiveFloat = 1e-5
    augmentation_2d: AugmentationSet = AugmentationSet(
        rotation_degrees=180.0, stretched_rotation_degrees=15.0, elastic_amplitude=(0.0, 200.0)
    )
    augmentation_3d: AugmentationSet = AugmentationSet(
        rotation_degrees=15.0, stretched_rotation_degrees=15.0, elastic_amplitude=(0.0, 900.0)
    )
    augmentation_slices: AugmentationSet | None = None
    previous_stage_augmentation: PreviousStageAugmentation = PreviousStageAugmentation()
    seed: NonNegativeInt = 0
    network: str = UNET
    loss: str = DICE_CROSS_ENTROPY
    augmentations: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()

    @field_validator("planner")
    @classmethod
    def _known_planner(cls, name: str) -> str:
        if name not in PLANNERS:
            raise ValueError(f"there is no such planner; there are {', '.join(PLANNERS)}")
        return name


def recipe_named(planner: str) -> Recipe:
    """The recipe that goes with a planner: nnU-Net v2's training (v2.8, nnUNetTrainer), or else the paper's."""
    if planner not in PRESETS:
        return Recipe(name=planner, planner=planner)
    return Recipe(
        name=planner,
        planner=planner,
        schedule=PolynomialDecay(learning_rate=1e-2, power=0.9, warmup_steps=0, every="epoch", epochs=1000),
        optimizer=SGD(weight_decay=3e-5, momentum=0.99),
        max_grad_norm=12.0,
        deep_supervision=True,
        foreground_oversampling="third",
        augmentation_2d=_augmentation(180.0, stretched=15.0),
        augmentation_3d=_augmentation(30.0, stretched=30.0),
        augmentation_slices=_augmentation(180.0, stretched=180.0),
    )


def _augmentation(rotation: float, stretched: float) -> AugmentationSet:
    return AugmentationSet(
        rotation_degrees=rotation,
        stretched_rotation_degrees=stretched,
        scale=(0.7, 1.4),
        elastic_amplitude=(0.0, 0.0),
        elastic_probability=0.0,
        intensity=IntensitySet(),
    )
