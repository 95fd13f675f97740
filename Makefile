# make demo    install, then fit a small synthetic dataset and segment its test images
# make test    install what tests need, then lint, type-check, check layers, test; JOBS=8 for more processes than two
# make soak    kill fit and predict fifty times, compare with runs left alone, write docs/reliability.md
# make mutate  plant faults in copies of the source, one at a time, see which the tests notice, write the score there too
# make fuzz    mutate datasets, records and image files for about ten minutes
# make oracles compare with nnU-Net v2 itself, in an environment of its own, and write what it gives to tests/golden
# make bench   measure against nnU-Net v2, MONAI and SciPy, in the same environment, and write docs/benchmarks.md;
#              make bench ROWS=resample,predict for some rows; OPTIONS="--device cuda --cores 0" on a GPU
# make peers-smoke  see that this environment works; .ci/run does so where it would be another one than last time
# All install once; a change of pyproject.toml or constraints.txt installs again.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS := 2
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

PEERS := .venv-peers
PEERS_PIP := $(PEERS)/bin/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test soak mutate fuzz oracles bench peers-smoke clean

demo: $(VENV)/installed
	$(BIN)/voxfit demo -o demo

test: $(VENV)/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
# Threads of two processes on two cores would wait for each other.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

soak: $(VENV)/installed-test
	$(BIN)/python tests/soak/soak.py --write docs/reliability.md

mutate: $(VENV)/installed-test
	$(BIN)/python -m tests.mutation --write docs/reliability.md $(OPTIONS)

fuzz: $(VENV)/installed-test
	VOXFIT_FUZZ_EXAMPLES=2500 $(BIN)/python -m pytest tests/fuzz

oracles: $(PEERS)/installed
	$(PEERS)/bin/python -m pytest tests/oracles

bench: $(PEERS)/installed
	$(PEERS)/bin/python -m benchmarks --rows '$(ROWS)' $(OPTIONS)

peers-smoke: $(PEERS)/installed
	$(PEERS)/bin/python -m benchmarks.smoke

# nnU-Net apart and without what it asks for, which the extra lists: dynamic-network-architectures wants timm, for networks
# that nnU-Net does not plan, and timm torchvision, whose build for CUDA does not load beside torch for CPUs.
$(PEERS)/installed: pyproject.toml constraints.txt benchmarks/constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS_PIP) install --constraint constraints.txt torch
	$(PEERS_PIP) install --constraint constraints.txt --constraint benchmarks/constraints.txt --editable '.[peers]'
	$(PEERS_PIP) install --constraint benchmarks/constraints.txt --no-deps nnunetv2 dynamic-network-architectures
	touch $@

$(VENV)/created:
	$(PYTHON) -c 'import sys; sys.exit("voxfit needs Python 3.10 or newer" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/created
	$(PIP) install --constraint constraints.txt torch
	$(PIP) install --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP) install --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) demo build
