"""What an engine that runs networks must offer: PyTorch, OpenVINO, and whatever else is added.

An engine is one module with a class of `Backend`, and a line of `voxfit.inference.backends.BACKENDS`.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from voxfit.core.errors import UsageError
from voxfit.inference.arrays import Arrays
from voxfit.inference.int8_json import Range
from voxfit.inference.predictor import Network
from voxfit.planning.architecture import UNET, Topology
from voxfit.planning.plan import ConfigurationName, Plan


@dataclass(frozen=True)
class NetworkSource:
    """What a network is made of.

    Attributes:
        plan: of the model.
        configuration: of the plan.
        path: its weights file.
        device: where it runs.
        ranges: of the tensors that 8 bits hold (`voxfit.inference.rounding`); None for float32.
    """

    plan: Plan
    configuration: ConfigurationName
    path: Path
    device: str
    ranges: Mapping[str, Range] | None = None

    @property
    def topology(self) -> Topology:
        """Its architecture."""
        return self.plan.topology(self.configuration)

    @property
    def patch_size(self) -> Sequence[int]:
        """Size of its tiles."""
        return self.plan.configurations[self.configuration].patch_size


class Backend(ABC):
    """An engine that runs networks. Only `arrays` and `load` import it.

    Attributes:
        name: for `--backend`.
        package: the Python package that runs the networks.
        precisions: of "float32" and "int8", those that it computes with.
    """

    name: str
    package: str
    precisions: Sequence[str] = ("float32",)

    def why_not(self, device: str, network: str) -> str:
        """Why it cannot run a network on a device: the end of a sentence that starts with an option. Empty: it can."""
        return ""

    def repays_after(self, device: str) -> float | None:
        """Seconds of work after which "auto" tries it; None: never.

        That is the time of its import and conversion, over the share of time that it may save.
        """
        return None

    def arrays(self, device: str) -> Arrays:
        """What its networks take and return."""
        return Arrays()

    @abstractmethod
    def load(self, source: NetworkSource) -> Network:
        """Make a network callable, for its arrays.

        Raises:
            ModelError: the weights file is missing, damaged, or of another network.
        """

    def require(self, option: str, device: str, network: str = UNET) -> None:
        """Refuse what it cannot run.

        Args:
            option: that asks for it, as the user wrote it.
            device: where networks run.
            network: its name; default: the U-Net.

        Raises:
            UsageError: it cannot; says why.
        """
        if reason := self.why_not(device, network):
            raise UsageError(f"{option} {reason}")


def is_installed(package: str) -> bool:
    """Whether a package can be imported; it is not."""
    return importlib.util.find_spec(package) is not None
