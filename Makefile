# The whole vocabulary of this project. Hooks and CI call these targets and nothing else.
.DEFAULT_GOAL := help
.PHONY: help setup demo data reproduce test test-slow prove-integrity prove-resume mutants prove-flows prove-store-faults bench bench-train bench-scaling bench-models bench-usual check format ui lock clean services services-down prove-services pipeline-small pull-request-report plan retrain sign register installed promote rollback dispatch-retrain gate propose comment publish-grid

VENV := .venv
PYTHON ?= python3
KILLS ?= 20
OBJECTS ?= 200
FAULTS ?= 300
MUTANTS ?= 40
# Relative, and never a script of .venv/bin: their first lines do not work in every folder.
RUN := $(VENV)/bin/python
VIVERO := $(RUN) -m vivero.cli.app
# uv reads no pip configuration; where pip is told of a folder of wheels, uv is told too.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Nothing in the stack reports home.
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1

help:       ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:      ## make .venv from the hashes of the lock files, unless it is up to date
	@$(PYTHON) -m infra.environment

# Targets that are given secrets install nothing: `make setup` comes before, in a step without them.
installed:
	@$(PYTHON) -m infra.environment check

data: setup  ## download Fashion-MNIST into data/ and verify it against data.dvc
	@$(VIVERO) data fetch

demo: setup  ## the main job on real data: from images to a registered champion
	@$(VIVERO) run

reproduce: setup  ## update every artifact with DVC alone
	@$(RUN) -m dvc repro

ui: setup   ## look at runs and models in MLflow (http://127.0.0.1:5000)
	@$(VIVERO) ui

check: setup  ## all that needs no run: style, types, architecture
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'

# files with few tests hold the long ones: kept in order, they begin early
test: setup  ## tests of everything, under 10 minutes on 2 cores
	$(RUN) -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow"

test-slow: setup  ## the long proofs
	$(RUN) -m pytest -m slow

bench: bench-train bench-scaling  ## all measurements of speed

bench-train: setup  ## our loop against the hardware's peak and the usual loop; 1 = target missed
	@$(VIVERO) prepare-data
	@$(RUN) -m bench.train_speed

bench-scaling: setup  ## how the cost grows with processes, model, batch and resolution
	@$(RUN) -m bench.scaling

bench-models: setup  ## tree against plain at equal seconds, hours; resumes where it was stopped
	@$(VIVERO) prepare-data
	@$(RUN) -m bench.models

bench-usual: setup  ## our default against diffusers' U-Net in the same time; 1 = target missed
	@$(VIVERO) prepare-data
	@$(RUN) -m bench.against_usual

prove-integrity: setup  ## damage OBJECTS objects in S3 and the cache: all are found before a stage begins
	@OBJECTS=$(OBJECTS) $(RUN) -m tests.proofs.prove_integrity

prove-store-faults: setup  ## FAULTS faults between DVC and an S3 server: no wrong byte is read
	@FAULTS=$(FAULTS) $(RUN) -m tests.proofs.prove_s3_faults

prove-resume: setup  ## kill trainings KILLS times and compare every byte of the result
	@KILLS=$(KILLS) $(RUN) -m tests.proofs.prove_resume

services: setup  ## start PostgreSQL, S3, MLflow, Prefect and a worker on this machine
	@$(RUN) -m infra.services up

services-down: setup  ## end what `make services` started, and nothing else
	@$(RUN) -m infra.services down

prove-services: setup  ## runs on real services, each of which is killed in the middle of one
	@$(RUN) -m tests.proofs.prove_services

mutants: setup  ## break the code in declared and MUTANTS random places: the tests notice each one
	@MUTANTS=$(MUTANTS) SEED=$(SEED) $(RUN) -m tests.mutants

prove-flows: setup  ## kill runs at CELLS places of the matrix, after SKIP, and compare the result
	@$(RUN) -m tests.proofs.prove_flows

format: setup  ## format the code
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

lock:       ## write the lock files from pyproject.toml; UPGRADE=1 takes newer versions
	@$(PYTHON) -m infra.environment lock

clean:      ## remove caches and resumable state (data, artifacts and models stay)
	rm -rf work .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

pipeline-small: setup  ## the whole job on a small profile, in a clone below work/small
	@$(RUN) -m infra.github.small_pipeline

pull-request-report: setup  ## this commit against BASE, both on the small profile; work/report
	@$(RUN) -m infra.github.report --base "$${BASE:-HEAD^1}"

# These are given secrets on GitHub, and install nothing.
plan: installed  ## which stages must run, and why: no data, no credentials
	@$(RUN) -m infra.github.plan

retrain: installed  ## all stages, judge, register; the version waits for its signature
	@$(RUN) -m infra.github.retrain

sign: installed  ## sign the version that waits, with VIVERO_SIGNING_KEY_PEM or your own key
	@$(RUN) -m infra.github.sign

register: installed  ## store the signature; work/proposal
	@$(RUN) -m infra.github.register

promote: installed  ## make VERSION the champion, if EXPECT is it now; REASON is kept
	@$(RUN) -m infra.github.alias promote

rollback: installed  ## move the alias back from EXPECT to the previous champion; REASON is kept
	@$(RUN) -m infra.github.alias rollback

dispatch-retrain: installed  ## send the monitor's decision to GitHub
	@$(RUN) -m infra.github.dispatch

# These run with write permission on GitHub: the standard library alone, no environment is made.
gate:       ## the required check: NEEDS has the results of all jobs before it
	@$(PYTHON) -m infra.github.gate

propose:    ## a pull request with what `make retrain` left in work/proposal
	@PYTHONPATH=src $(PYTHON) -m infra.github.propose work/proposal

comment:    ## show work/report on the pull request that it is of
	@PYTHONPATH=src $(PYTHON) -m infra.github.comment comment work/report

publish-grid:  ## put the sample grid of work/report where a comment can show it
	@PYTHONPATH=src $(PYTHON) -m infra.github.comment publish-grid work/report
