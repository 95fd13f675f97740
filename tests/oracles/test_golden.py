"""Writes tests/golden: what nnU-Net v2 gives for inputs made from seeds, so that CI compares without installing it.

A file that says the same but for roundings stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from golden.files import Recorder, noise, write_json
from golden.fingerprints import NAMES, PLANNED, digest_of_fingerprint, draw
from golden.inputs import (
    CHANGED,
    EXPORTED,
    FLIPS,
    GAUSSIANS,
    LABELLED,
    NETWORKS,
    PATCH,
    PREPARED,
    RESAMPLED,
    SIGMAS,
    TILED,
    WINDOWS,
    Ramp,
    architecture,
    logits_of,
    mask_of,
    resampled,
    sample,
    weight_like,
)

pytestmark = pytest.mark.filterwarnings("ignore")
pytest.importorskip("nnunetv2", exc_type=ImportError)

import test_augmentation_v2 as peer  # noqa: E402
from test_planner_v2 import Oracle as Planner  # noqa: E402
from test_planner_v2 import oracle, theirs  # noqa: E402, F401 (the fixture)
from test_preparation import Oracle as Preprocessor  # noqa: E402

from benchmarks.peer import single_precision  # noqa: E402
from voxfit.imaging.geometry import Geometry  # noqa: E402
from voxfit.imaging.volume import Volume  # noqa: E402
from voxfit.planning.planners.nnunet_v2_networks import PRESETS  # noqa: E402


def test_preparation() -> None:
    made = Recorder()
    for name, case in PREPARED.items():
        image, label = case.made()
        volume = Volume(image, Geometry(case.shape, case.spacing_mm))
        preprocessor = Preprocessor(case.new_mm, case.schemes, case.axes)
        made.record(f"{name}: image", preprocessor.image(volume, label), image, label)
        made.record(f"{name}: image alone", preprocessor.image(volume, None), image)
        found = preprocessor.label(volume, label)
        made.record(f"{name}: label", found.astype(np.int8), image, label)
    made.write("preparation")


def test_resampling() -> None:
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg

    made = Recorder()
    for name, (_, new, separate_axis) in RESAMPLED.items():
        image, label = resampled(name)
        way: dict[str, Any] = {"axis": separate_axis, "do_separate_z": separate_axis is not None}
        for order in (1, 3):
            made.record(f"{name}: order {order}", resample_data_or_seg(image, new, order=order, **way), image)
        found = resample_data_or_seg(label[None], new, is_seg=True, order=1, **way)[0]
        made.record(f"{name}: label", found.astype(np.int8), label)
    made.write("resampling")


def test_planner(oracle: Planner) -> None:  # noqa: F811
    plans: dict[str, Any] = {}
    for preset_name, seed, dimension in PLANNED:
        fingerprint, preset = draw(seed, dimension), PRESETS[preset_name]
        said = oracle.plans(fingerprint, preset)
        configurations = {
            NAMES[name]: {
                "previous": NAMES.get(configuration.get("previous_stage", "")),
                **theirs(said["configurations"][configuration.get("inherits_from", name)], preset.residual),
            }
            for name, configuration in said["configurations"].items()
        }
        plans[f"{preset_name}, {dimension}D, {seed}"] = {
            "of": digest_of_fingerprint(fingerprint),
            "transpose": said["transpose_forward"],
            "configurations": configurations,
        }
    write_json("planner", plans)


def test_networks() -> None:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    made, names = Recorder(), {}
    for key, (kind, axes, levels, shape) in NETWORKS.items():
        described = architecture(kind, len(axes), **levels)
        network = get_network_from_plans(
            described["network_class_name"],
            described["arch_kwargs"],
            described["_kw_requires_import"],
            2,
            3,
            deep_supervision=False,
        )
        # Several names of one weight get the values of the first.
        first: dict[int, str] = {}
        names[key] = [
            [name, list(weight.shape), first.setdefault(weight.data_ptr(), name)]
            for name, weight in network.state_dict().items()
        ]
        weights = {name: torch.from_numpy(weight_like(tuple(shape), source)) for name, shape, source in names[key]}
        network.load_state_dict(weights)
        image = noise((1, 2, *shape), 6)
        order = np.argsort(axes)  # of our axes, where each is among theirs
        turned = torch.from_numpy(image).permute(0, 1, *(2 + int(place) for place in np.argsort(order)))
        with torch.inference_mode():
            output = network.double().eval()(turned.double()).permute(0, 1, *(2 + int(place) for place in order))
        made.record(key, output.numpy(), image)
    made.record("names", np.frombuffer(json.dumps(names).encode(), np.uint8))
    made.write("networks")


CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "noise": lambda image: peer.peer_noise(image, 0.08, 5),
    "blur": lambda image: peer.peer_blur(image, [list(SIGMAS[-(image.ndim - 1) :]), None]),
    "brightness": lambda image: peer.peer_brightness(image, [0.75, 1.2]),
    "contrast": lambda image: peer.peer_contrast(image, [1.25, 0.8]),
    "low resolution": lambda image: peer.peer_low_resolution(image, [0.6, None]),
    "low resolution of slices": lambda image: peer.peer_low_resolution(image, [None, 0.7], (0,)),
    "gamma": lambda image: peer.peer_gamma(image, [0.7, 1.4], inverted=False),
    "inverted gamma": lambda image: peer.peer_gamma(image, [1.5, 0.8], inverted=True),
}


def test_augmentation() -> None:
    made = Recorder()
    for change, shape in CHANGED:
        image = sample(shape)
        made.record(f"{change}, {len(shape)}D", CHANGES[change](torch.from_numpy(image)).numpy(), image)
    image, label = sample((6, 7, 8)), mask_of((6, 7, 8))
    masked = {"image": torch.from_numpy(image.copy()), "segmentation": torch.from_numpy(label)}
    made.record("mask", peer.MaskImageTransform([1]).apply(masked)["image"].numpy(), image, label)
    turned = torch.from_numpy(image).flip([axis + 1 for axis, flip in enumerate(FLIPS) if flip])
    done = peer.peer_gamma(peer.peer_contrast(turned, [0.8, 1.1]), [1.2, 0.9], inverted=True)
    made.record("several, mirrored", done.numpy(), image)
    made.write("augmentation")
    write_json("augmentation", peer.their_row())


def test_sliding_window() -> None:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    made = Recorder()
    for patch in GAUSSIANS:
        weights = compute_gaussian(
            patch, value_scaling_factor=10, dtype=torch.float32, device=torch.device("cpu")
        ).numpy()
        made.record(f"weights {patch}", weights)
    plans = PlansManager(
        {"label_manager": "LabelManager", "configurations": {"it": {"patch_size": PATCH, "architecture": {}}}}
    )
    labels = {"labels": {"background": 0, "a": 1}}
    for name, (shape, mirrored) in WINDOWS.items():
        predictor = nnUNetPredictor(use_mirroring=bool(mirrored), device=torch.device("cpu"), allow_tqdm=False)
        predictor.manual_initialization(
            Ramp().double(), plans, plans.get_configuration("it"), None, labels, "", mirrored or None
        )
        image = noise((1, *shape), 7)
        with single_precision():
            found = predictor.predict_sliding_window_return_logits(torch.from_numpy(image).double())
        made.record(name, found.numpy(), image)
    made.write("sliding")
    steps = {f"{size} {edge}": compute_steps_for_sliding_window((size,), (edge,), 0.5)[0] for size, edge in TILED}
    write_json("tiles", steps)


def test_label_maps() -> None:
    """From logits on the prepared grid to the image's."""
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    made = Recorder()
    image, _ = EXPORTED.made()
    plans = Preprocessor(EXPORTED.new_mm, EXPORTED.schemes).plans()
    configuration = plans.get_configuration("it")
    for name, (labels, order) in LABELLED.items():
        description = {"labels": labels} | ({"regions_class_order": order} if order else {})
        data, _, properties = DefaultPreprocessor(verbose=False).run_case_npy(
            image.copy(), None, {"spacing": list(EXPORTED.spacing_mm)}, plans, configuration, description
        )
        manager = plans.get_label_manager(description)
        logits = logits_of(manager.num_segmentation_heads, data.shape[1:])
        found = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits.copy(), plans, configuration, manager, properties, num_threads_torch=1
        )
        made.record(name, np.asarray(found).astype(np.uint8), image, logits)
    made.write("label_maps")
