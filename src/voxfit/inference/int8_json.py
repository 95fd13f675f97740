"""The INT8 form of a model: `int8.json` beside `model.json`, with the ranges of its tensors and what they cost.

The networks stay the float32 weights files. INT8 follows from these and the ranges when the model is opened, so there
is nothing to load but JSON, and nothing that could name a file elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import PositiveInt

from voxfit.core.errors import ModelError, RecordError, UsageError
from voxfit.core.records import Record, checksum_of

LEVELS = 256
"""Values of a tensor of 8 bits."""

Range = tuple[float, float]
"""Smallest and largest value of a tensor."""

FILE = "int8.json"

MOST_LOSS = 0.002
"""Where INT8 loses this much mean foreground Dice, it is refused unless the user accepts it."""


class QuantizedNetwork(Record):
    """One network.

    Attributes:
        weights: its file, as in `model.json`.
        checksum: SHA-256 of that file.
        ranges: smallest and largest value of each tensor that 8 bits hold, by the name of the module that makes it.
    """

    weights: str
    checksum: str
    ranges: dict[str, Range]


class DiceLoss(Record):
    """What INT8 costs, measured by segmenting labelled cases both ways.

    Attributes:
        cases: how many.
        out_of_fold: each by the networks of the fold that did not train on it; otherwise by the whole model.
        float32, int8: mean foreground Dice; None where no case has a label.
        float32_labels, int8_labels: mean Dice of each label.
    """

    cases: PositiveInt
    out_of_fold: bool
    float32: float | None
    int8: float | None
    float32_labels: dict[str, float | None]
    int8_labels: dict[str, float | None]

    @property
    def loss(self) -> float | None:
        """Mean foreground Dice lost; None where it is unknown."""
        return None if self.float32 is None or self.int8 is None else self.float32 - self.int8

    @property
    def is_small(self) -> bool:
        """Whether INT8 may be used without asking."""
        return self.loss is not None and self.loss < MOST_LOSS


class Quantization(Record):
    """What `int8.json` holds.

    Attributes:
        networks: of all members and stages of the model.
        dice: what it costs.
        tiles: calibration patches for each network.
        made_by: program and version.
        measured_with: version of OpenVINO, and the processor.
    """

    schema_name: ClassVar[str] = "voxfit.int8/2"
    networks: tuple[QuantizedNetwork, ...]
    dice: DiceLoss
    tiles: PositiveInt
    made_by: str
    measured_with: tuple[str, str]


def open_quantization(folder: Path, *, accept_loss: bool = False) -> dict[str, dict[str, Range]]:
    """The ranges of each network of a model, by its weights file.

    Args:
        folder: of the model.
        accept_loss: even where it costs `MOST_LOSS` or more.

    Raises:
        ModelError: there is no INT8 form, it is damaged, or the weights are not those that it was made for.
        UsageError: it costs too much, and `accept_loss` is not set.
    """
    path = folder / FILE
    if not path.is_file():
        raise ModelError(f"{folder}: has no INT8 form yet. Make it with `voxfit quantize {folder}`.")
    try:
        made = Quantization.load(path)
    except RecordError as error:
        raise ModelError(f"{error} Make it again with `voxfit quantize`.") from None
    if not accept_loss:
        _require_small(made.dice, path)
    for network in made.networks:
        if checksum(folder / network.weights) != network.checksum:
            raise ModelError(
                f"{path}: was made for other weights than {network.weights}. Make it again with `voxfit quantize`."
            )
    return {network.weights: network.ranges for network in made.networks}


def checksum(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        return checksum_of(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}). Restore the model from its source.") from None


def _require_small(dice: DiceLoss, path: Path) -> None:
    if not dice.is_small:
        found = "unknown" if dice.loss is None else f"{dice.loss:.4f} ({dice.float32:.4f} to {dice.int8:.4f})"
        raise UsageError(
            f"{path}: the mean Dice that INT8 loses is {found} on {dice.cases} cases, and {MOST_LOSS} is the limit. "
            "Leave --precision int8 out, or add --accept-loss."
        )
