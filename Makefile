# Every target works on a fresh Linux machine with Python 3.11 or later: the virtual environment is made first.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test lint test-windows bench clean

demo: $(VENV)/.run    ## see it work: an emulated VM, both bridges, data through them
	$(BIN)/hvbridge demo $(ARGS)

test: $(VENV)/.dev    ## the test suite
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.dev    ## style, types for both platforms, layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --platform linux
	$(BIN)/mypy --platform win32
	$(BIN)/lint-imports

test-windows: $(VENV)/.dev    ## the test suite on genuine Windows CPython, under Wine
	tests/windows/run $(ARGS)

bench: $(VENV)/.dev    ## hvbridge beside the peers that are installed
	$(BIN)/python -m bench $(ARGS)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ $(VENV)/.run

clean:    ## remove what the targets above made
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
