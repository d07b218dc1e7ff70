# make demo: train a small network on bundled photographs, measure it, draw it; upscale
# one of them by the weights that come with the program.
# make check: lint, types and the quick tests. make test: lint, types and all tests.
# make docs: the documentation as a site, docs/_build/index.html.
# make page: a page that upscales in the browser, page/dist; needs Node.js 20 or newer.
# WEIGHTS names its networks.
# Each makes a virtual environment in .venv first; PYTHON names the interpreter, and
# WORKERS the number of processes that run tests.

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
DEMO := runs/demo
PHOTOGRAPHS := scikit-image:test
WEIGHTS ?= photo
CAT := import skimage; print(skimage.__path__[0] + '/data/chelsea.png')

.PHONY: demo check test lint types quick-tests all-tests docs page format clean

demo: .venv/requirements
	$(BIN)/python train.py --config=configs/teacher.py:demo --workdir=$(DEMO)/teacher
	$(BIN)/python train.py --config=configs/student.py:demo --workdir=$(DEMO)/student \
	    --config.distillation.teacher=$(DEMO)/teacher
	$(BIN)/python eval.py --workdir=$(DEMO)/student --benchmarks=$(PHOTOGRAPHS) \
	    --report=$(DEMO)/evaluation
	$(BIN)/python -m lightbsr_jax upscale "$$($(BIN)/python -c "$(CAT)")" \
	    -o $(DEMO)/chelsea-x4.png --overwrite

# Types and tests at once: the checker takes one process.
check: lint
	@$(MAKE) --no-print-directory --jobs=2 types quick-tests

test: lint types all-tests

lint: .venv/requirements-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/requirements-test
	$(BIN)/pyright --pythonpath $(BIN)/python

quick-tests: .venv/requirements-test
	$(BIN)/python -m pytest -m "not slow" --numprocesses=$(WORKERS) --dist=loadfile

# A file's tests stay in one process: they share fixtures. The slowest files come first.
all-tests: .venv/requirements-test
	$(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile \
	    --no-loadscope-reorder

docs: .venv/requirements-docs
	$(BIN)/sphinx-build -W -b html docs docs/_build

page: .venv/requirements-test page/node_modules/.package-lock.json
	$(BIN)/python -m page.models page/build $(WEIGHTS)
	node page/build.mjs page/build page/dist

page/node_modules/.package-lock.json: page/package-lock.json
	npm ci --prefix page --ignore-scripts --no-audit --no-fund

format: .venv/requirements-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .pytest_cache runs/demo docs/_build page/build page/dist \
	    page/node_modules

.venv/%: %.txt requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement $<
	@touch $@
