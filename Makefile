# Everything below does its own set-up in .venv. `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TEST_INSTALLED := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help install quickstart sweep-alpha sweep-margin sweep-prompt-size results-real reproduce bench bench-peers bench-growth bench-predict test test-slow test-faults test-browser test-trackers test-export test-demo lint types format pretrain-tiny build clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'

install: $(INSTALLED) ## install flowertune into .venv

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(TEST_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

quickstart: $(INSTALLED) ## train the built-in CLIP on drawn flowers and print the table (no network after installing)
	$(BIN)/flowertune train experiment=quickstart method=mixup

# The built-in CLIP on drawn flowers, as quickstart draws them; on your own data: experiment=sweep/alpha data=... backbone=...
sweep-alpha: $(INSTALLED) ## try MixUp's alpha (six runs, two seeds each)
	$(BIN)/flowertune train experiment=sweep/alpha backbone=tiny data=synthetic

sweep-margin: $(INSTALLED) ## try the triplet loss's margin
	$(BIN)/flowertune train experiment=sweep/margin backbone=tiny data=synthetic

sweep-prompt-size: $(INSTALLED) ## try VPT's number of prompts
	$(BIN)/flowertune train experiment=sweep/prompt_size backbone=tiny data=synthetic

reproduce: $(INSTALLED) ## train all methods with three seeds and compare them (PRESET=quickstart: no network; keeps what is finished)
	$(BIN)/flowertune reproduce $(if $(PRESET),experiment=$(PRESET))

bench: $(INSTALLED) ## time a training's steps on this machine (ViT-B/32 with random weights, drawn flowers)
	$(BIN)/flowertune bench data=synthetic data.test_per_class=1 backbone.weights=random

bench-peers: $(TEST_INSTALLED) ## time a LoRA training beside what people would use instead (needs FLOWERTUNE_SHARED)
	$(BIN)/python benchmarks/bench_peers.py

bench-growth: $(TEST_INSTALLED) ## show how the cost of training grows with the number of photos (needs FLOWERTUNE_SHARED)
	$(BIN)/python benchmarks/bench_growth.py

bench-predict: $(TEST_INSTALLED) ## time a trained model's answers beside open_clip alone (needs FLOWERTUNE_SHARED)
	$(BIN)/python benchmarks/bench_predict.py --copies 1 5

results-real: $(INSTALLED) ## train on real photos with three seeds and fill RESULTS.md (hours; keeps what is finished)
	$(BIN)/python scripts/results_real.py

test: $(TEST_INSTALLED) ## run the tests (no network, no GPU)
	$(BIN)/python -m pytest -q -n auto -m "not slow and not faults and not browser and not trackers and not export and not demo"

test-slow: $(TEST_INSTALLED) ## run the tests that take minutes
	$(BIN)/python -m pytest -q -m slow

test-faults: $(TEST_INSTALLED) ## kill trainings, damage files, draw configs, by the hundred, and see what becomes of it
	$(BIN)/python -m pytest -q -n auto -m faults

test-browser: $(TEST_INSTALLED) ## open reports in Chromium (Debian: apt-get install chromium chromium-driver)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,browser]'
	$(BIN)/python -m pytest -q -m browser

test-trackers: $(TEST_INSTALLED) ## install TensorBoard, wandb and MLflow, and read back what they store (no network after installing)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,tensorboard,wandb,mlflow]'
	$(BIN)/python -m pytest -q -m trackers

test-export: $(TEST_INSTALLED) ## install ONNX Runtime, export every method, and open it by the other libraries alone (minutes)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,export]'
	$(BIN)/python -m pytest -q -n auto -m export

test-demo: $(TEST_INSTALLED) ## install Gradio, and use the demo's page in Chromium (as test-browser)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,browser,demo]'
	$(BIN)/python -m pytest -q -m demo

lint: $(TEST_INSTALLED) ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(TEST_INSTALLED) ## check types
	$(BIN)/mypy

format: $(TEST_INSTALLED) ## put the code into the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

pretrain-tiny: $(INSTALLED) ## make the built-in CLIP's weights again
	$(BIN)/python scripts/pretrain_tiny.py

build: $(TEST_INSTALLED) ## build the wheel and the source distribution into dist/
	$(BIN)/python -m build --quiet

clean: ## remove .venv and what tools left
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
