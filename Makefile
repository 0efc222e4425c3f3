# Every command of the project; `make` alone lists them. Needs Debian 12 or 13 (or any Python 3.11+), root only the
# first time, for packages that are missing.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
INSTALLED := .venv/.installed
# Hashes and no host: where packages come from is the machine's own setting.
COMPILE := pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-annotate --no-header

# A shell that points at some other chain must not redirect what is started here.
unexport EMRSYNC_STACK_HOME

.PHONY: help
help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(INSTALLED) ## Show the whole job on real servers: ARGS="--patients 50 --keep"
	@$(BIN)/emrsync demo $(ARGS)

.PHONY: test
test: $(INSTALLED) ## Run all tests on real servers, which are started and stopped: ARGS="-k where"
	@$(BIN)/emrsync stack install
	@$(BIN)/python -m $(if $(ARGS),pytest $(ARGS),tests)

.PHONY: check
check: $(INSTALLED) ## Format, lint, types, import contracts and tests without servers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --durations=0 --durations-min=1 tests/unit $(wildcard tests/test_*.py)

.PHONY: bench
bench: $(INSTALLED) ## Measure latency, throughput and memory: ARGS="--help"
	@$(BIN)/python -m benchmarks $(ARGS)

SEED ?= 1

.PHONY: chaos
chaos: $(INSTALLED) ## Inject every fault in random order for ten minutes, and check: SEED=7 ARGS="--seconds 120"
	@$(BIN)/python -m tests.chaos --seed $(SEED) $(ARGS)

.PHONY: format
format: $(INSTALLED) ## Format the code and repair what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: lock
lock: $(INSTALLED) ## Resolve the dependencies anew into the lock files
	@command -v uv > /dev/null || $(BIN)/python -m pip install --quiet uv
	PATH="$$PWD/$(BIN):$$PATH" uv pip compile $(COMPILE) --upgrade --group build -o requirements.lock
	PATH="$$PWD/$(BIN):$$PATH" uv pip compile $(COMPILE) --upgrade --group dev -c requirements.lock -o requirements-dev.lock

.PHONY: clean
clean: ## Stop the servers of this folder and remove everything that was made in it
	@if [ -x $(BIN)/emrsync ]; then \
	  for home in .stack .stack-demo; do \
	    if [ -e $$home ]; then $(BIN)/emrsync stack down --purge --home $$home; fi; \
	  done; \
	fi
	rm -rf .venv .stack .stack-demo .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): requirements-dev.lock pyproject.toml
	@if ! $(PYTHON) -c 'import ensurepip, venv, sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then \
	  if [ "$$(id -u)" -ne 0 ]; then \
	    echo "Python 3.11 or later with venv is missing. Run as root: apt-get install -y python3 python3-venv" >&2; \
	    exit 1; \
	  fi; \
	  echo "installing Debian packages: python3 python3-venv"; \
	  apt-get --quiet --quiet update; \
	  DEBIAN_FRONTEND=noninteractive apt-get --quiet --quiet --yes install --no-install-recommends \
	    python3 python3-venv ca-certificates > /dev/null; \
	fi
	@echo "installing Python packages into .venv"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@
