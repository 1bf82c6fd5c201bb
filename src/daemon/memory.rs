//! The ceiling of the process's memory, and what is given up before it is reached.
//!
//! Each bound of the [budget](crate::base::budget) is for one client, one room or one kind of thing;
//! their product may be more than the machine has. So a thread looks at the memory of the process ten
//! times a second, and where it comes near `limits.memory_limit_bytes` the bus sheds, in this order:
//!
//! | from | until below | what |
//! |---|---|---|
//! | 85 % | 80 % | new connections are turned away with 1013 |
//! | 90 % | 85 % | the largest histories give up their oldest messages |
//! | 95 % | 90 % | the connections that hold the most memory are closed with 1013 |
//!
//! Below the limit itself the last step waits for half a second: the allocator gives memory back a while
//! after histories gave it up, and no client shall be closed for that.
//!
//! Who holds memory and stays below the next step must not keep newcomers out for ever: while they are
//! turned away for ten seconds on end, the histories give up until there is room for them, and after ten
//! more the heaviest connections do.
//!
//! Each step says so by a log line, in `/ready`, `/status` and the metrics. The alternative is the
//! kernel, which ends the process and with it every client and every history.
//!
//! *Invariants*: [`Guard`] is pure; the thread never waits for a shard. A shard is asked for a bounded
//! amount at a time, so that no turn is long; the next sample asks again.
//!
//! *Not here*: how a shard sheds (`shard/engine/shedding.rs`).

use crate::base::ids::ShardId;
use crate::base::limits::{MEMORY_SAMPLE_MS, SHED_HISTORY_BYTES_MAX};
use crate::broker::lane::Ask;
use crate::daemon::accept::Admission;
use crate::daemon::control::Facts;
use crate::daemon::control::health::Component;
use crate::shard::driver::Clock;
use crate::shard::lanes::Lanes;
use crate::shard::meters::{Gauge, Meters};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How much of the machine's memory, or of its control group's, the process may take where nobody says
/// so, in percent. The rest is for what the kernel holds for sockets, and for the peak of a turn.
const DEFAULT_PERCENT: u64 = 80;

/// The limit where nobody says so, on a machine or in a group with so much memory.
pub fn default_limit_bytes(memory_bytes: u64) -> u64 {
    share(memory_bytes, DEFAULT_PERCENT)
}

/// What is being given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Nothing.
    #[default]
    None,
    /// New connections.
    Connections,
    /// Those, and stored messages of the largest channels.
    History,
    /// All of that, and the connections that hold the most memory.
    Clients,
}

impl Pressure {
    /// Each step: the percent of the limit from which it holds, and below which it ends.
    const STEPS: [(Pressure, u64, u64); 3] =
        [(Pressure::Clients, 95, 90), (Pressure::History, 90, 85), (Pressure::Connections, 85, 80)];

    /// The pressure at that use of memory, coming from `self`.
    fn next(self, used_bytes: u64, limit_bytes: u64) -> Pressure {
        let percent = |percent| share(limit_bytes, percent);
        let holds = |&&(step, from, until): &&(Pressure, u64, u64)| {
            used_bytes >= percent(if self >= step { until } else { from })
        };
        Pressure::STEPS.iter().find(holds).map_or(Pressure::None, |&(step, ..)| step)
    }

    /// The number in metrics: 0 for none, 3 for the last step.
    pub fn level(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Pressure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pressure::None => "nothing is given up",
            Pressure::Connections => "new connections are turned away",
            Pressure::History => "new connections are turned away and the largest histories shortened",
            Pressure::Clients => {
                "new connections are turned away, the largest histories shortened and the heaviest clients closed"
            }
        })
    }
}

/// What a sample leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// What is being given up now.
    pub pressure: Pressure,
    /// The bytes of stored messages to give up.
    pub history_bytes: u64,
    /// The bytes that connections hold to give up.
    pub client_bytes: u64,
}

/// The samples for which histories may help before clients are closed.
const PATIENCE_SAMPLES: u32 = 5;

/// The samples in a row at which newcomers are turned away before the next step begins early.
const TURNED_AWAY_SAMPLES: u32 = (10_000 / MEMORY_SAMPLE_MS) as u32;

/// The percent of the limit to which is given up then: below the end of the first step.
const ROOM_PERCENT: u64 = 79;

/// Decides by samples of the memory in use.
#[derive(Debug, Default)]
pub struct Guard {
    pressure: Pressure,
    /// The samples in a row at which clients would have been closed.
    waited_samples: u32,
    /// The samples in a row at which newcomers were turned away.
    turned_away_samples: u32,
}

impl Guard {
    /// Takes a sample; a limit of 0 is none.
    pub fn sample(&mut self, used_bytes: u64, limit_bytes: u64) -> Step {
        if limit_bytes == 0 {
            self.pressure = Pressure::None;
            return Step::default();
        }
        let measured = self.pressure.next(used_bytes, limit_bytes);
        self.turned_away_samples = match measured {
            Pressure::None => 0,
            _ => self.turned_away_samples.saturating_add(1),
        };
        let early = match self.turned_away_samples / TURNED_AWAY_SAMPLES {
            0 => Pressure::None,
            1 => Pressure::History,
            _ => Pressure::Clients,
        };
        let next = measured.max(early);
        self.waited_samples = if next == Pressure::Clients { self.waited_samples + 1 } else { 0 };
        let is_due = used_bytes >= limit_bytes || self.waited_samples > PATIENCE_SAMPLES;
        self.pressure = match next {
            Pressure::Clients if self.pressure < Pressure::Clients && !is_due => Pressure::History,
            next => next,
        };
        let above = |step, percent| {
            let percent = if early >= step { ROOM_PERCENT } else { percent };
            let is_given_up = self.pressure >= step;
            if is_given_up { used_bytes.saturating_sub(share(limit_bytes, percent)) } else { 0 }
        };
        Step {
            pressure: self.pressure,
            history_bytes: above(Pressure::History, 85),
            client_bytes: above(Pressure::Clients, 90),
        }
    }
}

fn share(bytes: u64, percent: u64) -> u64 {
    (u128::from(bytes) * u128::from(percent) / 100) as u64
}

/// What the guard's thread works with.
pub struct MemoryParts {
    /// The limit in force is read here, and the pressure written.
    pub facts: Arc<Facts>,
    /// Where new connections are let in.
    pub admission: Arc<Admission>,
    /// The way to the shards.
    pub lanes: Lanes,
    /// What each shard holds.
    pub meters: Vec<Arc<Meters>>,
    /// For the time of a change.
    pub clock: Clock,
    /// The thread ends when the other end of this is gone.
    pub quit: Receiver<Infallible>,
}

impl MemoryParts {
    /// Starts the thread.
    ///
    /// # Errors
    /// If no thread could be started.
    pub fn spawn(self) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().name("memory".to_owned()).spawn(move || self.run())
    }

    fn run(self) {
        let mut guard = Guard::default();
        let pause = Duration::from_millis(MEMORY_SAMPLE_MS);
        let mut last = Pressure::None;
        while self.quit.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            let Some(used_bytes) = resident_bytes() else { continue };
            let limit_bytes = self.facts.memory_limit_bytes();
            let step = guard.sample(used_bytes, limit_bytes);
            if step.pressure != last {
                self.announce(step.pressure, used_bytes, limit_bytes);
                last = step.pressure;
            }
            self.shed(step);
        }
    }

    /// Puts a change of the pressure in force, and says so.
    fn announce(&self, pressure: Pressure, used_bytes: u64, limit_bytes: u64) {
        self.admission.is_short_of_memory.store(pressure > Pressure::None, Relaxed);
        self.facts.set_memory_pressure(pressure.level());
        let (now, health) = ((self.clock)(), self.facts.health());
        match pressure {
            Pressure::None => health.succeed(Component::Memory, now),
            _ => {
                let cause = format!(
                    "memory is short, {pressure}: {used_bytes} bytes were in use of {limit_bytes} \
                     (limits.memory_limit_bytes)"
                );
                health.fail(Component::Memory, now, &cause);
            }
        }
    }

    /// Asks each shard for its share. A full lane is asked again with the next sample.
    fn shed(&self, step: Step) {
        if step.history_bytes == 0 && step.client_bytes == 0 {
            return;
        }
        let held = |meters: &Meters| meters.gauge(Gauge::HistoryBytes);
        let all_held: u64 = self.meters.iter().map(|meters| held(meters)).sum();
        let shards = self.meters.len().max(1) as u64;
        for (shard, meters) in self.meters.iter().enumerate() {
            let shard = ShardId(shard as u16);
            let part = u128::from(step.history_bytes) * u128::from(held(meters));
            let history_bytes = (part / u128::from(all_held.max(1))) as u64;
            let ask = Ask::Shed {
                history_bytes: history_bytes.min(SHED_HISTORY_BYTES_MAX),
                client_bytes: step.client_bytes.div_ceil(shards),
            };
            // The shard is busy; the next sample asks again.
            let _ = self.lanes.ask(shard, ask);
        }
    }
}

/// The memory of the process that is in RAM, where the system tells (`VmRSS` of proc(5), which
/// unlike `statm` does not depend on the size of a page).
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_comes_in_order_and_ends_lower_than_it_began() {
        let mut guard = Guard::default();
        for (used, pressure, history, client) in [
            (84, Pressure::None, 0, 0),
            (85, Pressure::Connections, 0, 0),
            (81, Pressure::Connections, 0, 0),
            (79, Pressure::None, 0, 0),
            (89, Pressure::Connections, 0, 0),
            (90, Pressure::History, 5, 0),
            (86, Pressure::History, 1, 0),
            (84, Pressure::Connections, 0, 0),
            (97, Pressure::History, 12, 0),
            (80, Pressure::Connections, 0, 0),
            (97, Pressure::History, 12, 0),
            (97, Pressure::History, 12, 0),
            (97, Pressure::History, 12, 0),
            (97, Pressure::History, 12, 0),
            (97, Pressure::History, 12, 0),
            (97, Pressure::Clients, 12, 7),
            (91, Pressure::Clients, 6, 1),
            (89, Pressure::History, 4, 0),
            (10, Pressure::None, 0, 0),
            (130, Pressure::Clients, 45, 40),
        ] {
            let step = guard.sample(used, 100);
            let wanted = Step { pressure, history_bytes: history, client_bytes: client };
            assert_eq!(step, wanted, "at {used} %");
        }
    }

    #[test]
    fn newcomers_are_not_turned_away_for_ever() {
        let mut guard = Guard::default();
        let steps: Vec<Step> = (0..300).map(|_| guard.sample(86, 100)).collect();
        let first = |pressure| steps.iter().position(|step| step.pressure == pressure).unwrap();
        let begun = [Pressure::Connections, Pressure::History, Pressure::Clients].map(first);
        assert_eq!(begun[0], 0);
        assert!((99..=110).contains(&begun[1]) && (199..=210).contains(&begun[2]), "{begun:?}");
        let last = steps[299];
        assert_eq!(
            (last.history_bytes, last.client_bytes),
            (7, 7),
            "down to where they are let in"
        );
        let step = guard.sample(79, 100);
        assert_eq!(step, Step::default());
        assert_eq!(guard.sample(86, 100).pressure, Pressure::Connections, "and then anew");
    }

    #[test]
    fn without_a_limit_nothing_is_given_up() {
        let mut guard = Guard::default();
        assert_eq!(guard.sample(100, 100).pressure, Pressure::Clients);
        assert_eq!(guard.sample(u64::MAX, 0), Step::default());
        assert_eq!(guard.sample(u64::MAX, u64::MAX).pressure, Pressure::Clients);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_process_knows_its_size() {
        let bytes = resident_bytes().unwrap();
        assert!((1 << 20..1 << 40).contains(&bytes), "{bytes}");
    }
}
