# Every verb of the project. Each sets up .venv first; nothing is installed elsewhere.
PYTHON ?= python3
BIN    := .venv/bin
# One thread per test process: xdist already keeps every core busy.
SERIAL := OMP_NUM_THREADS=1

.PHONY: help compare test lint bench docs clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

compare: .venv/installed  ## the main job: nine optimizers on real digits, clean and with 40 % label noise
	$(BIN)/flatmin compare --out runs/digits

test: lint  ## lint, types and all tests
	$(SERIAL) $(BIN)/pytest -n auto -q

lint: .venv/installed  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed  ## time and memory of the optimizer step
	$(BIN)/python benchmarks/optimizer_step.py

docs: .venv/installed  ## build the documentation site into site/
	$(BIN)/mkdocs build --strict

clean:  ## remove what the other targets made, runs/ excepted
	rm -rf .venv site build .mypy_cache .pytest_cache .ruff_cache .hypothesis
