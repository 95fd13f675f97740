"""`python -m benchmarks.sequential RESULTS IMAGES OUTPUT DEVICE [mirror]`: nnU-Net v2 in one process."""

from __future__ import annotations

import sys
from pathlib import Path


def main(results: str, images: str, output: str, device: str, *options: str) -> None:
    """Predict a folder with fold 0."""
    from benchmarks.peer import open_predictor

    predictor = open_predictor(Path(results), (0,), mirror="mirror" in options, device=device)
    predictor.predict_from_files_sequential(images, output)


if __name__ == "__main__":
    main(*sys.argv[1:])
