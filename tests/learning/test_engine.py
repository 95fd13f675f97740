"""Ways of executing a step give the same step; what does not work is left out."""

import pytest
import torch

from voxfit.learning.engine import (
    PLAIN,
    Engine,
    Execution,
    choose_execution,
    determinism,
    free_bytes,
    is_out_of_memory,
    peak_flops,
)
from voxfit.planning.recipe import SGD, Adam, Annealed, Plateau, Recipe
from voxfit.planning.stages import Topology, paper_stages

COMPILED, LAST = Execution(compiled=True), Execution(channels_last=True)
BOTH = Execution(compiled=True, channels_last=True)


def recipe(**changes):
    schedule = Annealed(learning_rate=1e-2, epochs=4, warmup_steps=0)
    return Recipe(**({"schedule": schedule, "optimizer": SGD(), "deep_supervision": True} | changes))


def topology(axes=3):
    return Topology(in_channels=1, out_channels=2, **dict(paper_stages((3,) * axes, 4, None)))


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
    assert not any("_orig_mod" in name for name in engine.network.inference_weights())


@pytest.mark.parametrize("optimizer", [SGD(), Adam()])
@pytest.mark.parametrize("limit", [None, 1e-3])
def test_an_update_is_torchs(optimizer, limit):
    settings = recipe(optimizer=optimizer, largest_gradient=limit)
    ours, theirs = (Engine(topology(), settings, 0, "cpu") for _ in range(2))
    for _ in range(2):
        assert ours.update(loss_of(ours, image()))
        theirs.optimizer.zero_grad()
        loss_of(theirs, image()).backward()
        if limit:
            torch.nn.utils.clip_grad_norm_(theirs.network.parameters(), limit)
        theirs.optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.network.parameters(), theirs.network.parameters(), strict=True))


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
    return recipe(schedule=Annealed(learning_rate=1e-2, seconds=seconds))


@pytest.mark.parametrize(
    ("settings", "tried"),
    [
        (long(600.0), 0),
        (long(86400.0), 4),
        (recipe(steps_per_epoch=10), 0),
        (recipe(schedule=Annealed(learning_rate=1e-2, epochs=50), steps_per_epoch=100), 1),  # 5,000 s
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


def test_determinism_ends_with_its_block():
    assert not torch.are_deterministic_algorithms_enabled()
    with determinism(True):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    with determinism(False):
        assert not torch.are_deterministic_algorithms_enabled()
