# Two commands do it all on a fresh machine:  make demo  ·  make test
PYTHON ?= python3
VENV ?= .venv
# The torch that a fresh environment gets. One already in $(VENV) is kept, whatever its version.
TORCH ?= torch==2.13.0
BIN = $(VENV)/bin

.PHONY: demo test lint types tests notebooks bench tables install clean

demo: install
	$(BIN)/fewshot episode --features digits --method nearest-prototype --method unem --n-way 5 --n-shot 1,5,10 --n-query 15 --n-episodes 1000

test: lint types tests notebooks

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install -q "$(TORCH)"
	$(BIN)/pip install -q -e ".[dev]"
	touch $@

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: install
	$(BIN)/mypy

tests: install
	$(BIN)/pytest --durations=10

notebooks: install
	$(BIN)/python -m tests.run_notebooks notebooks

bench: install
	$(BIN)/python -m tests.benchmarks

clean:
	rm -rf $(VENV) build dist *.egg-info
