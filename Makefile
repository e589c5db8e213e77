# Works on a fresh machine with Python 3.11 or newer and make. Missing environments are built first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOWEST := .venv-lowest
LOWEST_STAMP := $(LOWEST)/.installed
# Tests compute little: more threads would only wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile
# What depends on the versions of torch, torchvision, timm, Triton, NumPy and the export packages.
LOWEST_TESTS := tests/backbone tests/layers tests/ops tests/weights tests/deploy tests/explain

.PHONY: help demo demo-detection demo-segmentation test test-fast test-lowest fuzz lint lock bench benchmarks soak clean
.DEFAULT_GOAL := help

help:
	@echo "make demo               train the smallest variant on scikit-learn's digits"
	@echo "make demo-detection     train Mask R-CNN on scenes of digits"
	@echo "make demo-segmentation  train Semantic FPN on scenes of digits"
	@echo "make test               run all tests"
	@echo "make test-fast          run the tests that are not marked slow: under 2 minutes on two cores"
	@echo "make test-lowest        run the tests of the network with the lowest versions of all dependencies"
	@echo "make fuzz               read thousands of mutated files (part of make test)"
	@echo "make lint               check style, types and import rules"
	@echo "make lock               rewrite constraints.txt and constraints-lowest.txt"
	@echo "make bench              compare the speed with the plain definition of the network, on this CPU"
	@echo "make benchmarks         measure the CPU figures of docs/performance.md"
	@echo "make soak               kill and resume runs, fill disks; print what survived"
	@echo "make clean              remove environments, caches, and the demos' data and runs"

define check-python
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12 ...")'
endef

# One pip call for everything, so that all versions are resolved together.
$(STAMP): pyproject.toml constraints.txt
	$(check-python)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --build-constraint constraints.txt --editable . --group dev
	@touch $(STAMP)

$(LOWEST_STAMP): pyproject.toml constraints-lowest.txt
	$(check-python)
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --constraint constraints-lowest.txt --upgrade pip
	$(LOWEST)/bin/python -m pip install --quiet --requirement constraints-lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --no-deps --build-constraint constraints-lowest.txt --editable .
	@touch $(LOWEST_STAMP)

demo: $(STAMP)
	rm -rf runs/digits-demo
	$(BIN)/scalablevit fit --config digits --run runs/digits-demo

demo-detection: $(STAMP)
	rm -rf runs/demo_detection
	$(BIN)/scalablevit fit --config demo_detection

demo-segmentation: $(STAMP)
	rm -rf runs/demo_segmentation
	$(BIN)/scalablevit fit --config demo_segmentation

test: $(STAMP)
	$(PYTEST)

test-fast: $(STAMP)
	$(PYTEST) -m "not slow"

test-lowest: $(LOWEST_STAMP)
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n 2 --dist loadfile $(LOWEST_TESTS)

fuzz: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/fuzz

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lock: $(STAMP)
	$(BIN)/python tools/lock.py

bench: $(STAMP)
	$(BIN)/scalablevit bench scalablevit_small plain:scalablevit_small --device cpu --batch 8 --rounds 15 --threads 2

benchmarks: $(STAMP)
	$(BIN)/python benchmarks/measure_cpu.py

soak: $(STAMP)
	$(BIN)/python benchmarks/soak.py

clean:
	rm -rf data/digits data/digit_scenes_detection data/digit_scenes_segmentation
	rm -rf runs/digits-demo runs/demo_detection runs/demo_segmentation
	rm -rf $(VENV) $(LOWEST) src/scalablevit.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache build
	find src -name __pycache__ -prune -exec rm -rf {} +
