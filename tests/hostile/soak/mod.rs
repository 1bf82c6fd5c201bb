//! Hostile and ordinary load together, for as long as one likes: on one node, and on three nodes that
//! share a Redis whose master is replaced meanwhile.
//!
//! A ledger holds what was acknowledged; members and auditors hold it against what they are given. What
//! was acknowledged is neither lost nor doubled nor in another place, and the memory and the descriptors
//! of the nodes stay flat.
//!
//! `make soak-hostile MINUTES=60` runs both with the release binary; `make test` each for [`SHORT`].

mod ledger;
mod load;
mod nodes;

use crate::attack::{ALL, Target};
use crate::common::EndOnDrop;
use crate::gauge;
use crate::pace::Pace;
use ledger::Ledger;
use load::{Auditor, Member, Publisher};
use nodes::Nodes;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

/// How long each run takes in `make test`; `HOSTILE_MINUTES` says otherwise.
const SHORT: Duration = Duration::from_secs(20);

/// How long one attack lasts, and how many connections it has for a crowd.
const ATTACK: Duration = Duration::from_millis(1_500);
const CROWD: usize = 12;

/// How long nothing happens to the nodes but attacks, between two things that do; and how often their
/// memory is looked at.
const QUIET: Duration = Duration::from_secs(6);
const BETWEEN_NOTES: Duration = Duration::from_millis(250);

/// The channels that the ledger is about, each with a publisher, two members and an auditor.
const CHANNELS: [&str; 2] = ["ledger:one", "ledger:two"];

/// What a node may have in RAM at any time, in MiB: full histories (128), what waits for Redis (64), the news
/// of the storage that two shards have not taken (64), the outboxes of two attacks at a time (96), what the
/// program needs, and a reserve for what the allocator keeps.
const MIB_MAX: u64 = 448;

/// By how much the memory of a node, in MiB, and its descriptors may grow from the second third of a long
/// run to the last; within the first it sees every attack.
const DRIFT_MIB_MAX: u64 = 48;
const DRIFT_DESCRIPTORS_MAX: usize = 40;
const LONG: Duration = Duration::from_secs(10 * 60);

fn lasting() -> Duration {
    let minutes = std::env::var("HOSTILE_MINUTES").ok().and_then(|text| text.parse::<f64>().ok());
    minutes.map_or(SHORT, |minutes| Duration::from_secs_f64(minutes * 60.0))
}

mod run {
    use super::{Nodes, soak};

    #[test]
    fn one_node_under_everything() {
        soak("one node", Nodes::one());
    }

    #[test]
    fn three_nodes_under_everything_while_redis_fails_over() {
        soak("three nodes", Nodes::three());
    }
}

fn soak(what: &str, mut nodes: Nodes) {
    let seed = fastrand::u64(..);
    println!("{what}: seed {seed}, for {:?}", lasting());
    let mut rng = fastrand::Rng::with_seed(seed);
    let (is_over, is_followed) = (AtomicBool::new(false), AtomicBool::new(false));
    let ledgers: Vec<Ledger> = CHANNELS.iter().map(|channel| Ledger::new(channel)).collect();
    let whereabouts = nodes.whereabouts();
    let mut memory = Memory::default();
    thread::scope(|scope| {
        let (_end, _end_following) = (EndOnDrop(&is_over), EndOnDrop(&is_followed));
        let mut publishers = Vec::new();
        for (number, ledger) in ledgers.iter().enumerate() {
            let (whereabouts, is_over, is_followed) = (&whereabouts, &is_over, &is_followed);
            publishers.push(scope.spawn(move || Publisher::new(ledger).run(whereabouts, is_over)));
            for n in 0..2 {
                let name = format!("member-{number}-{n}");
                scope.spawn(move || Member::new(ledger, name).run(whereabouts, is_followed));
            }
            scope.spawn(move || Auditor::new(ledger).run(whereabouts, is_followed));
        }
        for _ in 0..2 {
            let (whereabouts, is_over, seed) = (&whereabouts, &is_over, rng.u64(..));
            scope.spawn(move || attack_in_turn(whereabouts, is_over, seed));
        }
        let end = Instant::now() + lasting();
        let mut next = Instant::now() + QUIET;
        while Instant::now() < end {
            thread::sleep(BETWEEN_NOTES);
            memory.note(&nodes);
            if Instant::now() >= next {
                nodes.disturb(&mut rng);
                next = Instant::now() + QUIET;
            }
        }
        is_over.store(true, SeqCst);
        publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
        nodes.await_calm();
        ledgers.iter().for_each(|ledger| load::last_audit(ledger, &whereabouts));
        is_followed.store(true, SeqCst);
    });
    memory.report(what);
    ledgers.iter().for_each(|ledger| ledger.report(what));
    let faults: Vec<_> = ledgers.iter().map(|ledger| (ledger.channel, ledger.faults())).collect();
    if faults.iter().any(|(_, faults)| !faults.is_empty()) {
        let logs = nodes.write_logs(what);
        panic!("{faults:#?}, while the nodes did what {} tells", logs.display());
    }
    nodes.stop();
    ledgers.iter().for_each(Ledger::check);
    memory.check();
}

/// One attack after the other, each on one of the nodes.
fn attack_in_turn(whereabouts: &nodes::Whereabouts, is_over: &AtomicBool, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    while !is_over.load(SeqCst) {
        let attack = &ALL[rng.usize(..ALL.len())];
        let addresses = whereabouts.pick(&mut rng);
        let target = Target { crowd: CROWD, ..addresses };
        let pace = Pace::lasting(ATTACK);
        thread::scope(|scope| {
            let attacker = scope.spawn(|| (attack.run)(&target, &pace));
            while !attacker.is_finished() {
                if is_over.load(SeqCst) {
                    pace.stop();
                }
                thread::sleep(Duration::from_millis(20));
            }
            assert!(attacker.join().is_ok(), "the attack {} has failed", attack.name);
        });
    }
}

/// What the nodes had in RAM and open, from time to time: MiB and descriptors.
#[derive(Default)]
struct Memory {
    noted: Vec<(u64, usize)>,
}

impl Memory {
    /// Notes the greatest of the nodes.
    fn note(&mut self, nodes: &Nodes) {
        let of = |pid: u32| (gauge::resident_mib(pid), gauge::descriptors(pid));
        let all: Vec<_> = nodes.pids().map(of).collect();
        let mib = all.iter().map(|one| one.0).max().unwrap_or_default();
        self.noted.push((mib, all.iter().map(|one| one.1).max().unwrap_or_default()));
    }

    /// The median of a part of the notes.
    fn median(part: &[(u64, usize)]) -> (u64, usize) {
        let mut mib: Vec<u64> = part.iter().map(|note| note.0).collect();
        let mut open: Vec<usize> = part.iter().map(|note| note.1).collect();
        mib.sort_unstable();
        open.sort_unstable();
        (mib[mib.len() / 2], open[open.len() / 2])
    }

    /// The medians of the thirds of the run, and the most MiB.
    fn course(&self) -> ([(u64, usize); 3], u64) {
        let third = self.noted.len().div_ceil(3);
        let mut parts = self.noted.chunks(third).map(Memory::median);
        let parts = [(); 3].map(|()| parts.next().unwrap_or_default());
        (parts, self.noted.iter().map(|note| note.0).max().unwrap_or_default())
    }

    fn report(&self, what: &str) {
        let ([early, middle, late], most) = self.course();
        println!(
            "{what}: memory {}, {}, {} MiB in the thirds of the run, {most} MiB at most; descriptors {}, \
             {}, {}",
            early.0, middle.0, late.0, early.1, middle.1, late.1
        );
    }

    fn check(&self) {
        let ([_, middle, late], most) = self.course();
        assert!(most <= MIB_MAX, "{most} MiB at once");
        if lasting() >= LONG {
            assert!(late.0 <= middle.0 + DRIFT_MIB_MAX, "memory grows: {middle:?} to {late:?}");
            // An attack that is under way has its own; the median is of all times.
            let open_max = middle.1 + DRIFT_DESCRIPTORS_MAX;
            assert!(late.1 <= open_max, "descriptors grow: {middle:?} to {late:?}");
        }
    }
}
