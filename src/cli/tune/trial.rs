//! Measuring a setting: this program's own load generator, as a process of its own, against a
//! daemon that it starts with the setting's flags. A fresh daemon and a fresh generator each time,
//! so that no trial lives on what another left.
//!
//! *Invariant*: a process that was started is ended, however the trial ends.

use crate::cli::child::Words;
use crate::cli::console::Console;
use crate::cli::failure::Failure;
use crate::cli::tune::goal::{Figures, Goal, Trial};
use crate::cli::tune::race::Track;
use crate::cli::tune::setting::Setting;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How often a generator is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// How much longer than its measuring a generator may take.
const SPARE: Duration = Duration::from_secs(60);
/// How long one that was told to stop may take.
const END: Duration = Duration::from_secs(5);
/// The steady rate is this share of what the default setting can bear.
const STEADY_SHARE: f64 = 0.3;

/// What the clients do, and for how long.
#[derive(Clone, Debug)]
pub(super) struct Load {
    /// The scenario of `bench` and its flags.
    pub(super) scenario: Vec<String>,
    /// Messages in flight at the limit.
    pub(super) in_flight: u32,
    /// Deliveries a second at the steady rate; measured first if it is not given.
    pub(super) rate: Option<f64>,
    /// Seconds that are measured.
    pub(super) seconds: f64,
    /// Seconds before that.
    pub(super) warmup: f64,
    /// Threads and cores of the generator.
    pub(super) clients: Vec<String>,
}

/// Measures settings for a person who waits.
pub(super) struct Trials<'c> {
    console: &'c mut Console,
    began: Instant,
    goal: Goal,
    /// What the clients do.
    pub(super) load: Load,
    program: PathBuf,
    report: PathBuf,
    count: u32,
}

impl<'c> Trials<'c> {
    /// Trials for a goal.
    pub(super) fn new(
        console: &'c mut Console,
        goal: Goal,
        load: Load,
    ) -> Result<Trials<'c>, Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::Refused(format!("cannot find this program: {error}")))?;
        let report = format!("arqonbus-tune-{}.json", std::process::id());
        let report = std::env::temp_dir().join(report);
        Ok(Trials { console, began: Instant::now(), goal, load, program, report, count: 0 })
    }

    /// Finds the steady rate if it was not given: a share of what the default bears.
    pub(super) fn calibrate(&mut self, default: &Setting) -> Result<(), Failure> {
        if self.load.rate.is_some() || !self.goal.needs_steady() {
            return Ok(());
        }
        let figures = self.at_limit(default)?.map_err(Failure::Refused)?;
        let rate = figures.rate.unwrap_or(0.0) * STEADY_SHARE;
        if rate < 1.0 {
            return Err(Failure::Refused("the default setting delivers nothing".to_owned()));
        }
        // Two digits are enough, and are easier to repeat.
        let unit = 10_f64.powf(rate.log10().floor() - 1.0);
        let rate = (rate / unit).round() * unit;
        self.load.rate = Some(rate);
        self.tell(format!("the steady rate is {rate:.0} deliveries a second"))
    }

    /// One run at the limit.
    pub(super) fn at_limit(
        &mut self,
        setting: &Setting,
    ) -> Result<Result<Figures, String>, Failure> {
        let load = format!("--in-flight={}", self.load.in_flight);
        self.bench(setting, &load)
    }

    /// One run of the generator; what went wrong with the setting is in words.
    fn bench(&mut self, setting: &Setting, load: &str) -> Result<Result<Figures, String>, Failure> {
        self.count += 1;
        let mut command = Command::new(&self.program);
        command.arg("bench").args(&self.load.scenario).arg(load).args(&self.load.clients);
        command.args(setting.flags().iter().map(|flag| format!("--serve-arg={flag}")));
        command.arg(format!("--duration={}", self.load.seconds));
        command.arg(format!("--warmup={}", self.load.warmup));
        command.arg(format!("--seed={}", self.count)).arg("--json").arg(&self.report);
        // A bus that the person's shell names is not the one to be tuned.
        command.env_remove("ARQONBUS_URL").env_remove("ARQONBUS_TOKEN");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            Failure::Refused(format!("the load generator can't be started: {error}"))
        })?;
        let words = Words::of(child.stderr.take());
        let limit = Duration::from_secs_f64(self.load.seconds + self.load.warmup) + SPARE;
        let ended = Generator { child, words }.wait(self.console, Instant::now() + limit)?;
        let report = fs::read_to_string(&self.report);
        // It may not be there, if the generator failed early.
        let _ = fs::remove_file(&self.report);
        if let Some(why) = ended {
            let wrong = report.ok().and_then(|text| serde_json::from_str::<Report>(&text).ok());
            return Ok(Err(format!("{why}{}", wrong.map_or_else(String::new, |it| it.checks()))));
        }
        let report: Report = report
            .map_err(|error| error.to_string())
            .and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()))
            .map_err(|error| Failure::Refused(format!("no report of the generator: {error}")))?;
        Ok(report
            .sides
            .into_iter()
            .next()
            .map(|side| side.median)
            .ok_or_else(|| "the generator reported nothing".to_owned()))
    }
}

impl Trials<'_> {
    fn measure_once(&mut self, setting: &Setting) -> Result<Result<Trial, String>, Failure> {
        let mut trial = Trial::default();
        if self.goal.needs_limit() {
            match self.at_limit(setting)? {
                Ok(figures) => trial.limit = Some(figures),
                Err(why) => return Ok(Err(why)),
            }
        }
        if self.goal.needs_steady() {
            let load = format!("--rate={:.0}", self.load.rate.unwrap_or(1.0));
            match self.bench(setting, &load)? {
                Ok(figures) => trial.steady = Some(figures),
                Err(why) => return Ok(Err(why)),
            }
        }
        Ok(match self.goal.score(&trial) {
            Some(_) => Ok(trial),
            None => Err("the generator's report lacks a figure".to_owned()),
        })
    }
}

impl Track for Trials<'_> {
    /// On a busy machine a trial may fail by bad luck: it has a second chance, and only one.
    fn measure(&mut self, setting: &Setting) -> Result<Result<Trial, String>, Failure> {
        match self.measure_once(setting)? {
            Ok(trial) => Ok(Ok(trial)),
            Err(why) => {
                self.tell(format!(
                    "once more, for it failed: {why} ({})",
                    setting.flags().join(" ")
                ))?;
                self.measure_once(setting)
            }
        }
    }

    fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    fn tell(&mut self, text: String) -> Result<(), Failure> {
        let seconds = self.began.elapsed().as_secs();
        self.console.line(format!("{:>3}:{:02}  {text}", seconds / 60, seconds % 60))?;
        self.console.flush()
    }
}

/// A generator that runs.
struct Generator {
    child: Child,
    words: Words,
}

impl Generator {
    /// Waits for its end; gives what it said if it failed.
    fn wait(mut self, console: &mut Console, until: Instant) -> Result<Option<String>, Failure> {
        loop {
            console.reactor.sleep(Instant::now() + LOOK)?;
            let status = self.child.try_wait().map_err(|error| {
                Failure::Refused(format!("the load generator was lost: {error}"))
            })?;
            match status {
                Some(status) if status.success() => return Ok(None),
                Some(status) => {
                    let told = self.words.told();
                    return Ok(Some(format!("the load generator failed ({status}); {told}")));
                }
                None if Instant::now() > until => {
                    let told = self.words.told();
                    return Ok(Some(format!("the load generator did not end in time; {told}")));
                }
                None => {}
            }
        }
    }
}

impl Drop for Generator {
    /// It ends its own daemon when it is told to stop.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let until = Instant::now() + END;
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(LOOK);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A report of `bench`, as far as it is read here.
#[derive(Deserialize)]
struct Report {
    sides: Vec<Side>,
}

#[derive(Deserialize)]
struct Side {
    median: Figures,
    rounds: Vec<Round>,
}

#[derive(Deserialize)]
struct Round {
    checks: BTreeMap<String, serde_json::Value>,
}

impl Report {
    /// What was wrong with the messages, in words.
    fn checks(&self) -> String {
        let checks = self.sides.iter().flat_map(|side| &side.rounds).flat_map(|it| &it.checks);
        let wrong = checks.filter(|(_, count)| count.as_u64().is_some_and(|count| count > 0));
        let words: Vec<String> = wrong.map(|(what, count)| format!("{count} {what}")).collect();
        if words.is_empty() { String::new() } else { format!(": {}", words.join(", ")) }
    }
}
