"""Numbers of the recipes, as the paper (arXiv:1809.10486, section 2.5) and nnU-Net v2.8 (nnUNetTrainer) state them."""

import pytest

from builders.records import case_of, fingerprint_of
from voxfit.planning.planners import PLANNERS, plan_by
from voxfit.planning.recipes import SGD, Adam, Plateau, PolynomialDecay, recipe_named


def test_the_papers_optimiser_and_schedule():
    recipe = recipe_named("nnunet-2018")
    assert recipe.optimizer == Adam(weight_decay=3e-5, amsgrad=True)
    schedule = recipe.schedule
    assert isinstance(schedule, Plateau)
    assert (schedule.learning_rate, schedule.factor) == (3e-4, pytest.approx(1 / 5))
    assert (schedule.patience, schedule.stop_patience) == (30, 60)
    assert (schedule.min_delta, schedule.stop_below) == (5e-3, 1e-6)
    assert (schedule.train_loss_ema, schedule.val_loss_ema) == (0.93, 0.9)
    assert (recipe.folds, recipe.steps_per_epoch) == (5, 250)
    assert (recipe.max_grad_norm, recipe.deep_supervision) == (None, False)


def test_the_papers_augmentation():
    recipe = recipe_named("nnunet-2018")
    for settings, degrees, amplitude in (
        (recipe.augmentation_2d, 180.0, 200.0),
        (recipe.augmentation_3d, 15.0, 900.0),
    ):
        assert settings.rotation_degrees == degrees
        assert settings.elastic_amplitude == (0.0, amplitude)
        assert settings.elastic_sigma == (9.0, 13.0)
        assert settings.scale == (0.85, 1.25)
        assert settings.gamma == (0.7, 1.5)
        assert settings.intensity is None


@pytest.mark.parametrize("name", [name for name in PLANNERS if name != "nnunet-2018"])
def test_nnunets_training(name):
    recipe = recipe_named(name)
    assert recipe.optimizer == SGD(weight_decay=3e-5, momentum=0.99)
    assert recipe.schedule == PolynomialDecay(learning_rate=1e-2, power=0.9, warmup_steps=0, every="epoch", epochs=1000)
    assert (recipe.max_grad_norm, recipe.deep_supervision, recipe.foreground_oversampling) == (12.0, True, "third")
    rotations = [recipe.augmentation_2d, recipe.augmentation_3d, recipe.augmentation_slices]
    assert [item.rotation_degrees for item in rotations] == [180.0, 30.0, 180.0]
    assert all((item.scale, item.elastic_probability) == ((0.7, 1.4), 0.0) for item in rotations)


@pytest.mark.parametrize("name", [name for name in PLANNERS if name != "nnunet-2018"])
def test_nnunets_preparation_and_inference(name):
    plan = plan_by(name, fingerprint_of((case_of((40, 60, 60), (2.0, 1.0, 1.0)),) * 5))
    preparation, inference = plan.preparation, plan.inference
    assert (preparation.first, preparation.coarse_axis_ratio, preparation.labels) == ("normalize", 3, "linear")
    assert (inference.average_over, inference.gaussian_center) == ("logits", "shifted")
    assert (inference.mirror_axes, inference.cascade_input) == (None, "segmentation")
