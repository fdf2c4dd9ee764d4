#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Installs the Debian packages that building vfrace and kernels needs, only those that are missing, and prints the
# directories of a cargo that works (nothing, if the one in PATH does). Debian 12 and 13.
#
# usage: images/setup.sh            install what is missing
#        images/setup.sh --check    only say what is missing; exit 1 if anything is
set -euo pipefail

# exit codes as in src/exit.rs: what is missing on the machine is no verdict on a kernel
INFRASTRUCTURE=128
# edition 2024 and the oldest toolchain that the locked crates take
RUST_MINOR=85

here=$(dirname "$(readlink -f "$0")")

say() { printf '%s\n' "$*" >&2; }

# A toolchain counts when it runs: rustup's proxies are there, and fail, when HOME has no toolchain.
rust_works() { # directory of cargo and rustc, empty for PATH
	local version
	version=$(PATH="${1:+$1:}$PATH" rustc --version 2>/dev/null) || return 1
	PATH="${1:+$1:}$PATH" cargo --version >/dev/null 2>&1 || return 1
	[[ $version =~ ^rustc\ 1\.([0-9]+)\. ]] && ((BASH_REMATCH[1] >= RUST_MINOR))
}

# The directory of a toolchain that works: whatever is in PATH, else Debian's.
working_rust() {
	local dir
	for dir in '' /usr/bin; do
		if rust_works "$dir"; then
			printf '%s\n' "$dir"
			return 0
		fi
	done
	return 1
}

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing_packages() {
	local package
	while read -r package; do
		package=${package%%#*}
		package=${package//[[:space:]]/}
		if [ -n "$package" ] && ! installed "$package"; then
			printf '%s\n' "$package"
		fi
	done <"$here/packages.debian"
	if ! working_rust >/dev/null; then
		# shellcheck disable=SC1091
		case $(. /etc/os-release && printf '%s' "${VERSION_ID:-}") in
		12) printf 'rustc-web\ncargo-web\n' ;; # bookworm's own rustc is 1.63; -web is what it builds browsers with
		*) printf 'rustc\ncargo\n' ;;
		esac
	fi
}

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
	say "this is not a Debian system: install the programs behind images/packages.debian and Rust 1.$RUST_MINOR yourself"
	exit "$INFRASTRUCTURE"
fi

mapfile -t missing < <(missing_packages)
if [ "${1:-}" = --check ]; then
	[ "${#missing[@]}" -eq 0 ] && exit 0
	printf '%s\n' "${missing[@]}"
	exit 1
fi

if [ "${#missing[@]}" -gt 0 ]; then
	as_root=()
	if [ "$(id -u)" -ne 0 ]; then
		if sudo -n true 2>/dev/null || { [ -t 0 ] && command -v sudo >/dev/null; }; then
			as_root=(sudo)
		else
			say "packages are missing and this user cannot install them; run as root:"
			say "  apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
			exit "$INFRASTRUCTURE"
		fi
	fi
	say "installing ${missing[*]}"
	log=$(mktemp)
	trap 'rm -f "$log"' EXIT
	apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y -q)
	if ! { "${apt[@]}" update && "${apt[@]}" install --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
		tail -n 15 "$log" >&2
		say "the packages could not be installed"
		exit "$INFRASTRUCTURE"
	fi
fi

if ! working_rust; then
	say "there is no Rust 1.$RUST_MINOR or newer, and Debian's packages did not bring one"
	exit "$INFRASTRUCTURE"
fi
