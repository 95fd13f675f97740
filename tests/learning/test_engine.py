"""Ways of executing a step give the same step; what does not work is left out."""

import contextlib
import math
import os

import pytest
import torch

from bad_input.place import run_voxfit
from builders.records import topology_of
from synthetic import write_boxes
from voxfit.console import ConsoleListener
from voxfit.core.errors import UsageError
from voxfit.learning.engine import (
    PLAIN,
    Engine,
    StepMode,
    choose_execution,
    determinism,
    free_bytes,
    is_out_of_memory,
    make_optimizer,
    peak_flops,
)
from voxfit.networks.unet import build_network, inference_weights
from voxfit.planning.recipes import SGD, Adam, Plateau, PolynomialDecay, Recipe

COMPILED, LAST = StepMode(compiled=True), StepMode(channels_last=True)
BOTH = StepMode(compiled=True, channels_last=True)


def recipe(**changes):
    schedule = PolynomialDecay(learning_rate=1e-2, epochs=4, warmup_steps=0)
    return Recipe(**({"schedule": schedule, "optimizer": SGD(), "deep_supervision": True} | changes))


def topology(axes=3):
    return topology_of((3,) * axes)


def image(axes=3, batch=2):
    return torch.randn(batch, 1, *(16,) * axes, generator=torch.Generator().manual_seed(0))


def loss_of(engine, values):
    return sum(level.square().mean() for level in engine.levels(values))


@pytest.mark.parametrize("axes", [2, 3])
def test_channels_last_takes_the_same_step(axes):
    engines = [Engine(topology(axes), recipe(), 0, "cpu", way) for way in (PLAIN, LAST)]
    losses = []
    for engine in engines:
        losses.append(loss_of(engine, image(axes)))
        assert engine.update(losses[-1])
    # Sums of some hundred products in another order.
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    first, second = (engine.network.state_dict() for engine in engines)
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)
    weight = engines[1].network.encoder[1][0][0].weight
    assert not weight.is_contiguous()
    assert torch.equal(weight.detach(), weight.detach().contiguous())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when its compiler is imported
def test_a_compiled_network_keeps_the_names_of_its_weights():
    """Nothing is compiled before the first step."""
    engine = Engine(topology(), recipe(), 0, "cpu", COMPILED)
    assert engine.network.state_dict().keys() == Engine(topology(), recipe(), 0, "cpu").network.state_dict().keys()
    assert not any("_orig_mod" in name for name in inference_weights(engine.network))


def torchs_sgd(parameters, decay):
    return torch.optim.SGD(parameters, lr=1e-2, momentum=0.99, nesterov=True, weight_decay=decay)


def torchs_adam(parameters, decay):
    return torch.optim.Adam(parameters, lr=1e-2, amsgrad=True, weight_decay=decay)


@pytest.mark.parametrize(("optimizer", "theirs"), [(SGD, torchs_sgd), (Adam, torchs_adam)])
@pytest.mark.parametrize("decay", [3e-5, 0.1, 0.0])
@pytest.mark.parametrize("limit", [None, 1e-3])
def test_an_update_is_torchs(optimizer, theirs, decay, limit):
    """A network and an optimiser of torch's, made without the engine."""
    settings = recipe(optimizer=optimizer(weight_decay=decay), max_grad_norm=limit)
    engine = Engine(topology(), settings, 0, "cpu")
    network = build_network(topology(), 0, deep_supervision=True)
    stepped = theirs(network.parameters(), decay)
    for step in range(3):
        values = image() * (3 - step)
        assert engine.update(loss_of(engine, values))
        stepped.zero_grad()
        sum(level.square().mean() for level in network(values)).backward()
        if limit:
            torch.nn.utils.clip_grad_norm_(network.parameters(), limit)
        stepped.step()
    assert all(torch.equal(a, b) for a, b in zip(engine.network.parameters(), network.parameters(), strict=True))


def numpy_sgd(weight, gradients, rate, decay, momentum):
    """Sutskever et al. 2013, as torch's documentation has it."""
    velocity = 0.0
    for gradient in gradients:
        full = gradient + decay * weight
        velocity = momentum * velocity + full
        weight = weight - rate * (full + momentum * velocity)
    return weight


def numpy_adam(weight, gradients, rate, decay):
    """Kingma and Ba 2015, with the largest second moment of Reddi et al. 2018, and decay as a part of the gradient."""
    first = second = largest = 0.0
    for step, gradient in enumerate(gradients, 1):
        full = gradient + decay * weight
        first = 0.9 * first + 0.1 * full
        second = 0.999 * second + 0.001 * full**2
        largest = max(largest, second)
        weight = weight - rate * first / (1 - 0.9**step) / (math.sqrt(largest / (1 - 0.999**step)) + 1e-8)
    return weight


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_optimisers_are_their_formulas(kind):
    """Gradients that shrink, so that it matters which second moment Adam keeps; a decay that is seen."""
    gradients = [3.0, -2.0, 0.5, 1e-3, 1e-3, 1e-3]
    weight = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    torch.nn.init.constant_(weight.weight, 2.0)
    chosen = SGD(weight_decay=0.1, momentum=0.9) if kind == "sgd" else Adam(weight_decay=0.1)
    optimizer = make_optimizer(weight, recipe(optimizer=chosen))
    for gradient in gradients:
        weight.weight.grad = torch.full((1, 1), gradient, dtype=torch.float64)
        optimizer.step()
    expected = numpy_sgd(2.0, gradients, 1e-2, 0.1, 0.9) if kind == "sgd" else numpy_adam(2.0, gradients, 1e-2, 0.1)
    assert weight.weight.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_nothing_changes_where_a_number_is_not_finite(bad, where):
    engine = Engine(topology(), recipe(), 0, "cpu")
    assert engine.update(loss_of(engine, image()))
    before = {name: tensor.clone() for name, tensor in engine.network.state_dict().items()}
    loss = loss_of(engine, image())
    if where == "loss":
        loss = loss * bad
    else:
        loss.register_hook(lambda gradient: gradient * bad)
    assert not engine.update(loss)
    assert all(torch.equal(before[name], tensor) for name, tensor in engine.network.state_dict().items())
    assert engine.update(loss_of(engine, image()))
    assert all(torch.isfinite(tensor).all() for tensor in engine.network.state_dict().values())


def long(seconds):
    return recipe(schedule=PolynomialDecay(learning_rate=1e-2, seconds=seconds))


@pytest.mark.parametrize(
    ("settings", "tried"),
    [
        (long(600.0), 0),
        (long(86400.0), 4),
        (recipe(steps_per_epoch=10), 0),
        (recipe(schedule=PolynomialDecay(learning_rate=1e-2, epochs=50), steps_per_epoch=100), 1),  # 5,000 s
        (recipe(schedule=Plateau(epochs=1000)), 4),
    ],
)
def test_only_long_trainings_try_other_ways(settings, tried):
    asked = []

    def measure(way):
        asked.append(way)
        return {PLAIN: 1.0, LAST: 1.1, COMPILED: 0.8, BOTH: 0.7}[way]

    chosen, said = choose_execution(settings, measure, pytest.fail)
    assert len(asked) == tried
    assert chosen == (BOTH if tried == 4 else PLAIN)
    assert ("compiled + channels last 0.7 s" in said) == (tried == 4)


def test_a_small_gain_is_no_reason():
    seconds = {PLAIN: 1.0, LAST: 0.99, COMPILED: 0.98, BOTH: 0.98}
    assert choose_execution(long(86400.0), seconds.__getitem__, pytest.fail)[0] == PLAIN


def test_what_does_not_compile_is_named_and_left_out():
    warnings = []

    def measure(way):
        if way.compiled:
            raise RuntimeError("no C++ compiler\nand much more")
        return 1.0

    chosen, _ = choose_execution(long(86400.0), measure, warnings.append)
    assert chosen == PLAIN
    assert len(warnings) == 2
    assert warnings[1] == "compiled does not work here and is not used (RuntimeError: no C++ compiler)."


def test_memory_that_does_not_suffice_is_no_reason_to_go_on():
    def measure(way):
        raise MemoryError

    with pytest.raises(MemoryError):
        choose_execution(long(86400.0), measure, pytest.fail)


def test_torchs_own_error_is_understood():
    """What its allocator says of an exbibyte."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_the_machine_is_measured():
    # From the slowest of single cores to the fastest of accelerators.
    assert 1e8 < peak_flops("cpu") < 1e16
    assert 0 < free_bytes(torch.device("cpu")) < 2**50


def settings_of_torch():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
    )


@pytest.fixture(params=[(False, False, False), (False, False, True), (True, False, False), (True, True, False)])
def settings_before(request):
    """Torch's settings, whatever a program has made of them; they are put back afterwards."""
    found = settings_of_torch()
    for values in (request.param, found):
        torch.use_deterministic_algorithms(values[0], warn_only=values[1])
        torch.backends.cudnn.benchmark = values[2]
        if values is request.param:
            yield values


@pytest.mark.parametrize("ends", ["well", "in an error"])
def test_determinism_ends_with_its_block(settings_before, ends):
    with pytest.raises(ZeroDivisionError) if ends == "in an error" else contextlib.nullcontext(), determinism(True):
        assert settings_of_torch() == (True, True, False)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8")  # the two that NVIDIA names
        Engine(topology(), recipe(), 0, "cpu")  # tries no algorithms of cuDNN then
        assert settings_of_torch() == (True, True, False)
        if ends == "in an error":
            raise ZeroDivisionError
    assert settings_of_torch() == settings_before
    with determinism(False):
        assert settings_of_torch() == settings_before
    assert settings_of_torch() == settings_before


@pytest.mark.parametrize("wanted", [False, True])
def test_a_fit_is_deterministic_where_that_is_wanted(tmp_path, monkeypatch, wanted):
    """What the command line shows first after planning is a stage; there the fit is ended."""
    data, run, seen = write_boxes(tmp_path / "data", cases=5, test_cases=0), tmp_path / "run", []
    assert run_voxfit(["plan", str(data), "-o", str(run), "--workers", "1"])[0] == 0

    def look(self, text):
        seen.append(torch.are_deterministic_algorithms_enabled())
        raise UsageError("that is enough")

    monkeypatch.setattr(ConsoleListener, "stage", look)
    option = ["--deterministic"] if wanted else []
    code, said = run_voxfit(["fit", str(data), "-o", str(run), "--workers", "1", "--device", "cpu", *option])
    assert (code, seen) == (64, [wanted]), said
    assert not torch.are_deterministic_algorithms_enabled()
