"""Levels of networks: what the records refuse, and the count of multiplications against PyTorch's."""

import pytest
import torch
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode

from voxfit.networks.unet import build_network
from voxfit.planning.architecture import Stages, Topology, multiplications, paper_stages

RESIDUAL = Stages(
    features=(4, 6, 10),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    encoder_blocks=(1, 3, 2),
    decoder_blocks=(1, 2),
    block="residual",
    downsampling="strided",
    bias=True,
)
PLAIN = RESIDUAL.model_copy(update={"block": "plain", "encoder_blocks": (2, 1, 3)})


@pytest.mark.parametrize(
    ("stages", "patch"),
    [
        (paper_stages((2, 3, 3), 4, 20), (8, 16, 24)),
        (paper_stages((3, 2), 5, None, "strided"), (16, 12)),
        (paper_stages((0, 0, 0), 3, None), (4, 4, 4)),
        (PLAIN, (8, 12, 8)),
        (RESIDUAL, (8, 12, 8)),
    ],
)
def test_multiplications_are_those_that_pytorch_counts(stages, patch):
    topology = Topology(in_channels=2, out_channels=3, **dict(stages))
    network = build_network(topology).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 2, *patch))
    counted = counter.get_total_flops() / 2  # it counts additions too
    expected = multiplications(topology, patch)
    if stages.block == "plain":
        assert expected == counted
    else:
        assert expected == pytest.approx(counted, rel=0.05)  # the projections of skip connections are not counted


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": (4, 6)}, "one entry for each level"),
        ({"decoder_blocks": (1, 2, 3)}, "each level but the deepest"),
        ({"strides": ((1, 1), (1, 2, 2), (2, 2, 2))}, "same 2 or 3 axes"),
        ({"strides": ((2, 1, 1), (1, 2, 2), (2, 2, 2))}, "level 0"),
        ({"kernels": ((2, 3, 3), (3, 3, 3), (3, 3, 3))}, "odd"),
    ],
)
def test_levels_that_do_not_fit_together_are_refused(change, words):
    with pytest.raises(ValidationError, match=words):
        Stages(**(dict(RESIDUAL) | change))
