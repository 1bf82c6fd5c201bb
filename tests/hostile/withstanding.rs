//! Each attack against a daemon of its own, while two ordinary clients talk.
//!
//! Nothing here is a measurement: the bounds on time are those of a bus that has stopped working, so
//! that they hold on a machine that does much else. The figures are `strict`'s.

use crate::attack::{ALL, Attack, CROWD, Target};
use crate::common::Daemon;
use crate::gauge::{self, Histogram};
use crate::ordinary::Pair;
use crate::pace::Pace;
use std::thread;
use std::time::Duration;

/// How long an attack lasts at least. It goes on until a counter tells of it, so that a slow machine sees
/// the same work, but no longer than the second.
const ATTACK: Duration = Duration::from_millis(1_000);
const ATTACK_MAX: Duration = Duration::from_secs(30);
/// How long before the daemon is told to stop in the middle of another.
const BEFORE_THE_END: Duration = Duration::from_millis(150);

/// What a message between the ordinary clients may take at most, by the daemon's own histogram: the
/// bound of its last bucket but one.
const DELIVERY_MS_MAX: f64 = 2_500.0;

/// What the process may keep when an attack is over, in MiB: what the allocator holds back, and
/// histories.
const KEPT_MIB_MAX: u64 = 40;

pub(crate) fn target(daemon: &Daemon) -> Target {
    let Daemon { bus, telemetry, http, .. } = *daemon;
    Target { bus, telemetry, http, crowd: CROWD }
}

/// The daemon of an attack.
fn daemon(attack: &Attack) -> Daemon {
    let flags = ["--shards", "2", "--drain-timeout-ms", "500", "--log-level", "warn,arqonbus=info"];
    Daemon::start(&[&flags, attack.flags].concat())
}

fn withstands(name: &str) {
    let attack = crate::attack::named(name);
    let daemon = daemon(attack);
    let pid = daemon.pid();
    let pair = Pair::start([daemon.bus; 2]);
    pair.await_more(20);
    let (resident, descriptors) = (gauge::resident_mib(pid), gauge::descriptors(pid));
    let deliveries = Histogram::of_deliveries(&daemon);
    gauge::forget_peak(pid);
    attack_until_told(attack, &daemon);
    pair.await_more(20);
    let growth = gauge::peak_mib(pid).saturating_sub(resident);
    assert!(
        growth <= attack.growth_mib_max,
        "it grew by {growth} MiB from {resident}; {} are right",
        attack.growth_mib_max
    );
    // The request for the metrics may have a descriptor of its own.
    gauge::await_return(&daemon, descriptors + 1, resident + KEPT_MIB_MAX);
    let talk = pair.finish();
    let deliveries = Histogram::of_deliveries(&daemon).since(&deliveries);
    let p99_ms = deliveries.quantile_ms(0.99);
    println!(
        "{name}: grew by {growth} MiB; {} deliveries, p50 {:.2} ms, p99 {p99_ms:.2} ms; ordinary \
         clients: p50 {:.2} ms, p99 {:.2} ms",
        deliveries.count(),
        deliveries.quantile_ms(0.5),
        talk.quantile_ms(0.5),
        talk.quantile_ms(0.99)
    );
    assert!(p99_ms <= DELIVERY_MS_MAX, "deliveries took {p99_ms} ms");
    stops_in_the_middle(attack, daemon);
}

/// Attacks for a second, and until a counter of the daemon tells of the attack.
#[track_caller]
fn attack_until_told(attack: &Attack, daemon: &Daemon) {
    let (target, pace) = (target(daemon), Pace::lasting(ATTACK_MAX));
    let told = gauge::counted(daemon, attack.tells);
    thread::scope(|scope| {
        let attacker = scope.spawn(|| (attack.run)(&target, &pace));
        pace.rest(ATTACK);
        while !attacker.is_finished()
            && !attack.tells.is_empty()
            && gauge::counted(daemon, attack.tells) <= told
        {
            pace.rest(Duration::from_millis(100));
        }
        pace.stop();
    });
    if !attack.tells.is_empty() {
        let told = gauge::counted(daemon, attack.tells) - told;
        assert!(told > 0.0, "no counter tells of it: {:?}", attack.tells);
    }
}

/// A supervisor that wants the daemon to stop is obeyed, whatever clients do.
fn stops_in_the_middle(attack: &Attack, daemon: Daemon) {
    let target = target(&daemon);
    let pace = Pace::lasting(Duration::from_secs(30));
    thread::scope(|scope| {
        let attacker = scope.spawn(|| (attack.run)(&target, &pace));
        thread::sleep(BEFORE_THE_END);
        daemon.stop();
        pace.stop();
        attacker.join().unwrap();
    });
}

/// Makes a test of each attack, and one that sees that none is forgotten.
macro_rules! each_withstood {
    ($($(#[$meta:meta])* $name:ident)+) => {
        $($(#[$meta])*
        #[test]
        fn $name() {
            withstands(stringify!($name));
        })+

        #[test]
        fn every_attack_is_tried() {
            let tried = [$(stringify!($name)),+];
            let names: Vec<&str> = ALL.iter().map(|attack| attack.name).collect();
            assert_eq!(names, tried);
        }
    };
}

each_withstood! {
    unfinished_handshakes
    huge_heads
    bad_requests
    opened_and_dropped
    one_id_for_all
    messages_before_the_answer
    more_than_may_connect
    broken_frames
    pings_unread
    pings_of_many_at_once
    pongs
    closes
    unfinished_messages
    tiny_fragments
    drip
    urgent_bytes
    half_closed
    malformed_messages
    malformed_messages_unread
    one_id_again_and_again
    short_lives
    private_to_all_and_nobody
    private_to_one_that_does_not_read
    telemetry_of_clients
    everything_traced
    large_messages
    each_command_unread
    each_command_read
    listings_of_many_rooms
    history_of_large_messages
    recovered_again_and_again
    identified_again_and_again
    flapping_before_watchers
    whole_rooms
    channels_without_end
    never_read
    one_byte_at_a_time
    behind_in_many_channels
    telemetry_readers_stuck
    telemetry_readers_that_talk
    http_never_finished
    http_unread
    http_nonsense
}
