//! How many messages go between shards for each publish, counted in engines, against the formula of
//! `daemon::scaling`: for rooms whose sizes follow Zipf's law, on one shard to sixty-four.
//!
//! `make crossing` prints the table.

use crate::peer::Peer;
use crate::sabotage::Sabotage;
use crate::setup::Setup;
use crate::trace::Trace;
use crate::world::World;
use arqonbus::base::limits::Limits;
use arqonbus::base::work::FAN_OUT_UNITS_MAX;
use arqonbus::base::work::TURN_UNITS;
use arqonbus::broker::policy::{PublishAnywhere, Role};
use arqonbus::daemon::scaling::{Crossings, crossings, zipf};
use fastrand::Rng;
use serde_json::json;

/// Clients, all of them in several rooms.
const CLIENTS: usize = 240;
/// Publishes that are counted, so many at a time; `SIM_PUBLISHES` may say another number.
const PUBLISHES: u64 = 500;
const AT_A_TIME: u64 = 50;

/// A large room and many small ones; rooms of one size.
fn populations() -> [(&'static str, Vec<u32>); 3] {
    [
        ("100 rooms by Zipf's law, the largest of 200", zipf(100, 200, 2)),
        ("100 rooms of 10", vec![10; 100]),
        ("200 rooms of 2", vec![2; 200]),
    ]
}

fn calm(shards: u16) -> Setup {
    Setup {
        shards,
        clients: CLIENTS,
        steps: 0,
        limits: Limits::default(),
        lane_slots: 4_096,
        staged_max: 1_024,
        lane_budget: 1_024,
        turn_units: TURN_UNITS,
        fan_out_units_max: FAN_OUT_UNITS_MAX,
        read_bytes: 64 * 1_024,
        socket_bytes: 1 << 24,
        roles: vec![Role::User; usize::from(shards)],
        publish_anywhere: PublishAnywhere { user: false, admin: false },
        faults: 0,
        acks: 0,
        breaths: 0,
        has_floods: false,
        has_leaps: false,
        ends_with_drain: false,
        storage: None,
        share: None,
    }
}

/// Everyone has turns until nobody has anything to do.
fn come_to_rest(world: &mut World, peers: &mut [Peer]) {
    loop {
        for (number, peer) in peers.iter_mut().enumerate() {
            let bytes = peer.take_out();
            if !bytes.is_empty() {
                world.send(number, &bytes);
            }
        }
        let busy: Vec<usize> =
            (0..world.shards.len()).filter(|&shard| world.reason(shard).is_some()).collect();
        if busy.is_empty() {
            return;
        }
        for shard in busy {
            world.turn(shard);
        }
        let mut heard = Vec::new();
        for (number, peer) in peers.iter_mut().enumerate() {
            peer.hear(&world.recv(number, usize::MAX), &mut heard);
        }
    }
}

/// What a publish takes, and how many deliveries it makes.
fn count(shards: u16, sizes: &[u32]) -> (Crossings, f64) {
    let mut rng = Rng::with_seed(u64::from(shards));
    let mut world = World::new(
        calm(shards),
        &mut rng,
        Trace::new(false),
        Sabotage::new(None, Rng::with_seed(1)),
    );
    let mut seats = Vec::new();
    let mut joins = vec![Vec::new(); CLIENTS];
    let mut clients: Vec<usize> = (0..CLIENTS).collect();
    for (room, &size) in sizes.iter().enumerate() {
        rng.shuffle(&mut clients);
        for &client in &clients[..size as usize] {
            joins[client].push(format!("room{room}:talk"));
            seats.push((client, room));
        }
    }
    let mut peers: Vec<Peer> = (0..CLIENTS)
        .map(|client| {
            world.connect(client % usize::from(shards), None);
            let query = format!("?client_id=c{client}&join={}", joins[client].join(","));
            Peer::connect(&mut rng, &query)
        })
        .collect();
    come_to_rest(&mut world, &mut peers);
    let (asks, tells) = std::mem::take(&mut world.crossed);
    assert!(shards == 1 || asks > 0 && tells > 0, "nobody joined");
    let mut deliveries = 0;
    let publishes = crate::variable("SIM_PUBLISHES").unwrap_or(PUBLISHES).max(AT_A_TIME);
    for number in 0..publishes {
        let (client, room) = seats[rng.usize(..seats.len())];
        deliveries += u64::from(sizes[room]) - 1;
        let envelope = json!({
            "version": "1.0", "id": format!("arq_{number}"), "type": "event",
            "room": format!("room{room}"), "channel": "talk", "from": format!("c{client}"),
            "timestamp": "2025-11-30T12:00:00Z", "payload": {},
        });
        peers[client].say(&envelope.to_string());
        if (number + 1) % AT_A_TIME == 0 {
            come_to_rest(&mut world, &mut peers);
        }
    }
    let each = |count: u64| count as f64 / publishes as f64;
    let crossed = Crossings { asks: each(world.crossed.0), tells: each(world.crossed.1) };
    (crossed, each(deliveries))
}

/// The mean of the formula over rooms, each published into as often as it has members.
fn expected(shards: u16, sizes: &[u32]) -> Crossings {
    let seats: f64 = sizes.iter().map(|&size| f64::from(size)).sum();
    sizes.iter().fold(Crossings::default(), |sum, &size| {
        let (each, weight) = (crossings(size, shards), f64::from(size) / seats);
        Crossings { asks: sum.asks + weight * each.asks, tells: sum.tells + weight * each.tells }
    })
}

#[test]
fn messages_between_shards_are_as_many_as_the_formula_says() {
    for (what, sizes) in populations() {
        println!("{what}:");
        println!("shards  deliveries  asks (formula)  tells (formula)  for each publish");
        for shards in [1, 2, 4, 8, 16, 32, 64] {
            let ((counted, deliveries), formula) =
                (count(shards, &sizes), expected(shards, &sizes));
            println!(
                "{shards:>6}  {deliveries:>10.1}  {:>5.2} ({:>5.2})   {:>6.2} ({:>6.2})",
                counted.asks, formula.asks, counted.tells, formula.tells
            );
            // Which shard is home to a large room is a matter of luck, and counts for a few percent.
            for (counted, formula) in [(counted.asks, formula.asks), (counted.tells, formula.tells)]
            {
                let off = (counted - formula).abs();
                assert!(off < 0.15 + 0.15 * formula, "{what}, {shards}: {counted} for {formula}");
            }
        }
    }
}
