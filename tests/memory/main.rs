//! What a client can make the bus hold, counted by the allocator.
//!
//! Each test lets one kind of hostile client do its worst within the default limits and asserts the
//! bytes per client; the weights that the code charges are held against what is measured.

mod bus;
mod count;

use crate::bus::{Bus, command, frame, message};
use crate::count::{Counting, held_bytes};
use arqonbus::base::budget::{self, GAP_BYTES, LETTER_BYTES};
use arqonbus::base::ids::ConnId;
use arqonbus::base::limits::{HANDSHAKE_BYTES_MAX, Limits};
use serde_json::json;
use std::ops::Range;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The bytes that `does` leaves held.
fn grown(does: impl FnOnce()) -> usize {
    let before = held_bytes();
    does();
    usize::try_from(held_bytes() - before).unwrap_or(0)
}

/// Whether a constant is what was measured, give or take a quarter.
fn assert_weighs(what: &str, constant: usize, measured: usize) {
    let range = measured * 3 / 4..=measured * 5 / 4;
    assert!(range.contains(&constant), "{what}: charged {constant} bytes, takes {measured}");
}

/// A bus that has had some traffic, so that what a shard keeps once for all is there.
fn warm_bus(limits: Limits) -> Bus {
    let mut bus = Bus::new(limits, 1);
    let ann = bus.connect("warm");
    for number in 0..100 {
        bus.send(ann, &message("command", "c", "warm", number, &command("ping", json!({}))));
    }
    bus
}

#[test]
fn sizes_are_those_of_the_allocator() {
    let classes = [(1, 8), (8, 8), (9, 16), (64, 64), (65, 80), (81, 96), (128, 128), (129, 160)];
    for (size, class) in classes {
        assert_eq!(count::class_bytes(size), class, "{size}");
    }
    assert_eq!(count::class_bytes(1_025), 1_280);
}

#[test]
fn pings_of_a_client_that_reads_nothing_leave_one_pong() {
    for rate_control_frames in [1_000, 0] {
        let mut bus = warm_bus(Limits { rate_control_frames, ..Limits::default() });
        let mallory = bus.connect("mallory");
        bus.deaf.push(mallory);
        // Twenty megabytes of them.
        let pings = frame(0x89, b"").repeat(200_000);
        let held = grown(|| {
            for _ in 0..16 {
                bus.send(mallory, &pings);
            }
        });
        assert!(held < 4_096, "{held} bytes for unread pongs");
    }
}

#[test]
fn more_control_frames_than_the_rate_close() {
    let mut bus = warm_bus(Limits { rate_control_frames: 100, ..Limits::default() });
    for (name, first) in [("pings", 0x89), ("pongs", 0x8a)] {
        let conn = bus.connect(name);
        bus.send(conn, &frame(first, b"x").repeat(100));
        assert!(bus.engine.wants_input(conn), "a second's worth is taken");
        bus.engine.receive(bus.now, conn, &mut frame(first, b"x").repeat(3));
        bus.settle();
        let bytes: Vec<u8> =
            bus.written.iter().filter(|it| it.0 == conn).flat_map(|it| it.1.clone()).collect();
        let code = bytes.windows(4).any(|four| four[0] == 0x88 && four[2..] == [0x03, 0xf0]);
        assert!(code, "{name} are closed with 1008: {bytes:?}");
    }
}

#[test]
fn an_unfinished_message_takes_what_it_may_be_long() {
    let limits = Limits::default();
    let max = limits.max_message_bytes as usize;
    let mut bus = warm_bus(limits);
    let whole = frame(0x81, &vec![b'x'; max]);
    let fragments = [frame(0x01, b"x"), frame(0x00, b"x").repeat(max - 2)].concat();
    let half = [frame(0x01, &vec![b'x'; max / 2]), frame(0x00, &vec![b'x'; max / 2])].concat();
    let kinds = [
        ("whole", &whole[..whole.len() - 1]),
        ("fragments", &fragments),
        ("half", &half[..half.len() - 1]),
    ];
    for (name, bytes) in kinds {
        let conn = bus.connect(name);
        let held = grown(|| {
            bus.send(conn, bytes);
        });
        assert!(held > max / 2, "{name}: the message is there");
        // A buffer that grows has twice what it needs at worst.
        assert!(held <= 2 * max + 64 * 1_024, "{name}: {held} bytes");
    }
}

#[test]
fn a_drip_takes_little() {
    let mut bus = warm_bus(Limits::default());
    let conn = bus.connect("drip");
    let bytes = frame(0x81, &[b'x'; 4_096]);
    let held = grown(|| {
        for byte in &bytes[..2_000] {
            bus.send(conn, std::slice::from_ref(byte));
        }
    });
    assert!(held <= 4_096, "{held} bytes");
}

#[test]
fn an_unfinished_handshake_takes_what_it_may_be_long() {
    let mut bus = warm_bus(Limits::default());
    let mut conns = Vec::new();
    let head =
        format!("GET / HTTP/1.1\r\nHost: b\r\nCookie: {}", "x".repeat(HANDSHAKE_BYTES_MAX - 64));
    let held = grown(|| {
        for _ in 0..64 {
            let conn = bus.open();
            for piece in head.as_bytes().chunks(1_000) {
                bus.send(conn, piece);
            }
            conns.push(conn);
        }
    }) / 64;
    assert!(held <= 2 * HANDSHAKE_BYTES_MAX + 1_024, "{held} bytes");
    for conn in conns {
        bus.send(conn, &vec![b'x'; HANDSHAKE_BYTES_MAX]);
    }
    assert_eq!(bus.engine.connection_count(), 1, "a longer one is refused");
}

#[test]
fn unread_answers_are_bounded_by_what_they_take_in_memory() {
    let limits = Limits::default();
    let outbox_bytes = limits.outbox_bytes as usize;
    let mut bus = warm_bus(limits);
    let conn = bus.connect("mallory");
    bus.deaf.push(conn);
    let asks: Vec<u8> = (0..200)
        .flat_map(|number| message("command", "c", "mallory", number, &command("ping", json!({}))))
        .collect();
    let held = grown(|| while bus.send(conn, &asks) == asks.len() {});
    assert!(held <= outbox_bytes, "{held} bytes of unread answers");
    assert!(held >= outbox_bytes / 3, "it was let go on until then: {held}");
    let (_, weight) = bus.engine.waiting_bytes(conn);
    assert_weighs("all answers", weight, held);
}

#[test]
fn a_letter_weighs_what_is_charged_for_it() {
    let mut bus = warm_bus(Limits { outbox_bytes: 1 << 30, ..Limits::default() });
    let conn = bus.connect("mallory");
    bus.deaf.push(conn);
    let count = 4_000;
    let mut frame_bytes = 0;
    let held = grown(|| {
        for number in 0..count {
            let before = bus.engine.waiting_bytes(conn).1;
            bus.send(
                conn,
                &message("command", "c", "mallory", number, &command("ping", json!({}))),
            );
            frame_bytes += bus.engine.waiting_bytes(conn).1 - before - LETTER_BYTES as usize;
        }
    });
    assert_weighs("a letter", LETTER_BYTES as usize, (held - frame_bytes) / count as usize);
}

/// A bus with a client that has joined `count` channels and reads nothing any more.
fn joined(count: u32) -> (Bus, ConnId, ConnId) {
    let limits = Limits {
        max_joins_per_client: 1_000,
        outbox_bytes: 70_000,
        rate_commands: 0,
        ..Limits::default()
    };
    let mut bus = warm_bus(limits);
    let (ann, mallory) = (bus.connect("ann"), bus.connect("mallory"));
    let join = |bus: &mut Bus, conn, from, number| {
        let name = format!("c{number}");
        bus.send(
            conn,
            &message("command", &name, from, number, &command("join_channel", json!({}))),
        );
    };
    (0..count).for_each(|number| join(&mut bus, ann, "ann", number));
    (0..count).for_each(|number| join(&mut bus, mallory, "mallory", number));
    bus.deaf.push(mallory);
    (bus, ann, mallory)
}

#[test]
fn channels_and_memberships_weigh_what_is_charged_for_them() {
    let limits = Limits { rate_commands: 0, ..Limits::default() };
    let mut bus = warm_bus(limits);
    let ids: Vec<String> = (0..1_000).map(|number| format!("member-{number}")).collect();
    let conns: Vec<ConnId> = ids.iter().map(|id| bus.connect(id)).collect();
    let mut join = |who: Range<usize>, channels: Range<usize>| {
        grown(|| {
            for (conn, id) in conns[who.clone()].iter().zip(&ids[who.clone()]) {
                for channel in channels.clone() {
                    let command = command("join_channel", json!({}));
                    let name = format!("c{channel}");
                    bus.send(*conn, &message("command", &name, id, channel as u32, &command));
                }
            }
        })
    };
    // The first member of each makes it; of all others each is a membership.
    let first = join(0..1, 0..1_000) / 1_000;
    let few_in_many = join(1..20, 0..1_000) / 19_000;
    let many_in_one = join(20..1_000, 0..1) / 980;
    assert_weighs("channel", budget::CHANNEL_BYTES as usize, first - few_in_many);
    assert_weighs("membership", budget::MEMBERSHIP_BYTES as usize, few_in_many);
    assert_weighs("client in a room", budget::PERSON_BYTES as usize, many_in_one - few_in_many);
}

#[test]
fn gaps_over_many_channels_are_bounded() {
    let (mut bus, ann, mallory) = joined(1_000);
    // Until it is behind, and then one for each channel.
    let long = json!({"b": "x".repeat(40_000)});
    for number in 0..4 {
        bus.send(ann, &message("event", "c0", "ann", 5_000 + number, &long));
    }
    let before = held_bytes();
    let history = grown(|| {
        for number in 0..1_000 {
            let name = format!("c{number}");
            bus.send(ann, &message("event", &name, "ann", 9_000 + number, &json!({})));
        }
    });
    // What the histories keep is the bus's, not the client's: the same again beside it without gaps.
    let (mut quiet, ann, ..) = joined(1_000);
    quiet.deaf.clear();
    let kept = grown(|| {
        for number in 0..1_000 {
            let name = format!("c{number}");
            quiet.send(ann, &message("event", &name, "ann", 9_000 + number, &json!({})));
        }
    });
    let gaps = history.saturating_sub(kept);
    assert_weighs("a gap", GAP_BYTES as usize, gaps / 1_000);
    assert!(held_bytes() >= before && bus.engine.waiting_bytes(mallory).1 > 0);
}

#[test]
fn a_message_that_waits_for_a_lane_is_kept_once() {
    let mut bus = Bus::new(Limits::default(), 2);
    bus.engine.set_staged_max(1);
    // Whoever has a home elsewhere is never answered here, so whoever gets in has its home on this shard.
    let mut conns = Vec::new();
    for number in 0..20 {
        let conn = bus.connect(&format!("m{number}"));
        conns.push(conn);
    }
    let max = Limits::default().max_message_bytes as usize;
    let private = json!({"target": "nobody", "content": "x".repeat(max / 2)});
    let bytes = message("private", "c", "m0", 1, &private).repeat(4);
    let held = grown(|| {
        for &conn in &conns {
            bus.send(conn, &bytes);
        }
    }) / conns.len();
    assert!(held <= 2 * max, "{held} bytes a client");
}

#[test]
fn identities_that_are_asked_for_again_leave_nothing() {
    let mut bus = warm_bus(Limits::default());
    let conn = bus.connect("mallory");
    let storm = |bus: &mut Bus, from: u32| {
        for number in from..from + 1_000 {
            let identify = command("identify", json!({"client_id": format!("id{number}")}));
            bus.send(conn, &message("command", "c", "mallory", number, &identify));
        }
    };
    storm(&mut bus, 0);
    let held = grown(|| storm(&mut bus, 1_000));
    assert!(held <= 4_096, "{held} bytes");
}

#[test]
fn connections_that_come_and_go_leave_nothing() {
    let mut bus = warm_bus(Limits::default());
    let mut storm = |from: u32| {
        for number in from..from + 500 {
            let conn = bus.connect(&format!("c{number}"));
            bus.engine.lost(bus.now, conn);
            bus.settle();
        }
        bus.pass_a_minute();
    };
    storm(0);
    let held = grown(|| storm(500));
    assert!(held <= 4_096, "{held} bytes");
}
