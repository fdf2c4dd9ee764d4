// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Properties of the decoder.

use proptest::prelude::*;
use vfrace::event::Side;
use vfrace::wire::{Header, Payload, Region, decode};

fn payloads() -> impl Strategy<Value = (u32, Payload, usize)> {
    let region =
        any::<[u64; 4]>().prop_map(|[guest_address, size, user_address, mmap_offset]| Region {
            guest_address,
            size,
            user_address,
            mmap_offset,
        });
    prop_oneof![
        Just((1, Payload::Empty, 0)),
        any::<u64>().prop_map(|value| (2, Payload::U64(value), 0)),
        (
            0u32..256,
            any::<u32>(),
            prop::sample::select(vec![8u32, 10, 11, 18, 23, 35])
        )
            .prop_map(|(index, num, code)| (code, Payload::State { index, num }, 0)),
        (0u64..512, 12u32..15).prop_map(|(word, code)| (
            code,
            Payload::VringFd(word),
            usize::from(word & 256 == 0)
        )),
        (0u32..256, any::<u32>(), any::<[u64; 4]>()).prop_map(
            |(index, flags, [descriptor, used, available, log])| {
                (
                    9,
                    Payload::Addr {
                        index,
                        flags,
                        descriptor,
                        used,
                        available,
                        log,
                    },
                    0,
                )
            }
        ),
        prop::collection::vec(region.clone(), 0..32).prop_map(|all| {
            let count = all.len();
            (5, Payload::Memory(all), count)
        }),
        region.prop_map(|region| (37, Payload::Region(region), 1)),
        (
            any::<[u32; 3]>(),
            prop::collection::vec(any::<u8>(), 0..300)
        )
            .prop_map(|([offset, size, flags], data)| (
                24,
                Payload::Config {
                    offset,
                    size,
                    flags,
                    data
                },
                0
            )),
        any::<(u64, u64, u16, u16)>().prop_map(|(mmap_size, mmap_offset, queues, queue_size)| {
            (
                31,
                Payload::Inflight {
                    mmap_size,
                    mmap_offset,
                    queues,
                    queue_size,
                },
                0,
            )
        }),
        any::<(u64, u64)>().prop_map(|(size, offset)| (6, Payload::Log { size, offset }, 1)),
        any::<(u64, u64, u64, u8, u8)>().prop_map(
            |(iova, size, user_address, permission, kind)| {
                (
                    22,
                    Payload::Iotlb {
                        iova,
                        size,
                        user_address,
                        permission,
                        kind,
                    },
                    0,
                )
            }
        ),
        any::<[u8; 16]>().prop_map(|uuid| (41, Payload::Uuid(uuid), 0)),
        any::<(u32, u32)>().prop_map(|(direction, phase)| (
            42,
            Payload::Transfer { direction, phase },
            1
        )),
        (45u32.., prop::collection::vec(any::<u8>(), 0..100)).prop_map(|(code, bytes)| (
            code,
            Payload::Opaque(bytes),
            3
        )),
    ]
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(
        head in any::<[u8; 12]>(), code in 0u32..50, flags in 0u32..16, body in prop::collection::vec(any::<u8>(), 0..2100), fds in 0usize..40,
    ) {
        let _ = Header::parse(&head);
        let _ = Header::parse(&body);
        for from in [Side::Qemu, Side::Backend] {
            let header = Header { code, flags, size: body.len() as u32 };
            if let Ok(payload) = decode(&header, from, &body, fds) {
                prop_assert!(payload.encode().len() <= body.len() + 8);
                prop_assert!(payload.vring().is_none_or(|vring| vring < 256));
            }
        }
    }

    #[test]
    fn known_messages_survive((code, payload, fds) in payloads()) {
        let body = payload.encode();
        let header = Header { code, flags: Header::VERSION, size: body.len() as u32 };
        prop_assert_eq!(Header::parse(&header.encode()), Ok(header));
        prop_assert_eq!(decode(&header, Side::Qemu, &body, fds), Ok(payload));
    }
}
