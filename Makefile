# `make run` and `make test` install everything they need; `make help` lists all targets.
PYTHON ?= python3
VENV ?= .venv
RECIPE ?= recipes/quickstart.yaml
# Another build of torch (CUDA, ROCm): make run TORCH_INDEX=https://…/whl/cu130
TORCH_INDEX ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
TORCH := torch==$(shell sed -n 's/^torch==//p' constraints.txt)
export DS_BUILD_OPS = 0

.DEFAULT_GOAL := help
.PHONY: help install run assistant serve test test-rest test-all quick mutants lint docs docs-recipes format bench clean

help:  ## List all targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed  ## Create the virtual environment and install the pinned packages

run: $(VENV)/.installed  ## Run the quickstart: from raw news pages to a cited answer
	@$(BIN)/headwater run $(RECIPE)

assistant: $(VENV)/.installed  ## Run the assistant: a small chat model learns to answer from sources
	@$(BIN)/headwater run recipes/assistant.yaml

serve: $(VENV)/.installed  ## Serve the model of `make run`, with a chat page
	@$(BIN)/headwater serve $(RECIPE)

test: $(VENV)/.installed-tests  ## Check style, types and import layers, and run the tests of everyday work
	@$(BIN)/python -m tests.together test --logs $(VENV)

test-rest: $(VENV)/.installed-rest  ## Run what `make test` leaves out: soak tests (long runs, hosts, browser)
	@$(BIN)/python -m tests.together rest --logs $(VENV)

test-all: $(VENV)/.installed-rest  ## Run `make test`, then `make test-rest`
	@$(BIN)/python -m tests.together test rest --logs $(VENV)

quick: $(VENV)/.installed-tests  ## Check style, types and the nearest tests of the files changed since main
	@$(BIN)/python -m tests.quick

mutants: $(VENV)/.installed-tests  ## Plant small mistakes in a copy of the source: do the tests fail? (ONLY=NAME)
	@$(BIN)/python -m tests.mutants $(if $(ONLY),--only $(ONLY))

lint: $(VENV)/.installed-tests  ## Check style, types and import layers only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Folder with real data; benchmarks that need it are skipped without it.
DATA ?= ../shared/data
WEB := $(DATA)/web
PAGES := $(WEB)/readability-130.parquet $(WEB)/pages-0.warc.gz $(WEB)/pages-1.warc.gz
MEASURE = if [ -e $(DATA) ]; then $(BIN)/python -m benchmarks.$(1); else echo "skipped, no $(DATA): $(1)"; fi

bench: $(VENV)/.installed-tests  ## Run the benchmarks (DATA=FOLDER with real data; results are in docs/results.md)
	$(BIN)/python -m benchmarks.training.checkpoint
	$(BIN)/python -m benchmarks.corpus.duplicates
	$(BIN)/python -m benchmarks.training.zero_memory
	@$(call MEASURE,corpus.extraction $(WEB)/readability-130.parquet)
	@$(call MEASURE,corpus.cleaning $(DATA)/text/c4-300.jsonl)
	@$(call MEASURE,corpus.chain $(PAGES))
	@$(call MEASURE,corpus.quality_and_spans $(DATA)/text/c4-300.jsonl)
	@$(call MEASURE,corpus.scaling $(PAGES) --copies 30)

docs: $(VENV)/.installed-docs  ## Build the documentation site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-recipes: $(VENV)/.installed  ## Write docs/recipes.md from the settings' docstrings
	$(BIN)/python docs/generate_recipes.py

format: $(VENV)/.installed-tests  ## Put the code into the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove the virtual environment and caches (the store stays)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info site

# torch is installed first: resolved with the other packages, a loose range could bring a newer build.
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (once; about 2 GB) …"
	@$(PYTHON) -c 'import sys; sys.exit("Headwater needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	@$(PIP) -e '.[train,serve]'
	@touch $@

$(VENV)/.installed-tests: $(VENV)/.installed
	@$(PIP) -e '.[tests]'
	@touch $@

# OCR is large (280 MB) and has soak tests only.
$(VENV)/.installed-rest: $(VENV)/.installed-tests
	@$(PIP) -e '.[ocr]'
	@touch $@

$(VENV)/.installed-docs: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		$$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
	@touch $@
