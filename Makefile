# make demo    install, then fit a small synthetic dataset and segment its test images
# make test    install what tests need, then lint, type-check, check layers, test
# make fuzz    mutate datasets, records and image files for about ten minutes
# make oracles compare with nnU-Net v2 itself, in an environment of its own
# All install once; a change of pyproject.toml or constraints.txt installs again.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

ORACLES := .venv-oracles

.PHONY: demo test oracles fuzz clean

demo: $(VENV)/installed
	$(BIN)/voxfit demo -o demo

test: $(VENV)/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest

fuzz: $(VENV)/installed-test
	VOXFIT_FUZZ_EXAMPLES=2500 $(BIN)/python -m pytest tests/fuzz

oracles: $(ORACLES)/installed
	$(ORACLES)/bin/python -m pytest tests/oracles

$(ORACLES)/installed: pyproject.toml constraints.txt tests/oracles/constraints.txt
	$(PYTHON) -m venv $(ORACLES)
	$(ORACLES)/bin/python -m pip --disable-pip-version-check --quiet install --constraint constraints.txt torch
	$(ORACLES)/bin/python -m pip --disable-pip-version-check --quiet install --constraint constraints.txt \
	  --constraint tests/oracles/constraints.txt --editable '.[oracles]'
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
	rm -rf $(VENV) $(ORACLES) demo
