"""The public interface: these names, each of them usable, and nothing heavy before it is used."""

import subprocess
import sys

import pytest

import voxfit


def test_the_public_names():
    assert set(voxfit.__all__) == {
        "Dataset", "FitRequest", "FitResult", "Listener", "Model", "VoxfitError", "evaluate", "fit",
    }  # fmt: skip
    for name in voxfit.__all__:
        assert getattr(voxfit, name).__doc__


def test_an_unknown_name_lists_the_known():
    with pytest.raises(AttributeError, match="voxfit has no 'train'"):
        voxfit.train  # noqa: B018


@pytest.mark.parametrize("name", ["Dataset", "Listener", "VoxfitError", "evaluate", "Model"])
def test_reading_and_scoring_need_no_torch(name):
    """Nor do models, until PyTorch runs them."""
    script = f"import sys, voxfit; voxfit.{name}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
