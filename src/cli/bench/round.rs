//! One round against one server: connect everybody, warm up, measure, let it run dry.
//!
//! The conductor is the calling thread. It sleeps while the cores work, and wakes when measuring
//! begins and ends to read the server's counts and the cores' at the same moment.
//!
//! *Not here*: what all that means (`summary`).

use crate::cli::bench::core::{CoreReport, play};
use crate::cli::bench::counters::{self, Calls};
use crate::cli::bench::cpus::Cpus;
use crate::cli::bench::figures::grouped;
use crate::cli::bench::plan::{Act, Plan};
use crate::cli::bench::progress::Progress;
use crate::cli::bench::pulse::lack_of_pulse;
use crate::cli::bench::report::Round;
use crate::cli::bench::shared::{Shared, Sums, Trouble};
use crate::cli::bench::summary::summarise;
use crate::cli::bench::timeline::Timeline;
use crate::cli::bench::vitals::{self, Schedule};
use crate::cli::console::Console;
use crate::cli::failure::Failure;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// From the last connection to the first message: what the server still has to do is done then.
const SETTLE: Duration = Duration::from_millis(200);
/// How often the conductor looks whether something has come to an end.
const LOOK: Duration = Duration::from_millis(5);
/// How often it looks while there is nothing to do but to show progress.
const SHOW: Duration = Duration::from_millis(250);
/// How long slow members must get nothing before they have got all there is for them.
const QUIET: Duration = Duration::from_millis(500);

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
pub(super) struct Sample {
    /// When.
    pub(super) at_ns: u64,
    /// What the cores have done.
    pub(super) sums: Sums,
    /// The server's time on the processors.
    pub(super) server: Option<Schedule>,
    /// The server's system calls, and the deliveries that had come by then: asking takes a while.
    pub(super) calls: Option<(Calls, u64)>,
}

impl Sample {
    /// When measuring begins: what takes a while is first.
    fn first(shared: &Shared, watched: &Watched) -> Sample {
        let calls = Sample::calls(shared, watched);
        Sample { calls, ..Sample::now(shared, watched) }
    }

    /// When measuring ends: what takes a while is last.
    fn last(shared: &Shared, watched: &Watched) -> Sample {
        let now = Sample::now(shared, watched);
        Sample { calls: Sample::calls(shared, watched), ..now }
    }

    fn now(shared: &Shared, watched: &Watched) -> Sample {
        let server = watched.pid.and_then(vitals::of_process);
        Sample { at_ns: shared.clock.now_ns(), sums: shared.sums(), server, calls: None }
    }

    fn calls(shared: &Shared, watched: &Watched) -> Option<(Calls, u64)> {
        let calls = watched.http.and_then(counters::ask)?;
        Some((calls, shared.sums().received))
    }
}

/// What the conductor saw.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// How long it took to open all connections.
    pub(super) connected_ns: Option<u64>,
    /// The counts when measuring began and ended.
    pub(super) measured: Option<(Sample, Sample)>,
    /// The server's memory before the first connection.
    pub(super) memory_before: Option<u64>,
    /// The server's memory when measuring ended.
    pub(super) memory: Option<u64>,
    /// Whether the round came to its end.
    pub(super) is_whole: bool,
}

/// Everything that a round needs.
pub(super) struct Stage<'a> {
    /// What is done.
    pub(super) plan: &'a Plan,
    /// What its cores share.
    pub(super) shared: &'a Shared,
    /// Where the server's counts are.
    pub(super) watched: Watched,
    /// The cores of the clients.
    pub(super) client_cpus: Option<&'a Cpus>,
}

/// Plays one round. A round that ends early gives what it has, with its trouble.
pub(super) fn play_round(
    stage: &Stage<'_>,
    label: String,
    console: &mut Console,
) -> Result<Round, Failure> {
    let shared = stage.shared;
    let mut progress = Progress::new(label);
    let mut watch = Watch::default();
    let (outcome, reports) = std::thread::scope(|scope| {
        let run = |number| move || run_core(shared, number, stage.client_cpus);
        let cores: Vec<_> = (0..shared.threads).map(|number| scope.spawn(run(number))).collect();
        let outcome = conduct(stage, &mut watch, &mut progress, console);
        shared.is_over.store(true, Relaxed);
        let reports: Vec<_> = cores.into_iter().filter_map(|core| core.join().ok()?).collect();
        (outcome, reports)
    });
    progress.clear(console)?;
    watch.is_whole = outcome.is_ok() && shared.trouble().is_none();
    let mut round = summarise(stage.plan, shared, &watch, reports);
    match outcome {
        Ok(()) => Ok(round),
        Err(Failure::Stopped(_)) => {
            round.trouble.get_or_insert_with(|| "it was stopped".into());
            Ok(round)
        }
        Err(failure) => Err(failure),
    }
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
    stage: &Stage<'_>,
    watch: &mut Watch,
    progress: &mut Progress,
    console: &mut Console,
) -> Result<(), Failure> {
    let Stage { plan, shared, watched, .. } = stage;
    watch.memory_before = watched.pid.and_then(vitals::resident_bytes);
    let began_ns = shared.clock.now_ns();
    let connections = u64::from(plan.connections);
    await_that(shared, console, progress, LOOK, || shared.sums().opened >= connections)?;
    if shared.is_over.load(Relaxed) {
        return Ok(());
    }
    watch.connected_ns = Some(shared.last_opened_ns().saturating_sub(began_ns));
    console.reactor.sleep(Instant::now() + SETTLE)?;
    let ns = |seconds: f64| (seconds * 1e9) as u64;
    let timeline = Timeline::new(shared.clock.now_ns(), ns(plan.warmup_s), ns(plan.duration_s));
    // It is set here only, and once.
    let _ = shared.timeline.set(timeline);
    sleep_until(shared, console, progress, timeline.from_ns)?;
    if shared.is_over.load(Relaxed) {
        return Ok(());
    }
    let first = Sample::first(shared, watched);
    let slept = sleep_until(shared, console, progress, timeline.to_ns);
    // A round that ends early is measured as far as it went.
    watch.measured = Some((first, Sample::last(shared, watched)));
    watch.memory = watched.pid.and_then(vitals::resident_bytes);
    slept?;
    run_dry(stage, progress, console)
}

/// Waits until everything that was sent has come, or nothing more comes. What a server that lives
/// still owes then is lost; one that hangs may yet deliver it.
fn run_dry(
    stage: &Stage<'_>,
    progress: &mut Progress,
    console: &mut Console,
) -> Result<(), Failure> {
    let shared = stage.shared;
    let mut last = (shared.sums(), Instant::now());
    await_that(shared, console, progress, LOOK, || {
        let sums = shared.sums();
        if sums != last.0 {
            last = (sums, Instant::now());
        }
        let quiet = last.1.elapsed();
        let is_slow_dry = stage.plan.act != Act::Stall || quiet > QUIET;
        owed(&sums) == 0 && is_slow_dry || quiet > shared.timeout
    })?;
    let owed = owed(&shared.sums());
    // Who need send nothing may hang unnoticed.
    let is_asked = owed > 0 || stage.plan.act == Act::Idle;
    if !is_asked || shared.is_over.load(Relaxed) {
        return Ok(());
    }
    if let Some(lack) = lack_of_pulse(shared, console)? {
        let (host, timeout, messages) = (&shared.site.host, shared.timeout, grouped(owed as f64));
        shared.raise(Trouble::Died(match owed {
            0 => format!("{host} answers no more: {lack}"),
            _ => format!(
                "{host} answers no more: for {timeout:?} nothing came, while {messages} messages were \
                 owed, and {lack}"
            ),
        }));
    }
    Ok(())
}

/// The messages and answers that are still to come, and what could not be sent yet.
fn owed(sums: &Sums) -> u64 {
    sums.expected.saturating_sub(sums.received) + sums.held + sums.asked
}

fn sleep_until(
    shared: &Shared,
    console: &mut Console,
    progress: &mut Progress,
    at_ns: u64,
) -> Result<(), Failure> {
    let is_then = || shared.clock.now_ns() >= at_ns;
    while !shared.is_over.load(Relaxed) && !is_then() {
        let left = Duration::from_nanos(at_ns.saturating_sub(shared.clock.now_ns()));
        // Looking costs a core that may be the server's: a long wait is slept through.
        await_that(shared, console, progress, left.min(SHOW), is_then)?;
    }
    Ok(())
}

/// Waits until something holds or the round is over.
fn await_that(
    shared: &Shared,
    console: &mut Console,
    progress: &mut Progress,
    look: Duration,
    mut holds: impl FnMut() -> bool,
) -> Result<(), Failure> {
    let mut show_at = Instant::now() + SHOW;
    while !shared.is_over.load(Relaxed) && !holds() {
        console.reactor.sleep(Instant::now() + look)?;
        if Instant::now() >= show_at {
            progress.show(shared, console)?;
            show_at = Instant::now() + SHOW;
        }
    }
    Ok(())
}
