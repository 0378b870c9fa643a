# The two commands a newcomer needs: `make demo` and `make test`. Each sets up what it needs in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
DEMO := tests/demo
JOBS ?= 2

.PHONY: demo test check clean

# The main job on the committed network and images: compile, then simulate every test image at five ratios.
demo: $(VENV)/run.stamp
	$(BIN)/npu compile $(DEMO)/digits.onnx --hardware npu32 --calibration $(DEMO)/digits_train.npz -o build/digits.npubin
	$(BIN)/npu run build/digits.npubin --data $(DEMO)/digits_test.npz --ratio 0,25,50,75,100 --report demo_report
	$(BIN)/npu report build/digits.npubin --ratio 100

# Every test: compiled, the notebooks, then the simulators' tests with bounds checks, interpreted and as on another Numba.
test: $(VENV)/dev.stamp
	$(BIN)/pytest -q -n $(JOBS)
	$(BIN)/pytest -q --nbmake notebooks
	NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=.cache/bounds $(BIN)/pytest -q -n $(JOBS) tests/sim tests/runtime/test_mutations.py -m "not slow"
	NUMBA_DISABLE_JIT=1 $(BIN)/pytest -q -n $(JOBS) tests/sim -m "not slow"
	NPU_NUMBA_INTERNALS=0 $(BIN)/pytest -q -n $(JOBS) tests/sim/test_value*.py tests/sim/test_numba_use.py -m "not slow"

# Formatting, lint, types, import contracts.
check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11; run make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: pyproject.toml | $(BIN)/python
	$(PIP) -e .
	mkdir -p build
	touch $@

$(VENV)/dev.stamp: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build demo_report .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
