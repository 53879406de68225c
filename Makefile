# Everything from a fresh clone; `make help` lists the targets.

SHELL := /bin/bash
.DEFAULT_GOAL := build
JOBS ?= $(shell nproc)
FUZZ_SECONDS ?= 300
VENV := $(CURDIR)/.venv/bin

export CCACHE_SLOPPINESS := pch_defines,time_macros
export CCACHE_NOHASHDIR := 1
export CCACHE_BASEDIR := $(CURDIR)
export CCACHE_MAXSIZE ?= 5G

.PHONY: setup configure build test asan fuzz lint docs demo install bundle wheel test-wheel format clean help

setup:  ## Install what is missing: Debian packages, LibTorch and tools in .venv
	@scripts/setup.sh

configure: setup
	@$(VENV)/cmake --preset default -DCMAKE_MAKE_PROGRAM=$(VENV)/ninja \
	  -DPython3_EXECUTABLE=$(VENV)/python -DCMAKE_CXX_COMPILER_LAUNCHER=$$(command -v ccache) \
	  $(CMAKE_ARGS) --log-level=WARNING

build: configure  ## build/bin/outrider and its plugins
	@$(VENV)/cmake --build build --parallel $(JOBS) --target outrider outrider_plugin_lock

test: configure  ## Build and run every test
	@$(VENV)/cmake --build build --parallel $(JOBS)
	@scripts/setup.sh --peers
	@$(VENV)/ctest --test-dir build --output-on-failure --parallel $(JOBS)

asan: setup  ## Build and run the C++ suites with AddressSanitizer and UBSan, in build-asan
	@$(VENV)/cmake --preset asan -DCMAKE_MAKE_PROGRAM=$(VENV)/ninja \
	  -DPython3_EXECUTABLE=$(VENV)/python -DCMAKE_CXX_COMPILER_LAUNCHER=$$(command -v ccache) \
	  --log-level=WARNING
	@$(VENV)/cmake --build build-asan --parallel $(JOBS)
	@$(VENV)/ctest --preset asan

fuzz: setup  ## Fuzz every reader of foreign bytes for FUZZ_SECONDS=300 each, in build-fuzz; needs clang
	@$(VENV)/cmake --preset fuzz -DCMAKE_MAKE_PROGRAM=$(VENV)/ninja \
	  -DPython3_EXECUTABLE=$(VENV)/python --log-level=WARNING
	@$(VENV)/cmake --build --preset fuzz --parallel $(JOBS)
	@scripts/fuzz.sh $(FUZZ_SECONDS)

lint: setup  ## clang-tidy over core, host and the plugins; installs it in .venv first
	@$(VENV)/python -m pip install --quiet --disable-pip-version-check -r requirements-lint.txt
	@$(VENV)/cmake --preset lint -DCMAKE_MAKE_PROGRAM=$(VENV)/ninja \
	  -DPython3_EXECUTABLE=$(VENV)/python --log-level=WARNING
	@$(VENV)/python scripts/lint.py build-lint --jobs $(JOBS)

docs: build  ## Write docs/cli.md and docs/errors.md again
	@$(VENV)/python scripts/generate_docs.py build/bin/outrider

demo: build  ## Convert, train, resume, export and decode a small real model
	@scripts/demo.sh

install: build  ## Install the program and the plugin SDK: make install PREFIX=FOLDER
	@test -n "$(PREFIX)" || { echo "say where: make install PREFIX=FOLDER" >&2; exit 2; }
	@$(VENV)/cmake --install build --prefix $(PREFIX) >/dev/null && echo "installed in $(PREFIX)"

bundle: configure  ## Pack the build for other machines, in dist/
	@$(VENV)/cmake --build build --parallel $(JOBS)
	@scripts/bundle.sh

wheel: setup  ## The Python package with the program and its plugins, in dist/
	@scripts/setup.sh --peers
	@$(CURDIR)/.venv-python/bin/python -m pip wheel . --no-deps --no-build-isolation --wheel-dir dist \
	  --disable-pip-version-check \
	  --config-settings=cmake.define.CMAKE_CXX_COMPILER_LAUNCHER=$$(command -v ccache)

test-wheel: wheel  ## Install the wheel in a fresh environment and use it there
	@tests/python/wheel.sh dist/outrider-*.whl

format: setup  ## clang-format every C++ and CUDA file
	@$(VENV)/python scripts/format.py

clean:  ## Remove what the targets wrote
	@rm -rf build build-asan build-fuzz build-lint build-wheel demo dist

help:  ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
