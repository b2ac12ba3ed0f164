# Two commands do all the set-up: `make test` and `make demo`. NO_INSTALL=1 forbids to install system packages.
# Debian's own Python, which SYSTEM_PACKAGES completes: it is built with optimisations (profile-guided, at link time)
# that another one in the path may lack, and then all here is slower by a fifth and more.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
VENV := .venv
BIN := $(VENV)/bin
SYSTEM_PACKAGES := gcc libc6-dev liblz4-dev python3-dev python3-venv qemu-system-x86 iproute2 etcd-server redis-tools clang clang-format libclang-rt-dev shellcheck \
  gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user

.PHONY: test fast-test live-test lint native-test fuzz native-fuzz sim soak bench demo clean system-deps venv

# Side by side; but those with networks and VMs one after the other, for they fill the machine and disturb each other.
test: fast-test live-test

SIDE_BY_SIDE := -n 2 --dist worksteal

fast-test: venv
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not live"

live-test: venv
	$(BIN)/python -m pytest -m live

# `make demo MODE=colo` lets both guests run, and kills either side in turn.
MODE := remus

demo: venv
	$(BIN)/replicator demo --mode $(MODE)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	clang-format --dry-run -Werror native/*.[ch] native/fuzz/*.[ch] native/cross/*.c
	shellcheck .ci/run .ci/system-deps

# PYTHONSAFEPATH keeps this folder, whose package has the plain core, out of the module path.
# A report of a sanitizer goes to the descriptor, which pytest may not capture: the process ends there. The runtime
# need not come first in the list of libraries: in a guest's process our preload library does.
SANITIZED_DIR := build/sanitized
NATIVE_TESTS := tests/memory tests/engine/compare/test_compare_steady.py $(addprefix tests/native/test_,entry_places.py own_uffd.py) \
  $(addprefix tests/wire/test_,entries.py legacy_compression.py legacy_streams.py) \
  $(addprefix tests/output/test_,fast_path.py frame_message.py native_models.py native_relay_live.py native_shifts.py relay_live.py)
SANITIZED := PYTHONSAFEPATH=1 PYTHONPATH=$(SANITIZED_DIR) ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0 \
  LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)"

native-test: venv
	$(BIN)/python native/build_native.py --sanitize $(SANITIZED_DIR)
	$(SANITIZED) $(BIN)/python -c 'import sys, replicator._native as core; assert core.__file__.startswith(sys.argv[1]), core.__file__' \
	  $(abspath $(SANITIZED_DIR))
	$(SANITIZED) $(BIN)/python -m pytest $(NATIVE_TESTS) -p no:cacheprovider --capture=sys

# Coverage-guided fuzzing of the formats: each driver in turn for its share of SECONDS, or only DRIVER. Inputs that
# are worth keeping stay in the corpus for the next time, those that break something in the folder of crashes.
SECONDS := 600
DRIVER := $(patsubst tests/fuzz/fuzz_%.py,%,$(wildcard tests/fuzz/fuzz_*.py))
FUZZ_DIR := build/fuzz

fuzz: venv
	$(BIN)/python tests/fuzz/seeds.py $(FUZZ_DIR)/seeds
	mkdir -p $(FUZZ_DIR)/crashes $(addprefix $(FUZZ_DIR)/corpus/,$(DRIVER))
	set -e; for driver in $(DRIVER); do echo "== $$driver"; \
	  $(BIN)/python tests/fuzz/fuzz_$$driver.py $(FUZZ_DIR)/corpus/$$driver $(FUZZ_DIR)/seeds/$$driver \
	    -max_total_time=$$(($(SECONDS) / $(words $(DRIVER)))) -dict=$(FUZZ_DIR)/seeds/dictionary \
	    -artifact_prefix=$(FUZZ_DIR)/crashes/$$driver-; done

# The same of the native core, in C by libFuzzer: each of its drivers compares with an oracle.
NATIVE_FUZZ_DIR := build/fuzz-native
NATIVE_DRIVER = $(if $(filter command line,$(origin DRIVER)),$(DRIVER),$(patsubst native/fuzz/fuzz_%.c,%,$(wildcard native/fuzz/fuzz_*.c)))

native-fuzz: venv
	$(BIN)/python native/fuzz/build_fuzzers.py $(NATIVE_FUZZ_DIR)/drivers $(NATIVE_DRIVER)
	$(BIN)/python native/fuzz/native_seeds.py $(NATIVE_FUZZ_DIR)/seeds
	mkdir -p $(NATIVE_FUZZ_DIR)/crashes $(addprefix $(NATIVE_FUZZ_DIR)/corpus/,$(NATIVE_DRIVER))
	set -e; for driver in $(NATIVE_DRIVER); do echo "== $$driver"; \
	  $(NATIVE_FUZZ_DIR)/drivers/$$driver $(NATIVE_FUZZ_DIR)/corpus/$$driver $(NATIVE_FUZZ_DIR)/seeds/$$driver \
	    -max_total_time=$$(($(SECONDS) / $(words $(NATIVE_DRIVER)))) -print_final_stats=1 \
	    -artifact_prefix=$(NATIVE_FUZZ_DIR)/crashes/$$driver-; done

# Simulated pairs under drawn faults; a failure is shrunk and kept as a file that runs it again.
SEEDS := 1000
FIRST := 0

sim: venv
	$(BIN)/python -m replicator.sim --seeds $(SEEDS) --first $(FIRST) --jobs $$(nproc) --save build/sim

# A real pair around a real VM, whose hosts die again and again: nothing may grow, nothing may be left behind.
MINUTES := 10

soak: venv
	$(BIN)/python tests/soak/soak.py --minutes $(MINUTES) --json build/soak.json

bench: venv
	for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

venv: $(VENV)/ready

$(VENV)/ready: pyproject.toml setup.py $(wildcard native/*.c native/*.h native/*.py)
	./.ci/system-deps $(SYSTEM_PACKAGES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test,dev,fuzz]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info replicator/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
