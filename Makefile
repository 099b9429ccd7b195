# What one does with gptoss from a checkout. `make help` lists it.

PREFIX ?= /usr
DESTDIR ?=
CARGO ?= cargo
BUILD := build
RUNTIME := $(BUILD)/runtime
LIBRARY := $(abspath $(RUNTIME))/libonnxruntime.so.1.31.1
VENV := $(BUILD)/venv
FULL := $(BUILD)/fullsize
LARGE := $(BUILD)/120b
COMPARE := python3 tests/perf/compare --work $(BUILD)/compare

.DEFAULT_GOAL := help
.PHONY: help build runtime notices sbom demo test test-rust test-python test-sbom test-launchd test-isolation lint install package deb rpm \
	runtime-cuda install-cuda package-cuda deb-cuda rpm-cuda \
	clean test-fullsize test-120b test-faults test-fresh test-boot test-aarch64 test-macos test-soak test-fuzz test-fuzz-bytes test-streaming perf compare

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 26

build: ## gptossd, with the feature daemon alone, and gptoss-ctl
	$(CARGO) build --locked --release --no-default-features --features daemon --bin gptossd
	$(CARGO) build --locked --release --no-default-features --features ctl --bin gptoss-ctl

runtime: ## fetch the pinned ONNX Runtime into build/runtime
	packaging/runtime/fetch $(RUNTIME)

demo: build runtime ## ask the embedded model nano a question through a private daemon
	packaging/demo

test: lint runtime test-rust test-python test-sbom test-launchd test-isolation ## every test but the heavy targets

lint:
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

test-rust: runtime
	ORT_DYLIB_PATH=$(LIBRARY) $(CARGO) test --locked --workspace

$(VENV)/.done: tests/requirements.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --requirement tests/requirements.txt
	touch $@

test-python: runtime $(VENV)/.done ## the portable graph and those for CUDA in Python's onnxruntime
	$(CARGO) build --locked --bin gptoss-ctl
	ORT_DYLIB_PATH=$(LIBRARY) CTL=$${CARGO_TARGET_DIR:-target}/debug/gptoss-ctl $(VENV)/bin/python tests/parity/portable_in_python.py
	ORT_DYLIB_PATH=$(LIBRARY) CTL=$${CARGO_TARGET_DIR:-target}/debug/gptoss-ctl $(VENV)/bin/python tests/parity/cuda_in_python.py
	ORT_DYLIB_PATH=$(LIBRARY) CTL=$${CARGO_TARGET_DIR:-target}/debug/gptoss-ctl $(VENV)/bin/python tests/parity/coreml_in_python.py

test-sbom: runtime $(VENV)/.done ## the bill of materials by CycloneDX's schema, and against cargo
	$(CARGO) build --locked --no-default-features --features daemon --bin gptossd
	ORT_DYLIB_PATH=$(LIBRARY) GPTOSSD=$${CARGO_TARGET_DIR:-target}/debug/gptossd $(VENV)/bin/python tests/package/sbom.py

test-launchd: ## the LaunchAgent for macOS
	python3 tests/package/launchd.py

test-isolation: ## prove that gptossd holds no HTTP or TLS client
	$(CARGO) build --locked --no-default-features --features daemon --bin gptossd
	packaging/isolation $${CARGO_TARGET_DIR:-target}/debug/gptossd

$(FULL)/checkpoint:
	$(CARGO) run --locked -p gptoss-onnx --example synthetic_checkpoint -- $@.part
	mv $@.part $@

test-fullsize: build $(FULL)/checkpoint ## pull and export 13.8 GB; needs 32 GB of disk
	GPTOSS_CTL=$${CARGO_TARGET_DIR:-target}/release/gptoss-ctl \
		GPTOSS_FULLSIZE=$(abspath $(FULL)/checkpoint) TMPDIR=$(abspath $(FULL)) \
		$(CARGO) test --locked --test store -- --ignored --nocapture full_size

test-120b: build runtime ## two layers of 120b against float64, all 36 as holes; needs 10 GB of disk
	mkdir -p $(LARGE)
	export GPTOSS_CTL=$$(realpath $${CARGO_TARGET_DIR:-target}/release/gptoss-ctl) \
		GPTOSS_120B=$(abspath $(LARGE)/two) TMPDIR=$(abspath $(LARGE)) ORT_DYLIB_PATH=$(LIBRARY); \
	run() { $(CARGO) test --locked -p gptoss-onnx --test graph -- --ignored --nocapture $$1; }; \
	for values in grid random; do \
		rm -rf $(LARGE)/two; \
		$(CARGO) run --locked -p gptoss-onnx --example synthetic_checkpoint -- \
			--size 120b --values $$values $(LARGE)/two 2 && run two_layers || exit 1; \
	done; \
	rm -rf $(LARGE)/two; \
	run all_36_layers

test-faults: ## cuts, kills, lies and full disks by the hundred on a checkpoint of 50 MB
	$(CARGO) test --locked --test store -- --ignored --nocapture --test-threads=2 campaign

test-fresh: ## the README's two commands on a fresh Debian 12; needs root and debootstrap
	tests/fresh/run $(BUILD)/debian12

test-boot: deb ## the package in a booted Debian 12; needs root, debootstrap and systemd-container
	tests/boot/run $(BUILD)/boot $(BUILD)/gptoss_*.deb

test-aarch64: ## the kernels' tests on emulated AArch64; needs a cross compiler and QEMU
	tests/aarch64/run

test-macos: ## compile for macOS as far as that goes without a Mac; needs root and debootstrap
	tests/macos/check $(BUILD)/debian-sid

test-soak: ## 64 clients of four users for half an hour; needs root
	CARGO_PROFILE_DEV_OPT_LEVEL=3 $(CARGO) test --locked --test bus soak -- --ignored --nocapture

test-fuzz: ## ten million random and mutated token streams through the harmony parser
	CARGO_PROFILE_DEV_OPT_LEVEL=3 PROPTEST_CASES=10000000 $(CARGO) test --locked --lib harmony::parser::stream_tests

test-fuzz-bytes: ## ten million mutated bundles, manifests and headers; needs cargo-fuzz
	fuzz/run 2000000

test-streaming: build runtime ## experts on the disk within 10 GB of memory: make test-streaming MODEL=20b; needs root
	ORT_DYLIB_PATH=$(LIBRARY) tests/perf/streaming $(MODEL)

perf: build runtime ## speed and memory of an installed model: make perf MODEL=20b
	ORT_DYLIB_PATH=$(LIBRARY) tests/perf/fullsize $(MODEL)

compare: build runtime ## speed and memory beside llama.cpp: make compare MODEL=20b; takes hours
	$(COMPARE) build
	$(COMPARE) weights
	ORT_DYLIB_PATH=$(LIBRARY) $(COMPARE) run $(MODEL)
	$(COMPARE) report

notices: ## the licences of what the two programs are built from
	mkdir -p $(BUILD)
	packaging/notices $(BUILD)/third-party-notices.txt

sbom: ## what the two programs are made of, as CycloneDX
	mkdir -p $(BUILD)
	packaging/sbom $(BUILD)/gptoss.cdx.json

install: build runtime notices sbom ## install under $(DESTDIR)$(PREFIX)
	DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" packaging/install

# The same source makes the same bytes.
package deb rpm package-cuda deb-cuda rpm-cuda: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct)

package: build runtime notices sbom
	rm -rf $(BUILD)/package
	DESTDIR=$(BUILD)/package PREFIX=/usr packaging/install

deb: package ## build/gptoss_VERSION_ARCH.deb; needs cargo-deb
	rm -f $(BUILD)/gptoss_*.deb
	$(CARGO) deb --locked --no-build --no-strip --output $(BUILD)/

rpm: package ## build/gptoss-VERSION.ARCH.rpm; needs cargo-generate-rpm
	rm -f $(BUILD)/gptoss-*.rpm
	$(CARGO) generate-rpm --output $(BUILD)/

runtime-cuda: ## fetch the pinned ONNX Runtime for CUDA into build/runtime-cuda; 0.6 GB
	packaging/runtime/fetch $(BUILD)/runtime-cuda cuda

install-cuda: runtime-cuda ## what gptoss-cuda holds, under $(DESTDIR)$(PREFIX)
	DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" packaging/cuda/install

package-cuda: runtime-cuda
	rm -rf $(BUILD)/package-cuda
	DESTDIR=$(BUILD)/package-cuda PREFIX=/usr packaging/cuda/install

deb-cuda: package-cuda ## build/gptoss-cuda_VERSION_ARCH.deb; needs cargo-deb
	rm -f $(BUILD)/gptoss-cuda_*.deb
	$(CARGO) deb --locked --no-build --no-strip --variant cuda --output $(BUILD)/

rpm-cuda: package-cuda ## build/gptoss-cuda-VERSION.ARCH.rpm; needs cargo-generate-rpm
	rm -f $(BUILD)/gptoss-cuda-*.rpm
	$(CARGO) generate-rpm --variant cuda --output $(BUILD)/

clean: ## remove what make and cargo built
	rm -rf $(BUILD)
	$(CARGO) clean
