# The whole vocabulary of this project. Hooks and CI call these targets and nothing else.
.DEFAULT_GOAL := help
.PHONY: help setup demo data reproduce test test-slow prove-integrity prove-resume prove-flows prove-store-faults bench bench-train bench-scaling bench-models bench-usual check format ui lock clean services services-down prove-services pipeline-small pull-request-report plan retrain promote rollback dispatch-retrain gate propose comment publish-grid

VENV := .venv
PYTHON ?= python3
KILLS ?= 20
OBJECTS ?= 200
FAULTS ?= 300
BIN := $(CURDIR)/$(VENV)/bin
# uv reads no pip configuration; where pip is told of a folder of wheels, uv is told too.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export PATH := $(BIN):$(PATH)
# Nothing in the stack reports home.
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1

help:       ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed  ## make .venv with the locked versions
$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] < (3, 13) else "Vivero needs Python 3.11 or 3.12, found " + sys.version.split()[0] + "; run: make setup PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.8
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

data: setup  ## bring Fashion-MNIST into data/ and verify it against data.dvc
	@$(BIN)/vivero data fetch

demo: setup  ## the main job on real data: from images to a registered champion
	@$(BIN)/vivero run

reproduce: setup  ## bring every artifact up to date with DVC alone
	@$(BIN)/dvc repro

ui: setup   ## look at runs and models in MLflow (http://127.0.0.1:5000)
	@$(BIN)/vivero ui

check: setup  ## all that needs no run: style, types, architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# files with few tests hold the long ones: kept in order, they begin early
test: setup  ## tests of everything, under 10 minutes on 2 cores
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow"

test-slow: setup  ## the long proofs
	$(BIN)/pytest -m slow

bench: bench-train bench-scaling  ## all measurements of speed

bench-train: setup  ## our loop against the hardware's peak and the usual loop; 1 = target missed
	@$(BIN)/vivero prepare-data
	@$(BIN)/python -m bench.train_speed

bench-scaling: setup  ## how the cost grows with processes, model, batch and resolution
	@$(BIN)/python -m bench.scaling

bench-models: setup  ## tree against plain at equal seconds, hours; goes on where it was stopped
	@$(BIN)/vivero prepare-data
	@$(BIN)/python -m bench.models

bench-usual: setup  ## our default against diffusers' U-Net in the same time; 1 = target missed
	@$(BIN)/vivero prepare-data
	@$(BIN)/python -m bench.against_usual

prove-integrity: setup  ## strike OBJECTS objects in S3 and the cache: all are seen before a stage begins
	@OBJECTS=$(OBJECTS) $(BIN)/python -m tests.proofs.prove_integrity

prove-store-faults: setup  ## FAULTS faults between DVC and an S3 server: no wrong byte is read
	@FAULTS=$(FAULTS) $(BIN)/python -m tests.proofs.prove_s3_faults

prove-resume: setup  ## kill trainings KILLS times and compare every byte of what comes of them
	@KILLS=$(KILLS) $(BIN)/python -m tests.proofs.prove_resume

services: setup  ## start PostgreSQL, S3, MLflow, Prefect and a worker on this machine
	@$(BIN)/python -m infra.services up

services-down: setup  ## end what `make services` started, and nothing else
	@$(BIN)/python -m infra.services down

prove-services: setup  ## runs on real services, each of which is killed in the middle of one
	@$(BIN)/python -m tests.proofs.prove_services

prove-flows: setup  ## kill runs at CELLS places of the matrix, after SKIP, and compare what comes of them
	@$(BIN)/python -m tests.proofs.prove_flows

format: setup  ## put the code into form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup  ## resolve requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --extra dev --python-version 3.11 --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --upgrade --output-file requirements.lock
	sed -i 's/+cpu$$//' requirements.lock

clean:      ## remove caches and resumable state (data, artifacts and models stay)
	rm -rf work .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

pipeline-small: setup  ## the whole job on a small profile, in a clone below work/small
	@$(BIN)/python -m infra.github.small_pipeline

pull-request-report: setup  ## this commit against BASE, both on the small profile; work/report
	@$(BIN)/python -m infra.github.report --base "$${BASE:-HEAD^1}"

plan: setup  ## which stages must run, and why: no data, no credentials
	@$(BIN)/python -m infra.github.plan

retrain: setup  ## all stages, judge, register; the champion stays; work/proposal
	@$(BIN)/python -m infra.github.retrain

promote: setup  ## make VERSION the champion, if EXPECT is it now; REASON is kept
	@$(BIN)/python -m infra.github.alias promote

rollback: setup  ## give the alias back from EXPECT to the previous champion; REASON is kept
	@$(BIN)/python -m infra.github.alias rollback

dispatch-retrain: setup  ## send the monitor's decision to GitHub
	@$(BIN)/python -m infra.github.dispatch

# These run with write permission on GitHub: the standard library alone, no environment is made.
gate:       ## the required check: NEEDS holds the results of all jobs before it
	@$(PYTHON) -m infra.github.gate

propose:    ## a pull request with what `make retrain` left in work/proposal
	@PYTHONPATH=src $(PYTHON) -m infra.github.propose work/proposal

comment:    ## show work/report on the pull request that it is of
	@PYTHONPATH=src $(PYTHON) -m infra.github.comment comment work/report

publish-grid:  ## put the sample grid of work/report where a comment can show it
	@PYTHONPATH=src $(PYTHON) -m infra.github.comment publish-grid work/report
