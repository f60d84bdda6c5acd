# make demo: train a style and look at it.  make test: prove the rest.  make bench: measure what it costs and gains.
# All set themselves up in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench fuzz clean

demo: $(VENV)/.train-ready
	$(BIN)/python -m training demo

test: $(VENV)/.test-ready
	$(BIN)/python -m pytest
	$(BIN)/python tests/host/install_requirements.py
	$(BIN)/python tests/host/run.py

lint: $(VENV)/.test-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Tables on the terminal, JSON and plots in build/bench.  On a CPU about three hours.
bench: $(VENV)/.test-ready
	mkdir -p build/bench
	$(BIN)/python tests/host/install_requirements.py
	$(BIN)/python benchmarks/training.py --out build/bench/training.json --plot build/bench/training.png
	$(BIN)/python benchmarks/loading.py --out build/bench/loading.json
	$(BIN)/python benchmarks/conditions.py --out build/bench/conditions.json
	$(BIN)/python benchmarks/inference.py --out build/bench/inference.json --plot build/bench/inference.png
	$(BIN)/python benchmarks/quality.py --rates benchmarks/results/quality.json --out build/bench/quality.json --plot build/bench/quality.png

fuzz: $(VENV)/.test-ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/fuzz.txt
	$(BIN)/python tests/fuzz/fuzz_loading.py

$(VENV)/.train-ready: requirements/train.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/train.txt
	touch $@

$(VENV)/.test-ready: $(VENV)/.train-ready requirements/test.txt requirements/reference.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/test.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/reference.txt
	touch $@

clean:
	rm -rf $(VENV) build demo_output
