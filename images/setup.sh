#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#
# Installs the Debian packages that vfrace needs and that are missing. Does nothing if none is.
#
#   images/setup.sh           install; as root, or with sudo. Without either it prints the line to run and ends with 128.
#   images/setup.sh --check   install nothing; print the missing packages, a line each; 1 if there are any
#   images/setup.sh --arch s390x, --check --arch s390x   the same with what guests of that architecture need
#   images/setup.sh --report, --check --report   the same with what `make test-report` needs
#   images/setup.sh --rust    print the directory of a cargo and rustc that work; 128 if there is none
#
# Messages go to standard error, so that what --check and --rust print can be used.

set -euo pipefail

readonly RUST_MAJOR=1 RUST_MINOR=85 INFRASTRUCTURE=128 USAGE=129
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
arch=x86_64
extra=

say() { printf 'setup: %s\n' "$*" >&2; }

# Runs one program of a candidate, with its directory first in PATH: cargo looks there for rustc.
version_in() {
	PATH="$1:$PATH" "$1/$2" --version 2>/dev/null </dev/null | head -n 1
}

# A rustup proxy exists and yet does not work when there is no toolchain in this HOME: only running it tells.
works_in() {
	local dir=$1 text version major minor
	[[ -x $dir/cargo && -x $dir/rustc ]] || return 1
	[[ $(version_in "$dir" cargo) == cargo\ * ]] || return 1
	text=$(version_in "$dir" rustc) || return 1
	[[ $text == rustc\ * ]] || return 1
	version=${text#rustc }
	IFS=. read -r major minor _ <<<"$version"
	[[ $major =~ ^[0-9]+$ && $minor =~ ^[0-9]+$ ]] || return 1
	((major > RUST_MAJOR || (major == RUST_MAJOR && minor >= RUST_MINOR)))
}

rust_dir() {
	local dirs dir
	IFS=: read -r -a dirs <<<"$PATH"
	for dir in "${dirs[@]}" "${CARGO_HOME:-/nonexistent}/bin" "${HOME:-/nonexistent}/.cargo/bin" /usr/local/bin /usr/bin; do
		if [[ $dir == /* ]] && works_in "$dir"; then
			printf '%s\n' "$dir"
			return 0
		fi
	done
	return 1
}

# Packages named in a file, without comments.
listed() {
	sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' "$1"
}

installed() {
	[[ $(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

missing() {
	local name
	while read -r name; do
		installed "$name" || printf '%s\n' "$name"
	done
}

debian_version() {
	local id version
	# shellcheck source=/dev/null
	id=$(. /etc/os-release && printf '%s' "${ID:-}")
	# shellcheck source=/dev/null
	version=$(. /etc/os-release && printf '%s' "${VERSION_ID:-}")
	if [[ $id != debian ]]; then
		return 1
	fi
	printf '%s\n' "${version:-13}"
}

wanted() {
	{
		listed "$here/packages.debian"
		[[ $arch == x86_64 ]] || listed "$here/packages.debian.$arch"
		[[ -z $extra ]] || listed "$here/packages.debian.$extra"
	} | missing
	if ! rust_dir >/dev/null; then
		local file
		file="$here/packages.rust.debian-$(debian_version || true)"
		if [[ -f $file ]]; then
			# All of them: one that is installed may be the old one that just failed the test.
			listed "$file"
		else
			listed "$here/packages.rust.debian-13"
		fi
	fi
}

main() {
	local -a words=()
	while (($# > 0)); do
		if [[ $1 == --arch ]]; then
			arch=${2:-}
			if [[ $arch != x86_64 && ! -f $here/packages.debian.$arch ]]; then
				say "there are no guests of '$arch': use x86_64 or s390x"
				return "$USAGE"
			fi
			shift
		elif [[ $1 == --report ]]; then
			extra=report
		else
			words+=("$1")
		fi
		shift
	done
	set -- "${words[@]}"
	case ${1:-} in
	--rust)
		if rust_dir; then
			return 0
		fi
		say "no cargo and rustc of version $RUST_MAJOR.$RUST_MINOR or newer that work; run images/setup.sh"
		return "$INFRASTRUCTURE"
		;;
	--check)
		local text
		text=$(wanted)
		[[ -z $text ]] || {
			printf '%s\n' "$text"
			return 1
		}
		return 0
		;;
	'') ;;
	*)
		say "unknown option $1"
		return "$USAGE"
		;;
	esac

	if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
		say "this is no Debian (no dpkg, no apt-get); install by hand what images/packages.debian lists, and Rust $RUST_MAJOR.$RUST_MINOR"
		return "$INFRASTRUCTURE"
	fi
	local packages
	mapfile -t packages < <(wanted)
	if ((${#packages[@]} == 0)); then
		return 0
	fi

	local line="apt-get update && apt-get install --yes --no-install-recommends ${packages[*]}"
	local -a as_root
	if ((EUID == 0)); then
		as_root=(env)
	elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
		as_root=(sudo -n env)
	elif command -v sudo >/dev/null && [[ -t 0 && -t 2 && -z ${CI:-} ]]; then
		as_root=(sudo env)
	else
		say "packages are missing, and neither root nor sudo is there to install them. Run as root:"
		printf '%s\n' "$line" >&2
		return "$INFRASTRUCTURE"
	fi
	say "installing: ${packages[*]}"
	as_root+=(DEBIAN_FRONTEND=noninteractive)
	if ! "${as_root[@]}" apt-get --quiet update >&2 ||
		! "${as_root[@]}" apt-get --quiet --yes install --no-install-recommends "${packages[@]}" >&2 </dev/null; then
		say "that failed; see above. The line to repeat it as root is:"
		printf '%s\n' "$line" >&2
		return "$INFRASTRUCTURE"
	fi
	if ! rust_dir >/dev/null; then
		say "the Rust that Debian has here is older than $RUST_MAJOR.$RUST_MINOR; install a newer one (rustup)"
		return "$INFRASTRUCTURE"
	fi
}

main "$@"
