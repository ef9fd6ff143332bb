# Targets run in the virtual environment .venv; `make` lists them.
# PYTHON is the interpreter of .venv; PIP_ARGS are options of pip, such as an index with CPU builds of PyTorch.
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
	@echo "make demo   compress a photograph to 5,000 bytes, beside JPEG and WebP, in demo-output/"
	@echo "make test   run the test suite"
	@echo "make lint   code style (ruff) and prose (tools/prose.py)"
	@echo "make types  static types (mypy)"
	@echo "make clean  remove .venv and generated files"

$(VENV)/run: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[eval]"
	@touch $@

$(VENV)/dev: $(VENV)/run
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[dev]"
	@# without dependencies: the package lpips requires torchvision, which does not fit every build of PyTorch
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c constraints.txt --no-deps lpips
	@touch $@

demo: $(VENV)/run
	$(BIN)/python -m sdcodec_eval.demo

test: $(VENV)/dev
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/prose.py

types: $(VENV)/dev
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo-output build dist
