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
CPU_WHEELS := https://download.pytorch.org/whl/cpu
HAS_GPU = $(shell { [ -e /dev/nvidiactl ] || [ -e /dev/dxg ] || grep -qs 0x10de /sys/bus/pci/devices/*/vendor; } && echo yes)

.DEFAULT_GOAL := help
.PHONY: help install doctor smoke test check lint types shells engines browser shellcheck generated current \
	bench pictures soak format clean

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

# `pip install --group` needs pip 25.1, which a new environment may not have.
$(VENV)/installed-dev: $(VENV)/installed
	@echo "Installing the test tools (once) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1' >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev $(TORCH) >&2
	@touch $@

$(VENV)/installed-torch: $(VENV)/installed
	@echo "Installing torch (once; the CUDA build is several gigabytes) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH),$(TORCH),$(if $(HAS_GPU),torch torchvision,torch --index-url $(CPU_WHEELS))) >&2
	@touch $@

install: ## put the command gpucheck on your PATH
	@PYTHON=$(PYTHON) sh tools/install.sh

doctor: $(VENV)/installed ## examine this machine and print the report
	@$(BIN)/gpucheck doctor $(ARGS) || { status=$$?; [ $$status -eq 1 ] || exit $$status; }

smoke: $(VENV)/installed-torch ## train MNIST on every GPU (a rehearsal on the CPU where there is none)
	@if [ -n "$(HAS_GPU)" ]; then \
		$(BIN)/gpucheck smoke --gpus all $(ARGS); \
	else \
		echo "make: NO NVIDIA GPU IS HERE: THIS IS A REHEARSAL ON THE CPU, AND PROVES NO GPU" >&2; \
		$(BIN)/gpucheck smoke --device cpu $(ARGS); \
	fi

test: $(VENV)/installed-dev ## run the tests (those of shells that are not here are skipped)
	@$(BIN)/python -m pytest $(ARGS)

soak: $(VENV)/installed-dev ## run the long versions of the tests (an hour and more)
	@GPUCHECK_SOAK=1 $(BIN)/python -m pytest --timeout 7200 $(ARGS)

check: lint types shellcheck current test ## run all that CI runs

lint: $(VENV)/installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "make: run 'make format'" >&2; exit 1; }

types: $(VENV)/installed-dev
	@$(BIN)/mypy

# What only tests start is asked for by name. $(call apt,PROGRAM=PACKAGE ...) installs those packages
# whose program is not here, without their recommendations; a test of what is absent is skipped.
define apt
	@absent=; for each in $(1); do \
		PATH=$$PATH:/usr/sbin command -v $${each%%=*} >/dev/null || absent="$$absent $${each#*=}"; \
	done; \
	[ -n "$$absent" ] || exit 0; \
	[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null || { \
		echo "make: these are not here, and their tests are skipped:$$absent" >&2; exit 0; }; \
	echo "Installing for the tests:$$absent ..." >&2; \
	export DEBIAN_FRONTEND=noninteractive; \
	install="apt-get install -qq --no-install-recommends"; \
	{ $$install $$absent || { timeout 120 apt-get update -qq && $$install $$absent; }; } \
		</dev/null >/dev/null 2>&1 || echo "make: could not be installed; their tests are skipped" >&2
endef

shells: ## install the shells that the tests of `gpucheck env` start (Debian and Ubuntu, as root)
	$(call apt,zsh=zsh fish=fish tcsh=tcsh ksh=ksh mksh=mksh strace=strace tmux=tmux)

# sshd that root starts by hand wants the directory that its service would make.
engines: ## install Slurm, sshd, Open MPI and node_exporter for the tests of `gpucheck fleet` (likewise)
	$(call apt,munged=munge slurmctld=slurmctld slurmd=slurmd srun=slurm-client \
		sshd=openssh-server ssh=openssh-client mpirun=openmpi-bin \
		prometheus-node-exporter=prometheus-node-exporter)
	@[ "$$(id -u)" != 0 ] || mkdir -p /run/sshd

browser: ## install Chromium for the tests of HTML pages (likewise; `make check` does without)
	$(call apt,chromium=chromium)

shellcheck: $(VENV)/installed-dev
	@$(BIN)/python -m tools.shell_templates

generated: $(VENV)/installed-dev ## write docs, recorded reports and pictures anew
	@$(BIN)/python -m tools.generated --write

current: $(VENV)/installed-dev
	@$(BIN)/python -m tools.generated

bench: $(VENV)/installed ## time the commands next to what they are measured against
	@$(BIN)/python -m tools.bench $(ARGS)

format: $(VENV)/installed-dev ## let ruff put the code in order
	@$(BIN)/ruff check --quiet --fix . && $(BIN)/ruff format --quiet .

clean: ## remove the environment and all caches
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
