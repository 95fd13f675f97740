"""What the history says of an epoch, against the losses of its batches one by one."""

import json

import numpy as np
import pytest
import torch

from builders.records import configuration_of, task_of
from builders.stores import write_store
from voxfit.core.progress import Listener
from voxfit.learning.sampling import TRAINING, VALIDATION, PatchSampler
from voxfit.learning.task import task_loss
from voxfit.learning.training import Training
from voxfit.networks.unet import build_network
from voxfit.planning.recipes import PolynomialDecay, Recipe

SHAPE = (10, 12, 14)
NAMES = ("a", "b", "c")


@pytest.fixture
def store(tmp_path):
    cases = {}
    folder = tmp_path / "store"
    folder.mkdir()
    for seed, name in enumerate(NAMES):
        rng = np.random.default_rng(seed)
        label = np.zeros(SHAPE, np.int16)
        label[2 + seed : 7, 3:9, 4:10] = 1
        image = (rng.normal(size=(1, *SHAPE)) + 4 * label).astype(np.float32)
        cases[name] = image, label
    return write_store(folder, cases, 2)


def test_losses_are_means_over_the_batches_that_were_drawn(store, tmp_path):
    """At a rate that changes nothing, the network is the first one in every step."""
    task = task_of(
        configuration_of((8, 8, 8), 2, median_shape=SHAPE),
        recipe=Recipe(
            steps_per_epoch=5,
            validation_steps=3,
            schedule=PolynomialDecay(learning_rate=1e-20, epochs=2, warmup_steps=0),
        ),
        seed=5,
    )
    Training(task, store, tmp_path, "cpu", Listener()).run()
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    network = build_network(task.topology, task.seed).eval()

    def mean(stream, epoch, cases, steps):
        sampler = PatchSampler(
            store, cases, task.configuration, task.recipe, labels=task.labels, channels=1, seed=task.seed
        )
        losses = []
        for step in range(steps):
            image, label = sampler.finish(sampler.batch(stream, epoch, step), torch.device("cpu"))
            with torch.inference_mode():
                losses.append(float(task_loss(task, [network(image)], label)))
        assert max(losses) - min(losses) > 0.01  # or any of them would be their mean
        return sum(losses) / steps

    assert [line["epoch"] for line in history] == [1, 2]
    validation = mean(VALIDATION, 0, task.validation_cases, 3)
    for number, line in enumerate(history):
        assert line["training_loss"] == pytest.approx(mean(TRAINING, number, task.training_cases, 5), abs=1e-4)
        assert line["validation_loss"] == pytest.approx(validation, abs=1e-4)
    assert history[0]["validation_loss"] == history[1]["validation_loss"]
