# Two commands matter: `make demo` and `make test`. Both do their own set-up in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Workers side by side: one for each core but four at most, since each holds torch, some of them a model too.
# They take files in order, so that the end-to-end run, the longest by far, begins early.
WORKERS ?= logical
PYTEST  := $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo test install format check model unit end-to-end docs clean

demo: install
	$(BIN)/sixgig demo

test: install check model
	$(PYTEST) -m 'real_model or not gpu'

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

model: install
	$(BIN)/sixgig fetch smollm2-135m-instruct --yes

unit: install
	$(PYTEST) -m 'not real_model and not gpu'

end-to-end: model
	$(PYTEST) -m real_model

docs: install
	$(BIN)/python benchmarks/make_docs.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
