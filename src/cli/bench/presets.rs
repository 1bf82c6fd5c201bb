//! Scenarios with their settings: those by which this bus is measured against others.
//!
//! A preset asks for one shard, and puts server and clients on cores of their own where there are
//! two, so that the figures of two machines mean the same. What is typed beside it wins.

use crate::cli::bench::args::{
    CommonArgs, FanoutArgs, IdleArgs, PairsArgs, PresetArgs, RoomsArgs, What,
};
use crate::cli::bench::cpus::Cpus;
use crate::cli::bench::sweep::Rates;
use crate::cli::failure::Failure;
use std::time::Duration;

/// A preset.
#[derive(Debug, Clone, Copy)]
pub(super) struct Preset {
    /// What it is called.
    pub(super) name: &'static str,
    /// What it is.
    pub(super) about: &'static str,
    fill: fn(&mut CommonArgs),
    scenario: fn(CommonArgs) -> What,
}

/// All of them. Each can also be called by its number, from 1.
pub(super) const PRESETS: [Preset; 9] = [
    Preset {
        name: "room",
        about: "4 publishers in one room of 100, 32 messages in flight",
        fill: |common| closed(common, 32),
        scenario: |common| fanout(1, 100, 4, common),
    },
    Preset {
        name: "deep",
        about: "the same with 256 in flight",
        fill: |common| closed(common, 256),
        scenario: |common| fanout(1, 100, 4, common),
    },
    Preset {
        name: "large",
        about: "the same with 32 in flight and a payload of 1 KiB",
        fill: |common| {
            closed(common, 32);
            common.payload.get_or_insert(1_024);
        },
        scenario: |common| fanout(1, 100, 4, common),
    },
    Preset {
        name: "rooms",
        about: "10 rooms of 10 with one publisher each, 80 in flight",
        fill: |common| closed(common, 80),
        scenario: |common| fanout(10, 10, 1, common),
    },
    Preset {
        name: "small-rooms",
        about: "1,000 rooms of 3 over 300 connections, 300 in flight",
        fill: |common| closed(common, 300),
        scenario: |common| {
            let (rooms, members, publishers, connections) = (1_000, 3, 1, 300);
            What::Rooms(RoomsArgs { rooms, members, publishers, connections, common })
        },
    },
    Preset {
        name: "pairs",
        about: "50 pairs that answer each other, one message in flight each",
        fill: |common| closed(common, 50),
        scenario: |common| What::Pairs(PairsArgs { pairs: 50, common }),
    },
    Preset {
        name: "steady",
        about: "10 rooms of 10, open model at 50,000 deliveries a second",
        fill: |common| {
            if !is_load_typed(common) {
                common.rate = Some(50_000.0);
            }
        },
        scenario: |common| fanout(10, 10, 1, common),
    },
    Preset {
        name: "knee",
        about: "10 rooms of 10: the highest rate at which p99 stays below 10 ms",
        fill: |common| {
            if !is_load_typed(common) {
                common.rate_sweep = Some(Rates::Range(100_000.0, 8_000_000.0));
            }
        },
        scenario: |common| fanout(10, 10, 1, common),
    },
    Preset {
        name: "idle",
        about: "15,000 connections that do nothing: memory, and connections opened a second",
        fill: |_| {},
        scenario: |common| What::Idle(IdleArgs { connections: 15_000, common }),
    },
];

fn is_load_typed(common: &CommonArgs) -> bool {
    common.in_flight.is_some() || common.rate.is_some() || common.rate_sweep.is_some()
}

fn closed(common: &mut CommonArgs, in_flight: u32) {
    if !is_load_typed(common) {
        common.in_flight = Some(in_flight);
    }
}

/// What else a machine does, and above all a virtual one, changes from second to second: many short
/// rounds in turns see the same of it, a few long ones do not.
fn take_turns(common: &mut CommonArgs) {
    if (common.rounds, common.duration, common.warmup) == (None, None, None) {
        common.rounds = Some(15);
        common.duration = Some(Duration::from_millis(500));
        common.warmup = Some(Duration::from_millis(500));
    }
}

fn fanout(rooms: u32, members: u32, publishers: u32, common: CommonArgs) -> What {
    What::Fanout(FanoutArgs { rooms, members, publishers, common })
}

/// The scenario that a preset stands for.
pub(super) fn expand(args: &PresetArgs) -> Result<What, Failure> {
    let by_number = args.name.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    let named = PRESETS
        .iter()
        .enumerate()
        .find(|(number, preset)| preset.name == args.name || by_number == Some(*number));
    let Some((_, preset)) = named else {
        return Err(Failure::Usage(format!(
            "there is no preset {:?}; there are {}",
            args.name,
            PRESETS.map(|preset| preset.name).join(", ")
        )));
    };
    let mut common = args.common.clone();
    (preset.fill)(&mut common);
    if common.relay.is_some() && common.rate_sweep.is_none() {
        take_turns(&mut common);
    }
    if common.target.is_none() {
        common.shards.get_or_insert(1);
        if let [server, client] = Cpus::first_two()[..] {
            common.daemon_cpus.get_or_insert_with(|| Cpus::one(server));
            common.client_cpus.get_or_insert_with(|| Cpus::one(client));
        }
    }
    Ok((preset.scenario)(common))
}

/// All presets, a line each.
pub(super) fn list() -> String {
    let line = |(number, preset): (usize, &Preset)| {
        format!("  {}  {:<12} {}", number + 1, preset.name, preset.about)
    };
    PRESETS.iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
}
