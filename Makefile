# make study   set up .venv and run the quickstart; STUDY=path and ARGS="--trials 50" for others
# make test    set up .venv and run the tests, except the slow ones
# make test-all    the slow ones as well: storms of kills, each schedule resumed, a thousand random examples per property
# make lint    style and types
# make docs    the documentation as a site, in docs/_build/html; warnings and broken links are errors

PYTHON ?= python3
BIN := .venv/bin
PIP_OPTIONS := --quiet --disable-pip-version-check

.PHONY: study test test-all lint docs format clean

study: .venv/installed
	$(BIN)/python -m tuner.study $(STUDY) $(ARGS)

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 3 --dist worksteal -m "not slow"

test-all: .venv/installed-dev
	$(BIN)/python -m pytest -n 3 --dist worksteal --hypothesis-profile all

lint: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: .venv/installed-dev
	$(BIN)/python -m sphinx --builder html --fresh-env --fail-on-warning --keep-going --quiet docs docs/_build/html

format: .venv/installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis docs/_build

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | $(BIN)/python
	@echo "installing PyTorch and the rest into .venv: several GB, some minutes"
	$(BIN)/python -m pip install $(PIP_OPTIONS) -e .
	@touch $@

.venv/installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_OPTIONS) -e ".[dev]"
	@touch $@ .venv/installed
