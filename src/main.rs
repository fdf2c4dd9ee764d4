// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The `vfrace` program.
fn main() {}
