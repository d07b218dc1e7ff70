# make demo: train a small network on bundled photographs, measure it, draw it; upscale
# one of them by the weights that come with the program.
# make test: lint and tests.
# Both make a virtual environment in .venv first; PYTHON names the interpreter.

PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo
PHOTOGRAPHS := scikit-image:test
CAT := import skimage; print(skimage.__path__[0] + '/data/chelsea.png')

.PHONY: demo test format clean

demo: .venv/requirements
	$(BIN)/python train.py --config=configs/teacher.py:demo --workdir=$(DEMO)/teacher
	$(BIN)/python train.py --config=configs/student.py:demo --workdir=$(DEMO)/student \
	    --config.distillation.teacher=$(DEMO)/teacher
	$(BIN)/python eval.py --workdir=$(DEMO)/student --benchmarks=$(PHOTOGRAPHS) \
	    --report=$(DEMO)/evaluation
	$(BIN)/python -m lightbsr_jax upscale "$$($(BIN)/python -c "$(CAT)")" \
	    -o $(DEMO)/chelsea-x4.png --overwrite

test: .venv/requirements-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

format: .venv/requirements-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv runs/demo

.venv/%: %.txt requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement $<
	@touch $@
