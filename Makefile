# make study   install everything and run the first study
# make test    install everything and run the tests
# Both skip what has already been done. The other targets are described in CONTRIBUTING.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: study objectives test check bench mutants setup lock clean

study: setup
	@$(BIN)/hdvae data fetch mnist5k
	@$(BIN)/hdvae study run studies/first.yaml

# Run the study of training objectives (about 30 minutes on two cores) and rewrite the page of its results.
objectives: setup
	@$(BIN)/hdvae data fetch mnist5k
	@$(BIN)/hdvae study run studies/objectives.yaml
	@$(BIN)/hdvae compare objectives --metric elbo --metric relaxation_bias --metric jensen_bound \
	  --metric lipschitz_bound_reads --metric relaxed_elbo_reads --metric kl --format md --out docs/results/objectives.md

# Bytecode is written even where the environment forbids it: hundreds of processes would each compile the sources anew.
test: setup
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Measure the speed of steps, evaluations, trials and workers, on a machine that does nothing else (docs/performance.md).
bench: setup
	@$(BIN)/hdvae data fetch mnist5k
	$(BIN)/python -m benchmarks.step --threads 2 --rounds 4 --networks "conv L3" "conv L6"
	$(BIN)/python -m benchmarks.step --threads 1 --rounds 5 --networks dense
	$(BIN)/python -m benchmarks.evaluate
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.scaling

# Break lines of the library one at a time and check that the tests fail.
mutants: setup
	$(BIN)/python tests/mutants.py

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hdvae needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing the pinned packages into $(VENV): some minutes, once."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# Resolve the dependencies of pyproject.toml again. Local version suffixes (torch's +cpu, +cu…) are removed: the public
# index serves the plain version, and each machine installs the build for its own hardware.
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet torch==2.13.0 hatchling editables
	build/lock/bin/python -m pip install --quiet '.[cluster,dev]'
	(echo '# Made by `make lock`; installed by `make setup`.'; \
	 build/lock/bin/python -m pip freeze --exclude hdvae | sed 's/+[a-z0-9.]*$$//') > requirements.lock
	rm -rf build/lock

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
