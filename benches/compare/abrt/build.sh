#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Builds abrt's oops extractor (src/lib/kernel.c) with our driver: build.sh ABRT-TREE WORK-DIRECTORY
# Needs a C compiler and GLib's headers; libreport and satyr are replaced by the headers beside this file.
set -eu
tree=$1 work=$2
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$work"
# shellcheck disable=SC2046 # the flags are words
${CC:-cc} -O2 -w -D_GNU_SOURCE -I"$here" -o "$work/abrt-read" "$here/main.c" "$tree/src/lib/kernel.c" \
    $(pkg-config --cflags --libs glib-2.0)
echo "$work/abrt-read"
