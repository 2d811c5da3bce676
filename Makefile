# `make quickstart` and `make test` each do all set-up from a fresh clone.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: venv quickstart test lint types contracts tests gpu-kernels slow bench clean

venv: $(STAMP)

# torch goes first and pinned, so that no other package pulls a CUDA build onto a machine without a GPU.
# Where the default index serves CUDA builds, point PIP_EXTRA_INDEX_URL at PyTorch's CPU index.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

quickstart: venv
	$(BIN)/mcc quickstart

test: lint types contracts tests

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv
	$(BIN)/mypy

contracts: venv
	$(BIN)/lint-imports

# Most of a test's time is waiting for its ranks, so three processes keep two cores busy.
tests: venv
	$(BIN)/python -m pytest -n 3 --dist loadfile

# The GPU's kernels interpreted on the CPU: Triton comes with CUDA builds of torch, and is fetched here for others.
gpu-kernels: venv
	test -d build/triton/triton || $(BIN)/python -m pip install --quiet --disable-pip-version-check --target build/triton triton
	PYTHONPATH=build/triton $(BIN)/python -m pytest tests/train/compress/test_gpu_kernels.py

# More layouts, codecs and kills of the same kinds that `make tests` covers: before a release.
slow: venv
	$(BIN)/python -m pytest -n 3 --dist loadfile -m slow

bench: venv
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
