# make demo      a guest boots from a clone, is snapshotted while it writes, and a second one boots from that (docs: README.md)
# make test      formatting, lints, licences, all tests
# make test-all  the same and the long tests: file system exerciser over FUSE (as root), POWER_CUTS and KILLS, the demo, devices
# make simulate  new histories in the simulator for SIM_MINUTES, with a line in docs/simulator-ledger.tsv (docs/simulator.md)
# make test-ceph the backend for Ceph on a cluster of its own, with HISTORIES of the simulator (tests/ceph/)
# make soak      the simulator, then random file system work over a served volume, power cuts and kills until SOAK_MINUTES are over (as root)
# make devices   what `archipelago map` promises, by the kernel's ublk driver and NBD client and by loop devices, in guests with Debian's kernels (docs/block-devices.md)
# make tour      the README's tour by a new user in a fresh Debian root in which `make install` put the program (as root)
# make crashes   power cuts (POWER_CUTS) and kills (KILLS) of the whole program, with lines in docs/crashes-ledger.tsv (docs/crashes.md)
# make handovers  HANDOVERS handovers of a volume between processes that are killed and stopped meanwhile (docs/architecture.md)
# make fuzz      every decoder under libFuzzer, FUZZ_SECONDS each; FUZZ_MINUTES bounds all of it, FUZZ="..." names some (docs/fuzzing.md)
# make schedules shared state under SCHEDULES schedules of each kind and scenario
# make mutants   small changes of the engine, MUTANTS of them (0: all), each of which the simulator should notice (docs/mutants.md)
# make miri      the parts that do no I/O under Miri
# make bench     measurements; BENCH="..." are the arguments of the bench program
# make bench-rbd  a store in Ceph beside librbd, on a cluster of its own (tests/ceph/)
# make test-ganeti  the provider under a real Ganeti of one node, in namespaces (as root; docs/ganeti.md)
# make test-ganeti-2  the same with two nodes: guests that write are moved from one to the other
# make deb       Debian packages of what is built, in $(TARGET_DIR)/deb; DEB_SUFFIX is appended to their version (services/packaging/)
# make test-deb  installs them in a Debian root of its own, uses, upgrades and purges them (as root)
# make install-service  the systemd unit of the daemon, in $(DESTDIR)$(UNITDIR)
# make install-extstorage  the Ganeti provider and its hooks below $(DESTDIR)$(PREFIX); EXTSTORAGEDIR and HOOKSDIR name other places
# make install   program (also as vlmc), man pages, shell completions, C library, header and pkg-config file below $(DESTDIR)$(PREFIX)
# make library   the C library alone, in $(TARGET_DIR)/release/libarchipelago (docs/c-api.md)
# make wheel     the Python package with the library in it, in $(TARGET_DIR)/wheel (docs/python.md)
# make header    include/archipelago.h from the source of the library
# make deps      what the targets above install by themselves: Debian packages, and Rust where Debian has rustup
#
# Every target works without a terminal. CARGO_TARGET_DIR is honoured.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# `make install prefix=/usr` is the same as PREFIX=/usr.
PREFIX ?= $(or $(prefix),/usr/local)
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
DESTDIR ?=
# One of the places in which Debian's Ganeti looks; one that was built from source looks only in /srv/ganeti/extstorage.
EXTSTORAGEDIR ?= $(PREFIX)/lib/ganeti/extstorage
HOOKSDIR ?= /etc/ganeti/hooks
UNITDIR ?= $(PREFIX)/lib/systemd/system
DEB_SUFFIX ?=
BENCH ?=
SOAK_MINUTES ?= 60
FSX_OPERATIONS ?= 200000
POWER_CUTS ?= 200
KILLS ?= 1000
FUZZ ?=
FUZZ_SECONDS ?= 600
FUZZ_MINUTES ?=
SCHEDULES ?= 20000
HANDOVERS ?= 500
MUTANTS ?= 250
MUTANT_SEED ?= 1
MUTANT_HISTORIES ?= 200

CARGO ?= cargo
SCRIPTS := services/archipelago/scripts
PACKAGING := services/packaging
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
BINARY := $(abspath $(TARGET_DIR))/release/archipelago
PROVIDER ?= $(abspath $(TARGET_DIR))/release/extstorage-provider
LIBRARY := $(abspath $(TARGET_DIR))/release/libarchipelago
# The one that the tests of the C library link.
TESTED_LIBRARY := $(abspath $(TARGET_DIR))/tmp/libarchipelago
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
GUEST := $(CURDIR)/.demo/guest
SHELL_SCRIPTS := .ci/run tests/ceph/cluster tests/ceph/run tests/ceph/bench archipelago-ffi/link-library archipelago-ffi/examples/fio-headers archipelago-ffi/python/run-tests $(addprefix $(SCRIPTS)/,install-deps guest-image fsx-over-fuse with-served-volume) tests/ganeti/guest services/packaging/build-deb
PYTHON_SCRIPTS := services/packaging/list-crates services/packaging/test-deb $(addprefix tests/ganeti/,run run-two attach-many calls.py cluster.py stories.py workload.py) fuzz/soak archipelago-ffi/python/build-wheel $(addprefix $(SCRIPTS)/,demo.py guestctl.py map-in-guest probe-kvm tour check-licences check-links)
# Programs run by `make test` after the cargo tests; each finds the built program in $$ARCHIPELAGO.
INTEGRATION_TESTS ?=

# rustup's directory is not on the PATH of a shell that was open when it was installed.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin
export ARCHIPELAGO := $(BINARY)

.PHONY: deb test-deb install-service test-ceph test-ganeti test-ganeti-2 install-extstorage help deps build library wheel header demo devices tour fmt fmt-check lint test test-all fsx crashes simulate soak bench bench-rbd install install-library fuzz schedules mutants miri handovers

help:
	@sed -n '/^# make/s/^# //p' Makefile

deps:
	@$(SCRIPTS)/install-deps build test demo soak

build:
	@$(SCRIPTS)/install-deps build
	$(CARGO) build --release --locked -p archipelago -p archipelago-ffi -p extstorage-provider
	archipelago-ffi/link-library $(TARGET_DIR)/release/libarchipelago_ffi.a $(LIBRARY)

library:
	@$(SCRIPTS)/install-deps build
	$(CARGO) build --release --locked -p archipelago-ffi
	archipelago-ffi/link-library $(TARGET_DIR)/release/libarchipelago_ffi.a $(LIBRARY)

wheel: library
	archipelago-ffi/python/build-wheel $(LIBRARY)/libarchipelago.so.1.* $(TARGET_DIR)/wheel $(VERSION)

header:
	ARCHIPELAGO_WRITE_HEADER=1 $(CARGO) test --locked -p archipelago-ffi --test header

demo:
	@$(SCRIPTS)/install-deps build demo
	$(CARGO) build --release --locked -p archipelago
	@$(SCRIPTS)/guest-image $(GUEST)
	@$(SCRIPTS)/demo.py --archipelago $(BINARY) --guest $(GUEST) --work .demo --accelerator $$($(SCRIPTS)/probe-kvm $(GUEST))

devices:
	@$(SCRIPTS)/install-deps build demo
	$(CARGO) build --release --locked -p archipelago
	@$(SCRIPTS)/guest-image $(GUEST)
	@$(SCRIPTS)/map-in-guest --archipelago $(BINARY) --guest $(GUEST) --accelerator $$($(SCRIPTS)/probe-kvm $(GUEST))
	@$(SCRIPTS)/guest-image --kernel-of bookworm-backports $(GUEST)-ublk
	@$(SCRIPTS)/map-in-guest --archipelago $(BINARY) --guest $(GUEST)-ublk --driver ublk --accelerator $$($(SCRIPTS)/probe-kvm $(GUEST))

fmt:
	$(CARGO) fmt --all

fmt-check:
	$(CARGO) fmt --all --check

lint: fmt-check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	@$(SCRIPTS)/check-licences
	@$(SCRIPTS)/check-links
	@for script in $(SHELL_SCRIPTS); do bash -n $$script; done
	@if command -v shellcheck >/dev/null; then shellcheck $(SHELL_SCRIPTS); fi
	@for script in $(PYTHON_SCRIPTS); do python3 -c 'import ast, sys; ast.parse(open(sys.argv[1]).read(), sys.argv[1])' $$script; done

# nextest runs no documentation tests, so they follow by themselves there; `cargo test` has them in.
test:
	@$(SCRIPTS)/install-deps build test
	@$(MAKE) --no-print-directory lint
	if $(CARGO) nextest --version >/dev/null 2>&1; then \
	  $(CARGO) nextest run --workspace --locked; $(CARGO) test --workspace --locked --doc; \
	else $(CARGO) test --workspace --locked; fi
	$(CARGO) test --locked -p archipelago-core --features shuttle --test shuttle
	@if [ "$$(id -u)" = 0 ] || command -v ceph-osd >/dev/null; then $(MAKE) --no-print-directory test-ceph; else echo "neither root nor Ceph: the tests on a cluster are left out" >&2; fi
	archipelago-ffi/python/run-tests $(TESTED_LIBRARY)/libarchipelago.so.1.* $(abspath $(TARGET_DIR))/tmp/python
	$(if $(INTEGRATION_TESTS),$(CARGO) build --release --locked -p archipelago)
	@if [ "$$(id -u)" = 0 ]; then $(MAKE) --no-print-directory test-ganeti; else echo "not root: the test on Ganeti is left out" >&2; fi
	@for program in $(INTEGRATION_TESTS); do echo "== $$program"; $$program; done

# What a quiet machine of two processors needs, more than twice; one that is busy gets an error and not a test that hangs.
test-ganeti: GANETI_STORIES := run
test-ganeti: GANETI_SECONDS := 360
test-ganeti-2: GANETI_STORIES := run-two
test-ganeti-2: GANETI_SECONDS := 900
test-ganeti test-ganeti-2:
	@$(SCRIPTS)/install-deps build ganeti
	$(CARGO) build --release --locked -p archipelago -p extstorage-provider
	@tests/ganeti/guest .demo/ganeti
	timeout --kill-after 20 $(GANETI_SECONDS) tests/ganeti/$(GANETI_STORIES) --archipelago $(BINARY) --provider $(PROVIDER)

test-ceph:
	@$(SCRIPTS)/install-deps build
	CARGO="$(CARGO)" tests/ceph/run

test-all: test miri
	@if [ "$$(id -u)" = 0 ]; then $(MAKE) --no-print-directory fsx; else echo "not root: the test over FUSE is left out" >&2; fi
	@if [ "$$(id -u)" = 0 ]; then $(MAKE) --no-print-directory test-ganeti-2; else echo "not root: the test on two nodes of Ganeti is left out" >&2; fi
	@$(MAKE) --no-print-directory crashes handovers
	@$(MAKE) --no-print-directory demo devices
	@if [ "$$(id -u)" = 0 ]; then $(MAKE) --no-print-directory tour; else echo "not root: the tour is left out" >&2; fi
	@if [ "$$(id -u)" = 0 ]; then $(MAKE) --no-print-directory test-deb; else echo "not root: the test of the packages is left out" >&2; fi

fsx:
	@$(SCRIPTS)/install-deps build soak
	$(CARGO) build --release --locked -p archipelago
	@mkdir -p .demo
	STORE_DIR=.demo $(SCRIPTS)/with-served-volume 1G $(SCRIPTS)/fsx-over-fuse '{uri}' $(FSX_OPERATIONS)

# Goes on where the ledger ends, so that every soak runs histories that were not run before. A failure ends it, after its line.
SIM_LEDGER := docs/simulator-ledger.tsv
simulate:
	SIM_LEDGER=$(abspath $(SIM_LEDGER)) SIM_MINUTES=$(or $(SIM_MINUTES),$(SOAK_MINUTES)) \
	  SIM_SEED=$$(awk -F'\t' 'NR > 1 && $$3 + $$4 > next_seed { next_seed = $$3 + $$4 } END { print (next_seed > 1000 ? next_seed : 1000) }' $(SIM_LEDGER)) \
	  $(CARGO) test --profile sim -p archipelago-core --test simulator --locked -- histories_with_faults --nocapture

# In a Debian root of its own, made by the first run.
tour:
	@$(SCRIPTS)/install-deps build demo
	@rm -rf .demo/installed
	@$(MAKE) --no-print-directory build
	@$(MAKE) --no-print-directory install DESTDIR=$(CURDIR)/.demo/installed >/dev/null
	@mkdir -p .demo/tour
	@$(SCRIPTS)/tour .demo/tour .demo/installed

# The same tests as in `make test`, more often: the power is cut under a store, and the program is killed, whatever it is doing.
# Goes on where the ledger ends; a failure ends it, after its line.
CRASH_LEDGER := docs/crashes-ledger.tsv
crashes:
	@$(SCRIPTS)/install-deps build test
	ARCHIPELAGO_CRASH_LEDGER=$(abspath $(CRASH_LEDGER)) ARCHIPELAGO_POWER_CUTS=$(POWER_CUTS) ARCHIPELAGO_KILLS=$(KILLS) \
	  ARCHIPELAGO_CRASH_SEED=$$(awk -F'\t' 'NR > 1 && $$4 + $$5 > next_seed { next_seed = $$4 + $$5 } END { print (next_seed > 1000 ? next_seed : 1000) }' $(CRASH_LEDGER)) \
	  $(CARGO) test --locked -p archipelago --test crashes -- --nocapture --test-threads 1 survives

# The same test as in `make test`, longer. It takes about a sixth of a second for each.
handovers:
	ARCHIPELAGO_HANDOVERS=$(HANDOVERS) $(CARGO) test --locked -p archipelago-core --test handover -- --nocapture storm

soak:
	@$(MAKE) --no-print-directory simulate SIM_MINUTES=$$((($(SOAK_MINUTES) + 1) / 2))
	@end=$$(($$(date +%s) + $(SOAK_MINUTES) * 30)); while [ $$(date +%s) -lt $$end ]; do $(MAKE) --no-print-directory fsx crashes handovers; done

fuzz:
	@$(SCRIPTS)/install-deps build
	fuzz/soak $(if $(FUZZ_MINUTES),--minutes $(FUZZ_MINUTES)) --seconds $(FUZZ_SECONDS) $(FUZZ)

schedules:
	SHUTTLE_ITERATIONS=$(SCHEDULES) $(CARGO) test --locked -p archipelago-core --features shuttle --test shuttle

# Journal, tree, epochs, collection: what a volume and a collection do to a store. The list is made by cargo-mutants, which is installed
# if it is not there; what is done with it is in fuzz/mutants/.
MUTATED := $(addprefix archipelago-core/src/,$(addsuffix .rs,$(addprefix mapper/,journal tree fold replay pack block_map runs) \
  $(addprefix volume/,commit inner io control) store/open store/collect/*))
mutants:
	@command -v cargo-mutants >/dev/null || $(CARGO) install --locked --version 27.1.0 cargo-mutants
	@mkdir -p $(TARGET_DIR)/mutants
	$(CARGO) mutants --list --json -p archipelago-core $(foreach file,$(MUTATED),-f '$(file)') >$(TARGET_DIR)/mutants/list.json
	$(CARGO) run --profile sim --locked -p archipelago-mutants -- \
	  $(TARGET_DIR)/mutants/list.json $(abspath $(TARGET_DIR)/mutants) $(MUTANT_HISTORIES) $(MUTANTS) $(MUTANT_SEED) 120

# Tests that try every bit or every length would take hours there and are left out.
miri:
	MIRIFLAGS=-Zmiri-disable-isolation PROPTEST_CASES=3 PROPTEST_DISABLE_FAILURE_PERSISTENCE=true \
	  $(CARGO) +nightly miri test --locked -p archipelago-core --lib -- \
	  format::bytes format::extents format::superblock format::owner mapper::block_map name:: --skip every_

bench:
	@$(SCRIPTS)/install-deps build bench
	$(CARGO) build --release --locked -p archipelago -p archipelago-ffi -p archipelago-benches
	archipelago-ffi/link-library $(TARGET_DIR)/release/libarchipelago_ffi.a $(LIBRARY)
	$(abspath $(TARGET_DIR))/release/archipelago-benches $(BENCH)

bench-rbd:
	@$(SCRIPTS)/install-deps build
	$(CARGO) build --release --locked -p archipelago-benches
	tests/ceph/bench $(abspath $(TARGET_DIR))/release/archipelago-benches $(BENCH)

# Builds only if nothing was built yet, so that `make build` can run as a user and `make install` as root.
$(BINARY):
	@$(MAKE) --no-print-directory build

$(LIBRARY)/libarchipelago.a:
	@$(MAKE) --no-print-directory library

install: install-library $(BINARY)
	install -D -m 755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/archipelago
	ln -sf archipelago $(DESTDIR)$(PREFIX)/bin/vlmc
	pages=$$(mktemp -d) && trap 'rm -rf $$pages' EXIT && $(BINARY) man $$pages && \
	  install -d $(DESTDIR)$(PREFIX)/share/man/man1 && install -m 644 $$pages/*.1 $(DESTDIR)$(PREFIX)/share/man/man1/
	install -d $(addprefix $(DESTDIR)$(PREFIX)/share/,bash-completion/completions zsh/site-functions fish/vendor_completions.d)
	$(BINARY) completions bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/archipelago
	$(BINARY) completions zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_archipelago
	$(BINARY) completions fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/archipelago.fish
	$(BINARY) completions bash --of vlmc >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/vlmc
	$(BINARY) completions zsh --of vlmc >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_vlmc
	$(BINARY) completions fish --of vlmc >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/vlmc.fish

$(PROVIDER):
	@$(MAKE) --no-print-directory build

# One program under every name. Ganeti wants regular files; the hooks and the provider's older name are links.
VERBS := create attach detach remove grow setinfo verify snapshot open close
install-extstorage: $(PROVIDER)
	install -d $(DESTDIR)$(EXTSTORAGEDIR)/archipelago $(DESTDIR)/var/log/ganeti/extstorage \
	  $(addprefix $(DESTDIR)$(HOOKSDIR)/,instance-start-pre.d instance-migrate-pre.d)
	chmod 750 $(DESTDIR)/var/log/ganeti/extstorage
	rm -f $(addprefix $(DESTDIR)$(EXTSTORAGEDIR)/archipelago/,$(VERBS))
	install -m 755 $(PROVIDER) $(DESTDIR)$(EXTSTORAGEDIR)/archipelago/verify
	cd $(DESTDIR)$(EXTSTORAGEDIR)/archipelago && for verb in $(filter-out verify,$(VERBS)); do ln verify $$verb; done
	install -m 644 extstorage-provider/parameters.list $(DESTDIR)$(EXTSTORAGEDIR)/archipelago/
	ln -sfn archipelago $(DESTDIR)$(EXTSTORAGEDIR)/vlmc
	ln -sf $(EXTSTORAGEDIR)/archipelago/verify $(DESTDIR)$(HOOKSDIR)/instance-start-pre.d/archip-lockvolumes
	ln -sf $(EXTSTORAGEDIR)/archipelago/verify $(DESTDIR)$(HOOKSDIR)/instance-migrate-pre.d/archip-openvolumes

install-service:
	install -d $(DESTDIR)$(UNITDIR)
	sed 's|@bindir@|$(PREFIX)/bin|' $(PACKAGING)/archipelago.service >$(DESTDIR)$(UNITDIR)/archipelago.service

deb: build
	@$(SCRIPTS)/install-deps deb
	$(PACKAGING)/build-deb $(TARGET_DIR)/deb $(DEB_SUFFIX)

# In a Debian root of its own, made by the first run.
test-deb: build
	@$(SCRIPTS)/install-deps build demo deb
	@mkdir -p .demo/deb
	@$(PACKAGING)/build-deb .demo/deb/old '~1'
	@$(PACKAGING)/build-deb .demo/deb/new
	@$(PACKAGING)/test-deb .demo/deb .demo/deb/old .demo/deb/new

# For tests, which say by LIBRARY where theirs is.
install-library: $(LIBRARY)/libarchipelago.a
	install -d $(addprefix $(DESTDIR),$(LIBDIR)/pkgconfig $(INCLUDEDIR))
	install -m 644 $(LIBRARY)/libarchipelago.so.1.* $(LIBRARY)/libarchipelago.a $(DESTDIR)$(LIBDIR)/
	cp -P $(LIBRARY)/libarchipelago.so.1 $(LIBRARY)/libarchipelago.so $(DESTDIR)$(LIBDIR)/
	install -m 644 include/archipelago.h $(DESTDIR)$(INCLUDEDIR)/
	sed -e 's|@prefix@|$(PREFIX)|' -e 's|@libdir@|$(LIBDIR)|' -e 's|@includedir@|$(INCLUDEDIR)|' \
	  -e 's|@version@|$(VERSION)|' archipelago-ffi/archipelago.pc.in \
	  >$(DESTDIR)$(LIBDIR)/pkgconfig/archipelago.pc
