# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#
# Front door: `make run` shows the race, `make test` tests everything. What either needs is installed or fetched by it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

# more for `vfrace matrix`, e.g. make run ARGS='--boots 5'
ARGS ?=
# architecture of the guests: x86_64 or s390x, e.g. make run ARCH=s390x. What the environment says is about other kernels.
ifneq ($(origin ARCH),command line)
ARCH := x86_64
endif

SCRIPTS := images/setup.sh .ci/run

# cargo with a toolchain that works first in PATH; rustup's proxies are in PATH and fail when HOME is empty.
CARGO = rust=$$(images/setup.sh --rust); PATH="$$rust:$$PATH" cargo

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

.PHONY: setup
setup: ## install missing Debian packages (as root or with sudo)
	@images/setup.sh --arch $(ARCH)

.PHONY: build
build: setup ## compile vfrace
	@$(CARGO) build --release --locked

# vfrace starts make itself, for the kernel; that one has nothing to do with this one's jobs.
.PHONY: run
run: build ## unfixed kernel and v5, v6, v7, one table; evidence in results/
	@env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL target/release/vfrace matrix --arch $(ARCH) $(ARGS)

# It takes hours. It goes on where it was; `rm -r results/all results/rt` begins anew. The pages are made
# whatever came out.
.PHONY: matrix
matrix: build ## every version of the fix in every scenario; docs/matrix.md and docs/matrix-rt.md are made from it
	@unset MAKEFLAGS MFLAGS MAKELEVEL; vfrace=target/release/vfrace; status=0; \
	$$vfrace matrix --kernels all --scenarios all --out results/all $(ARGS) || status=$$?; \
	$$vfrace matrix --kernels all+rt+lean --scenarios unbind-vs-vf-unplug,unbind-alone --out results/rt $(ARGS) || status=$$?; \
	$$vfrace merge results/all --markdown docs/matrix.md >/dev/null || status=$$?; \
	$$vfrace merge results/rt --markdown docs/matrix-rt.md >/dev/null || status=$$?; \
	exit $$status

.PHONY: test
test: test-unit test-guest ## unit, protocol and guest tests

.PHONY: test-unit
test-unit: setup ## tests that boot nothing
	@$(CARGO) test --locked --no-fail-fast

.PHONY: test-guest
test-guest: ## tests on real kernels, of x86_64 and of s390x
	@images/setup.sh --arch s390x
	@unset MAKEFLAGS MFLAGS MAKELEVEL; $(CARGO) run --quiet --locked -- kernel build base v7 v11 b1
	@unset MAKEFLAGS MFLAGS MAKELEVEL; $(CARGO) run --quiet --locked -- kernel build base v7 --arch s390x
	@unset MAKEFLAGS MFLAGS MAKELEVEL; $(CARGO) test --locked --test guest -- --ignored --test-threads=1 --skip at_length

.PHONY: test-bisect
test-bisect: setup ## git bisect run over a history of kernels, at length: builds two dozen of them
	@unset MAKEFLAGS MFLAGS MAKELEVEL; $(CARGO) test --locked --test guest -- --ignored --test-threads=1 bisect::

.PHONY: test-s390x
test-s390x: ## of these, only guests of s390x
	@images/setup.sh --arch s390x
	@unset MAKEFLAGS MFLAGS MAKELEVEL; $(CARGO) run --quiet --locked -- kernel build base v7 --arch s390x
	@unset MAKEFLAGS MFLAGS MAKELEVEL; $(CARGO) test --locked --test guest -- --ignored --test-threads=1 s390x::

# What reports are read with; not a part of `make test`, since it needs a browser.
.PHONY: test-report
test-report: setup ## reports in a browser, in the kernel's KTAP parser and in a JUnit parser
	@images/setup.sh --report
	@unset MAKEFLAGS MFLAGS MAKELEVEL; $(CARGO) run --quiet --locked -- kernel build base
	@$(CARGO) test --locked --test report_consumers --test report_browser -- --ignored --test-threads=1

# VFRACE_BENCH_ROUNDS=20 make bench is a short one; docs/performance.md has the other variables.
.PHONY: bench
bench: setup ## how often the race is hit, directed and undirected, and where the time goes
	@unset MAKEFLAGS MFLAGS MAKELEVEL; $(CARGO) bench --quiet --locked --bench race

.PHONY: lint
lint: setup ## formatting, clippy, rustdoc, shellcheck, and cargo deny where it is installed
	@$(CARGO) fmt --version >/dev/null 2>&1 || { echo 'make lint: cargo fmt is missing (Debian: rustfmt; rustup component add rustfmt)' >&2; exit 128; }
	@$(CARGO) clippy --version >/dev/null 2>&1 || { echo 'make lint: cargo clippy is missing (Debian: rust-clippy; rustup component add clippy)' >&2; exit 128; }
	@command -v shellcheck >/dev/null || { echo 'make lint: shellcheck is missing (apt-get install shellcheck)' >&2; exit 128; }
	@$(CARGO) fmt --check
	@$(CARGO) clippy --locked --all-targets -- -D warnings
	@RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --quiet
	@shellcheck $(SCRIPTS)
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny --log-level error check; else echo 'make lint: cargo deny is not installed, dependencies are not looked at'; fi

# Where `make install` puts it; DESTDIR goes before that, for packages.
PREFIX ?= /usr/local
DESTDIR ?=
SHARE = $(DESTDIR)$(PREFIX)/share

.PHONY: install
install: build ## program, man pages, completions and the data that it needs, below PREFIX (/usr/local)
	@install -D -m 755 target/release/vfrace '$(DESTDIR)$(PREFIX)/bin/vfrace'
	@rm -rf '$(SHARE)/vfrace'
	@install -d '$(SHARE)/vfrace'
	@cp -R --no-preserve=ownership guest-tests images '$(SHARE)/vfrace'
	@target/release/vfrace man --out '$(SHARE)/man/man1'
	@install -d '$(SHARE)/bash-completion/completions' '$(SHARE)/zsh/site-functions' '$(SHARE)/fish/vendor_completions.d'
	@target/release/vfrace completions bash >'$(SHARE)/bash-completion/completions/vfrace'
	@target/release/vfrace completions zsh >'$(SHARE)/zsh/site-functions/_vfrace'
	@target/release/vfrace completions fish >'$(SHARE)/fish/vendor_completions.d/vfrace.fish'

.PHONY: uninstall
uninstall: ## remove that
	@rm -rf '$(DESTDIR)$(PREFIX)/bin/vfrace' '$(SHARE)/vfrace' '$(SHARE)/bash-completion/completions/vfrace' \
		'$(SHARE)/zsh/site-functions/_vfrace' '$(SHARE)/fish/vendor_completions.d/vfrace.fish'
	@rm -f '$(SHARE)'/man/man1/vfrace.1 '$(SHARE)'/man/man1/vfrace-*.1

.PHONY: clean
clean: ## remove what was built here; the cache stays (`vfrace doctor` says where it is)
	@rm -rf target results
