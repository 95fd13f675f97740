"""`python -m benchmarks.smoke`: whether the environment of the peers works; what it was made from is noted then.

`make peers-smoke` makes the environment and runs this. With `--tried` it imports nothing, and exits with 0 where
`benchmarks/peers.tried` holds the digest of what the environment would be made from now: `.ci/run` asks so.
"""

from __future__ import annotations

import hashlib
import re
import sys
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TRIED = "benchmarks/peers.tried"
USED = (
    "nnunetv2.experiment_planning.plan_and_preprocess_entrypoints",
    "nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners",
    "nnunetv2.training.nnUNetTrainer.nnUNetTrainer",
    "nnunetv2.inference.predict_from_raw_data",
    "nnunetv2.evaluation.evaluate_predictions",
    "batchgeneratorsv2.transforms.intensity.gamma",
    "monai.inferers",
    "openvino",
    "skimage.transform",
    "hypothesis",
    "voxfit.cli",
)
"""What the oracles and the rows of the benchmark import of each package."""
_WHOLE = ("constraints.txt", "benchmarks/constraints.txt")
_PARTS = {
    "pyproject.toml": r"^(?:dependencies|peers) = \[$.*?^\]$",
    "Makefile": r"^\$\(PEERS\)/installed:.*?\n\n",
}


def main(arguments: list[str]) -> int:
    """Run from the command line."""
    digest, path = digest_of(ROOT), ROOT / TRIED
    if arguments == ["--tried"]:
        return int(not path.exists() or path.read_text().strip() != digest)
    for name in USED:
        import_module(name)
    use_network()
    path.write_text(f"{digest}\n")
    print(f"{len(USED)} modules imported, a network built; commit {TRIED} if it changed")
    return 0


def digest_of(root: Path) -> str:
    """Of all that says what is installed.

    Args:
        root: of the project.
    """
    texts = [(root / name).read_text() for name in _WHOLE]
    for name, pattern in _PARTS.items():
        found = re.findall(pattern, (root / name).read_text(), re.DOTALL | re.MULTILINE)
        assert found, f"{name} says nothing of the environment of the peers"
        texts += found
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def use_network() -> None:
    """One of nnU-Net's, built and run."""
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    arguments = {
        "n_stages": 2,
        "features_per_stage": [2, 4],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": 3,
        "strides": [1, 2],
        "n_conv_per_stage": 1,
        "n_conv_per_stage_decoder": 1,
    }
    kind = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    network = get_network_from_plans(kind, arguments, ["conv_op"], 1, 2, deep_supervision=False)
    assert network(torch.zeros(1, 1, 8, 8, 8)).shape == (1, 2, 8, 8, 8)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
