# Everything in one environment of its own, .venv; `make` lists what there is.
PYTHON ?= python3
VENV := .venv
ifeq ($(OS),Windows_NT)
  BIN := $(VENV)/Scripts
else
  BIN := $(VENV)/bin
endif
PIP_ARGS ?=

.PHONY: help demo test lint types clean

help:
	@echo "make demo   a photograph at 5,000 bytes beside JPEG and WebP, in demo-output/"
	@echo "make test   the test suite"
	@echo "make lint   ruff;  make types   mypy;  make clean   removes .venv and what was made"

$(VENV)/run: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[eval]"
	@touch $@

$(VENV)/dev: $(VENV)/run
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[dev]"
	@# the package lpips, a second opinion in the tests, asks for torchvision, which does not go with every build of PyTorch
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c constraints.txt --no-deps lpips
	@touch $@

demo: $(VENV)/run
	$(BIN)/python -m sdcodec_eval.demo

test: $(VENV)/dev
	$(BIN)/python -m pytest

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo-output build dist
