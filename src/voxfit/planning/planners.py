"""Which rules make the plan: those of the paper, or of one of nnU-Net v2's planners."""

from __future__ import annotations

from voxfit.core.records import digest_of
from voxfit.planning.fingerprint import Fingerprint
from voxfit.planning.plan import Limits, Plan
from voxfit.planning.planner import make_plan
from voxfit.planning.planner_v2 import make_v2_plan
from voxfit.planning.recipe import PAPER


def plan_by(planner: str, fingerprint: Fingerprint, limits: Limits | None = None) -> Plan:
    """Plan every configuration that a planner offers.

    Args:
        planner: "nnunet-2018", or a name of `voxfit.planning.nnunet_v2.PRESETS`.
        fingerprint: the measured facts.
        limits: constants of the paper's rules; default: the paper's.
    """
    limits = limits or Limits()
    plan = make_plan(fingerprint, limits) if planner == PAPER else make_v2_plan(fingerprint, planner, limits)
    return plan.revised(planner=planner, inputs_digest=plan_origin(planner, fingerprint, limits))


def plan_origin(planner: str, fingerprint: Fingerprint, limits: Limits) -> str:
    """Digest of what a plan is made from."""
    return digest_of([planner, fingerprint.facts_digest(), limits.digest()])
