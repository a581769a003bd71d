# Most targets install what they need into .venv first. `make help` lists the targets: the lines
# that begin with ##, in at most 80 columns.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet -c constraints.txt
INSTALLED := $(VENV)/.installed
TEST_INSTALLED := $(VENV)/.installed-dev

# Set on the command line alone: the environment may have a NAME of its own, as in WSL.
M :=
NAME :=
# $(call check,NAME,CHOICES): stop, before anything is installed, unless NAME is one of CHOICES
check = $(if $(and $(filter 1,$(words $($1))),$(filter $2,$($1))),,$(error \
	$(if $(strip $($1)),$1=$($1) is unknown,$1 is missing); choose one of: $2))

.DEFAULT_GOAL := help
.PHONY: help quickstart test reproduce test-all lint format docs reference sweep bench results-real \
	pretrain-tiny install build clean

## make quickstart         train the built-in CLIP on drawn flowers, in a minute
quickstart: $(INSTALLED)
	$(BIN)/flowertune train experiment=quickstart method=mixup

## make test               run the tests: under 10 minutes, no network, no GPU
test: $(TEST_INSTALLED)

## make reproduce          train all methods with three seeds and compare them
##                         (hours; PRESET=quickstart: drawn flowers, no network)
reproduce: $(INSTALLED)
	$(BIN)/flowertune reproduce $(if $(PRESET),experiment=$(PRESET))

##
## make test M=browser     run the tests with a marker: slow, faults, browser,
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

## make test-all           run all tests, one marker after the other
test-all:
	@set -e; for marker in '' $(MARKERS); do $(MAKE) --no-print-directory test M=$$marker; done

## make lint               check style and types
lint: $(TEST_INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

## make format             put the code into the project's style
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
# drawn flowers, as in quickstart; on your own: experiment=sweep/alpha data=... backbone=...
sweep: $(INSTALLED)
	$(BIN)/flowertune train experiment=sweep/$(NAME) backbone=tiny data=synthetic

## make bench              time the steps of a training on this machine
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

## make results-real       train on real photos and fill RESULTS.md; takes hours
results-real: $(INSTALLED)
	$(BIN)/python scripts/results_real.py

## make pretrain-tiny      train the built-in CLIP's weights again
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

## make clean              remove .venv and what the tools left
clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache

help:
	@sed -n -e 's/^##$$//p' -e 's/^## /  /p' $(MAKEFILE_LIST)
