# `make demo` and `make test` set everything up by themselves; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo test test-all bench lint clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## make .venv and install clipgen with what it was tested with

$(READY): setup.cfg constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("clipgen needs Python 3.11 or newer; say make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
	@echo "clipgen is in $(BIN); '. $(BIN)/activate' lets a shell find it"

demo: $(READY)  ## draw pictures, train on them without captions, generate from text (outputs/demo)
	$(BIN)/clipgen draw out=outputs/demo/images n=20000 seed=0
	$(BIN)/clipgen run experiment=demo

test: $(READY)  ## everything but the long counts
	$(BIN)/python -m pytest -n 2 -m 'not slow' --timeout=300

test-all: $(READY)  ## the long counts too
	$(BIN)/python -m pytest -n 2

bench: $(READY)  ## the benchmarks, each a table; benchmarks/memory.py (five minutes) and gap_real.py are run by hand
	@for name in kernels attention data encode tokenizer sampling transformer; do $(BIN)/python benchmarks/$$name.py || exit 1; done

lint: $(READY)  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:  ## remove what the demo and the tests made, and .venv
	rm -rf outputs/demo .pytest_cache .ruff_cache $(VENV)
