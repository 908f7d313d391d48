# Needs Python >= 3.11, make and a package index; every target makes .venv when it is missing.
PYTHON ?= python3
PRESET ?= paper
WORKERS ?= auto
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: reproduce test stress bench lint types clean

reproduce: $(INSTALLED)
	$(BIN)/python -m experiments run all --preset $(PRESET) --resume
	$(BIN)/python -m experiments report --preset $(PRESET)

test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) -m "not stress" $(ARGS)

stress: $(INSTALLED)
	$(BIN)/python -m pytest -m stress $(ARGS)

bench: $(INSTALLED)
	$(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-columns=min,median,max,rounds $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/pyright

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
