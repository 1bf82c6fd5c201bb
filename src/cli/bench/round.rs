//! One round against one server: connect everybody, warm up, measure, let it run dry, count.
//!
//! The conductor is the calling thread. It sleeps while the cores work, and wakes when measuring
//! begins and ends to read the server's counts and the cores' at the same moment.

use crate::cli::bench::core::{CoreReport, play};
use crate::cli::bench::counters::{self, Calls};
use crate::cli::bench::cpus::Cpus;
use crate::cli::bench::ledger::Checks;
use crate::cli::bench::plan::{Load, Plan};
use crate::cli::bench::report::{Figures, Round, percentiles};
use crate::cli::bench::shared::{Shared, Sums, Trouble, lock};
use crate::cli::bench::timeline::{Moment, Timeline, latencies};
use crate::cli::bench::vitals::{self, Schedule};
use crate::cli::console::Console;
use crate::cli::failure::Failure;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// From the last connection to the first message: what the server still has to do is done then.
const SETTLE: Duration = Duration::from_millis(100);
/// How often the conductor looks whether something has come to an end.
const LOOK: Duration = Duration::from_millis(5);
/// A client core that works more than this sets the pace.
const BUSY_MAX: f64 = 0.9;
/// Messages that leave later than this were not sent on schedule.
const LATE_NS_MAX: f64 = 1e6;

/// Where the server's counts are.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Watched {
    /// Its process, if it is on this machine.
    pub(super) pid: Option<u32>,
    /// Its counters.
    pub(super) http: Option<SocketAddr>,
}

/// The counts at one moment.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at_ns: u64,
    sums: Sums,
    server: Option<Schedule>,
    calls: Option<Calls>,
}

impl Sample {
    fn take(shared: &Shared, watched: &Watched) -> Sample {
        // The counters take a while to be had, so they are first; the rest is read at once.
        let calls = watched.http.and_then(counters::ask);
        let server = watched.pid.and_then(vitals::of_process);
        Sample { at_ns: shared.clock.now_ns(), sums: shared.sums(), server, calls }
    }
}

/// What the conductor saw.
#[derive(Debug, Default)]
struct Watch {
    connected_s: Option<f64>,
    measured: Option<(Sample, Sample)>,
    memory: Option<u64>,
}

/// Plays one round. A round that ends early gives what it has, with its trouble.
pub(super) fn play_round(
    plan: &Plan,
    shared: &Shared,
    watched: &Watched,
    client_cpus: Option<&Cpus>,
    console: &mut Console,
) -> Result<Round, Failure> {
    let mut watch = Watch::default();
    let (stopped, reports) = std::thread::scope(|scope| {
        let cores: Vec<_> = (0..shared.threads)
            .map(|number| scope.spawn(move || run_core(shared, number, client_cpus)))
            .collect();
        let stopped = conduct(plan, shared, watched, &mut watch, console);
        shared.is_over.store(true, Relaxed);
        let reports: Vec<_> = cores.into_iter().filter_map(|core| core.join().ok()?).collect();
        (stopped, reports)
    });
    let mut round = summarise(plan, shared, &watch, reports);
    if let Err(failure) = stopped {
        round.trouble.get_or_insert_with(|| "it was stopped".into());
        return match failure {
            Failure::Stopped(_) => Ok(round),
            failure => Err(failure),
        };
    }
    Ok(round)
}

fn run_core(shared: &Shared, number: usize, cpus: Option<&Cpus>) -> Option<CoreReport> {
    let placed = cpus.map_or(Ok(()), Cpus::take_this_thread);
    match placed.and_then(|()| play(shared, number)) {
        Ok(report) => Some(report),
        Err(error) => {
            shared.raise(Trouble::Refused(format!("a client thread could not go on: {error}")));
            None
        }
    }
}

fn conduct(
    plan: &Plan,
    shared: &Shared,
    watched: &Watched,
    watch: &mut Watch,
    console: &mut Console,
) -> Result<(), Failure> {
    let began = Instant::now();
    let connections = u64::from(plan.connections);
    await_that(shared, console, None, || shared.sums().opened == connections)?;
    if shared.is_over.load(Relaxed) {
        return Ok(());
    }
    watch.connected_s = Some(began.elapsed().as_secs_f64());
    console.reactor.sleep(Instant::now() + SETTLE)?;
    let ns = |seconds: f64| (seconds * 1e9) as u64;
    let timeline = Timeline::new(shared.clock.now_ns(), ns(plan.warmup_s), ns(plan.duration_s));
    // It is set here only, and once.
    let _ = shared.timeline.set(timeline);
    sleep_until(shared, console, timeline.from_ns)?;
    let first = Sample::take(shared, watched);
    sleep_until(shared, console, timeline.to_ns)?;
    watch.measured = Some((first, Sample::take(shared, watched)));
    watch.memory = watched.pid.and_then(vitals::resident_bytes);
    run_dry(shared, console)
}

/// Waits until everything that was sent has come, or nothing more comes.
fn run_dry(shared: &Shared, console: &mut Console) -> Result<(), Failure> {
    let mut last = (shared.sums(), Instant::now());
    await_that(shared, console, None, || {
        let sums = shared.sums();
        if sums != last.0 {
            last = (sums, Instant::now());
        }
        let is_dry = sums.received >= sums.expected && sums.held == 0;
        is_dry || last.1.elapsed() > shared.timeout
    })
}

fn sleep_until(shared: &Shared, console: &mut Console, at_ns: u64) -> Result<(), Failure> {
    let left = at_ns.saturating_sub(shared.clock.now_ns());
    let until = Instant::now() + Duration::from_nanos(left);
    await_that(shared, console, Some(until), || shared.clock.now_ns() >= at_ns)
}

/// Waits until something holds, the round is over, or a time has come.
fn await_that(
    shared: &Shared,
    console: &mut Console,
    until: Option<Instant>,
    mut holds: impl FnMut() -> bool,
) -> Result<(), Failure> {
    while !shared.is_over.load(Relaxed) && !holds() {
        // Looking costs a core that may be the server's: long waits are slept through in one.
        let look = until.map_or(Instant::now() + LOOK, |until| {
            until.min(Instant::now() + Duration::from_millis(250))
        });
        console.reactor.sleep(look)?;
    }
    Ok(())
}

fn summarise(plan: &Plan, shared: &Shared, watch: &Watch, reports: Vec<CoreReport>) -> Round {
    let sums = shared.sums();
    let mut round = Round {
        sent: sums.sent,
        delivered: sums.received,
        gaps: reports.iter().map(|report| report.gaps).sum(),
        first_wrong: reports.iter().find_map(|report| report.first_wrong.clone()),
        trouble: shared.trouble().map(|trouble| trouble.sentence().to_owned()),
        ..Round::default()
    };
    let figures = &mut round.figures;
    let mut lateness = latencies();
    for report in &reports {
        // All have the same bounds.
        let _ = lateness.add(&report.lateness);
        if let (Some(schedule), Some((first, last))) = (&report.schedule, &watch.measured) {
            let share = schedule.run_ns as f64 / (last.at_ns - first.at_ns).max(1) as f64;
            figures.client_busy = Some(figures.client_busy.unwrap_or(0.0).max(share.min(1.0)));
        }
    }
    if matches!(plan.load, Load::Open { .. }) && !lateness.is_empty() {
        figures.late_p99_ns = Some(lateness.value_at_quantile(0.99) as f64);
    }
    figures.connects = watch.connected_s.map(|seconds| f64::from(plan.connections) / seconds);
    figures.memory = watch.memory.map(|bytes| bytes as f64);
    if let Some((first, last)) = &watch.measured {
        round.seconds = (last.at_ns - first.at_ns) as f64 / 1e9;
        round.calls = last.calls.zip(first.calls).map(|(last, first)| last.since(&first));
        set_costs(&mut round.figures, first, last, round.calls.as_ref());
    }
    set_pieces(&mut round, shared);
    round.checks = close_accounts(shared, reports);
    round.generator_limit = generator_limit(&round.figures);
    round
}

fn set_costs(figures: &mut Figures, first: &Sample, last: &Sample, calls: Option<&Calls>) {
    let seconds = (last.at_ns - first.at_ns) as f64 / 1e9;
    let deliveries = last.sums.received.saturating_sub(first.sums.received) as f64;
    figures.rate = Some(deliveries / seconds);
    if let Some((last, first)) = last.server.zip(first.server) {
        let spent = last.since(&first);
        figures.cpu_cores = Some(spent.run_ns as f64 / 1e9 / seconds);
        figures.cpu_wait = Some(spent.wait_ns as f64 / 1e9 / seconds);
        if deliveries > 0.0 {
            figures.cpu_ns = Some(spent.run_ns as f64 / deliveries);
        }
    }
    if let Some(calls) = calls.filter(|_| deliveries > 0.0) {
        figures.calls = Some(calls.total() as f64 / deliveries);
    }
}

fn set_pieces(round: &mut Round, shared: &Shared) {
    let Some(timeline) = shared.timeline.get() else {
        return;
    };
    let mut all = latencies();
    for (number, piece) in lock(&shared.pieces).iter().enumerate() {
        let _ = all.add(&piece.latencies);
        let seconds = timeline.piece_length_ns(number) as f64 / 1e9;
        if seconds > 0.0 {
            round.moments.push(Moment {
                at_s: number as f64 * timeline.piece_ns as f64 / 1e9,
                rate: piece.deliveries as f64 / seconds,
                p50_ns: piece.latencies.value_at_quantile(0.5),
                p99_ns: piece.latencies.value_at_quantile(0.99),
            });
        }
    }
    round.figures.set_latencies(&all);
    round.percentiles = percentiles(&all);
}

/// Nothing more comes: what is missing is lost.
fn close_accounts(shared: &Shared, reports: Vec<CoreReport>) -> Checks {
    let mut sent = vec![0; shared.layout.streams.len()];
    for report in &reports {
        for (total, number) in sent.iter_mut().zip(&report.numbers) {
            *total += number;
        }
    }
    let mut checks = Checks::default();
    for mut report in reports {
        let mut places = report.cursors.iter().enumerate();
        // A publisher's own cursor stays at 0, for it gets nothing of its own.
        let own = own_cursors(shared, report.core);
        for (cursor, &stream) in &mut places {
            if !own.contains(&(cursor as u32)) {
                report.ledger.close(cursor, sent[stream as usize]);
            }
        }
        checks.add(&report.ledger.checks);
    }
    checks
}

/// The cursors of a core that stand for a member's own stream.
fn own_cursors(shared: &Shared, core: usize) -> std::collections::HashSet<u32> {
    let layout = &shared.layout;
    let mut own = std::collections::HashSet::new();
    let mut cursor = 0;
    for conn in (core..layout.seats.len()).step_by(shared.threads) {
        for &group in &layout.seats[conn] {
            for &stream in &layout.groups[group as usize].streams {
                if layout.streams[stream as usize].conn as usize == conn {
                    own.insert(cursor);
                }
                cursor += 1;
            }
        }
    }
    own
}

/// Whether the generator was what took the time.
fn generator_limit(figures: &Figures) -> Option<String> {
    let busy = figures.client_busy.filter(|&busy| busy > BUSY_MAX);
    let late = figures.late_p99_ns.filter(|&late| late > LATE_NS_MAX);
    match (busy, late) {
        (Some(busy), _) => Some(format!(
            "a client thread was busy {:.0} % of the time: give it more --client-threads or a core of \
             its own, or read the server's CPU and not its rate",
            busy * 100.0
        )),
        (None, Some(late)) => Some(format!(
            "1 % of the messages left more than {:.1} ms after they were due; latency counts from when \
             they were due",
            late / 1e6
        )),
        (None, None) => None,
    }
}
