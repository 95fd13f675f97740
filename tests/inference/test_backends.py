"""Backends compute what PyTorch computes; INT8 what PyTorch computes with the same tensors rounded; the choice."""

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

from voxfit.core.errors import UsageError
from voxfit.core.listening import Listener
from voxfit.inference.backends import Chooser, Execution, cache_folder, candidates, parse_backend, require_int8
from voxfit.inference.predictor import Predictor
from voxfit.inference.rounding import LEVELS, observe_ranges, rounded_tensors
from voxfit.networks.unet import build_network
from voxfit.planning.stages import Topology, paper_stages

IMPORTED = {
    "downsampling": "strided",
    "bias": True,
    "kernels": ((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)),
}
NETWORKS = {
    "3d": ((2, 2, 2), {}, (8, 12, 16)),
    "3d without pooling": ((0, 0, 0), {}, (5, 6, 7)),
    "anisotropic": ((1, 2, 2), {}, (6, 16, 12)),
    "imported plain": ((2, 2, 2), IMPORTED, (4, 16, 12)),
    "imported residual": ((2, 2, 2), IMPORTED | {"block": "residual"}, (4, 16, 12)),
    "2d": ((3, 3), {}, (24, 32)),
    "2d residual": ((3, 3), {"block": "residual", "downsampling": "strided", "bias": True}, (24, 32)),
}


def make(name, channels=2, outputs=3, width=6):
    """A network whose norms and biases are not the identity, its topology, and its patch."""
    num_pool, changes, patch = NETWORKS[name]
    stages = dict(paper_stages(num_pool, width, 320)) | changes
    topology = Topology(in_channels=channels, out_channels=outputs, **stages)
    network = build_network(topology, 0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return network, topology, patch


def tiles(count, channels, patch):
    return torch.randn((count, channels, *patch), generator=torch.Generator().manual_seed(2))


def run_by(backend, network, topology, patch):
    return Execution(backend).adapt([network], topology, patch, "cpu", ["file"])[0]


@pytest.mark.parametrize("backend", ["openvino", "torch-channels-last"])
@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_backends_agree(name, backend):
    """Logits within 1e-4 of their range, for any batch size; labels too, but where two logits are that close."""
    if backend == "openvino":
        pytest.importorskip("openvino")
    network, topology, patch = make(name)
    adapted = run_by(backend, network, topology, patch)
    for count in (3, 1, 2):
        batch = tiles(count, 2, patch)
        expected, found = network(batch), adapted(batch)
        tolerance = 1e-4 * float(expected.max() - expected.min())
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
        best = expected.topk(2, dim=1).values
        clear = best[:, 0] - best[:, 1] > 2 * tolerance
        assert torch.equal(found.argmax(dim=1)[clear], expected.argmax(dim=1)[clear])
        assert clear.float().mean() > 0.99


def test_mirrored_folds_agree():
    pytest.importorskip("openvino")
    network, topology, patch = make("3d", channels=1)
    image = np.random.default_rng(0).normal(size=(1, 13, 17, 20)).astype(np.float32)
    found = []
    for backend in ("torch", "openvino"):
        networks = Execution(backend).adapt([network, network], topology, patch, "cpu", ["a", "b"])
        found.append(Predictor(networks, patch, slice_axis=None, outputs=3).predict(image))
    np.testing.assert_allclose(found[1], found[0], atol=1e-4)


def test_a_result_is_not_changed_by_the_next_pass():
    pytest.importorskip("openvino")
    network, topology, patch = make("2d")
    adapted = run_by("openvino", network, topology, patch)
    first = adapted(tiles(1, 2, patch))
    kept = first.clone()
    adapted(-tiles(1, 2, patch))
    assert torch.equal(first, kept)


def rounded(values, low, high, levels):
    """The nearest of `levels` values from `low` to `high`."""
    step = (high - low) / (levels - 1)
    return torch.round((values.clamp(low, high) - low) / step) * step + low


@torch.inference_mode()
def emulate(network, ranges, batch):
    """PyTorch in float32, with the tensors and the weights that INT8 rounds, rounded."""
    tensors = rounded_tensors(network)
    handles = [
        tensors[name].register_forward_hook(lambda _, __, output, ends=ends: rounded(output, *ends, LEVELS))
        for name, ends in ranges.items()
    ]
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            if module in (first, network.head):
                continue
            axis = 1 if isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d) else 0
            others = tuple(other for other in range(module.weight.ndim) if other != axis)
            largest = module.weight.abs().amax(dim=others, keepdim=True)
            module.weight.copy_(torch.round(module.weight / largest * 63) / 63 * largest)
    logits = network(batch)
    for handle in handles:
        handle.remove()
    return logits


@pytest.mark.parametrize("name", NETWORKS)
def test_int8_is_the_network_with_rounded_tensors(name):
    """Exactly where one tensor is rounded; deeper, values on the edge of a step fall to either side.

    Errors of the same size that have nothing to do with each other would be 1.4 times that size apart.
    """
    pytest.importorskip("openvino")
    network, topology, patch = make(name)
    batch = tiles(2, 2, patch)
    ranges = observe_ranges(network, [batch])
    found = Execution(None, {"file": ranges}).adapt([network], topology, patch, "cpu", ["file"])[0](batch)
    with torch.inference_mode():
        exact = network(batch)
    emulated = emulate(network, ranges, batch)
    loss = float((emulated - exact).std())
    assert loss > 0.005 * float(exact.std())
    assert float((found - exact).std()) == pytest.approx(loss, rel=0.1)
    assert float((found - emulated).std()) < (1e-3 if len(ranges) == 1 else 0.75) * loss


def test_ranges_are_means_over_tiles_and_hold_zero():
    network, _, patch = make("3d")
    batches = [tiles(1, 2, patch), 3 * tiles(2, 2, patch) + 1]
    seen = []
    handle = network.encoder[1][0].register_forward_hook(lambda _, __, output: seen.append(output))
    ranges = observe_ranges(network, batches)
    handle.remove()
    output = torch.cat(seen).flatten(1)
    low, high = ranges["encoder.1.0"]
    step = (high - low) / 255
    assert low == pytest.approx(float(output.amin(1).mean()), abs=step)
    assert high == pytest.approx(float(output.amax(1).mean()), abs=step)
    assert low / step == pytest.approx(round(low / step), abs=1e-6)
    # What is concatenated has one range; what head and user see is not rounded.
    assert ranges["ups.0"] == ranges["encoder.0.1"]
    assert "decoder.0.1" not in ranges


def test_a_short_job_stays_with_torch_and_a_long_one_takes_the_fastest(tmp_path):
    path = tmp_path / "cache" / "choice.json"
    chooser = Chooser(("torch", "openvino"), path)
    for _ in range(11):
        chooser.note(4, 0.125, first=False)
    assert (chooser.current, chooser.settled) == ("torch", False)
    chooser.note(4, 0.125, first=False)
    assert chooser.current == "openvino"
    chooser.note(4, 2.0, first=True)  # the conversion counts for nothing
    for _ in range(3):
        assert not path.exists()
        chooser.note(4, 0.0625, first=False)
    assert (chooser.current, chooser.settled) == ("openvino", True)
    assert json.loads(path.read_text())["seconds"] == {"torch": 0.03125, "openvino": 0.015625}
    again = Chooser(("torch", "openvino"), path)
    assert (again.current, again.settled) == ("openvino", True)


def test_a_slower_backend_is_left_again(tmp_path):
    chooser = Chooser(("torch", "openvino"), tmp_path / "choice.json")
    for seconds in (1.0, 1.0, 1.0, 2.0, 2.0, 2.0):
        chooser.note(1, seconds, first=False)
    assert (chooser.current, chooser.settled) == ("torch", True)


@pytest.mark.parametrize("content", ["", "{", '{"schema": "voxfit.backend/1", "backend": "cuda", "seconds": {}}'])
def test_a_damaged_cache_is_not_read(tmp_path, content):
    path = tmp_path / "choice.json"
    path.write_text(content)
    chooser = Chooser(("torch", "openvino"), path)
    assert (chooser.current, chooser.settled) == ("torch", False)


def test_a_cache_that_cannot_be_written_is_left_out(tmp_path):
    (tmp_path / "file").write_text("")
    chooser = Chooser(("torch", "openvino"), tmp_path / "file" / "choice.json")
    for _ in range(6):
        chooser.note(1, 1.0, first=False)
    assert chooser.settled


def test_the_cache_lies_where_the_user_wants(monkeypatch, tmp_path):
    monkeypatch.setenv("VOXFIT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("VOXFIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "voxfit"


class Ear(Listener):
    def __init__(self):
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's own modules
def test_without_a_compiler_the_network_runs_as_it_is(monkeypatch):
    import torch._inductor.config

    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/nonexistent/c++",))
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    network, topology, patch = make("2d", width=3)
    ear = Ear()
    adapted = Execution("torch-compiled", listener=ear).adapt([network], topology, patch, "cpu", ["file"])[0]
    with torch.inference_mode():
        batch = tiles(1, 2, patch)
        assert torch.equal(adapted(batch), network(batch))
        adapted(batch)
    assert len(ear.warnings) == 1
    assert "cannot be compiled" in ear.warnings[0]


def test_what_cannot_be_had_is_said(monkeypatch):
    with pytest.raises(UsageError, match="there are auto, torch, torch-channels-last, torch-compiled, openvino"):
        parse_backend("onnx")
    with pytest.raises(UsageError, match="only openvino computes with 8 bits"):
        require_int8("torch", "cpu")
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert "openvino" not in candidates("cpu")
    with pytest.raises(UsageError, match=r"pip install 'voxfit\[openvino\]'"):
        require_int8(None, "cpu")
    network, topology, patch = make("2d")
    with pytest.raises(UsageError, match=r"--backend openvino needs OpenVINO"):
        run_by("openvino", network, topology, patch)


def test_openvino_is_for_cpus():
    pytest.importorskip("openvino")
    with pytest.raises(UsageError, match="is for CPUs, but the device is cuda"):
        require_int8(None, "cuda")
