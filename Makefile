# What a newcomer and the continuous check call. Needs make and Python 3.11 or newer; the rest goes into $(VENV).

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
ONLY ?=
COMPARE ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -q
ROOMS := ir passes codegen runtime frontend

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check lint types house slow sweep fuzz update docs bench changelog clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1@\2/p' Makefile | column -t -s @ 2>/dev/null \
		|| sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1   \2/p' Makefile

# One stamp per set of extras: done again only when pyproject.toml changes.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("treadle needs Python 3.11 or newer; this is " + sys.version.split()[0] \
		+ ". Name another: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-%: pyproject.toml | $(VENV)/bin/python
	$(PIP) install -e ".[$*]"
	@touch $@

demo: $(VENV)/installed-examples  ## the main job: handwritten digits, from NumPy code to a saved native model
	$(BIN)/python examples/digits.py

test: $(VENV)/installed-dev $(VENV)/installed-examples  ## all fast tests
	$(BIN)/pytest tests -n $(JOBS)

check: lint types house  ## lint, types, and the laws of the house

lint: $(VENV)/installed-dev  ## ruff: rules and form
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy takes a package's name from its directory's, and the checkout may have any: a link gives it the right one.
types: $(VENV)/installed-dev  ## mypy, strict, on every room
	@mkdir -p build/types && ln -sfn ../.. build/types/treadle
	$(BIN)/mypy -m treadle -m treadle.__main__ $(ROOMS:%=-p treadle.%)

house: $(VENV)/installed-dev $(VENV)/installed-examples  ## the import law, public names, the code in README and docs
	$(BIN)/pytest tests/house

slow: $(VENV)/installed-dev $(VENV)/installed-examples  ## the tests marked slow
	$(BIN)/pytest tests -m slow

sweep: $(VENV)/installed-dev  ## every f32 through every function that states an error bound
	$(BIN)/pytest tests/numerics -m slow

fuzz: $(VENV)/installed-dev  ## random programs, texts, artifacts and arguments, for long
	$(BIN)/pytest tests -m fuzz --hypothesis-profile=fuzz -o time_limit=7200

update: $(VENV)/installed-dev  ## rewrite the expectations of .text files; then read the diff
	$(BIN)/pytest tests --update

docs: $(VENV)/installed-dev  ## the pages that are made from the code: errors, configuration, NumPy's functions
	$(BIN)/python docs/generate.py
	$(BIN)/python -m treadle.frontend.numpy_table > docs/numpy.md

bench: $(VENV)/installed-bench  ## this machine's limits, then treadle beside its peers (ONLY=name COMPARE=run.json)
	$(BIN)/python benchmarks/run.py $(if $(ONLY),--only "$(ONLY)") $(if $(COMPARE),--compare "$(COMPARE)")

changelog:  ## gather changes/*.md under a new heading of CHANGELOG.md
	$(PYTHON) changes/gather.py

clean:  ## remove what make made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis tests/.pytest_cache
	find $(ROOMS) tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
