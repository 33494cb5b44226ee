# All commands of the project. Each sets up .venv first; nothing is installed elsewhere.
PYTHON ?= python3
BIN    := .venv/bin
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
# One thread per test process: xdist already keeps every core busy. Compiled tests are kept for the next run.
SERIAL := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=

.PHONY: help compare test tests quick cluster-test contract lint bench docs dist clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# Two stages of the same environment: the main job does not wait for the tools of the tests.
.venv/study: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) -e ".[study]"
	@touch $@

.venv/dev: .venv/study
	$(PIP) -e ".[dev]"
	@touch $@

compare: .venv/study  ## the main job: sixteen optimizers on real digits, clean and with 40 % label noise
	$(BIN)/flatmin compare --recipe recipes/digits.toml --out runs/digits

test: .venv/dev  ## lint, types and all tests
	$(MAKE) --no-print-directory -j 2 tests lint

# Beside `lint`, which needs one core for most of a minute.
tests: .venv/dev
	$(SERIAL) $(BIN)/pytest -n auto --dist loadgroup -q -m "not cluster"

quick: .venv/dev  ## a minute: the contract on six methods, engine, vectors, one tiny study
	$(SERIAL) $(BIN)/pytest -n auto --dist loadgroup -q --quick tests

contract: .venv/dev  ## the contract of every method with compiled passes; `make test` has six methods of them
	FLATMIN_EVERY_METHOD=1 $(SERIAL) $(BIN)/pytest -n auto -q tests/engine/test_compiled_passes.py -k test_promise

.venv/cluster: .venv/dev
	$(PIP) -e ".[ray]"
	@touch $@

cluster-test: .venv/cluster  ## the tests that start a Ray cluster on this machine
	$(SERIAL) $(BIN)/pytest -q -m cluster tests/study/launchers

lint: .venv/dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/study  ## time and memory of the optimizer step
	$(BIN)/python benchmarks/optimizer_step.py --repeats 32

docs: .venv/dev  ## build the documentation site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: .venv/dev  ## build the source distribution and the wheel into dist/
	$(BIN)/python -m build --no-isolation

clean:  ## remove what the other targets made, runs/ excepted
	rm -rf .venv site build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
