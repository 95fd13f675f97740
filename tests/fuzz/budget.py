"""How long fuzzing takes: a small budget in `make test`, a long one in `make fuzz`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck

EXAMPLES = int(os.environ.get("VOXFIT_FUZZ_EXAMPLES", "60"))
"""Of each property; `make fuzz` takes many more."""

SETTINGS = {
    "max_examples": EXAMPLES,
    "deadline": None,
    "derandomize": EXAMPLES <= 60,  # in `make test` the same every time
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
}
