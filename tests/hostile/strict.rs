//! What others wait while somebody does its worst: the figures that the project promises.
//!
//! The daemon has one shard on core 0. The attackers are a process of their own that takes at most half
//! of another core, as clients that are somewhere else would. Meanwhile [`CLIENTS`] clients are
//! connected, one in a hundred of whom attacks where an attack needs a crowd, and two of whom talk. The
//! deliveries are those that the daemon counts itself.
//!
//! `make hostile` builds the release binary and runs this; `HOSTILE_ATTACKS=a,b` chooses some of them.

use crate::attack::{ALL, Attack, Target, named};
use crate::common::Daemon;
use crate::enemy::Enemy;
use crate::gauge::{self, Histogram};
use crate::ordinary::Pair;
use crate::pace::Pace;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How many are connected; `HOSTILE_CLIENTS` says otherwise.
const CLIENTS: usize = 10_000;
/// How long each attack lasts; `HOSTILE_SECONDS` says otherwise.
const SECONDS: u64 = 5;
/// The share of a core that attackers take.
const SHARE: f64 = 0.5;

/// What deliveries may take while anybody attacks.
const P50_MS_MAX: f64 = 2.0;
const P99_MS_MAX: f64 = 20.0;

fn from_environment<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// This thread, and what it starts, runs on all cores; or on every core but the daemon's, if there is
/// another.
fn run_on_core_0(is_allowed: bool) {
    // What was left before does not count among those that may be used.
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let last = online.trim().rsplit(['-', ',']).next().and_then(|text| text.parse().ok());
    let last: usize = last.unwrap_or_default();
    let mut cores = CpuSet::new();
    (usize::from(!is_allowed && last > 0)..=last).for_each(|core| cores.set(core));
    sched_setaffinity(None, &cores).expect("a process may choose its cores");
}

#[test]
#[ignore = "a measurement that needs a quiet machine: make hostile"]
fn what_others_wait_while_somebody_attacks() {
    let chosen = std::env::var("HOSTILE_ATTACKS").unwrap_or_default();
    let is_chosen =
        |attack: &&Attack| chosen.is_empty() || chosen.split(',').any(|name| name == attack.name);
    println!(
        "{:<34} {:>10} {:>8} {:>8} {:>8} {:>8} {:>9}",
        "ms", "deliveries", "p50", "p99", "seen p50", "seen p99", "grew MiB"
    );
    let missed: Vec<&str> =
        ALL.iter().filter(is_chosen).filter(|a| !measure(a)).map(|a| a.name).collect();
    assert!(missed.is_empty(), "over {P50_MS_MAX} ms or {P99_MS_MAX} ms: {missed:?}");
}

/// Measures one attack and prints the figures; whether they are as promised.
fn measure(attack: &Attack) -> bool {
    // A bus that others can reach has no admins; who attacks is one of many users.
    let flags = [
        "--listen",
        "0.0.0.0:0",
        "--shards",
        "1",
        "--pin",
        "on",
        "--log-level",
        "warn,arqonbus=info",
    ];
    let own = attack.flags.iter().filter(|_| attack.name != "more_than_may_connect");
    let flags: Vec<&str> = flags.iter().chain(own).copied().collect();
    run_on_core_0(true);
    let daemon = Daemon::start_over(&flags);
    run_on_core_0(false);
    let count = from_environment("HOSTILE_CLIENTS", CLIENTS);
    let clients: Vec<Enemy> = (0..count).filter_map(|_| Enemy::client(daemon.bus, "")).collect();
    assert_eq!(clients.len(), count, "raise the limit of file descriptors: ulimit -n");
    let pair = Pair::start([daemon.bus; 2]);
    pair.await_more(200);
    gauge::forget_peak(daemon.pid());
    let (resident, before) = (gauge::resident_mib(daemon.pid()), Histogram::of_deliveries(&daemon));
    let mut attacker = spawn_attacker(attack, &daemon, count.div_ceil(100));
    let status = attacker.wait().expect("the attacker was started");
    assert!(status.success(), "the attacker failed: {status}");
    let deliveries = Histogram::of_deliveries(&daemon).since(&before);
    let grew = gauge::peak_mib(daemon.pid()).saturating_sub(resident);
    let talk = pair.finish();
    let (p50, p99) = (deliveries.quantile_ms(0.5), deliveries.quantile_ms(0.99));
    let is_kept = p50 < P50_MS_MAX && p99 < P99_MS_MAX;
    println!(
        "{:<34} {:>10} {p50:>8.3} {p99:>8.3} {:>8.3} {:>8.3} {grew:>9}{}",
        attack.name,
        deliveries.count(),
        talk.quantile_ms(0.5),
        talk.quantile_ms(0.99),
        if is_kept { "" } else { "  <-- too slow" }
    );
    daemon.kill();
    is_kept
}

/// Starts this program anew as the attacker.
fn spawn_attacker(attack: &Attack, daemon: &Daemon, crowd: usize) -> Child {
    let addresses = [daemon.bus, daemon.telemetry, daemon.http].map(|address| address.to_string());
    Command::new(std::env::current_exe().expect("this program has a path"))
        .args(["--ignored", "--exact", "strict::the_attacker"])
        .env("HOSTILE_ATTACK", attack.name)
        .env("HOSTILE_TARGET", addresses.join(","))
        .env("HOSTILE_CROWD", crowd.to_string())
        .stdout(Stdio::null())
        .spawn()
        .expect("this program can be started")
}

/// The other process of [`what_others_wait_while_somebody_attacks`]; alone it does nothing.
#[test]
#[ignore = "started by make hostile"]
fn the_attacker() {
    let Ok(name) = std::env::var("HOSTILE_ATTACK") else { return };
    let target = std::env::var("HOSTILE_TARGET").expect("the attacker is told whom to attack");
    let addresses: Vec<_> =
        target.split(',').map(|text| text.parse().expect("an address")).collect();
    let &[bus, telemetry, http] = &addresses[..] else { panic!("three addresses") };
    run_on_core_0(false);
    let target = Target { bus, telemetry, http, crowd: from_environment("HOSTILE_CROWD", 100) };
    let time = Duration::from_secs(from_environment("HOSTILE_SECONDS", SECONDS));
    (named(&name).run)(&target, &Pace::lasting(time).with_share(SHARE));
}
