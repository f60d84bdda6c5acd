# make demo: train a style and look at it.  make test: prove the rest.  make bench: measure what it costs and gains.
# All set themselves up in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench gpu gpu-wheels fuzz clean

demo: $(VENV)/.train-ready
	$(BIN)/python -m training demo

# One process a core (at most four, of a gigabyte each), one thread in each.
test: export OMP_NUM_THREADS = 1
test: $(VENV)/.test-ready
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
	$(BIN)/python tests/host/install_requirements.py
	$(BIN)/python tests/host/run.py

lint: $(VENV)/.test-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Tables on the terminal, JSON and plots in build/bench.  On a CPU about three hours.
bench: $(VENV)/.test-ready
	mkdir -p build/bench
	$(BIN)/python tests/host/install_requirements.py
	$(BIN)/python -m benchmarks.training --out build/bench/training.json --plot build/bench/training.png
	$(BIN)/python -m benchmarks.waits --out build/bench/waits.json
	$(BIN)/python -m benchmarks.inference --out build/bench/inference.json --plot build/bench/inference.png
	$(BIN)/python -m benchmarks.quality --only control --sampling high --rates benchmarks/results/control.json \
		--out build/bench/control.json --plot build/bench/quality.png
	$(BIN)/python -m benchmarks.quality --only style ablation --rates benchmarks/results/style.json \
		--out build/bench/style.json --plot build/bench/quality_style.png

# Sampling and training on a GPU, with whichever Python has torch for it; at most nine minutes on an H100, and started
# again it does what is missing.  GPU="--host FOLDER" names a ComfyUI checkout, GPU=--dry-run tries it on a CPU.  For a
# machine without a network: make gpu-wheels first, bring build/wheels along, and GPU="--wheels build/wheels".
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
gpu:
	$(GPU_PYTHON) -m benchmarks.gpu $(GPU)

gpu-wheels:
	$(PYTHON) -m benchmarks.gpu --fetch-wheels build/wheels

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
