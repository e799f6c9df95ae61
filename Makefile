# Two commands set up everything they need, in .venv:
#
#   make demo   run the main job on a real model and picture (examples/demo.py)
#   make test   run the tests
#
#   make emulated-board   compile for an ARM board, run on an emulated one (10 minutes at first)
#
# For developers: make sanitize (C++), make fuzz (the server), make lint, make valgrind, make clean, make distclean.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
PYTEST_ARGS ?=
# Two test processes, a file at a time; but those tests that watch how the lanes overlap run alone
# (and if PYTEST_ARGS chooses none of these, that is no failure).
IN_PARALLEL := --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not alone"

# What the native plugin and the metadata are made of: a change means another `pip install`.
SOURCES := pyproject.toml CMakeLists.txt syncnas_tvm/_version.py $(wildcard runtime/*.cc runtime/*.h runtime/exports.map runtime/runner/*.cc runtime/runner/*.h)

.PHONY: demo test lint emulated-board sanitize fuzz valgrind opencl clean distclean

demo: $(VENV)/.installed-demo opencl
	$(BIN)/python examples/demo.py

test: $(VENV)/.installed-test opencl
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m alone || [ $$? -eq 5 ]
	$(BIN)/python -m pytest $(PYTEST_ARGS) $(IN_PARALLEL) || [ $$? -eq 5 ]

# Ruff and mypy look at the same environment that the tests run in: mypy follows numpy's types.
lint: $(VENV)/.installed-dev
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# qemu-user and arm64 PoCL in build/emulated-board, from Debian packages; nothing else is touched.
emulated-board: $(VENV)/.installed-test
	$(BIN)/python benchmarks/emulated_board.py

# Says in one line which OpenCL is used; installs PoCL where there is none.
opencl:
	@$(BIN)/python -m syncnas_tvm.opencl_setup

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Editable: what runs is this tree. Each stamp is an extra of pyproject.toml.
$(VENV)/.installed-dev: $(SOURCES) | $(BIN)/python
	$(PIP) install --quiet --editable '.[dev]'
	@touch $@

# The plain torch wheel for Linux brings gigabytes of CUDA along, which nothing here uses: take the
# CPU build where pip's configured sources have it.
$(VENV)/.installed-demo $(VENV)/.installed-test: $(VENV)/.installed-%: $(SOURCES) | $(BIN)/python
	$(BIN)/python -c 'import torch; assert torch.__version__.startswith("2.13.0")' 2>/dev/null \
	  || $(PIP) install --quiet 'torch==2.13.0+cpu' 2>/dev/null \
	  || $(PIP) install --quiet 'torch==2.13.0'
	$(PIP) install --quiet --editable '.[$*]'
	@touch $@

# The C++ with AddressSanitizer and UndefinedBehaviorSanitizer: the OpenCL device with each kind of
# memory alone and in a compiled network, then one minute of garbage for the server. (Leaks: make valgrind;
# the driver's and TVM's own are many.)
sanitize: build/sanitize/.built opencl
	for memory in shared mapped copied; do \
	  ASAN_OPTIONS=detect_leaks=0 POCL_MAX_PTHREAD_COUNT=1 SYNCNAS_OPENCL_MEMORY=$$memory \
	    build/sanitize/leak_check build/sanitize/libsyncnas_opencl.so || exit 1; \
	done
	PYTHONPATH=tests $(BIN)/python benchmarks/sanitized_run.py build/sanitize
	$(BIN)/python benchmarks/fuzz_server.py build/sanitize --seconds 60

fuzz: build/sanitize/.built
	$(BIN)/python benchmarks/fuzz_server.py build/sanitize

build/sanitize/.built: $(VENV)/.installed-test $(wildcard runtime/*.cc runtime/*.h runtime/*/*)
	cmake -S . -B build/sanitize -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSYNCNAS_SANITIZE=ON \
	  -DSYNCNAS_DEVICE_TOOLS=ON -DSYNCNAS_LEAK_CHECK=ON \
	  -DPython_EXECUTABLE=$(abspath $(BIN)/python)
	cmake --build build/sanitize --parallel --target syncnas-server syncnas-run leak_check
	@touch $@

# Runs everything the OpenCL device does under valgrind (needs valgrind and cmake; a minute). Fails
# on memory that is definitely lost and on invalid accesses in the plugin.
valgrind: $(VENV)/.installed-dev opencl
	cmake -S . -B build/valgrind -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSYNCNAS_LEAK_CHECK=ON \
	  -DPython_EXECUTABLE=$(abspath $(BIN)/python)
	cmake --build build/valgrind --parallel
	POCL_MAX_PTHREAD_COUNT=1 valgrind --error-exitcode=1 --leak-check=full \
	  --show-leak-kinds=definite --errors-for-leak-kinds=definite --num-callers=30 \
	  --suppressions=runtime/leak_check/valgrind.supp \
	  build/valgrind/leak_check build/valgrind/libsyncnas_opencl.so

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

distclean: clean
	rm -rf $(VENV)
