//! What a round's counts mean: figures, checks, and what must be said in words.

use crate::cli::bench::core::{ChoreFacts, CoreReport, KINDS, SlowFacts, StormFacts};
use crate::cli::bench::figures::{Figure, Figures, grouped, written};
use crate::cli::bench::ledger::Checks;
use crate::cli::bench::plan::{Act, Load, Plan};
use crate::cli::bench::report::{Chore, Round, percentiles};
use crate::cli::bench::round::{Sample, Watch};
use crate::cli::bench::shared::{Shared, lock};
use crate::cli::bench::timeline::{Latencies, Moment, latencies};
use std::collections::HashSet;

/// A client core that works more than this sets the pace.
const BUSY_MAX: f64 = 0.9;
/// Messages that leave later than this were not sent on schedule,
const LATE_NS_MAX: f64 = 1e6;
/// if that is also more than this share of the latency.
const LATE_SHARE_MAX: f64 = 0.5;

/// Makes a round of what was counted in it.
pub(super) fn summarise(
    plan: &Plan,
    shared: &Shared,
    watch: &Watch,
    mut reports: Vec<CoreReport>,
) -> Round {
    let sums = shared.sums();
    let mut round = Round {
        sent: sums.sent,
        delivered: sums.received,
        gaps: reports.iter().map(|report| report.gaps).sum(),
        first_wrong: reports.iter().find_map(|report| report.first_wrong.clone()),
        trouble: shared.trouble().map(|trouble| trouble.sentence().to_owned()),
        ..Round::default()
    };
    if watch.connected_ns.is_none() {
        let (opened, all) = (sums.opened, plan.connections);
        round.notes.push(format!("{opened} of {all} connections were opened"));
    }
    set_clients(plan, &mut round, shared, watch, &reports);
    let figures = &mut round.figures;
    let seconds = watch.connected_ns.map(|ns| ns.max(1) as f64 / 1e9);
    figures.set_if(Figure::Connects, seconds.map(|seconds| f64::from(plan.connections) / seconds));
    figures.set_if(Figure::Memory, watch.memory.map(|bytes| bytes as f64));
    if let Some((first, last)) = &watch.measured {
        round.seconds = (last.at_ns - first.at_ns) as f64 / 1e9;
        match plan.act {
            Act::Idle => set_idle_costs(plan, &mut round.figures, watch, first, last),
            _ => set_costs(&mut round, first, last),
        }
    }
    set_pieces(plan, &mut round, shared, watch);
    match plan.act {
        Act::Stall if watch.measured.is_some() => tell_slow(&mut round, &reports),
        Act::Storm => tell_storm(&mut round, &reports),
        Act::Mix { .. } => tell_chores(&mut round, &mut reports, watch.is_whole),
        Act::Steady | Act::Idle | Act::Stall => {}
    }
    round.checks = close_accounts(shared, reports, watch.is_whole);
    round.count_checks();
    round.generator_limit = generator_limit(&round.figures);
    round
}

/// How long was measured, in a round that ended early, too.
fn measured_ns(shared: &Shared, watch: &Watch) -> Option<u64> {
    let (timeline, (_, last)) = (shared.timeline.get()?, watch.measured.as_ref()?);
    Some(last.at_ns.min(timeline.to_ns).saturating_sub(timeline.from_ns))
}

/// How much the clients themselves worked.
fn set_clients(
    plan: &Plan,
    round: &mut Round,
    shared: &Shared,
    watch: &Watch,
    reports: &[CoreReport],
) {
    let passed_ns = measured_ns(shared, watch).unwrap_or(0).max(1) as f64;
    let mut lateness = latencies();
    let mut busiest: Option<(f64, f64)> = None;
    for report in reports {
        // All have the same bounds.
        let _ = lateness.add(&report.lateness);
        if let Some(schedule) = &report.schedule {
            let share = (schedule.run_ns as f64 / passed_ns).min(1.0);
            if busiest.is_none_or(|(most, _)| share > most) {
                busiest = Some((share, schedule.wait_ns as f64 / passed_ns));
            }
        }
    }
    round.figures.set_if(Figure::ClientBusy, busiest.map(|(busy, _)| busy));
    round.figures.set_if(Figure::ClientWait, busiest.map(|(_, wait)| wait));
    if matches!(plan.load, Load::Open { .. }) && !lateness.is_empty() {
        round.figures.set(Figure::Late, lateness.value_at_quantile(0.99) as f64);
    }
}

fn set_costs(round: &mut Round, first: &Sample, last: &Sample) {
    let figures = &mut round.figures;
    let seconds = (last.at_ns - first.at_ns) as f64 / 1e9;
    let deliveries = last.sums.received.saturating_sub(first.sums.received) as f64;
    if let Some((last, first)) = last.server.zip(first.server) {
        let spent = last.since(&first);
        figures.set(Figure::Cores, spent.run_ns as f64 / 1e9 / seconds);
        figures.set(Figure::Wait, spent.wait_ns as f64 / 1e9 / seconds);
        let cost = (deliveries > 0.0).then(|| spent.run_ns as f64 / deliveries);
        figures.set_if(Figure::Cpu, cost);
    }
    if let Some(((last, received), (first, before))) = last.calls.zip(first.calls) {
        let calls = last.since(&first);
        let deliveries = received.saturating_sub(before) as f64;
        let cost = (deliveries > 0.0).then(|| calls.total() as f64 / deliveries);
        figures.set_if(Figure::Calls, cost);
        round.calls = Some(calls);
    }
}

fn set_idle_costs(
    plan: &Plan,
    figures: &mut Figures,
    watch: &Watch,
    first: &Sample,
    last: &Sample,
) {
    let connections = f64::from(plan.connections);
    let seconds = (last.at_ns - first.at_ns) as f64 / 1e9;
    if let Some((before, after)) = watch.memory_before.zip(watch.memory) {
        figures.set(Figure::ConnMemory, after.saturating_sub(before) as f64 / connections);
    }
    if let Some((last, first)) = last.server.zip(first.server) {
        let spent = last.since(&first).run_ns as f64;
        figures.set(Figure::Cores, spent / 1e9 / seconds);
        figures.set(Figure::ConnCpu, spent / connections / seconds);
    }
}

/// Speed and latency, from the pieces of the measured time. Each core sorts what it gets into them
/// by its own clock, so that a conductor who wakes late does not count time in which nothing was
/// sent any more.
fn set_pieces(plan: &Plan, round: &mut Round, shared: &Shared, watch: &Watch) {
    let (Some(timeline), Some(measured_ns)) = (shared.timeline.get(), measured_ns(shared, watch))
    else {
        return;
    };
    let mut deliveries = 0;
    let event = timeline.piece(timeline.event_ns).unwrap_or_default();
    let (mut all, mut calm, mut beside) = (latencies(), latencies(), latencies());
    for (number, piece) in lock(&shared.pieces).iter().enumerate() {
        // All have the same bounds.
        let _ = all.add(&piece.latencies);
        deliveries += piece.deliveries;
        let _ = match number < event {
            true => calm.add(&piece.latencies),
            false => beside.add(&piece.latencies),
        };
        let seconds = timeline.piece_length_ns(number) as f64 / 1e9;
        // A last piece that is much shorter than the others would only be noise.
        if seconds * 2e9 > timeline.piece_ns as f64 {
            round.moments.push(Moment {
                at_s: number as f64 * timeline.piece_ns as f64 / 1e9,
                rate: piece.deliveries as f64 / seconds,
                p50_ns: piece.latencies.value_at_quantile(0.5),
                p99_ns: piece.latencies.value_at_quantile(0.99),
            });
        }
    }
    if plan.act != Act::Idle && measured_ns > 0 {
        round.figures.set(Figure::Rate, deliveries as f64 * 1e9 / measured_ns as f64);
    }
    round.figures.set_latencies(&all);
    round.percentiles = percentiles(&all);
    if plan.act == Act::Stall {
        let p99 = |latencies: &Latencies| {
            (!latencies.is_empty()).then(|| latencies.value_at_quantile(0.99) as f64)
        };
        round.figures.set_if(Figure::CalmP99, p99(&calm));
        round.figures.set_if(Figure::SlowP99, p99(&beside));
    }
}

fn tell_slow(round: &mut Round, reports: &[CoreReport]) {
    let mut all = SlowFacts::default();
    for report in reports {
        let facts = &report.slow;
        all.members += facts.members;
        all.closed_slow += facts.closed_slow;
        all.closed_otherwise += facts.closed_otherwise;
        all.notices += facts.notices;
        all.told += facts.told;
        all.untold += facts.untold;
        all.got += facts.got;
        all.first_other = all.first_other.or_else(|| facts.first_other.clone());
    }
    round.notes.push(format!(
        "{} members stopped reading: {} were closed with 4008, {} got gap notices about {} messages, \
         and {} messages came",
        all.members,
        all.closed_slow,
        all.notices,
        grouped(all.told as f64),
        grouped(all.got as f64)
    ));
    if all.closed_otherwise > 0 {
        let how = all.first_other.unwrap_or_default();
        round
            .notes
            .push(format!("{} ended in another way, the first: {how}", all.closed_otherwise));
    }
    if all.untold > 0 {
        round.violations.push(format!(
            "{} messages are missing at slow members, and no gap notice tells of them",
            all.untold
        ));
    }
}

fn tell_storm(round: &mut Round, reports: &[CoreReport]) {
    let mut all = StormFacts::default();
    for report in reports {
        let facts = &report.storm;
        all.fell += facts.fell;
        all.back_ns = all.back_ns.max(facts.back_ns);
        all.caught_up_ns = all.caught_up_ns.max(facts.caught_up_ns);
        all.caught_up += facts.caught_up;
        all.replayed += facts.replayed;
        all.retries += facts.retries;
        for (reason, count) in &facts.unrecovered {
            *all.unrecovered.entry(reason.clone()).or_default() += count;
        }
    }
    if all.fell == 0 {
        return;
    }
    if all.caught_up >= all.fell {
        round.figures.set(Figure::Recovery, all.caught_up_ns as f64);
        round.figures.set(Figure::Reconnect, all.back_ns as f64);
    }
    round.notes.push(format!(
        "{} fell, {} have everything again; {} messages came from history; {} handshakes came before \
         the name was free",
        all.fell,
        all.caught_up,
        grouped(all.replayed as f64),
        all.retries
    ));
    for (reason, count) in &all.unrecovered {
        round.notes.push(format!("{count} rooms could not be recovered: {reason}"));
    }
}

fn tell_chores(round: &mut Round, reports: &mut [CoreReport], is_whole: bool) {
    let mut all = ChoreFacts { latencies: KINDS.map(|_| latencies()).into(), ..Default::default() };
    for facts in reports.iter_mut().filter_map(|report| report.chores.take()) {
        for (sum, one) in all.latencies.iter_mut().zip(&facts.latencies) {
            let _ = sum.add(one);
        }
        all.unanswered += facts.unanswered;
        all.to_others += facts.to_others;
        all.from_others += facts.from_others;
        all.wrong_count += facts.wrong_count;
        all.wrong.extend(facts.wrong);
    }
    round.chores = KINDS
        .iter()
        .zip(&all.latencies)
        .map(|(name, latencies)| {
            let mut chore =
                Chore { name: (*name).into(), count: latencies.len(), ..Chore::default() };
            chore.figures.set_latencies(latencies);
            chore
        })
        .collect();
    if all.wrong_count > 0 {
        round.violations.push(format!("{} answers were wrong", all.wrong_count));
        round.violations.extend(all.wrong);
    }
    if is_whole && all.unanswered > 0 {
        round.violations.push(format!("{} requests were not answered", all.unanswered));
    }
    if is_whole && all.to_others != all.from_others {
        round.violations.push(format!(
            "{} private messages and acknowledged events came, and {} should have",
            all.from_others, all.to_others
        ));
    }
}

/// Nothing more comes: what is missing is lost. In a round that ended early, only what was skipped:
/// the rest was on its way.
fn close_accounts(shared: &Shared, reports: Vec<CoreReport>, is_whole: bool) -> Checks {
    let mut sent = vec![0; shared.layout.streams.len()];
    for report in reports.iter().filter(|_| is_whole) {
        for (total, number) in sent.iter_mut().zip(&report.numbers) {
            *total += number;
        }
    }
    let mut checks = Checks::default();
    for mut report in reports {
        let exempt = exempt_cursors(shared, report.core);
        for (cursor, &stream) in report.cursors.iter().enumerate() {
            if !exempt.contains(&(cursor as u32)) {
                report.ledger.close(cursor, sent[stream as usize]);
            }
        }
        checks.add(&report.ledger.checks);
    }
    checks
}

/// The cursors of a core that need not be complete: a member's own stream, of which it gets nothing,
/// and those of members who stop reading.
fn exempt_cursors(shared: &Shared, core: usize) -> HashSet<u32> {
    let layout = &shared.layout;
    let mut exempt = HashSet::new();
    let mut cursor = 0;
    for conn in (core..layout.seats.len()).step_by(shared.threads) {
        let is_slow = !layout.listens(conn as u32);
        for &group in &layout.seats[conn] {
            for &stream in &layout.groups[group as usize].streams {
                if is_slow || layout.streams[stream as usize].conn as usize == conn {
                    exempt.insert(cursor);
                }
                cursor += 1;
            }
        }
    }
    exempt
}

/// Whether the generator was what took the time.
fn generator_limit(figures: &Figures) -> Option<String> {
    if let Some(busy) = figures.get(Figure::ClientBusy).filter(|&busy| busy > BUSY_MAX) {
        return Some(format!(
            "a client thread was busy {:.0} % of the time; give it more --client-threads or a core \
             of its own, or read the server's CPU and not its rate",
            busy * 100.0
        ));
    }
    let late = figures.get(Figure::Late)?;
    let p99 = figures.get(Figure::P99).unwrap_or(f64::INFINITY);
    if late < LATE_NS_MAX.max(p99 * LATE_SHARE_MAX) {
        return None;
    }
    let wait = figures.get(Figure::ClientWait).unwrap_or(0.0) * 100.0;
    Some(format!(
        "1 % of the messages left more than {} after they were due, which is much of the latency; the \
         client thread waited for a core {wait:.0} % of the time: give it one of its own",
        written(late, Figure::Late.unit())
    ))
}
