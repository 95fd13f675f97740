"""What a run needs of the disk is known before it starts, and a full disk leaves nothing corrupt."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from builders.records import case_of, fingerprint_of
from voxfit.core.errors import WorkspaceError
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.volume import Volume
from voxfit.networks.unet import UNet
from voxfit.planning.grid import Grid, ZScore
from voxfit.planning.planners import plan_by
from voxfit.preprocessing.case import prepare
from voxfit.preprocessing.store import write_case
from voxfit.running.space import check_space, needed_bytes


@contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    """Writing further fails, as on a full disk."""
    import resource
    import signal

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("planner", ["nnunet-2018", "nnunet-v2"])
def test_the_weights_are_those_of_the_networks(planner: str) -> None:
    fingerprint = fingerprint_of([case_of((64,) * 3)] * 20)
    plan = plan_by(planner, fingerprint)
    sizes = {
        name: sum(tensor.numel() for tensor in UNet(plan.topology(name)).parameters()) for name in plan.configurations
    }
    for name, size in sizes.items():
        assert needed_bytes(fingerprint, plan, {name: 5})["for weights"] == pytest.approx(2 * 5 * 4 * size, rel=0.02)


def test_prepared_cases_and_probabilities_are_counted_by_voxels() -> None:
    fingerprint = fingerprint_of([case_of((64,) * 3)] * 20)
    plan = plan_by("nnunet-2018", fingerprint)
    needed = needed_bytes(fingerprint, plan, {"2d": 5, "3d": 5})
    assert needed["for prepared cases"] == 20 * 64**3 * 6  # one store for both
    assert needed["for cross-validation"] == 2 * 20 * 64**3 * 2 * 2


def test_a_disk_that_is_too_small_is_an_error_with_numbers(tmp_path: Path) -> None:
    small, huge = fingerprint_of([case_of((64,) * 3)] * 20), fingerprint_of([case_of((16_384,) * 3)] * 2000)
    check_space(tmp_path, small, plan_by("nnunet-2018", small), {"2d": 1})
    with pytest.raises(WorkspaceError, match=r"needs about [\d.]+ GiB .*GiB for prepared cases.*GiB free"):
        check_space(tmp_path, huge, plan_by("nnunet-2018", huge), {"3d": 5})


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are POSIX")
def test_a_full_disk_leaves_no_half_written_case_behind(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    volume = Volume(rng.random((1, 32, 32, 32), np.float32) + 1, Geometry((32, 32, 32), (1.0, 1.0, 1.0)))
    grid = Grid(spacing_mm=(1.0, 1.0, 1.0), normalization=(ZScore(),))
    case = prepare(volume, grid, rng.integers(0, 2, (32, 32, 32), np.int16))
    with files_no_longer_than(40_000), pytest.raises(WorkspaceError, match="Free space and run again"):
        write_case(tmp_path, "a", case, 2)
    assert list(tmp_path.iterdir()) == []
    write_case(tmp_path, "a", case, 2)
    assert np.array_equal(np.load(tmp_path / "a.image.npy"), case.image)
