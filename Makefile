# Two commands matter: `make demo` and `make test`. Both do their own set-up in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test install format check unit end-to-end docs clean

demo: install
	$(BIN)/sixgig demo

test: install check unit end-to-end

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "sixgig needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python benchmarks/make_docs.py --check

unit: install
	$(BIN)/python -m pytest -m 'not real_model and not gpu'

end-to-end: install
	$(BIN)/sixgig fetch smollm2-135m-instruct --yes
	$(BIN)/python -m pytest -m real_model

docs: install
	$(BIN)/python benchmarks/make_docs.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
