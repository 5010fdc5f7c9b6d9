# Two commands do it all on a fresh machine:  make demo  ·  make test
# Your own images:  make classify SUPPORT=labelled/ QUERY=unsorted/
PYTHON ?= python3
VENV ?= .venv
# The torch that a fresh environment gets. One already in $(VENV) is kept, whatever its version.
TORCH ?= torch==2.13.0
BIN = $(VENV)/bin
SECONDS ?= 600
N ?= 10

.PHONY: demo classify test lint types tests explore shuffle notebooks docs bench tables dist install clean

demo: $(VENV)/.installed
	$(BIN)/python -m tests.tools.write_digits $(VENV)/demo/labelled 5
	$(BIN)/python -m tests.tools.write_digits $(VENV)/demo/unsorted 5 100
	$(BIN)/fewshot classify --support $(VENV)/demo/labelled --query $(VENV)/demo/unsorted --out $(VENV)/demo/classified
	$(BIN)/python -m tests.tools.write_digits $(VENV)/demo/images 40
	$(BIN)/fewshot extract --images $(VENV)/demo/images --out $(VENV)/demo/store
	$(BIN)/fewshot episode --features $(VENV)/demo/store --method nearest-prototype --method unem --n-way 5 --n-shot 1,5 --n-query 15 --n-episodes 500
	$(BIN)/fewshot probe --features $(VENV)/demo/store --method svm --method knn

classify: $(VENV)/.installed
	$(BIN)/fewshot classify --support "$(SUPPORT)" --query "$(QUERY)"

test: lint types tests notebooks docs

install: $(VENV)/.installed-dev

# What is asked for besides torch must fit the torch that is there: pip then takes the torchvision made for it.
$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install -q "$(TORCH)"
	$(BIN)/pip install -q -e ".[images]" "torch==$$($(BIN)/python -c 'import torch; print(torch.__version__.split("+")[0])')"
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install -q -e ".[dev]" "torch==$$($(BIN)/python -c 'import torch; print(torch.__version__.split("+")[0])')"
	touch $@

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: install
	$(BIN)/mypy

tests: install
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadgroup --durations=10

# New examples for the property tests until the time is over; says how to have a failure again.
explore: install
	$(BIN)/python -m tests.tools.explore $(SECONDS)

# The suite in N shuffled orders, by turns in one process and in several.
shuffle: install
	for seed in $$(seq $(N)); do \
	  $(BIN)/pytest --shuffle-seed $$seed --numprocesses $$(( seed % 2 ? 4 : 0 )) --dist loadgroup || exit 1; \
	done

# Executed copies with their outputs, which the site shows; made again where a notebook or the code has changed.
CODE = $(shell find fewshot episodes cli -name '*.py')
notebooks: $(patsubst notebooks/%,build/notebooks/%,$(wildcard notebooks/*.ipynb))

build/notebooks/%.ipynb: notebooks/%.ipynb $(CODE) | install
	$(BIN)/python -m tests.tools.run_notebook $< $@

# The site, in build/site: warnings are errors, and each command, method and public name must be on it.
docs: notebooks
	$(BIN)/python -m sphinx -b html --jobs auto --nitpicky --fail-on-warning --keep-going --fresh-env -d build/doctrees docs build/site
	$(BIN)/python -m docs.extension.check build/site

bench: install
	$(BIN)/python -m tests.benchmarks

# The comparison of all methods in README and docs/results; runs what is wanting, on the feature files in $(DATA).
tables: install
	$(BIN)/python -m tests.benchmarks.comparison --data "$(DATA)"

# Source distribution and wheel of what is committed, checked as the package index checks them. README's links are made
# absolute in them: REPOSITORY is the https:// address under which the files can be read.
dist: install
	rm -rf dist build/package && mkdir -p build/package
	git archive HEAD | tar -x -C build/package
	$(BIN)/python -m tests.tools.absolute_links build/package/README.md "$(REPOSITORY)"
	$(BIN)/python -m build --outdir dist build/package
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf $(VENV) build dist *.egg-info
