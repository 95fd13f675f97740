"""Oracles need nnU-Net: `make oracles` installs it. Without it they are no tests, and tests/golden stands for them."""

from importlib.util import find_spec
from pathlib import Path

NEED_NO_PEER = {"test_agreement.py"}

collect_ignore = (
    []
    if find_spec("nnunetv2")
    else [path.name for path in Path(__file__).parent.glob("test_*.py") if path.name not in NEED_NO_PEER]
)
