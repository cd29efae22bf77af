# make train   install, then the default run: python train.py --model fno --pde darcy  (ARGS="data.train=200" adds settings)
# make test    install with the development tools, then the test suite               (ARGS="-k darcy" adds options;
#              JOBS=4 runs so many tests at once, two by default)
# make lint    style, types, import contract, spelling
# make bench   benchmarks, each printing its own command and figures; not those that train for an hour
# make clean   remove what was built here; data, runs and the environment stay

PYTHON ?= python3
VENV := .venv
JOBS := 2
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

SLOW_BENCHMARKS := $(addprefix benchmarks/,online.py stability.py time_to_error.py)

.PHONY: train test lint bench clean

train: $(VENV)/.installed
	$(BIN)/python train.py --model fno --pde darcy $(ARGS)

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

bench: $(VENV)/.installed-dev
	for script in $(filter-out $(SLOW_BENCHMARKS),$(wildcard benchmarks/*.py)); do $(BIN)/python $$script $(ARGS) || exit 1; done

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "opkit needs Python 3.11 or newer; $(PYTHON) is older. Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.installed
