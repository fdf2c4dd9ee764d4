// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use super::*;
use crate::event::Side;

fn request(code: u32, size: u32) -> Header {
    Header {
        code,
        flags: Header::VERSION,
        size,
    }
}

#[test]
fn names_and_codes_agree() {
    assert_eq!(names().count(), 44);
    for (n, name) in (1..).zip(names()) {
        assert_eq!(name_of(n), name);
        assert_eq!(code_of(name), Some(n));
    }
    // Spot checks against the specification's numbers.
    assert_eq!(name_of(11), "GET_VRING_BASE");
    assert_eq!(name_of(18), "SET_VRING_ENABLE");
    assert_eq!(name_of(37), "ADD_MEM_REG");
    assert_eq!(name_of(44), "GET_SHMEM_CONFIG");
    assert_eq!(name_of(45), "REQUEST_45");
    assert_eq!(name_of(0), "REQUEST_0");
    assert_eq!(code_of("REQUEST_0"), None);
}

#[test]
fn headers_are_checked() {
    assert_eq!(
        Header::parse(&[1; 5]),
        Err(DecodeError::ShortHeader { got: 5 })
    );
    let flags = |flags| {
        Header::parse(
            &Header {
                code: 1,
                flags,
                size: 0,
            }
            .encode(),
        )
    };
    assert!(flags(1).is_ok() && flags(9).is_ok() && flags(5).is_ok());
    for bad in [0, 2, 3, 0x11, u32::MAX] {
        assert_eq!(
            flags(bad),
            Err(DecodeError::Flags {
                code: 1,
                flags: bad
            })
        );
    }
    let large = Header {
        code: 5,
        flags: 1,
        size: MAX_PAYLOAD + 1,
    };
    assert!(matches!(
        Header::parse(&large.encode()),
        Err(DecodeError::Oversized { size: 4097, .. })
    ));
}

#[test]
fn an_answer_needs_no_reply() {
    assert!(
        !Header {
            code: 1,
            flags: 0xd,
            size: 0
        }
        .needs_reply()
    );
    assert!(
        Header {
            code: 1,
            flags: 0x9,
            size: 0
        }
        .needs_reply()
    );
}

#[test]
fn vring_messages_say_which_vring() {
    let state = decode(&request(11, 8), Side::Qemu, &[3, 0, 0, 0, 7, 0, 0, 0], 0).unwrap();
    assert_eq!((state.vring(), state.value()), (Some(3), Some(7)));
    let call = decode(&request(13, 8), Side::Qemu, &[2, 1, 0, 0, 0, 0, 0, 0], 0).unwrap();
    assert_eq!(call.vring(), Some(2));
}

#[test]
fn file_descriptors_are_counted() {
    let word = [1, 0, 0, 0, 0, 0, 0, 0];
    assert!(decode(&request(12, 8), Side::Qemu, &word, 1).is_ok());
    assert!(matches!(
        decode(&request(12, 8), Side::Qemu, &word, 0),
        Err(DecodeError::Fds { got: 0, .. })
    ));
    assert!(matches!(
        decode(&request(12, 8), Side::Qemu, &word, 2),
        Err(DecodeError::Fds { got: 2, .. })
    ));
    assert!(matches!(
        decode(&request(2, 8), Side::Qemu, &word, 1),
        Err(DecodeError::Fds { got: 1, .. })
    ));
}

#[test]
fn direction_size_and_range_are_checked() {
    let word = [0; 8];
    assert!(matches!(
        decode(&request(2, 8), Side::Backend, &word, 0),
        Err(DecodeError::Direction { .. })
    ));
    assert!(matches!(
        decode(&request(2, 7), Side::Qemu, &word[..7], 0),
        Err(DecodeError::Size { got: 7, .. })
    ));
    assert!(matches!(
        decode(&request(1, 8), Side::Qemu, &word, 0),
        Err(DecodeError::Size { .. })
    ));
    let far = [0, 1, 0, 0, 1, 0, 0, 0];
    assert!(matches!(
        decode(&request(18, 8), Side::Qemu, &far, 0),
        Err(DecodeError::Range { value: 256, .. })
    ));
    // More regions announced than there are bytes, or than fit.
    let mut many = vec![0xff; 4];
    many.extend([0; 36]);
    assert!(matches!(
        decode(&request(5, 40), Side::Qemu, &many, 1),
        Err(DecodeError::Size { .. })
    ));
}
