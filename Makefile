# `make run` and `make test` do all the set-up themselves; `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
RECIPE ?= recipes/quickstart.yaml
# Another build of torch (CUDA, ROCm): make run TORCH_INDEX=https://…/whl/cu130
TORCH_INDEX ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
TORCH := torch==2.13.0
export DS_BUILD_OPS = 0

.DEFAULT_GOAL := help
.PHONY: help install run serve test test-rest test-all quick mutants lint format bench clean

help:  ## List what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed  ## Make the virtual environment and install the pinned packages

run: $(VENV)/.installed  ## Raw news pages to a cited answer, on this machine
	@$(BIN)/headwater run $(RECIPE)

serve: $(VENV)/.installed  ## Serve the model that `make run` made, with a chat page
	@$(BIN)/headwater serve $(RECIPE)

test: $(VENV)/.installed-tests  ## Style, types, layers and the tests that a change needs at hand
	@$(BIN)/python -m tests.together test --logs $(VENV)

test-rest: $(VENV)/.installed-tests  ## The tests that `make test` leaves: long runs, hosts, browser (mark soak)
	@$(BIN)/python -m tests.together rest --logs $(VENV)

test-all: $(VENV)/.installed-tests  ## All tests: `make test`, then `make test-rest`
	@$(BIN)/python -m tests.together test rest --logs $(VENV)

quick: $(VENV)/.installed-tests  ## Style, types and nearest tests of what is changed since main
	@$(BIN)/python -m tests.quick

mutants: $(VENV)/.installed-tests  ## Small mistakes in a copy of the source: do the tests see them? (ONLY=NAME)
	$(BIN)/python -m tests.mutants $(if $(ONLY),--only $(ONLY))

lint: $(VENV)/.installed-tests  ## Style, types and import layers alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Real data that lies beside the checkout; benchmarks that need it say so and are passed over where it is not.
DATA ?= ../shared/data
WEB := $(DATA)/web
PAGES := $(WEB)/readability-130.parquet $(WEB)/pages-0.warc.gz $(WEB)/pages-1.warc.gz
MEASURE = if [ -e $(DATA) ]; then $(BIN)/python -m benchmarks.$(1); else echo "passed over, no $(DATA): $(1)"; fi

bench: $(VENV)/.installed-tests  ## Measure (results are in docs/log.md; DATA=FOLDER with real data)
	$(BIN)/python -m benchmarks.checkpoint
	$(BIN)/python -m benchmarks.duplicates
	$(BIN)/python -m benchmarks.zero_memory
	@$(call MEASURE,extraction $(WEB)/readability-130.parquet)
	@$(call MEASURE,corpus $(DATA)/text/c4-300.jsonl)
	@$(call MEASURE,chain $(PAGES))
	@$(call MEASURE,quality_and_spans $(DATA)/text/c4-300.jsonl)
	@$(call MEASURE,scaling $(PAGES) --copies 30)

format: $(VENV)/.installed-tests  ## Put the code into the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove the virtual environment and caches (the store stays)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info

# torch comes first: resolved together with the rest, a loose range would bring a newer build.
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (once; about 2 GB) …"
	@$(PYTHON) -c 'import sys; sys.exit("Headwater needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-tests: $(VENV)/.installed
	@$(PIP) -e '.[tests]'
	@touch $@
