# Most targets first install what they need into .venv. `make help` prints the lines that begin
# with ##, in at most 80 columns.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet -c constraints.txt
INSTALLED := $(VENV)/.installed
TEST_INSTALLED := $(VENV)/.installed-dev

# Set only on the command line: the environment may define NAME, as in WSL.
M :=
NAME :=
# $(call check,NAME,CHOICES): stop before installing anything, unless NAME is one of CHOICES
check = $(if $(and $(filter 1,$(words $($1))),$(filter $2,$($1))),,$(error \
	$(if $(strip $($1)),$1=$($1) is unknown,$1 is missing); choose one of: $2))

.DEFAULT_GOAL := help
.PHONY: help quickstart test reproduce test-all lint format docs reference sweep bench results-real \
	pretrain-tiny install build clean

## make quickstart         train the built-in CLIP on synthetic flowers (1 min)
quickstart: $(INSTALLED)
	$(BIN)/flowertune train experiment=quickstart method=mixup

## make test               run the tests: under 10 minutes, no network, no GPU
test: $(TEST_INSTALLED)

## make reproduce          train eight methods with three seeds and compare them
##                         (hours; PRESET=quickstart: synthetic data, no network)
reproduce: $(INSTALLED)
	$(BIN)/flowertune reproduce $(if $(PRESET),experiment=$(PRESET))

##
## make test M=browser     run the tests of a marker: slow, faults, browser,
##                         trackers, export or demo
MARKERS := slow faults browser trackers export demo
IN_PARALLEL := slow faults export
EXTRAS_browser := dev,browser
EXTRAS_trackers := dev,tensorboard,wandb,mlflow
EXTRAS_export := dev,export
EXTRAS_demo := dev,browser,demo

ifeq ($(M),)
test:
	$(BIN)/python -m pytest -q -n auto -m "not slow and not faults and not browser and not trackers and not export and not demo"
else
ifneq ($(filter test,$(MAKECMDGOALS)),)
$(call check,M,$(MARKERS))
endif
test:
	$(if $(EXTRAS_$(M)),$(PIP_INSTALL) -e '.[$(EXTRAS_$(M))]')
	$(BIN)/python -m pytest -q $(if $(filter $(IN_PARALLEL),$(M)),-n auto) -m $(M)
endif

## make test-all           run the tests of all markers
test-all:
	@set -e; for marker in '' $(MARKERS); do $(MAKE) --no-print-directory test M=$$marker; done

## make lint               check style, types and layers
lint: $(TEST_INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

## make format             format the code
format: $(TEST_INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

## make docs               build the documentation in build/docs
docs: $(TEST_INSTALLED)
	$(PIP_INSTALL) -e '.[docs]'
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs build/docs

## make reference          write docs/reference/ from the code
reference: $(TEST_INSTALLED)
	$(BIN)/python scripts/build_reference.py

##
## make sweep NAME=alpha   compare values of a setting: alpha, margin or
##                         prompt_size
SWEEPS := alpha margin prompt_size
ifneq ($(filter sweep,$(MAKECMDGOALS)),)
$(call check,NAME,$(SWEEPS))
endif
# synthetic flowers, like quickstart; on your images: experiment=sweep/alpha data=... backbone=...
sweep: $(INSTALLED)
	$(BIN)/flowertune train experiment=sweep/$(NAME) backbone=tiny data=synthetic

## make bench              time training steps on this machine
## make bench NAME=peers   run a benchmark: peers, growth or predict
##                         (needs FLOWERTUNE_SHARED; see benchmarks/RESULTS.md)
BENCHMARKS := peers growth predict
OPTIONS_predict := --copies 1 5
ifeq ($(NAME),)
bench: $(INSTALLED)
	$(BIN)/flowertune bench data=synthetic data.test_per_class=1 backbone.weights=random
else
ifneq ($(filter bench,$(MAKECMDGOALS)),)
$(call check,NAME,$(BENCHMARKS))
endif
bench: $(TEST_INSTALLED)
	$(BIN)/python benchmarks/bench_$(NAME).py $(OPTIONS_$(NAME))
endif

## make results-real       train on real images and fill RESULTS.md; takes hours
results-real: $(INSTALLED)
	$(BIN)/python scripts/results_real.py

## make pretrain-tiny      train the weights of the built-in CLIP again
pretrain-tiny: $(INSTALLED)
	$(BIN)/python scripts/pretrain_tiny.py

##
## make install            install flowertune into .venv
install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(PIP_INSTALL) -e .
	@touch $@

$(TEST_INSTALLED): $(INSTALLED)
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@

## make build              build the wheel and the source distribution in dist/
build: $(TEST_INSTALLED)
	$(BIN)/python -m build --quiet

## make clean              remove .venv, builds and tool caches
clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache

help:
	@sed -n -e 's/^##$$//p' -e 's/^## /  /p' $(MAKEFILE_LIST)
