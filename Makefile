PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install run test lint bench dashboards env clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## the package and its tools, pinned, in .venv

# The stamp makes the second install instant; a changed requirement makes it again.
$(STAMP): requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

run: install ## the service, with a sample of real agent sessions and live ones
	$(BIN)/agent-runtime demo

test: lint ## lint, then every test
	$(BIN)/python -m pytest

lint: install ## style, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install ## every bar beside its yardsticks; writes benchmarks/results.md
	$(BIN)/python -m benchmarks

dashboards: install ## writes dashboards/json
	$(BIN)/python -m dashboards

env: .env ## .env with fresh keys, for docker compose

# Never made again by itself: new keys would lock the running services out.
.env:
	@umask 077; $(PYTHON) -c "import re, secrets; print(re.sub(r'(?m)_(KEY|PASSWORD)=$$', lambda m: m[0] + secrets.token_hex(24), open('.env.example').read()), end='')" > $@
	@echo "wrote $@"

clean: ## removes what can be made again
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
