"""Where the time of a fit went, to be said beside its budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic

from voxfit.core.formatting import format_seconds
from voxfit.core.progress import Listener


@dataclass
class Stopwatch:
    """Where the time of a fit went: `lap` counts what has passed since the last one.

    Attributes:
        begun: of `monotonic`.
        laps: seconds by what was done, in this order.
    """

    begun: float
    laps: dict[str, float] = field(default_factory=dict)

    def lap(self, what: str) -> None:
        """Count the time since the last lap for something."""
        self.laps[what] = self.laps.get(what, 0.0) + monotonic() - self.begun - sum(self.laps.values())

    def tell(self, listener: Listener, budget: float | None) -> None:
        """Say what was taken of a budget, where there was one."""
        if budget:
            listener.say(self.account(budget))

    def account(self, budget: float) -> str:
        """What was taken of a budget, and where the rest went if that is more."""
        taken = sum(self.laps.values())
        took, whole = f"Took {format_seconds(taken)}", f"the budget of {format_seconds(budget)}"
        if round(taken) <= round(budget):
            return f"{took} of {whole}."
        parts = ", ".join(f"{what} {format_seconds(seconds)}" for what, seconds in self.laps.items())
        return (
            f"{took}, {format_seconds(taken - budget)} more than {whole}: {parts}. "
            "Trainings end on the clock; what else there is was estimated, and takes longer beside other work."
        )
