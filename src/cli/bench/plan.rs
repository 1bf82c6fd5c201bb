//! What a round does: what was typed, with everything filled in and found to be possible.
//!
//! The plan is part of every report, and two reports are only compared with a warning if their
//! plans differ.

use crate::cli::bench::args::{CommonArgs, FanoutArgs, PairsArgs, RoomsArgs, What};
use crate::cli::bench::layout::Layout;
use crate::cli::failure::Failure;
use clap::builder::RangedU64ValueParser;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The most groups one connection is in: the protocol's longest `join` list.
const SEATS_MAX: usize = crate::base::limits::JOIN_LIST_MAX;

/// How messages are made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "model")]
pub(super) enum Load {
    /// None are.
    None,
    /// So many are in flight; each makes room for the next when all its receivers have it.
    Closed {
        /// How many.
        in_flight: u32,
    },
    /// They are due on schedule.
    Open {
        /// What was asked for.
        deliveries_per_s: f64,
        /// What that makes for the publishers.
        messages_per_s: f64,
    },
}

/// One round's plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The scenario's name.
    pub(super) scenario: String,
    /// Connections in all.
    pub(super) connections: u32,
    /// Rooms in all.
    pub(super) rooms: u32,
    /// Members of each room.
    pub(super) members: u32,
    /// Publishers in each room.
    pub(super) publishers: u32,
    /// Bytes of a payload.
    pub(super) payload: usize,
    /// How messages are made.
    pub(super) load: Load,
    /// Seconds of warming up.
    pub(super) warmup_s: f64,
    /// Seconds measured.
    pub(super) duration_s: f64,
    /// What decides what is left to chance.
    pub(super) seed: u64,
    /// Threads that play the clients.
    pub(super) client_threads: u32,
    /// The clients' cores, if they were given.
    pub(super) client_cpus: Option<String>,
    /// The server's cores, if they were given.
    pub(super) daemon_cpus: Option<String>,
    /// Flags for the server.
    pub(super) serve_args: Vec<String>,
    /// How often all is repeated.
    pub(super) rounds: u32,
}

/// A whole number within bounds, for clap.
pub(super) fn range(least: u64, most: u64) -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(least..=most)
}

impl Plan {
    /// The plan of a scenario, and who is where in it.
    pub(super) fn of(what: &What) -> Result<(Plan, Layout), Failure> {
        let common = what.common();
        let (scenario, layout, default_in_flight) = match what {
            What::Fanout(args) => ("fanout", fanout(args)?, 32),
            What::Pairs(args) => ("pairs", Layout::pairs(args.pairs), args.pairs),
            What::Rooms(args) => ("rooms", rooms(args, common.seed)?, 300),
        };
        check_descriptors(layout.seats.len())?;
        let load = match (common.rate, common.in_flight) {
            (Some(deliveries_per_s), _) => Load::Open {
                deliveries_per_s,
                messages_per_s: deliveries_per_s / layout.mean_receivers(),
            },
            (None, in_flight) => Load::Closed { in_flight: in_flight.unwrap_or(default_in_flight) },
        };
        let first = layout.groups.first();
        let plan = Plan {
            scenario: scenario.into(),
            connections: layout.seats.len() as u32,
            rooms: layout.groups.len() as u32,
            members: first.map_or(0, |group| group.members.len() as u32),
            publishers: first.map_or(0, |group| group.streams.len() as u32),
            payload: common.payload.unwrap_or(128) as usize,
            load,
            warmup_s: common.warmup.unwrap_or(Duration::from_secs(1)).as_secs_f64(),
            duration_s: common.duration.unwrap_or(Duration::from_secs(5)).as_secs_f64(),
            seed: common.seed,
            client_threads: common.client_threads,
            client_cpus: common.client_cpus.as_ref().map(ToString::to_string),
            daemon_cpus: common.daemon_cpus.as_ref().map(ToString::to_string),
            serve_args: serve_args(common),
            rounds: common.rounds.unwrap_or(if common.relay.is_some() { 3 } else { 1 }),
        };
        Ok((plan, layout))
    }

    /// In one line.
    pub(super) fn sentence(&self) -> String {
        let Plan { scenario, connections, rooms, members, publishers, payload, .. } = self;
        let load = match self.load {
            Load::None => "no messages".into(),
            Load::Closed { in_flight } => format!("{in_flight} in flight"),
            Load::Open { deliveries_per_s, .. } => {
                format!("{deliveries_per_s} deliveries a second")
            }
        };
        format!(
            "{scenario}: {connections} connections, {rooms} rooms of {members} with {publishers} \
             publishing, {payload} bytes, {load}"
        )
    }
}

impl What {
    /// What every scenario takes.
    pub(super) fn common(&self) -> &CommonArgs {
        match self {
            What::Fanout(args) => &args.common,
            What::Pairs(args) => &args.common,
            What::Rooms(args) => &args.common,
        }
    }
}

/// The flags of the daemon that is started.
fn serve_args(common: &CommonArgs) -> Vec<String> {
    let mut args = Vec::new();
    if let Some(shards) = common.shards {
        args.push(format!("--shards={shards}"));
    }
    if let Some(pin) = &common.pin {
        args.push(format!("--pin={pin}"));
    }
    args.extend(common.serve_arg.iter().cloned());
    args
}

fn fanout(args: &FanoutArgs) -> Result<Layout, Failure> {
    check_publishers(args.publishers, args.members)?;
    check_descriptors(args.rooms as usize * args.members as usize)?;
    Ok(Layout::fanout(args.rooms, args.members, args.publishers))
}

fn rooms(args: &RoomsArgs, seed: u64) -> Result<Layout, Failure> {
    let RoomsArgs { rooms, members, publishers, connections, .. } = *args;
    check_publishers(publishers, members)?;
    if members > connections {
        return Err(Failure::Usage(format!(
            "rooms of {members} need at least {members} connections, not {connections}"
        )));
    }
    let layout = Layout::rooms(rooms, members, connections, publishers, seed);
    let most = layout.seats.iter().map(Vec::len).max().unwrap_or(0);
    if most > SEATS_MAX {
        return Err(Failure::Usage(format!(
            "a connection would be in {most} rooms, and can be in {SEATS_MAX} at most; give at least \
             {} --connections",
            (rooms as usize * members as usize).div_ceil(SEATS_MAX)
        )));
    }
    Ok(layout)
}

fn check_publishers(publishers: u32, members: u32) -> Result<(), Failure> {
    match publishers <= members {
        true => Ok(()),
        false => Err(Failure::Usage(format!(
            "{publishers} of {members} members can't publish; give from 1 to {members} --publishers"
        ))),
    }
}

/// A connection needs a descriptor here.
fn check_descriptors(connections: usize) -> Result<(), Failure> {
    /// What the program needs beside.
    const OTHERS: u64 = 256;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = limit.current.unwrap_or(u64::MAX).saturating_sub(OTHERS);
    match connections as u64 <= most {
        true => Ok(()),
        false => Err(Failure::Usage(format!(
            "{connections} connections need more file descriptors than this process may have; at most \
             {most} fit (raise the limit with ulimit -n)"
        ))),
    }
}
