# What a newcomer types. Needs Python 3.11 or newer; everything else is set up in .venv.
.PHONY: help setup demo test test-report notebooks check fix api bench bench-gpu clean
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt
GO_ON := "ready; go on with: source .venv/bin/activate, then gen3d"
TREE := build/typecheck
BARE := $(CURDIR)/build/bare
GPU_PYTHON ?= python3
CODE := gen3d samplers metrics configs tests benchmarks notebooks docs/reference.py

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 16

setup: .venv/.ready  ## a virtual environment with gen3d (editable) and all that its tests need
	@$(if $(filter setup,$(MAKECMDGOALS)),echo $(GO_ON),:)

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gen3d needs Python 3.11 or newer: make setup PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv: 2 to 10 minutes the first time, since torch is large; a dot every 5 s"
	@(while sleep 5 && kill -0 $$$$ 2> /dev/null; do printf .; done) & \
		$(PIP) setuptools && $(PIP) --no-build-isolation --editable '.[dev]' && echo " done"
	@touch $@

demo: setup  ## fill in a hidden contrast of a scan, score it, and leave a picture
	@$(BIN)/python -m gen3d.tools.demo

test: check  ## all checks and tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-report: setup  ## drive the report page in headless Chromium, from the system's packages where they can be had
	@command -v chromium > /dev/null || { apt-get update -qq && apt-get install -y -qq chromium; } > /dev/null 2>&1 || true
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt playwright || true
	@GEN3D_BROWSER=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/browser || test $$? -eq 5  # 5: all skipped

notebooks: setup  ## run all notebooks; each has 90 s on two free cores, and its time is printed
	@OMP_NUM_THREADS=1 GEN3D_DATA=$(abspath $(or $(GEN3D_DATA),../shared/data)) $(BIN)/python -m pytest \
		-n 2 --nbmake --nbmake-timeout=300 --durations=0 --durations-min=1 notebooks

check: setup  ## format, lint, import arrows, types
	@$(BIN)/ruff format --check --quiet $(CODE)
	@$(BIN)/ruff check --quiet $(CODE)
	@$(BIN)/python -m pytest --quiet tests/laws/test_imports.py
	@rm -rf build/lib build/bdist* $(TREE) && $(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --target $(TREE) .
	@cd $(TREE) && $(CURDIR)/$(BIN)/python -m mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p gen3d

fix: setup  ## mend format and what the linter can
	@$(BIN)/ruff format --quiet $(CODE)
	@$(BIN)/ruff check --quiet --fix $(CODE)

api: setup  ## the API reference from the docstrings, in build/api/index.html
	@rm -rf build/api && $(BIN)/python docs/reference.py build/api

bench: setup  ## times and memory on this CPU, as tables
	@$(BIN)/python -m benchmarks && $(BIN)/python -m benchmarks.networks --device cpu

bench-gpu:  ## the published networks on this GPU; GPU_PYTHON needs torch, numpy, safetensors and PyYAML
	@mkdir -p $(BARE)/gen3d && ln -sfn $(CURDIR)/benchmarks $(BARE)/
	@ln -sfn $(wildcard $(CURDIR)/gen3d/*) $(addprefix $(CURDIR)/,samplers metrics configs) $(BARE)/gen3d/
	@cd $(BARE) && $(GPU_PYTHON) -m benchmarks.networks $(BENCH)

clean:  ## remove what was built, but not the virtual environment
	@rm -rf build *.egg-info .mypy_cache .pytest_cache .ruff_cache
