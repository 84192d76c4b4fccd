# Everything runs in .venv, which is made when first needed. Another interpreter: make demo PYTHON=python3.12
PYTHON ?= python3
BIN := .venv/bin
# Bytecode is left to the first import: compiling all of it up front doubles the time of installation.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile
# Modules that are commands; the others are what these share. Evaluated when `bench` runs, not before.
BENCHMARKS = $(subst /,.,$(basename $(shell grep -l '^if __name__ == "__main__":' experiments/benchmarks/*.py)))

.PHONY: help demo test test-all check bench

help:
	@echo "make demo      train, compress and compare on digits: runs/digits/report.html"
	@echo "make test      the quick tests"
	@echo "make test-all  all tests, with more random examples"
	@echo "make check     ruff and pyright"
	@echo "make bench     every benchmark in experiments/benchmarks"

demo: .venv/has-experiments
	$(BIN)/python -m launch.local configs/digits.yaml --workdir runs/digits --workers 2

test: .venv/has-test
	$(PYTEST) -m "not slow"

test-all: .venv/has-test
	$(PYTEST) --hypothesis-profile thorough

check: .venv/has-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: .venv/has-bench
	@for module in $(BENCHMARKS); do echo "== $$module"; $(BIN)/python -m $$module || exit 1; done

.venv/has-%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing quantree[$*] into .venv: a minute or two"
	$(PIP) --editable '.[$*]' --constraint constraints.txt
	@touch $@

.SECONDARY:
