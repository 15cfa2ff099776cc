# make demo   from nothing to a trained model and a picture: no compiler, no download but Python packages
# make test       everything installed (mmcv's compiled ops too), then the unit and the integration tests
# make test-fast  the unit tests alone, for the edit loop: no compiler, no mmdetection, mmsegmentation or mmpretrain
# make test-slow  the rest: several processes, kills, trainings that must learn, full matrices, full-size builds
# make check      what is checked beside the tests: style, types, package, site, notebook
# make format     all code in the project's one style
# make docs       the documentation as a site, in site/
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint constraints.txt
# Tests run side by side, each on one thread: make test WORKERS=8 on a larger machine.
WORKERS ?= 2
PYTEST := OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

.PHONY: demo test test-fast test-slow check lint format docs notebook package clean \
	install-unit install-demo install-all install-test install-dev
.DELETE_ON_ERROR:

demo: install-demo
	$(BIN)/python tools/demo.py

test: install-test
	$(PYTEST) --dist worksteal -m 'unit or integration'

test-fast: install-unit
	$(PYTEST) --dist worksteal -m unit

test-slow: install-test
	$(PYTEST) --dist loadfile -m slow  # what a file sets up takes minutes: once

check: lint package docs notebook

lint: install-dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

format: install-dev
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

docs: install-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

notebook: install-dev
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --nbmake --nbmake-timeout 900 docs/tour.ipynb

package: install-dev
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/python -m twine check --strict dist/*

install-unit: $(VENV)/.unit
install-demo: $(VENV)/.demo
install-all: $(VENV)/.all
install-test: $(VENV)/.test
install-dev: $(VENV)/.dev

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo 'error: $(PYTHON) is older than Python 3.10; run make PYTHON=/path/to/a/newer/python3'; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo 'error: $(PYTHON) has no venv module; install it (Debian: apt install python3-venv)'; exit 1; }

$(VENV)/.torch: constraints.txt | $(BIN)/python
	@echo 'Installing PyTorch into $(VENV) ...'
	$(INSTALL) torch setuptools wheel
	@touch $@

# mmcv is built by pip in isolation, where its compiled ops are left out: seconds, and no compiler. pip's cache is
# passed by, since it may hold a wheel with ops for another PyTorch.
$(VENV)/.mmcv: $(VENV)/.torch
	@echo 'Installing mmengine and mmcv (without compiled ops) ...'
	@$(BIN)/python -c 'import mmcv' 2>/dev/null || $(INSTALL) --no-cache-dir onedl-mmcv
	@touch $@

$(VENV)/.unit: $(VENV)/.mmcv setup.py
	@echo 'Installing what the unit tests need ...'
	$(INSTALL) --editable '.[unit]'
	@$(BIN)/python -c 'import cv2' 2>/dev/null || \
		$(INSTALL) --force-reinstall --no-deps opencv-python-headless  # where libGL is missing
	@touch $@

$(VENV)/.demo: $(VENV)/.mmcv setup.py
	@echo 'Installing mmsegmentation ...'
	$(INSTALL) --editable '.[seg]'
	@$(BIN)/python -c 'import cv2' 2>/dev/null || \
		$(INSTALL) --force-reinstall --no-deps opencv-python-headless  # where libGL is missing
	@touch $@

$(VENV)/.all: $(VENV)/.demo
	@echo 'Installing mmdetection, mmpretrain and the compiled operators of mmcv ...'
	$(INSTALL) --editable '.[all]'
	@$(BIN)/python tools/install_mmcv_ops.py
	@touch $@

$(VENV)/.test: $(VENV)/.all
	@echo 'Installing what the tests compare with ...'
	$(INSTALL) --editable '.[all,test]'
	$(INSTALL) --upgrade --no-deps --target $(VENV)/baselines torchvision timm  # apart: see mmvitscale/utils/torchvision_shim.py
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	$(INSTALL) --editable '.[all,test,dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist site *.egg-info work_dirs data/mini
