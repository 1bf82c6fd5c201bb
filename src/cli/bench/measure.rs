//! All rounds of a plan: the sides in turn, so that whatever else the machine does hits them alike;
//! in a sweep, rate by rate.

use crate::cli::bench::aim::Aim;
use crate::cli::bench::args::CommonArgs;
use crate::cli::bench::figures::{Figure, grouped};
use crate::cli::bench::layout::Layout;
use crate::cli::bench::plan::Plan;
use crate::cli::bench::report::{Report, Round, Step};
use crate::cli::bench::round::{Stage, play_round};
use crate::cli::bench::server::RelayCounts;
use crate::cli::bench::shared::{Shared, Trouble};
use crate::cli::bench::stencil::Naming;
use crate::cli::bench::sweep::{self, Search};
use crate::cli::bench::table;
use crate::cli::console::Console;
use crate::cli::failure::Failure;

/// Everything that stays the same over all rounds.
pub(super) struct Measurement<'a> {
    /// Who is where.
    pub(super) layout: &'a Layout,
    /// What was typed.
    pub(super) common: &'a CommonArgs,
    /// Chance, from the seed.
    pub(super) rng: fastrand::Rng,
    /// Chance that is another in every run.
    pub(super) fresh: fastrand::Rng,
}

impl Measurement<'_> {
    /// Plays everything; what was played is in the report, however it ends.
    pub(super) fn play(
        &mut self,
        report: &mut Report,
        console: &mut Console,
    ) -> Result<(), Failure> {
        match report.plan.sweep.is_empty() {
            true => self.play_rounds(report, console),
            false => self.play_sweep(report, console),
        }
    }

    fn play_rounds(&mut self, report: &mut Report, console: &mut Console) -> Result<(), Failure> {
        let all = report.plan.rounds;
        for number in 1..=all {
            for side in 0..report.sides.len() {
                let label = match all {
                    1 => report.sides[side].name.clone(),
                    _ => format!("{} {number}/{all}", report.sides[side].name),
                };
                let (round, trouble) = self.play_one(&report.plan, side, label.clone(), console)?;
                let line = format!("{label}: {}", table::in_short(&round));
                report.sides[side].rounds.push(round);
                if all > 1 || report.sides.len() > 1 {
                    show(&line, console)?;
                }
                console.reactor.check()?;
                if let Some(trouble) = trouble {
                    return Err(trouble.into_failure());
                }
            }
        }
        Ok(())
    }

    fn play_sweep(&mut self, report: &mut Report, console: &mut Console) -> Result<(), Failure> {
        let grid = report.plan.sweep.clone();
        let mut searches: Vec<Search> =
            report.sides.iter().map(|_| Search::new(grid.clone())).collect();
        let mut has_more = true;
        while has_more {
            has_more = false;
            for (side, search) in searches.iter_mut().enumerate() {
                let Some(rate) = search.next() else {
                    report.sides[side].is_at_least &= search.is_open_above();
                    continue;
                };
                has_more = true;
                let (round, failure) = self.play_step(report, side, rate, console)?;
                let is_borne = round.step.as_ref().is_some_and(|step| step.failed.is_none());
                search.note(rate, is_borne);
                let one = &mut report.sides[side];
                if search.knee() == Some(rate) {
                    one.knee = Some(rate);
                    // Until the search has come to its end.
                    one.is_at_least = true;
                    one.median = round.figures.clone();
                }
                one.rounds.push(round);
                failure.map_or(Ok(()), Err)?;
            }
        }
        Ok(())
    }

    /// A rate that is not borne gets a second try: the machine may have been busy with something.
    /// Gives also what ends the sweep; fails only if nothing was measured at this rate.
    fn play_step(
        &mut self,
        report: &Report,
        side: usize,
        rate: f64,
        console: &mut Console,
    ) -> Result<(Round, Option<Failure>), Failure> {
        let label = format!("{} {:>9}", report.sides[side].name, grouped(rate));
        let (first, failure) = self.try_rate(&report.plan, side, rate, &label, console)?;
        let is_borne = first.step.as_ref().is_some_and(|step| step.failed.is_none());
        if is_borne || failure.is_some() {
            return Ok((first, failure));
        }
        let (second, failure) = match self.try_rate(&report.plan, side, rate, &label, console) {
            Ok(second) => second,
            Err(failure) => return Ok((first, Some(failure))),
        };
        let is_stopped = matches!(failure, Some(Failure::Stopped(_)));
        // A try that was stopped or never measured says less than one that was not.
        let round = match is_stopped || second.figures.get(Figure::Rate).is_none() {
            true => first,
            false => second,
        };
        Ok((round, failure))
    }

    /// One try of a rate, and what ends the sweep.
    fn try_rate(
        &mut self,
        plan: &Plan,
        side: usize,
        rate: f64,
        label: &str,
        console: &mut Console,
    ) -> Result<(Round, Option<Failure>), Failure> {
        let plan = plan.at_rate(rate, self.layout);
        let (mut round, trouble) = self.play_one(&plan, side, label.to_owned(), console)?;
        let failed = sweep::failure(&round, rate, plan.knee_p99_ns);
        round.step = Some(Step { rate, failed });
        let shown = show(&format!("{label}: {}", table::in_short(&round)), console);
        // Who can't even be loaded will not be at another rate.
        let trouble = trouble.filter(|_| round.figures.get(Figure::Rate).is_none());
        let failure = console.reactor.check().and(shown).err();
        Ok((round, failure.or(trouble.map(Trouble::into_failure))))
    }

    /// One round of one side, with a fresh server if it is not a target, and what ended it early. A
    /// round in which no connection was opened is none.
    fn play_one(
        &mut self,
        plan: &Plan,
        side: usize,
        label: String,
        console: &mut Console,
    ) -> Result<(Round, Option<Trouble>), Failure> {
        let common = self.common;
        let mut aim = match (side, &common.relay, &common.target) {
            (1, Some(program), _) => Aim::at_relay(program, common)?,
            (_, _, Some(url)) => Aim::at_target(url, common)?,
            (_, _, None) => Aim::at_daemon(&plan.serve_args, common)?,
        };
        // A bus that goes on running may still hold what an earlier run with the same seed sent it,
        // and would take the same names and ids for the same messages.
        let naming = Naming::new(match common.target {
            Some(_) => &mut self.fresh,
            None => &mut self.rng,
        });
        let (site, rng) = (aim.site.clone(), &mut self.rng);
        let shared = Shared::new(plan, self.layout, site, common.timeout, naming, rng)
            .map_err(|error| Failure::Refused(format!("the clients can't be prepared: {error}")))?;
        let client_cpus = common.client_cpus.as_ref();
        let stage = Stage { plan, shared: &shared, watched: aim.watched, client_cpus };
        let mut round = play_round(&stage, label, console)?;
        let mut trouble = shared.trouble();
        // A Ctrl-C on the terminal ends the daemon, too; that needs no further words.
        let is_stopped = console.reactor.check().is_err();
        if let Some(how) = aim.has_ended().filter(|_| trouble.is_some() && !is_stopped) {
            round.trouble = Some(how.clone());
            trouble = Some(Trouble::Died(how));
        }
        if let Some(counts) = aim.let_go().filter(|counts| counts.frames_out > 0) {
            round.figures.set(Figure::Calls, relay_calls(&counts));
        }
        match trouble {
            Some(trouble) if shared.sums().opened == 0 => Err(trouble.into_failure()),
            trouble => Ok((round, trouble)),
        }
    }
}

fn show(line: &str, console: &mut Console) -> Result<(), Failure> {
    console.line(line)?;
    console.flush()
}

/// A relay counts its whole life, connecting and warming up included.
fn relay_calls(counts: &RelayCounts) -> f64 {
    (counts.reads + counts.writes + counts.polls) as f64 / counts.frames_out as f64
}
