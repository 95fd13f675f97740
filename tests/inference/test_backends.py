"""Backends compute what PyTorch computes; INT8 what PyTorch computes with the same tensors rounded; the choice."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from builders.records import case_of, fingerprint_of
from voxfit.core.errors import ModelError, UsageError
from voxfit.core.progress import Listener
from voxfit.imaging.labels import Label, Labels
from voxfit.inference.arrays import Arrays
from voxfit.inference.backend import Backend
from voxfit.inference.backends import BACKENDS, BackendOptions, candidates, parse_backend, require_int8
from voxfit.inference.choosing import Chooser, cache_folder, choice_path
from voxfit.inference.int8_json import LEVELS
from voxfit.inference.model_json import Member
from voxfit.inference.predictor import Predictor
from voxfit.inference.rounding import observe_ranges, rounded_tensors
from voxfit.inference.torch_networks import TorchArrays, TorchNetwork, by_torch
from voxfit.networks.unet import build_network, inference_weights
from voxfit.planning.architecture import Topology, paper_stages
from voxfit.planning.plan import Limits
from voxfit.planning.planners.paper import make_plan

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


def weights_of(network):
    return {name: tensor.numpy() for name, tensor in inference_weights(network).items()}


def openvino_network(network, topology, patch, activation=None, ranges=None):
    """The network by OpenVINO, for tensors."""
    from voxfit.inference.openvino_graph import OpenVinoNetwork

    made = OpenVinoNetwork(topology, weights_of(network), patch, activation, ranges)
    return lambda batch: torch.from_numpy(made(batch.numpy())).clone()


def agree(found, expected):
    """Within 1e-4 of the range of values; the largest is the same one, but where two are that close."""
    tolerance = 1e-4 * float(expected.max() - expected.min())
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    best = expected.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > 2 * tolerance
    assert torch.equal(found.argmax(dim=1)[clear], expected.argmax(dim=1)[clear])
    assert clear.float().mean() > 0.99


@pytest.mark.parametrize("backend", ["openvino", "torch-channels-last"])
@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_backends_agree(name, backend):
    """For any batch size."""
    network, topology, patch = make(name)
    run = openvino_network(network, topology, patch) if backend == "openvino" else by_torch(network, backend)
    for count in (3, 1, 2):
        batch = tiles(count, 2, patch)
        agree(run(batch), network(batch))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_backends_make_the_same_probabilities(activation):
    network, topology, patch = make("3d")
    batch = tiles(2, 2, patch)
    expected = TorchNetwork(network, activation)(batch)
    agree(openvino_network(network, topology, patch, activation)(batch), expected)
    if activation == "softmax":
        torch.testing.assert_close(expected.sum(dim=1), torch.ones(2, *patch))
    assert (float(expected.min()) < 0) == (activation is None)


def test_mirrored_folds_agree():
    from voxfit.inference.openvino_graph import OpenVinoNetwork

    network, topology, patch = make("3d", channels=1)
    image = np.random.default_rng(0).normal(size=(1, 13, 17, 20)).astype(np.float32)
    by_openvino = OpenVinoNetwork(topology, weights_of(network), patch, "softmax")
    found = [
        Predictor([run, run], patch, slice_axis=None, outputs=3, arrays=arrays).predict(image)
        for run, arrays in ((TorchNetwork(network, "softmax"), TorchArrays()), (by_openvino, Arrays()))
    ]
    np.testing.assert_allclose(found[1], found[0], atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_of_another_network_are_refused(name):
    """Every tensor that is missing, or has another shape, or has no place, is named."""
    from voxfit.inference.openvino_graph import build_graph

    network, topology, patch = make(name)
    weights = weights_of(network)
    build_graph(topology, weights, patch)
    for key, values in weights.items():
        with pytest.raises(ModelError, match=rf"of another network \({key} is not there in place of"):
            build_graph(topology, {other: weights[other] for other in weights if other != key}, patch)
        with pytest.raises(ModelError, match=rf"of another network \({key} has the shape"):
            build_graph(topology, weights | {key: np.concatenate([values, values])}, patch)
    with pytest.raises(ModelError, match=r"which has no encoder\.9"):
        build_graph(topology, weights | {"encoder.9.0.0.weight": np.zeros(3, np.float32)}, patch)


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
    network, topology, patch = make(name)
    batch = tiles(2, 2, patch)
    ranges = observe_ranges(network, [batch])
    found = openvino_network(network, topology, patch, ranges=ranges)(batch)
    with torch.inference_mode():
        exact = network(batch)
    emulated = emulate(network, ranges, batch)
    loss = float((emulated - exact).std())
    assert loss > 0.005 * float(exact.std())
    assert float((found - exact).std()) == pytest.approx(loss, rel=0.1)
    assert float((found - emulated).std()) < (1e-3 if len(ranges) == 1 else 0.75) * loss


def small_plan():
    """A plan of two labels and small networks."""
    labels = Labels(classes=(Label(name="a", value=1), Label(name="b", value=2)))
    facts = fingerprint_of((case_of((16, 16, 16)),) * 4, labels=labels)
    return make_plan(facts, Limits(voxel_budget=16**3, plane_voxels=2048, base_features=4, cascade_factor=100))


def test_a_model_in_int8_rounds_each_fold_by_its_own_ranges(tmp_path):
    """Those of one are too narrow, so that the other's in their place would be told."""
    plan = small_plan()
    batch = tiles(1, 1, plan.configurations["3d"].patch_size)
    networks, ranges = [build_network(plan.topology("3d"), fold).eval() for fold in range(2)], {}
    for number, (network, share) in enumerate(zip(networks, (1.0, 0.3), strict=True)):
        file = f"{number}.safetensors"
        (tmp_path / file).write_bytes(safetensors.torch.save(network.state_dict()))
        observed = observe_ranges(network, [batch])
        ranges[file] = {name: (share * low, share * high) for name, (low, high) in observed.items()}
    member = Member(configuration="3d", weights=tuple(ranges))
    predictor = BackendOptions("openvino", ranges).predictor(plan, member, tmp_path, "cpu", mirror=False)
    found = predictor.predict(batch[0].numpy())
    with torch.inference_mode():
        exact = sum(network(batch).softmax(dim=1) for network in networks)[0].numpy() / 2
        emulated = (
            sum(
                emulate(network, some, batch).softmax(dim=1)
                for network, some in zip(networks, ranges.values(), strict=True)
            )[0].numpy()
            / 2
        )
    loss = (emulated - exact).std()
    assert loss > 0.005 * exact.std()
    assert (found - exact).std() == pytest.approx(loss, rel=0.1)
    assert (found - emulated).std() < 0.5 * loss


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


@pytest.mark.parametrize("name", NETWORKS)
def test_what_transposed_convolutions_read_is_rounded_symmetrically(name):
    """Else OpenVINO computes them in float32 (their execution types say so on processors with VNNI)."""
    network, _, patch = make(name)
    made, read = {}, []
    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: made.update({name: output}))
        for name, module in network.named_modules()
    ]
    handles += [up.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0])) for up in network.ups]
    ranges = observe_ranges(network, [tiles(1, 2, patch)])
    for handle in handles:
        handle.remove()
    found = [high / -low for name, (low, high) in ranges.items() if any(made[name] is tensor for tensor in read)]
    assert found == pytest.approx([127 / 128] * len(network.ups))


def test_a_short_job_tries_nothing_and_a_long_one_takes_the_fastest(tmp_path):
    path = tmp_path / "cache" / "choice.json"
    chooser = Chooser({"openvino": 0.0, "torch": 10.0}, path)
    for _ in range(19):
        chooser.note(4, 0.5, first=False)
    assert (chooser.current, chooser.settled) == ("openvino", False)
    chooser.note(4, 0.5, first=False)
    assert chooser.current == "torch"
    chooser.note(4, 2.0, first=True)  # the import and the conversion count for nothing
    for _ in range(3):
        assert not path.exists()
        chooser.note(4, 0.25, first=False)
    assert (chooser.current, chooser.settled) == ("torch", True)
    assert json.loads(path.read_text())["seconds"] == {"openvino": 0.125, "torch": 0.0625}
    again = Chooser({"openvino": 0.0, "torch": 10.0}, path)
    assert (again.current, again.settled) == ("torch", True)


def test_a_slower_backend_is_left_again(tmp_path):
    chooser = Chooser({"openvino": 0.0, "torch": 10.0}, tmp_path / "choice.json")
    for seconds in (4.0, 4.0, 4.0, 5.0, 5.0, 5.0):
        chooser.note(1, seconds, first=False)
    assert (chooser.current, chooser.settled) == ("openvino", True)


def test_what_fails_is_not_tried_again(tmp_path):
    chooser = Chooser({"torch": 0.0, "torch-channels-last": 1.0, "torch-compiled": 300.0}, tmp_path / "choice.json")
    for _ in range(3):
        chooser.note(1, 1.0, first=False)
    assert chooser.current == "torch-channels-last"
    chooser.drop()
    assert (chooser.current, chooser.settled) == ("torch", False)
    chooser.note(1, 300.0, first=False)
    assert chooser.current == "torch-compiled"
    chooser.drop()
    assert (chooser.current, chooser.settled) == ("torch", True)
    only = Chooser({"openvino": 0.0}, tmp_path / "choice.json")
    only.drop()
    assert (only.current, only.settled) == ("torch", True)


@pytest.mark.parametrize("content", ["", "{", '{"schema": "voxfit.backend/1", "backend": "cuda", "seconds": {}}'])
def test_a_damaged_cache_is_not_read(tmp_path, content):
    path = tmp_path / "choice.json"
    path.write_text(content)
    chooser = Chooser({"openvino": 0.0, "torch": 10.0}, path)
    assert (chooser.current, chooser.settled) == ("openvino", False)


def test_a_cache_that_cannot_be_written_is_left_out(tmp_path):
    (tmp_path / "file").write_text("")
    chooser = Chooser({"openvino": 0.0, "torch": 10.0}, tmp_path / "file" / "choice.json")
    for _ in range(6):
        chooser.note(1, 4.0, first=False)
    assert chooser.settled


def test_the_cache_lies_where_the_user_wants(monkeypatch, tmp_path):
    monkeypatch.setenv("VOXFIT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("VOXFIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "voxfit"


def test_a_choice_is_that_of_one_network_on_one_machine(monkeypatch):
    """Of another it says nothing: the fastest backend differs."""
    topologies = [make("3d", width=width)[1] for width in (6, 12)] + [make("imported residual")[1]]
    cases = [(item, patch) for item in topologies for patch in ((8, 8, 8), (8, 8, 16))]
    paths = []
    for threads in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        paths += [choice_path(*case, device, ["torch"]) for case in cases for device in ("cpu", "mps")]
        assert choice_path(make("3d")[1], [8, 8, 8], "cpu", ["torch"]) == paths[-12]
    assert len(set(paths)) == len(paths) == 24


class Ear(Listener):
    def __init__(self):
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's own modules
def test_without_a_compiler_the_network_runs_as_it_is(monkeypatch, tmp_path):
    import torch._inductor.config

    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/nonexistent/c++",))
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    plan, ear = small_plan(), Ear()
    network = build_network(plan.topology("3d"), 0).eval()
    (tmp_path / "0.safetensors").write_bytes(safetensors.torch.save(network.state_dict()))
    member = Member(configuration="3d", weights=("0.safetensors",))
    image = tiles(1, 1, plan.configurations["3d"].patch_size)[0].numpy()
    plain, compiled = (
        BackendOptions(name, listener=ear).predictor(plan, member, tmp_path, "cpu", mirror=False)
        for name in ("torch", "torch-compiled")
    )
    assert np.array_equal(compiled.predict(image), plain.predict(image))
    compiled.predict(image)
    assert len(ear.warnings) == 1
    assert ear.warnings[0].startswith("torch-compiled does not work here, PyTorch goes on without it (")


def test_what_cannot_be_had_is_said(monkeypatch):
    with pytest.raises(UsageError, match="there are auto, torch, torch-channels-last, torch-compiled, openvino"):
        parse_backend("onnx")
    with pytest.raises(UsageError, match="only openvino computes with 8 bits"):
        require_int8("--precision int8", "torch", "cpu")
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert "openvino" not in candidates("cpu")
    with pytest.raises(UsageError, match=r"pip install 'voxfit\[openvino\]'"):
        require_int8("--precision int8", None, "cpu")
    with pytest.raises(UsageError, match=r"--backend openvino needs OpenVINO"):
        BACKENDS["openvino"].require("--backend openvino", "cpu")


def test_each_device_has_its_backends_in_the_order_of_trial(monkeypatch):
    assert candidates("cpu") == {"openvino": 0.0, "torch": 10.0}
    assert candidates("cuda:1") == {"torch": 0.0, "torch-channels-last": 1.0, "torch-compiled": 300.0}
    assert candidates("mps") == {"torch": 0.0}
    assert candidates("cpu", "a package's") == candidates("cuda", "a package's") == {"torch": 0.0}
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert candidates("cpu") == {"torch": 10.0, "torch-compiled": 300.0}


class Doubled(Backend):
    """A backend of another package, for arrays of NumPy: PyTorch's outputs, twice."""

    name, package = "doubled", "torch"

    def load(self, source):
        network = BACKENDS["torch"].load(source)
        return lambda batch: 2 * network(torch.from_numpy(batch.copy())).numpy()


def test_a_backend_is_one_object_and_one_line(monkeypatch, tmp_path):
    """It is used by its name."""
    monkeypatch.setitem(BACKENDS, "doubled", Doubled())
    plan = small_plan()
    network = build_network(plan.topology("3d"), 0).eval()
    (tmp_path / "0.safetensors").write_bytes(safetensors.torch.save(network.state_dict()))
    member = Member(configuration="3d", weights=("0.safetensors",))
    image = tiles(1, 1, plan.configurations["3d"].patch_size)[0].numpy()
    plain, doubled = (
        BackendOptions(parse_backend(name)).predictor(plan, member, tmp_path, "cpu").predict(image)
        for name in ("torch", "doubled")
    )
    np.testing.assert_allclose(doubled, 2 * plain, atol=1e-6)


def test_openvino_is_for_cpus():
    with pytest.raises(UsageError, match="is for CPUs, but the device is cuda"):
        require_int8("--precision int8", None, "cuda")


@pytest.mark.parametrize("freed", ["network = None", "del network, other", "del other, network"])
def test_a_signal_is_heard_after_networks_were_freed(freed, tmp_path):
    """A cluster's SIGTERM, after a model was opened in the place of another, is an interruption and no crash."""
    script = f"""
        import os, signal
        import numpy as np
        from inference.test_backends import make, weights_of
        from voxfit.inference.openvino_graph import OpenVinoNetwork

        net, topology, patch = make("2d")
        network, other = (OpenVinoNetwork(topology, weights_of(net), patch) for _ in range(2))
        for each in (network, other):
            each(np.zeros((1, 2, *patch), np.float32))
        del each
        signal.signal(signal.SIGTERM, lambda number, _: print("heard", number))
        {freed}
        os.kill(os.getpid(), signal.SIGTERM)
    """
    tests = Path(__file__).resolve().parents[1]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tests), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.stdout == f"heard {signal.SIGTERM.value}\n", (done.returncode, done.stderr)
    assert done.returncode == 0
