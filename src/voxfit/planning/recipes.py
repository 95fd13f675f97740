"""Recipes by name: the paper's, and nnU-Net v2's with each of its planners."""

from __future__ import annotations

from voxfit.planning.recipe import PAPER, SGD, AugmentationSet, IntensitySet, Planner, PolynomialDecay, Recipe


def recipe_named(name: Planner) -> Recipe:
    """The recipe of a planner: what its authors train with (nnU-Net v2.8: nnUNetTrainer)."""
    if name == PAPER:
        return Recipe()
    return Recipe(
        name=name,
        planner=name,
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
