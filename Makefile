# make demo    environment, data, distil the small sketch student, compile and benchmark it -> runs/demo/report.html
# make test    environment, all tests except the slow ones, linters
# make test-slow, make test-device, make lint, make clean; make setup-system installs Debian packages that tests use (as root)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/demo
# Whole files go to one process per core, in the order of tests/conftest.py. `make test PARALLEL=` runs one after the other.
PARALLEL ?= -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-slow test-device lint install setup-system clean

demo: install
	$(BIN)/compressor data fetch openmoji
	$(BIN)/compressor data fetch line-icons
	$(BIN)/compressor data fetch efficientnet-lite0
	$(BIN)/compressor bench sketch --device host --device cortex-m4 --out $(RUN) --resume

test: lint $(VENV)/.tensorrt
	$(BIN)/python -m pytest -m "not slow and not device" $(PARALLEL)

test-slow: install $(VENV)/.tensorrt
	$(BIN)/python -m pytest -m slow

# On a real device: make test-device DEVICE=raspberry-pi-5 RUNNER=ssh:pi@raspberrypi.local
test-device: install
	@test -n "$(DEVICE)" || { echo "make test-device DEVICE=raspberry-pi-5 RUNNER=ssh:pi@raspberrypi.local" >&2; exit 2; }
	DEVICE=$(DEVICE) RUNNER=$(RUNNER) $(BIN)/python -m pytest -m device

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all,dev]'
	@touch $@

# TensorRT-RTX comes under NVIDIA's own licence: for the tests that build engines, not for the demo.
$(VENV)/.tensorrt: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[tensorrt]'
	@touch $@

setup-system:
	apt-get update
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium \
		binfmt-support buildah gcc gcc-aarch64-linux-gnu gcc-arm-linux-gnueabihf gcc-arm-none-eabi \
		libc6-dev-arm64-cross libc6-dev-armhf-cross libnewlib-arm-none-eabi make mmdebstrap openssh-client \
		openssh-server qemu-system-arm qemu-user qemu-user-static

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
