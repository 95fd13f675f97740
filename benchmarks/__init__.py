"""voxfit beside nnU-Net v2, MONAI and SciPy on one machine: `make bench` measures, and writes `docs/benchmarks.md`.

A row has sides: ours and those of peers. Each side has processes of its own, and they are timed in turn, so that a
machine whose speed drifts drifts for all. `rows.py` lists the rows.
"""
