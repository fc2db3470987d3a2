# `make demo` and `make test` each set up all they need in .venv, from the pinned versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
PIP = $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt
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
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vivit needs Python 3.11 or later; PYTHON=python3.12 make ...")'
	@echo "1/3  an environment of its own in .venv"
	@$(PYTHON) -m venv .venv
	@echo "2/3  PyTorch: the largest part, minutes on a slow connection"
	@$(PIP) torch
	@echo "3/3  vivit, and what its demo and tests need"
	@$(PIP) --editable '.[demo,test]'
	@touch $@

clean:
	rm -rf .venv demo runs
