// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Any bytes as a vhost-user message, from either side, with any number of file descriptors.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vfrace::event::Side;
use vfrace::wire::{Header, decode};

fuzz_target!(|data: &[u8]| {
    let Some((how, bytes)) = data.split_first() else {
        return;
    };
    let Ok(header) = Header::parse(bytes) else {
        return;
    };
    let from = match how & 1 {
        0 => Side::Qemu,
        _ => Side::Backend,
    };
    let body = bytes.get(Header::SIZE..).unwrap_or_default();
    let _ = decode(&header, from, body, usize::from(how >> 1));
});
