//! `tune --model`: measures what the parts of a message's way cost here, and says what more shards
//! would do.
//!
//! Three loads are enough for three costs, for the daemon's CPU time is what counts and the rest is
//! arithmetic: pairs on one shard (a publish and a delivery), large rooms on one shard (a publish and
//! many), and pairs on two shards (the same as the first, and half an ask and three quarters of a
//! tell). A fourth, large rooms on two shards, is predicted and measured, as a check.
//!
//! What a delivery costs depends most on how many share a write. So all of it is done twice: with one
//! message in flight in each room, when each delivery is a write of its own, and with many, when a
//! write carries dozens.

use crate::cli::console::Console;
use crate::cli::failure::Failure;
use crate::cli::tune::book::quantile;
use crate::cli::tune::goal::Goal;
use crate::cli::tune::setting::Setting;
use crate::cli::tune::trial::{Load, Trials};
use crate::daemon::scaling::{Costs, crossings, predict, zipf};

/// The members of a large room.
const LARGE: u32 = 50;
/// The connections of every load.
const CONNECTIONS: u32 = 100;
/// The rounds of all loads.
const ROUNDS: usize = 5;
/// The numbers of shards that are predicted.
const SHARDS: [u16; 7] = [1, 2, 4, 8, 16, 32, 64];
/// What the home does of a publish. It is not measured here: of about 11,000 instructions that a
/// message takes, history and what is around it have about 2,200.
const HOME_SHARE: f64 = 0.2;

/// The messages in flight in each room.
const DEPTHS: [(u32, &str); 2] =
    [(1, "one message in flight in each room"), (40, "forty messages in flight in each room")];

/// A load: members of each room, and shards.
const LOADS: [(u32, u16); 4] = [(2, 1), (LARGE, 1), (2, 2), (LARGE, 2)];

/// Measures, and predicts.
pub(super) fn run(load: Load, default: Setting, console: &mut Console) -> Result<(), Failure> {
    for (depth, about) in DEPTHS {
        console.line(format!("== {about}"))?;
        let mut publishes: [Vec<f64>; 4] = Default::default();
        for _ in 0..ROUNDS {
            for (&(members, shards), found) in LOADS.iter().zip(&mut publishes) {
                let load = Load { in_flight: CONNECTIONS / members * depth, ..load.clone() };
                let setting = Setting { shards, ..default };
                found.push(publish_ns(load, members, &setting, console)?);
            }
        }
        for values in &mut publishes {
            values.sort_by(f64::total_cmp);
        }
        for (&(members, shards), values) in LOADS.iter().zip(&publishes) {
            console.line(format!(
                "rooms of {members:>2}, {shards} shard(s): {:.0} ns a publish ({:.0}-{:.0})",
                quantile(values, 0.5).unwrap_or(0.0),
                values.first().unwrap_or(&0.0),
                values.last().unwrap_or(&0.0)
            ))?;
        }
        let medians = publishes.map(|values| quantile(&values, 0.5).unwrap_or(0.0));
        for line in report(&costs(medians), medians[3]) {
            console.line(line)?;
        }
        console.line("")?;
        console.flush()?;
    }
    Ok(())
}

/// The CPU time of the daemon for a publish into a room of that many.
fn publish_ns(
    load: Load,
    members: u32,
    setting: &Setting,
    console: &mut Console,
) -> Result<f64, Failure> {
    let rooms = CONNECTIONS / members;
    let words = format!("fanout --rooms {rooms} --members {members} --publishers 1");
    let scenario = words.split(' ').map(str::to_owned).collect();
    let mut trials = Trials::new(console, Goal::Throughput, Load { scenario, ..load })?;
    let figures = trials.at_limit(setting)?.map_err(Failure::Refused)?;
    let delivery_ns = figures.cpu_ns.ok_or_else(|| {
        Failure::Refused("the generator could not read the daemon's CPU time".to_owned())
    })?;
    Ok(delivery_ns * f64::from(members - 1))
}

/// The costs that explain what was measured.
fn costs([pairs, large, pairs_on_two, _]: [f64; 4]) -> Costs {
    let member_ns = ((large - pairs) / f64::from(LARGE - 2)).max(0.0);
    let crossed = crossings(2, 2);
    Costs {
        publish_ns: (pairs - member_ns).max(0.0),
        member_ns,
        crossing_ns: ((pairs_on_two - pairs) / (crossed.asks + crossed.tells)).max(0.0),
        home_share: HOME_SHARE,
    }
}

/// What follows from the costs, in lines.
fn report(costs: &Costs, large_on_two_ns: f64) -> Vec<String> {
    let crossed = crossings(LARGE, 2);
    let expected = costs.publish_ns
        + f64::from(LARGE - 1) * costs.member_ns
        + (crossed.asks + crossed.tells) * costs.crossing_ns;
    let mut lines = vec![
        String::new(),
        format!(
            "a publish {:.0} ns, a delivery {:.0} ns, a message between shards {:.0} ns",
            costs.publish_ns, costs.member_ns, costs.crossing_ns
        ),
        format!(
            "check: rooms of {LARGE} on two shards, {expected:.0} ns a publish predicted, \
             {large_on_two_ns:.0} measured"
        ),
    ];
    for (what, rooms) in [
        ("10,000 rooms of 10", vec![10; 10_000]),
        ("10,000 rooms by Zipf's law, the largest of 5,000", zipf(10_000, 5_000, 2)),
        ("one room of 1,000", vec![1_000]),
        ("one room of 2", vec![2]),
    ] {
        lines.extend([String::new(), format!("{what}:")]);
        lines.push(format!(
            "{:>6}  {:>13}  {:>14}  {:>13}  {:>14}  {:>8}  {:>8}",
            "shards",
            "asks/publish",
            "tells/publish",
            "publishes/s",
            "deliveries/s",
            "speed-up",
            "evenness"
        ));
        let one = predict(costs, &rooms, 1).publishes_per_s;
        lines.extend(SHARDS.map(|shards| {
            let it = predict(costs, &rooms, shards);
            format!(
                "{shards:>6}  {:>13.2}  {:>14.2}  {:>13.0}  {:>14.0}  {:>8.1}  {:>8.2}",
                it.crossings.asks,
                it.crossings.tells,
                it.publishes_per_s,
                it.deliveries_per_s,
                it.publishes_per_s / one,
                it.evenness
            )
        }));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_explain_what_was_measured() {
        // A publish 1,000, a delivery 200, a crossing 400.
        let found = costs([1_200.0, 1_000.0 + 49.0 * 200.0, 1_200.0 + 1.25 * 400.0, 0.0]);
        assert!((found.publish_ns - 1_000.0).abs() < 1e-6, "{found:?}");
        assert!((found.member_ns - 200.0).abs() < 1e-6, "{found:?}");
        assert!((found.crossing_ns - 400.0).abs() < 1e-6, "{found:?}");
        let lines = report(&found, 11_500.0);
        assert!(
            lines.iter().any(|line| line.contains("11400 ns a publish predicted")),
            "{lines:#?}"
        );
        let noise = costs([1_200.0, 100.0, 900.0, 0.0]);
        assert!(noise.member_ns >= 0.0 && noise.crossing_ns >= 0.0, "{noise:?}");
    }
}
