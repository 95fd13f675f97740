"""Where the time of a fit went, to be said beside its budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic

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
        if round(taken) <= round(budget):
            return f"Took {_exact(taken)} of the budget of {_exact(budget)}."
        parts = ", ".join(f"{what} {_exact(seconds)}" for what, seconds in self.laps.items())
        return (
            f"Took {_exact(taken)}, {_exact(taken - budget)} more than the budget of {_exact(budget)}: {parts}. "
            "Trainings end on the clock; what else there is was estimated, and takes longer beside other work."
        )


def _exact(seconds: float) -> str:
    """A duration to the second: "45 s", "10 min 59 s", "2 h 5 min 0 s"."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h " * bool(hours) + f"{minutes} min " * bool(minutes or hours) + f"{rest} s"
