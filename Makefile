# `make demo` and `make test` each set up all they need in .venv, from the pinned versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
PYTEST = $(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal

# Tests run in so many processes.
WORKERS ?= 2

.PHONY: demo test test-fast lint check clean

demo: .venv/installed
	$(BIN)/vivit demo

test: lint check

# For daily work: without the files that take long.
test-fast: .venv/installed
	$(PYTEST) --fast

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

check: .venv/installed
	$(PYTEST)

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vivit needs Python 3.11 or later; PYTHON=python3.12 make ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,test]'
	touch $@

clean:
	rm -rf .venv demo runs
