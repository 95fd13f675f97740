"""Where a network's outputs become labels: what is more likely than not, in logits or probabilities."""

import numpy as np
import pytest

from builders.records import case_of, fingerprint_of
from voxfit.imaging.geometry import Box, Geometry
from voxfit.imaging.labels import Label, Labels, Region
from voxfit.inference.postprocessing import segment, to_values
from voxfit.planning.plan import Inference
from voxfit.planning.planners.paper import make_plan
from voxfit.preprocessing.case import PreprocessingGeometry
from voxfit.preprocessing.output_resampling import Computed

SHAPE = (4, 5, 6)
PLACE = PreprocessingGeometry(Geometry(SHAPE, (1.0, 1.0, 1.0)), Box.whole(SHAPE), SHAPE)
CLASSES = (Label(name="rim", value=1), Label(name="core", value=2))
REGIONS = (Region(name="all", values=(1, 2), paste=1), Region(name="core", values=(2,), paste=2))


def plan_of(regions, average_over):
    labels = Labels(classes=CLASSES, regions=regions)
    facts = fingerprint_of((case_of(SHAPE),), labels=labels)
    return make_plan(facts).model_copy(update={"inference": Inference(average_over=average_over)})


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def pasted(probabilities):
    """The second region over the first, by the definition."""
    return np.where(probabilities[1] > 0.5, 2, np.where(probabilities[0] > 0.5, 1, 0))


@pytest.fixture
def logits():
    """Of two regions; most between -1 and 1, where a threshold of 0.5 would be wrong."""
    return np.random.default_rng(0).normal(0, 0.4, (2, *SHAPE)).astype(np.float32)


def test_regions_are_cut_where_they_are_as_likely_as_not(logits):
    expected = pasted(sigmoid(logits))
    assert np.count_nonzero((logits > 0) & (logits < 0.5)) > 0
    for average_over, values in (("logits", logits), ("probabilities", sigmoid(logits))):
        found = segment([(Computed(values), PLACE)], plan_of(REGIONS, average_over))
        np.testing.assert_array_equal(found, expected)


def test_ensembles_of_regions_average_probabilities(logits):
    outputs = [logits, *(np.random.default_rng(seed).normal(0, 3, logits.shape).astype(np.float32) for seed in (1, 2))]
    expected = pasted(sum(map(sigmoid, outputs)) / 3)
    assert not np.array_equal(expected, pasted(sigmoid(sum(outputs) / 3)))
    for average_over, make in (("logits", lambda values: values), ("probabilities", sigmoid)):
        parts = [(Computed(make(values)), PLACE) for values in outputs]
        np.testing.assert_array_equal(segment(parts, plan_of(REGIONS, average_over)), expected)


def test_ensembles_of_classes_average_probabilities():
    first, second = (np.random.default_rng(seed).normal(0, seed + 1, (3, *SHAPE)).astype(np.float32) for seed in (0, 4))

    def softmax(values):
        return np.exp(values) / np.exp(values).sum(axis=0)

    expected = (softmax(first) + softmax(second)).argmax(axis=0)
    assert not np.array_equal(expected, (first + second).argmax(axis=0))
    for average_over, make in (("logits", lambda values: values), ("probabilities", softmax)):
        parts = [(Computed(make(values)), PLACE) for values in (first, second)]
        np.testing.assert_array_equal(segment(parts, plan_of((), average_over)), expected)


@pytest.mark.parametrize("largest", [1, 255, 256, 299, 300, 65535, 65536, 2**31])
def test_labels_are_written_with_their_values_in_the_smallest_type(largest):
    indices = np.array([[0, 1, 2], [2, 1, 0]])
    found = to_values(indices, (0, 1, largest))
    assert found.tolist() == [[0, 1, largest], [largest, 1, 0]]
    assert found.dtype == np.min_scalar_type(largest)
