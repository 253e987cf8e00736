# Every target works on a fresh Linux machine with Python 3.11 or later: the virtual environment is made first.
# What is installed into it has the versions of constraints.txt, the same everywhere and every day.

PYTHON ?= python3
VENV   ?= .venv
EXTRAS ?= dev
BIN    := $(VENV)/bin
PIP    := -m pip --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test coverage lint format test-windows bench constraints clean

help:    ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo 'ARGS="..." is passed on to what demo, test, test-windows and bench run: make test ARGS="tests/cli -x".'

demo: $(VENV)/.run    ## see it work: an emulated VM, both bridges, data through them
	$(BIN)/hvbridge demo $(ARGS)

test: $(VENV)/.dev    ## the test suite; without ARGS, also the floor of the coverage
	$(BIN)/python -m coverage run -m pytest $(ARGS)
	$(if $(ARGS),,$(BIN)/python -m coverage report)

coverage: $(VENV)/.dev    ## what the last `make test` covered, line by line, in htmlcov/index.html
	$(BIN)/python -m coverage html --fail-under 0

lint: $(VENV)/.dev    ## style, types for both platforms, layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --platform linux
	$(BIN)/mypy --platform win32
	$(BIN)/lint-imports

format: $(VENV)/.dev    ## bring the code into the form that lint asks for, as far as ruff can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

test-windows: $(VENV)/.dev    ## the test suite on genuine Windows CPython, under Wine
	tests/windows/run $(ARGS)

bench: $(VENV)/.dev    ## hvbridge beside the peers that are installed
	$(BIN)/python -m bench $(ARGS)

constraints:    ## renew constraints.txt, with PYTHON a CPython 3.11: the newest of all that CI installs
	rm -rf $(VENV).new
	$(PYTHON) -m venv $(VENV).new
	$(VENV).new/bin/python $(PIP) install '.[dev,ci]'
	sed '/^[^#]/d' constraints.txt >$(VENV).new/constraints.txt
	$(VENV).new/bin/python $(PIP) freeze --exclude hvbridge >>$(VENV).new/constraints.txt
	mv $(VENV).new/constraints.txt constraints.txt
	rm -rf $(VENV).new

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python $(PIP) install --constraint constraints.txt --editable .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python $(PIP) install --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@ $(VENV)/.run

clean:    ## remove what the targets above made
	rm -rf $(VENV) $(VENV).new .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage htmlcov
