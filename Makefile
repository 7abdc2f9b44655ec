# Everything here works on a fresh clone with Python (3.10 or newer) and make alone.
#
#   PYTHON=python3.12     the Python to build the environment from
#   TORCH=torch==2.13.0   the torch to install for `make test` and `make smoke`; empty: none for
#                         `make test`, and whatever the index gives for `make smoke`
#   PIP_CONSTRAINT=FILE   pip's own variable: versions to hold to
#   ARGS="--json"         more arguments for `make doctor` and `make smoke`

PYTHON ?= python3
TORCH ?=
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help doctor smoke test check lint types shellcheck shells readme bench format clean

help: ## say what can be made
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("gpucheck needs Python 3.10 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12") if sys.version_info < (3, 10) else None'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "make: no virtual environment could be made: see above (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }

# The stamp stands for "installed, from this pyproject.toml": a second `make doctor` starts at once.
$(VENV)/installed: pyproject.toml $(BIN)/python
	@echo "Setting up $(VENV) (once) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . >&2
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "Installing the test tools (once) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' $(TORCH) >&2
	@touch $@

$(VENV)/installed-torch: $(VENV)/installed
	@echo "Installing torch (once; the CUDA build is several gigabytes) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH),$(TORCH),torch torchvision) >&2
	@touch $@

doctor: $(VENV)/installed ## examine this machine and print the report
	@$(BIN)/gpucheck doctor $(ARGS) || { status=$$?; [ $$status -eq 1 ] || exit $$status; }

smoke: $(VENV)/installed-torch ## train MNIST on every GPU (a rehearsal on the CPU where there is none)
	@if [ -e /dev/nvidiactl ] || [ -e /dev/dxg ] || grep -qs 0x10de /sys/bus/pci/devices/*/vendor; then \
		$(BIN)/gpucheck smoke --gpus all $(ARGS); \
	else \
		echo "make: NO NVIDIA GPU IS HERE: THIS IS A REHEARSAL ON THE CPU, AND PROVES NO GPU" >&2; \
		$(BIN)/gpucheck smoke --device cpu $(ARGS); \
	fi

test: $(VENV)/installed-dev shells ## run the tests
	@$(BIN)/python -m pytest $(ARGS)

check: lint types shellcheck readme test ## run all that CI runs

lint: $(VENV)/installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "make: run 'make format'" >&2; exit 1; }

types: $(VENV)/installed-dev
	@$(BIN)/mypy

# The tests of `gpucheck env` start real shells, and skip those that are not here.
shells:
	@absent=; for each in zsh fish tcsh ksh mksh strace; do \
		command -v $$each >/dev/null || absent="$$absent $$each"; \
	done; \
	[ -n "$$absent" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null || exit 0; \
	echo "Installing for the tests:$$absent ..." >&2; \
	export DEBIAN_FRONTEND=noninteractive; \
	{ apt-get install -qq $$absent || { timeout 120 apt-get update -qq && apt-get install -qq $$absent; }; } \
		</dev/null >/dev/null 2>&1 || echo "make: could not be installed; their tests are skipped" >&2

shellcheck: $(VENV)/installed-dev
	@$(BIN)/python -m tests.check_shell

readme: $(VENV)/installed-dev
	@$(BIN)/python -m tests.check_readme

bench: $(VENV)/installed-dev ## time the doctor beside its rivals (see README, Speed)
	@$(BIN)/python -m tests.bench $(ARGS)

pictures: $(VENV)/installed-dev ## draw the recorded reports (SVG) for the README anew
	@$(BIN)/python -m tests.pictures

format: $(VENV)/installed-dev ## let ruff put the code in order
	@$(BIN)/ruff check --quiet --fix . && $(BIN)/ruff format --quiet .

clean: ## remove the environment and all caches
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
