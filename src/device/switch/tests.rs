// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use super::*;

const A: Mac = [2, 0, 0, 0, 0, 0xa];
const B: Mac = [2, 0, 0, 0, 0, 0xb];
const ALL: Mac = [0xff; 6];

fn frame(to: Mac, from: Mac) -> Arc<[u8]> {
    let mut bytes = to.to_vec();
    bytes.extend(from);
    bytes.extend([8, 0, 1, 2, 3]);
    bytes.into()
}

/// A switch with the PF (port 0) and two VFs, all up.
fn switch() -> Switch {
    let switch = Switch::new([FunctionId::Pf, FunctionId::Vf(1), FunctionId::Vf(2)]).unwrap();
    switch.ports.iter().for_each(Port::set_up);
    switch
}

/// How many frames wait at each port; they are taken.
fn waiting(switch: &Switch) -> Vec<usize> {
    switch
        .ports
        .iter()
        .map(|port| std::iter::from_fn(|| port.pop()).count())
        .collect()
}

#[test]
fn floods_until_the_address_is_known() {
    let (s, now) = (switch(), Instant::now());
    s.forward(0, &frame(B, A), now);
    assert_eq!(waiting(&s), [0, 1, 1]);
    s.forward(1, &frame(A, B), now);
    assert_eq!(waiting(&s), [1, 0, 0]);
    s.forward(0, &frame(B, A), now);
    assert_eq!(waiting(&s), [0, 1, 0]);
    let counters = s.counters();
    assert_eq!(
        (counters.unicast, counters.flooded, counters.known),
        (2, 1, 2)
    );
}

#[test]
fn broadcast_and_multicast_go_everywhere_else() {
    let (s, now) = (switch(), Instant::now());
    s.forward(2, &frame(ALL, A), now);
    s.forward(2, &frame([0x33, 0x33, 0, 0, 0, 1], A), now);
    assert_eq!(waiting(&s), [2, 2, 0]);
}

#[test]
fn a_station_that_moves_is_followed() {
    let (s, now) = (switch(), Instant::now());
    s.forward(0, &frame(ALL, A), now);
    s.forward(1, &frame(ALL, A), now);
    waiting(&s);
    s.forward(2, &frame(A, B), now);
    assert_eq!(waiting(&s), [0, 1, 0]);
    assert_eq!(s.counters().moved, 1);
}

#[test]
fn addresses_age() {
    let (s, now) = (switch(), Instant::now());
    s.forward(0, &frame(ALL, A), now);
    waiting(&s);
    s.forward(1, &frame(A, B), now + AGE - Duration::from_secs(1));
    assert_eq!(waiting(&s), [1, 0, 0]);
    s.forward(1, &frame(A, B), now + AGE);
    assert_eq!(waiting(&s), [1, 0, 1]);
}

#[test]
fn the_table_is_bounded() {
    let (s, now) = (switch(), Instant::now());
    for n in 0..u32::try_from(TABLE_LIMIT).unwrap() + 5 {
        let [a, b, c, d] = n.to_be_bytes();
        s.forward(0, &frame(ALL, [2, 0, a, b, c, d]), now);
        waiting(&s);
    }
    let counters = s.counters();
    assert_eq!(counters.known, u64::try_from(TABLE_LIMIT).unwrap());
    assert_eq!(counters.not_learned, 5);
    // Once they have aged there is room again.
    s.forward(1, &frame(ALL, [6; 6]), now + AGE);
    assert_eq!(s.counters().known, 1);
}

#[test]
fn a_port_that_goes_down_is_forgotten() {
    let (s, now) = (switch(), Instant::now());
    s.forward(1, &frame(ALL, B), now);
    waiting(&s);
    s.forward(0, &frame(B, A), now);
    s.down(1);
    assert_eq!(waiting(&s), [0, 0, 0]);
    assert_eq!(s.port(1).unwrap().counters().port_down, 1);
    // Not known any more: flooded, and the port that is down takes no part.
    s.forward(0, &frame(B, A), now);
    assert_eq!(waiting(&s), [0, 0, 1]);
    assert_eq!(s.port(1).unwrap().counters().port_down, 1);
    s.port(1).unwrap().set_up();
    s.forward(0, &frame(B, A), now);
    assert_eq!(waiting(&s), [0, 1, 1]);
}

#[test]
fn a_unicast_to_a_port_that_is_down_counts() {
    let (s, now) = (switch(), Instant::now());
    s.down(1);
    // A transmit ring may run before the receive ring does.
    s.forward(1, &frame(ALL, B), now);
    waiting(&s);
    s.forward(0, &frame(B, A), now);
    assert_eq!(s.port(1).unwrap().counters().port_down, 1);
}

#[test]
fn the_backlog_is_bounded_in_frames_and_bytes() {
    let (s, now) = (switch(), Instant::now());
    for _ in 0..BACKLOG_FRAMES + 3 {
        s.forward(0, &frame(ALL, A), now);
    }
    assert_eq!(s.port(1).unwrap().counters().backlog_full, 3);
    assert_eq!(waiting(&s), [0, BACKLOG_FRAMES, BACKLOG_FRAMES]);
    let mut long = frame(ALL, A).to_vec();
    long.resize(MAX_FRAME, 0);
    let long: Arc<[u8]> = long.into();
    for _ in 0..20 {
        s.forward(0, &long, now);
    }
    assert_eq!(
        waiting(&s),
        [0, BACKLOG_BYTES / MAX_FRAME, BACKLOG_BYTES / MAX_FRAME]
    );
}

#[test]
fn nonsense_is_dropped_and_counted() {
    let (s, now) = (switch(), Instant::now());
    s.forward(0, &frame(A, ALL), now);
    s.forward(0, &[0u8; 13].into(), now);
    s.forward(0, &[].into(), now);
    s.forward(0, &vec![0u8; MAX_FRAME + 1].into(), now);
    s.forward(0, &frame(A, A), now);
    assert_eq!(waiting(&s), [0, 0, 0]);
    let counters = s.port(0).unwrap().counters();
    assert_eq!(
        (counters.bad_source, counters.bad_length, counters.same_port),
        (1, 3, 1)
    );
    assert_eq!((counters.tx_packets, counters.tx_bytes), (1, 17));
}

#[test]
fn ports_can_flood_each_other_from_many_threads() {
    let s = Arc::new(switch());
    std::thread::scope(|scope| {
        for port in 0..3 {
            let s = Arc::clone(&s);
            scope.spawn(move || {
                let from = [2, 0, 0, 0, 1, u8::try_from(port).unwrap()];
                for round in 0..2000 {
                    s.forward(port, &frame(ALL, from), Instant::now());
                    s.port(port).unwrap().pop();
                    if round % 100 == 0 {
                        s.down(port);
                        s.port(port).unwrap().set_up();
                    }
                }
            });
        }
    });
    assert_eq!(s.counters().flooded, 6000);
}
