# Everything runs in .venv, which the first target that needs it builds. Requires Python >= 3.11 and make.
#
#   make demo    the main job, end to end; leaves one HTML report
#   make test    lint, types and every test
#   make quick   only the fast tests
#   make lint    only ruff and mypy
#   make bench   speed of the kernels, the solvers and the first call
#   make lock    rewrite constraints.txt from what is installed

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
            $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH := torch==2.13.0
# Extra words for pip, e.g. an index of its own for torch builds without CUDA.
PIP ?=
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
THREADS ?= $(CORES)
# Test files run side by side; a file's tests stay in one process, so that what they share is made once.
WORKERS ?= $(shell test $(CORES) -gt 8 && echo 8 || echo $(CORES))

# One pool of threads at a time: Numba and torch take the cores, BLAS takes one (its threads would fight with Numba's).
export NUMBA_NUM_THREADS := $(THREADS)
export OMP_NUM_THREADS := $(THREADS)
export MKL_NUM_THREADS := $(THREADS)
export OPENBLAS_NUM_THREADS := 1
export MPLBACKEND := Agg

.PHONY: demo test quick lint bench lock clean
.DEFAULT_GOAL := test

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python >= 3.11 is needed; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP) -c constraints.txt $(TORCH) -e '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/python -m scripts.demo

test: lint
	NUMBA_NUM_THREADS=2 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "slow or not slow" --durations 10

quick: $(READY)
	NUMBA_NUM_THREADS=2 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/diffsim bench

lock: $(READY)
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt.new
	mv constraints.txt.new constraints.txt

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
