# Everything here works on a fresh machine with Python 3.11 or newer and make: .venv is built where it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo demo-detection demo-segmentation test lint types imports bench benchmarks clean help
.DEFAULT_GOAL := help

help:
	@echo "make demo   train the smallest variant on scikit-learn's digits, and see what it does"
	@echo "make demo-detection     find and outline digits in scenes: Mask R-CNN"
	@echo "make demo-segmentation  label every pixel of such scenes: Semantic FPN"
	@echo "make test   run the tests"
	@echo "make lint   style, types and import rules"
	@echo "make bench  speed against the plain definition of the network, on this CPU"
	@echo "make benchmarks  all that docs/performance.md tells of a CPU"
	@echo "make clean  remove what make built: .venv, data/digits, the demos' data and runs, and caches"

# Tests compute little and compare to the bit: threads would only wait for each other.
# One pip call for everything, so that torch and torchvision are resolved together.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another with make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $(STAMP)

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
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/scalablevit bench scalablevit_small plain:scalablevit_small --device cpu --batch 8 --rounds 15 --threads 2

benchmarks: $(STAMP)
	$(BIN)/python benchmarks/measure_cpu.py

clean:
	rm -rf data/digits data/digit_scenes_detection data/digit_scenes_segmentation
	rm -rf runs/digits-demo runs/demo_detection runs/demo_segmentation
	rm -rf $(VENV) src/scalablevit.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache build
	find src -name __pycache__ -prune -exec rm -rf {} +
