"""Rules on numbers written out: rows of the paper's Table 1, and facts that scribbles and regions must not change."""

import numpy as np
import pytest

from builders.records import case_of, fingerprint_of
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.labels import IGNORED, Label, Labels, Region
from voxfit.imaging.verification import LabelledVolume
from voxfit.planning.fingerprint import Measurements, measure_case, summarize
from voxfit.planning.grid import ZScore
from voxfit.planning.patch_rules import volume_rule
from voxfit.planning.plan import Limits
from voxfit.planning.planners.nnunet_v2_networks import divide
from voxfit.planning.planners.paper import make_plan, normalization_of

# Task, median shape (voxels) and spacing (mm), cases; patch, batch and poolings as printed.
ROWS = [
    ("BrainTumour", (138, 169, 138), (1.0, 1.0, 1.0), 484, (128, 128, 128), 2, (5, 5, 5)),
    ("Heart", (115, 320, 232), (1.37, 1.25, 1.25), 20, (80, 192, 128), 2, (4, 5, 5)),
    ("Liver", (482, 512, 512), (1.0, 0.7676, 0.7676), 131, (128, 128, 128), 2, (5, 5, 5)),
    ("Hippocampus", (36, 50, 35), (1.0, 1.0, 1.0), 260, (40, 56, 40), 9, (3, 3, 3)),
    ("Prostate", (20, 320, 319), (3.6, 0.625, 0.625), 32, (20, 192, 192), 4, (2, 5, 5)),
    ("Lung", (252, 512, 512), (1.245, 0.785, 0.785), 63, (112, 128, 128), 2, (4, 5, 5)),
    ("Pancreas", (96, 512, 512), (2.5, 0.803, 0.803), 281, (96, 160, 128), 2, (4, 5, 5)),
]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_rows_of_table_1(row):
    """Isensee et al., arXiv:1809.10486, Table 1: patch, batch and poolings of the 3D networks."""
    _, shape, spacing, cases, patch, batch, poolings = row
    rule = volume_rule(shape, spacing, cases, Limits())
    assert (rule.patch_size, rule.batch_size, rule.num_pool) == (patch, batch, poolings)


def facts(labels, share=1.0, channels=("MRI",)):
    case = case_of((round(100 * share), 100, 100), uncropped_shape=(100, 100, 100))
    return fingerprint_of((case,) * 5, channels, labels)


CLASSES = Labels(classes=(Label(name="a", value=1), Label(name="b", value=2)))


@pytest.mark.parametrize(("share", "inside"), [(0.5, True), (0.75, True), (0.76, False), (0.85, False), (1.0, False)])
def test_normalisation_keeps_to_the_mask_where_three_quarters_or_less_are_left(share, inside):
    """The paper, section 2.3: where cropping takes away a quarter of the voxels or more."""
    assert normalization_of(facts(CLASSES, share)) == (ZScore(inside_mask=inside),)


def test_regions_have_a_sigmoid_each_and_classes_share_a_softmax():
    regions = (Region(name="whole", values=(1, 2), paste=1), Region(name="core", values=(2,), paste=2))
    assert make_plan(facts(CLASSES)).activation == "softmax"
    assert make_plan(facts(CLASSES.model_copy(update={"regions": regions}))).activation == "sigmoid"


def test_what_nobody_annotated_is_in_no_statistics_and_connects_nothing():
    """A dataset of scribbles: what lies between them is not known."""
    labels = CLASSES.model_copy(update={"ignore": 9})
    rng = np.random.default_rng(0)
    label = np.full((6, 7, 8), IGNORED, np.int16)
    label[0], label[1, :3], label[2, 4:] = 0, 1, 2
    image = rng.normal(-500, 9, (1, 6, 7, 8)).astype(np.float32)
    image[0][label > 0] += 600
    case = LabelledVolume(image, label, Geometry((6, 7, 8), (1.0, 1.0, 1.0)))

    class Described:
        name, channel_names = "x", ("CT",)

    Described.labels = labels
    measured = Measurements([measure_case(case, ("CT",), labels)])
    found = summarize(Described, 3, measured, lambda channel, uppers: pytest.fail("one pass is enough"))
    inside = image[0][label > 0]
    assert found.intensities[0].voxels == inside.size
    assert found.intensities[0].mean == pytest.approx(float(inside.mean()), abs=1e-3)
    assert found.single_component_labels == ()
    Described.labels = CLASSES
    assert summarize(Described, 3, measured, lambda channel, uppers: None).single_component_labels == (1, 2)


def test_slices_of_twice_the_spacing_wait_for_the_plane():
    """nnU-Net's `get_pool_and_conv_props`: less than twice the finest spacing is fine, exactly twice is coarse."""
    strides, kernels = divide((2.0, 1.0, 1.0), (32, 64, 64))
    assert (strides[1], kernels[0]) == ((1, 2, 2), (1, 3, 3))
    strides, kernels = divide((1.99, 1.0, 1.0), (32, 64, 64))
    assert (strides[1], kernels[0]) == ((2, 2, 2), (3, 3, 3))
