#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Builds syzkaller's report package with our driver, without the network: build.sh SYZKALLER-TREE WORK-DIRECTORY
# The tree needs pkg/report, pkg/symbolizer, pkg/osutil and sys/targets. What else the report package imports concerns
# symbolizing and is replaced by the small packages beside this file. GO names the go command; GOCODE holds the sources
# of golang.org/x/sys and github.com/ianlancetaylor/demangle (Debian: golang-golang-x-sys-dev,
# golang-github-ianlancetaylor-demangle-dev).
set -eu
tree=$1 work=$2
here=$(cd "$(dirname "$0")" && pwd)
GO=${GO:-go} GOCODE=${GOCODE:-/usr/share/gocode/src}

rm -rf "$work"
mkdir -p "$work/pkg/cover" "$work/sys/targets" "$work/deps" "$work/cmd"
for package in report symbolizer osutil; do
    cp -r "$tree/pkg/$package" "$work/pkg/"
done
rm -f "$work/pkg/report/fuzz.go"
cp "$tree/sys/targets/targets.go" "$work/sys/targets/"
for stub in mgrconfig vcs vminfo; do
    cp -r "$here/$stub" "$work/pkg/"
done
cp -r "$here/backend" "$work/pkg/cover/"
cp "$here/main.go" "$work/cmd/"
find "$work" -name '*_test.go' -delete
cp -rL "$GOCODE/golang.org/x/sys" "$work/deps/sys"
cp -rL "$GOCODE/github.com/ianlancetaylor/demangle" "$work/deps/demangle"
find "$work/deps" -name '*_test.go' -delete
printf 'module golang.org/x/sys\ngo 1.20\n' > "$work/deps/sys/go.mod"
printf 'module github.com/ianlancetaylor/demangle\ngo 1.20\n' > "$work/deps/demangle/go.mod"
cat > "$work/go.mod" << END
module github.com/google/syzkaller

go $(sed -n 's/^go //p' "$tree/go.mod")

require (
	github.com/ianlancetaylor/demangle v0.0.0
	golang.org/x/sys v0.0.0
)

replace github.com/ianlancetaylor/demangle => ./deps/demangle

replace golang.org/x/sys => ./deps/sys
END
cd "$work"
GOPROXY=off GOFLAGS=-mod=mod GOTOOLCHAIN=local GOPATH="$work/gopath" "$GO" build -o syz-read ./cmd
echo "$work/syz-read"
