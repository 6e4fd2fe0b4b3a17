# On a fresh machine with Python and the package registries, `make demo` and `make test` do all set-up.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test lint bench clean

# The whole way on a personal HTCondor pool: from examples/tth/job.json to a trained model.
demo: $(READY)
	$(BIN)/mlaas-condor --pool personal pool up
	$(BIN)/mlaas-condor --pool personal submit examples/tth --watch
	@echo "the pool goes on running; stop it with: $(BIN)/mlaas-condor pool down"

# Many tests wait for a pool most of the time: others run meanwhile, so there is one process more than CPUs.
# Without groups, loadgroup hands out one test at a time: some take a minute, most nothing.
test: $(READY) lint
	$(BIN)/python -m pytest -n $$(($$(nproc) + 1)) --maxprocesses 5 --dist loadgroup

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/data.py examples/tth/data/*.root
	$(BIN)/python benchmarks/remote.py
	$(BIN)/python benchmarks/service.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/pipeline.py
	$(BIN)/python benchmarks/eviction.py

# The virtual environment is made anew whenever what it should hold changes.
$(READY): setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
