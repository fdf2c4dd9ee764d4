# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Two commands do everything on a fresh Debian 12 or 13: `make run` and `make test`.

SHELL := /bin/bash
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help run test test-host test-guest build setup lint clean

CARGO = dir=$$(images/setup.sh) && PATH="$${dir:+$$dir:}$$PATH" cargo
VFRACE = target/release/vfrace

help:
	@echo "make run         tell the unfixed kernel from v5, v6 and v7 (sets up what is missing)"
	@echo "make test        all tests: units, protocol, real guests"
	@echo "make test-host   the tests that need no guest"
	@echo "make test-guest  the tests on real guests"
	@echo "make build       only build target/release/vfrace"
	@echo "make lint        rustfmt, clippy, shellcheck"
	@echo "make clean       remove what was built here; the cache stays (vfrace doctor says where it is)"
	@echo
	@echo "ARGS='...' is handed to 'vfrace matrix' by make run, e.g. make run ARGS='--boots 5'"

setup:
	@images/setup.sh >/dev/null

build: setup
	@$(CARGO) build --release --locked

run: build
	@$(VFRACE) matrix $(ARGS)

test: test-host test-guest

test-host: setup
	@$(CARGO) test --release --locked

test-guest: build
	@$(CARGO) test --release --locked --test guest -- --ignored --test-threads=1

lint: setup
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	shellcheck images/*.sh .ci/run
	shellcheck -s busybox guest-tests/init/init

clean:
	$(CARGO) clean
