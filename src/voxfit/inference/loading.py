"""From weights files to predictors on a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from voxfit.core.errors import ModelError, UsageError
from voxfit.core.records import checksum_of
from voxfit.inference.description import Member
from voxfit.inference.predictor import Network, Predictor
from voxfit.networks.unet import UNet, build_network
from voxfit.planning.plan import ConfigurationName, Plan
from voxfit.planning.stages import Topology, activation_bytes

Adapter = Callable[[Sequence[UNet], Topology, Sequence[int], str], Sequence[Network]]
"""Takes networks, their topology, their patch and the device; returns what computes the same."""


def make_predictor(
    plan: Plan,
    name: ConfigurationName,
    networks: Sequence[UNet],
    device: str,
    *,
    mirror: bool = True,
    plain_too: bool = False,
    memory: int | None = None,
    adapter: Adapter | None = None,
) -> Predictor:
    """The predictor of one configuration, its networks moved to a device.

    Args:
        plan: patch, outputs, and how predictions are averaged.
        name: of the configuration.
        networks: one for each fold.
        device: where to.
        mirror: test-time mirroring.
        plain_too: see `Predictor`.
        memory: bytes; passes are kept small enough that they take no more than a quarter of it.
        adapter: lets a backend run the networks; None: PyTorch, the same bits every time.
    """
    configuration, inference = plan.configurations[name], plan.inference
    axes = (0, 1, 2) if inference.mirror_axes is None else inference.mirror_axes
    placed = [network.to(device).eval() for network in networks]
    predictor = Predictor(
        adapter(placed, plan.topology(name), configuration.patch_size, device) if adapter else placed,
        configuration.patch_box,
        slice_axis=configuration.slice_axis,
        outputs=plan.labels.outputs,
        activation=None if inference.averages == "logits" else "sigmoid" if plan.labels.regions else "softmax",
        device=device,
        mirror_axes=axes if mirror else (),
        tile_weights=inference.tile_weights,
        plain_too=plain_too,
    )
    predictor.limit_pass(activation_bytes(plan.topology(name), configuration.patch_size), memory)
    return predictor


def load_networks(plan: Plan, member: Member, folder: Path) -> list[UNet]:
    """The networks of a member, their files compared with the checksums.

    Raises:
        ModelError: a file is missing, damaged, or not the one that the model was made with.
    """
    for file, checksum in zip(member.weights, member.checksums, strict=False):
        path = folder / file
        if path.is_file() and checksum_of(path) != checksum:
            raise ModelError(
                f"{path}: the weights are not those that the model was made with. Restore the model folder from its "
                "source."
            )
    return [load_network(plan, member.configuration, folder / file) for file in member.weights]


def load_network(plan: Plan, name: ConfigurationName, path: Path) -> UNet:
    """Build a network and load its weights.

    Raises:
        ModelError: the file is missing, damaged, or of another network.
    """
    network = build_network(plan.topology(name))
    try:
        network.load_state_dict(safetensors.torch.load_file(path))
    except FileNotFoundError:
        raise ModelError(f"{path}: the weights file is missing. Restore the model folder from its source.") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: the weights file is damaged ({error}). Restore it from its source.") from None
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ModelError(f"{path}: the weights are of another network ({reason}).") from None
    return network


def choose_device(name: str) -> str:
    """ "auto" becomes the best device there is.

    Raises:
        UsageError: the device is not there.
    """
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.append("mps")
    if torch.cuda.is_available():
        available.append("cuda")
    if name == "auto":
        return available[-1]
    if name.split(":", maxsplit=1)[0] not in available:
        raise UsageError(f"--device {name}: not there. This machine has: {', '.join(available)}.")
    return name
