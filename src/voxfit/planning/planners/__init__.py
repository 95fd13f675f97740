"""The planners by name. A planner is a function of the fingerprint and the limits; to add one, add a line here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from voxfit.core.records import digest_of
from voxfit.planning.fingerprint import Fingerprint
from voxfit.planning.plan import PAPER, Limits, Plan
from voxfit.planning.planners.nnunet_v2 import plan_nnunet_v2
from voxfit.planning.planners.nnunet_v2_networks import PRESETS
from voxfit.planning.planners.paper import make_plan

Planner = Callable[[Fingerprint, Limits], Plan]
"""Makes the plan of every configuration that it offers; the limits are constants of the paper's rules."""

PLANNERS: dict[str, Planner] = {
    PAPER: make_plan,
    **{name: partial(plan_nnunet_v2, preset) for name, preset in PRESETS.items()},
}


def plan_by(planner: str, fingerprint: Fingerprint, limits: Limits | None = None) -> Plan:
    """Plan every configuration that a planner offers.

    Args:
        planner: a name in `PLANNERS`.
        fingerprint: the measured facts.
        limits: constants of the paper's rules; default: the paper's.
    """
    limits = limits or Limits()
    plan = PLANNERS[planner](fingerprint, limits)
    return plan.revised(planner=planner, inputs_digest=plan_origin(planner, fingerprint, limits))


def plan_origin(planner: str, fingerprint: Fingerprint, limits: Limits) -> str:
    """Digest of what a plan is made from."""
    return digest_of([planner, fingerprint.facts_digest(), limits.digest()])
