"""Our planner of nnU-Net v2: against golden files."""

import pytest

from golden.files import read_json
from golden.fingerprints import PLANNED, digest_of_fingerprint, draw, ours
from voxfit.planning.planners.nnunet_v2_networks import PRESETS, plan_networks

PLANS = read_json("planner")


@pytest.mark.parametrize(("preset", "seed", "dimension"), PLANNED)
def test_plans(preset, seed, dimension):
    fingerprint, expected = draw(seed, dimension), PLANS[f"{preset}, {dimension}D, {seed}"]
    assert digest_of_fingerprint(fingerprint) == expected["of"], "another dataset than that which nnU-Net planned for"
    rules = plan_networks(fingerprint, PRESETS[preset])
    found = {name: {"previous": rule.previous} | ours(rule, expected["transpose"]) for name, rule in rules.items()}
    assert found == expected["configurations"]
