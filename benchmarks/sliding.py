"""Row: a sliding window around a network that costs next to nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

from benchmarks.hippocampus import workspace
from benchmarks.outputs import array, furthest
from benchmarks.row import Kernel, Row, Setting, Target

PATCH = (96, 160, 128)
OUTPUTS = 3
TOLERANCE = 1e-5
"""Of the range of the logits: sums of 8 tiles in single precision."""
HALF = 1e-2
"""Of the range: what half precision leaves of nnU-Net's sums, but at the corners of the image, where the weights of its
tiles round to a single step. There it is told, not judged."""
CORNERS = 0.01
"""The share of voxels that may be such."""


def image(setting: Setting) -> Any:
    """Noise, (1, z, y, x) float32."""
    import numpy as np

    shape = (100, 160, 160) if setting.quick else (160, 320, 320)
    return np.random.default_rng(0).standard_normal((1, *shape), np.float32)


def network(setting: Setting) -> Any:
    """A convolution of a single voxel: the right answer is the network of the whole image."""
    import torch

    made = torch.nn.Conv3d(1, OUTPUTS, 1)
    with torch.no_grad():
        made.weight.copy_(torch.tensor([1.0, -0.5, 2.0]).reshape(OUTPUTS, 1, 1, 1, 1))
        cast("torch.Tensor", made.bias).copy_(torch.tensor([0.1, 0.0, -0.3]))
    return made.to(setting.device).eval()


def predictor(setting: Setting) -> Any:
    """Logits, weighted as nnU-Net weights them."""
    from voxfit.inference.predictor import Predictor
    from voxfit.inference.torch_networks import TorchArrays, TorchNetwork

    return Predictor(
        [TorchNetwork(network(setting), None)],
        PATCH,
        slice_axis=None,
        outputs=OUTPUTS,
        arrays=TorchArrays(setting.device),
        mirror_axes=(),
        gaussian_center="shifted",
    )


def ours(setting: Setting) -> Callable[[], Any]:
    """The logits of the whole image."""
    made, source = predictor(setting), image(setting)
    return lambda: made.predict(source)


def our_labels(setting: Setting) -> Callable[[], Any]:
    """Slab by slab, as `voxfit predict --max-memory` goes on."""
    from voxfit.core.memory import return_freed_memory
    from voxfit.imaging.labels import Label, Labels
    from voxfit.preprocessing.output_resampling import Regridding
    from voxfit.preprocessing.reverting import regridded

    made, source = predictor(setting), image(setting)
    return_freed_memory()
    labels = Labels(classes=tuple(Label(name=str(value), value=value) for value in range(1, OUTPUTS)))
    return lambda: regridded([Regridding.of(made.source(source), source.shape[1:])], labels.decide)


def then_labels(prepare: Callable[[Setting], Callable[[], Any]], setting: Setting) -> Callable[[], Any]:
    """The largest of a peer's logits, as nnU-Net takes it."""
    import numpy as np
    import torch

    logits = prepare(setting)
    return lambda: torch.from_numpy(logits()).argmax(0).numpy().astype(np.uint8)


def monai(setting: Setting) -> Callable[[], Any]:
    """One tile at a time, its weights made once, the result on the CPU."""
    import torch
    from monai.inferers import SlidingWindowInferer

    inferer = SlidingWindowInferer(
        PATCH,
        sw_batch_size=1,
        overlap=0.5,
        mode="gaussian",
        sw_device=setting.device,
        device="cpu",
        cache_roi_weight_map=True,
    )
    source, model = torch.from_numpy(image(setting))[None], network(setting)

    @torch.inference_mode()
    def run() -> Any:
        return inferer(source, model)[0].numpy()

    return run


def nnunet(setting: Setting) -> Callable[[], Any]:
    """Its predictor with plans of its own."""
    import torch

    workspace(setting)
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(
        {"label_manager": "LabelManager", "configurations": {"it": {"patch_size": PATCH, "architecture": {}}}}
    )
    device = torch.device(setting.device)
    predictor = nnUNetPredictor(use_mirroring=False, perform_everything_on_device=True, device=device, allow_tqdm=False)
    labels = {"background": 0, "a": 1, "b": 2}
    predictor.manual_initialization(
        network(setting), plans, plans.get_configuration("it"), None, {"labels": labels}, "", None
    )
    source = torch.from_numpy(image(setting))
    return lambda: predictor.predict_sliding_window_return_logits(source).cpu().numpy()


def half_sums(device: str) -> str:
    """nnU-Net's."""
    return "float32, sums float16"


def check(setting: Setting, folder: Path) -> str:
    """Against the network of the whole image."""
    import numpy as np
    import torch

    with torch.inference_mode():
        expected = network(setting)(torch.from_numpy(image(setting))[None].to(setting.device))[0].cpu().numpy()
    found = {name: array(folder, name) for name in ("voxfit", "MONAI", "nnU-Net v2")}
    errors = {name: furthest(output, expected) for name, output in found.items()}
    for name in ("voxfit", "MONAI"):
        assert errors[name] <= TOLERANCE, f"{name} is off by {errors[name]:.1e} of the range"
    far = float((np.abs(found["nnU-Net v2"] - expected) > HALF * np.ptp(expected)).mean())
    assert far <= CORNERS, f"nnU-Net is off by more than {HALF:g} of the range in {100 * far:.2f} % of the voxels"
    said = ", ".join(f"{name} {error:.0e}" for name, error in errors.items())
    return f"largest error, of the range: {said} (tolerance {TOLERANCE:g}; nnU-Net adds up in half precision)"


def check_labels(setting: Setting, folder: Path) -> str:
    """Ours and MONAI's against the network of the whole image; nnU-Net's half precision is told."""
    import torch

    with torch.inference_mode():
        expected = (
            network(setting)(torch.from_numpy(image(setting))[None].to(setting.device))[0].argmax(0).cpu().numpy()
        )
    different = {name: float((array(folder, name) != expected).mean()) for name in ("voxfit", "MONAI", "nnU-Net v2")}
    # Only where two logits are equal to seven digits may rounding decide.
    for name in ("voxfit", "MONAI"):
        assert different[name] <= 1e-6, f"{100 * different[name]:.4f} % of the voxels of {name} differ"
    said = ", ".join(f"{name} {100 * share:.2g} %" for name, share in different.items())
    return f"voxels with another label than by the network of the whole image: {said}"


ROWS = (
    Row(
        name="sliding",
        title="a sliding window with a trivial network, 1x160x320x320, patch 96x160x128, to logits",
        ours=(Kernel("voxfit", ours, Target(speed=1.1)),),
        theirs=(Kernel("MONAI", monai), Kernel("nnU-Net v2", nnunet, precision=half_sums)),
        check=check,
        devices=("cpu", "cuda"),
    ),
    Row(
        name="sliding_labels",
        title="the same, to labels",
        ours=(Kernel("voxfit", our_labels, Target(memory=2)),),
        theirs=(
            Kernel("MONAI", partial(then_labels, monai)),
            Kernel("nnU-Net v2", partial(then_labels, nnunet), precision=half_sums),
        ),
        check=check_labels,
        devices=("cpu", "cuda"),
    ),
)
