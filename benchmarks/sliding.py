"""Row: a sliding window around a network that costs next to nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.hippocampus import workspace
from benchmarks.outputs import array, furthest
from benchmarks.row import Kernel, Row, Setting, Target

PATCH = (96, 160, 128)
OUTPUTS = 3
TOLERANCE = 1e-5
"""Of the range of the logits: sums of 8 tiles in single precision."""
HALF = 1e-2
"""Of the range: what half precision leaves of nnU-Net's sums."""


def image(setting: Setting) -> Any:
    """Noise, (1, z, y, x) float32."""
    import numpy as np

    shape = (100, 160, 160) if setting.quick else (160, 320, 320)
    return np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)


def network(setting: Setting) -> Any:
    """A convolution of a single voxel: the right answer is the network of the whole image."""
    import torch

    made = torch.nn.Conv3d(1, OUTPUTS, 1)
    with torch.no_grad():
        made.weight.copy_(torch.tensor([1.0, -0.5, 2.0]).reshape(OUTPUTS, 1, 1, 1, 1))
        made.bias.copy_(torch.tensor([0.1, 0.0, -0.3]))
    return made.to(setting.device).eval()


def ours(setting: Setting) -> Callable[[], Any]:
    """Logits, weighted as nnU-Net weights them."""
    from voxfit.inference.predictor import Predictor

    source = image(setting)
    predictor = Predictor(
        [network(setting)],
        PATCH,
        slice_axis=None,
        outputs=OUTPUTS,
        activation=None,
        device=setting.device,
        mirror_axes=(),
        tile_weights="shifted",
    )
    return lambda: predictor.predict(source)


def monai(setting: Setting) -> Callable[[], Any]:
    """One tile at a time, the result on the CPU."""
    import torch
    from monai.inferers import SlidingWindowInferer

    inferer = SlidingWindowInferer(
        PATCH, sw_batch_size=1, overlap=0.5, mode="gaussian", sw_device=setting.device, device="cpu"
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


def check(setting: Setting, folder: Path) -> str:
    """Against the network of the whole image."""
    import torch

    with torch.inference_mode():
        expected = network(setting)(torch.from_numpy(image(setting))[None].to(setting.device))[0].cpu().numpy()
    found = {name: furthest(array(folder, name), expected) for name in ("voxfit", "MONAI", "nnU-Net v2")}
    assert found["voxfit"] <= TOLERANCE, f"ours is off by {found['voxfit']:.1e} of the range"
    assert found["MONAI"] <= TOLERANCE, f"MONAI is off by {found['MONAI']:.1e} of the range"
    assert found["nnU-Net v2"] <= HALF, f"nnU-Net is off by {found['nnU-Net v2']:.1e} of the range"
    errors = ", ".join(f"{name} {error:.0e}" for name, error in found.items())
    return f"largest error, of the range: {errors} (tolerance {TOLERANCE:g}; {HALF:g} for nnU-Net's half precision)"


ROWS = (
    Row(
        name="sliding",
        title="a sliding window with a trivial network, 1x160x320x320, patch 96x160x128",
        ours=(Kernel("voxfit", ours, Target(speed=1.1, memory=2)),),
        theirs=(Kernel("MONAI", monai), Kernel("nnU-Net v2", nnunet)),
        check=check,
        devices=("cpu", "cuda"),
    ),
)
