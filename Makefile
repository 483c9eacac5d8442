# Everything is installed into .venv, from the package index alone. `make quickstart` and `make test`
# need nothing but Python 3.11+ and make.

# The first Python that is new enough; `make PYTHON=/path/to/python3.12 ...` picks another one.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
# torch is installed first and alone. `make TORCH="torch==2.13.0 --index-url URL" ...` takes it from the
# index of CPU builds, where the default index would bring a CUDA build.
TORCH ?= torch==2.13.0
# The tests start many Pythons: what one has compiled, the next ones read. Else each compiles all of it anew.
unexport PYTHONDONTWRITEBYTECODE
# Test processes. One torch thread in each: two tiny models side by side beat one on two threads.
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install -c constraints.txt
STAMPS := $(VENV)/stamps

.PHONY: help install quickstart test check pytest slow bench judges clean

help: ## Say what can be made
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 20

install: $(STAMPS)/install ## Create .venv and install modelwright into it

quickstart: $(STAMPS)/verify ## Install, then carry a small model through its whole life
	$(BIN)/modelwright run quickstart

test: check pytest ## Install, then every check and every test but the slow ones

check: $(STAMPS)/test ## Style, types, import contract and budgets
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/architecture

pytest: $(STAMPS)/test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal --durations 10 --ignore tests/architecture

slow: $(STAMPS)/test ## The slow tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow --durations 10

bench: $(STAMPS)/bench ## Run one benchmark: make bench NAME=train_cpu
	@test -n "$(NAME)" || { echo "say which: make bench NAME=train_cpu"; ls benchmarks/*.py; exit 2; }
	$(BIN)/python benchmarks/$(NAME).py

judges: $(STAMPS)/install ## Build llama.cpp as a second reader of exports (best effort, needs a C++ compiler)
	@$(BIN)/python -c 'import llama_cpp' 2>/dev/null && echo "llama-cpp-python is installed" \
	|| { echo "building llama-cpp-python: some minutes" && $(PIP) llama-cpp-python && echo "llama-cpp-python is built"; } \
	|| echo "llama-cpp-python could NOT be built: GGUF files are judged by transformers alone"

clean: ## Remove caches and build outputs; .venv and runs stay
	rm -rf build dist .pytest_cache .hypothesis .ruff_cache .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# --- stamps: a step is done again when what it was made from has changed ---------------------------

$(STAMPS)/torch: constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/install: $(STAMPS)/torch pyproject.toml
	$(PIP) -e .
	@touch $@

$(STAMPS)/verify: $(STAMPS)/install
	$(PIP) -e '.[verify]'
	@touch $@

$(STAMPS)/bench: $(STAMPS)/install
	$(PIP) -e '.[bench]'
	@touch $@

$(STAMPS)/test: $(STAMPS)/install
	$(PIP) -e '.[test]'
	@touch $@ $(STAMPS)/verify
