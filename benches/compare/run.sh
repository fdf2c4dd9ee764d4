#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The comparison of docs/comparison.md again: run.sh WHAT PATH..., see compare.py for WHAT.
# Nothing is fetched. The parsers are told where they are, and those that are not told are left out:
#   VFRACE      the vfrace program
#   SYZKALLER   syz-read, built by syzkaller/build.sh from syzkaller's tree
#   LOGSPEC     logspec's tree
#   TUXPARSE    the folder that the Python package tuxparse is installed in
#   LAVA        LAVA's tree (needs pexpect)
#   LKP         lkp-tests' tree (needs Ruby, tty-command, activesupport)
#   ABRT        abrt-read, built by abrt/build.sh from abrt's tree
#   NIPA        NIPA's tree
#   XFSTESTS    common/rc of xfstests
#   BLKTESTS    check of blktests
#   KTEST       tools/testing/ktest/ktest.pl of a kernel tree
# PYTHON is the interpreter that has what the Python ones need.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
exec "${PYTHON:-python3}" "$here/compare.py" "$@"
