//! What a round does: what was typed, with everything filled in and found to be possible.
//!
//! The plan is part of every report, and two reports are only compared with a warning if their
//! plans differ.

use crate::cli::bench::args::{CommonArgs, FanoutArgs, MixArgs, RoomsArgs, SlowArgs, What};
use crate::cli::bench::figures::grouped;
use crate::cli::bench::layout::Layout;
use crate::cli::bench::presets;
use crate::cli::failure::Failure;
use clap::builder::RangedU64ValueParser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The most groups one connection is in: the protocol's longest `join` list.
const SEATS_MAX: usize = crate::base::limits::JOIN_LIST_MAX;
/// The most connections that share rooms.
const CONNECTIONS_MAX: usize = 18_000;
/// The descriptors that the program needs beside one for each connection.
const OTHER_DESCRIPTORS: u64 = 256;
/// The most bytes that the clients' tables may take: a guard against a slip of the pen.
const CURSORS_MAX: u64 = 100_000_000;

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

/// What befalls the clients, beside their messages.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub(super) enum Act {
    /// Nothing.
    Steady,
    /// They only stay.
    Idle,
    /// Some stop reading.
    Stall,
    /// All but the publishers lose their connection.
    Storm,
    /// They also ask.
    Mix {
        /// How often, in all.
        requests_per_s: f64,
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
    /// Members of each room that stop reading.
    pub(super) slow: u32,
    /// What befalls them.
    pub(super) act: Act,
    /// Bytes of a payload.
    pub(super) payload: usize,
    /// How messages are made; in a sweep, as at its lowest rate.
    pub(super) load: Load,
    /// The rates of a sweep.
    pub(super) sweep: Vec<f64>,
    /// What p99 must stay below for a rate to be borne, in nanoseconds.
    pub(super) knee_p99_ns: f64,
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
    /// What was measured, if it was not started for it.
    pub(super) target: Option<String>,
    /// How often all is repeated.
    pub(super) rounds: u32,
}

/// A whole number within bounds, for clap.
pub(super) fn range(least: u64, most: u64) -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(least..=most)
}

/// What a scenario asks for where nothing else was typed.
struct Scene {
    name: &'static str,
    layout: Layout,
    slow: u32,
    act: Act,
    load: Load,
    duration_s: u64,
    serve_args: &'static [&'static str],
}

impl Scene {
    fn new(name: &'static str, layout: Layout, in_flight: u32) -> Scene {
        let load = Load::Closed { in_flight };
        Scene { name, layout, slow: 0, act: Act::Steady, load, duration_s: 5, serve_args: &[] }
    }

    fn open(self, deliveries_per_s: f64) -> Scene {
        Scene { load: open(deliveries_per_s, &self.layout), ..self }
    }
}

fn open(deliveries_per_s: f64, layout: &Layout) -> Load {
    let messages_per_s = deliveries_per_s / layout.mean_receivers().max(1.0);
    Load::Open { deliveries_per_s, messages_per_s }
}

impl Plan {
    /// The plan of a scenario, and who is where in it.
    pub(super) fn of(what: &What, common: &CommonArgs) -> Result<(Plan, Layout), Failure> {
        let scene = scene(what, common)?;
        let Scene { layout, slow, act, .. } = scene;
        check_size(&layout)?;
        let sweep: Vec<f64> = common
            .rate_sweep
            .as_ref()
            .map(|rates| rates.grid(common.sweep_steps))
            .unwrap_or_default();
        check_combination(&act, common, &sweep)?;
        let load = match (common.rate.or(sweep.first().copied()), common.in_flight) {
            _ if act == Act::Idle => Load::None,
            (Some(rate), _) => open(rate, &layout),
            (None, Some(in_flight)) => Load::Closed { in_flight },
            (None, None) => scene.load,
        };
        let seconds = if sweep.is_empty() { scene.duration_s } else { 3 };
        let first = layout.groups.first();
        let plan = Plan {
            scenario: scene.name.into(),
            connections: layout.seats.len() as u32,
            rooms: layout.groups.len() as u32,
            members: first.map_or(0, |group| group.members.len() as u32),
            publishers: first.map_or(0, |group| group.streams.len() as u32),
            slow,
            act,
            payload: common.payload.unwrap_or(128) as usize,
            load,
            sweep,
            knee_p99_ns: common.knee_p99,
            warmup_s: common.warmup.unwrap_or(Duration::from_secs(1)).as_secs_f64(),
            duration_s: common.duration.unwrap_or(Duration::from_secs(seconds)).as_secs_f64(),
            seed: common.seed,
            client_threads: common.client_threads,
            client_cpus: common.client_cpus.as_ref().map(ToString::to_string),
            daemon_cpus: common.daemon_cpus.as_ref().map(ToString::to_string),
            serve_args: serve_args(common, scene.serve_args),
            target: common.target.clone(),
            rounds: match common.rounds {
                Some(rounds) => rounds,
                None if common.relay.is_some() && common.rate_sweep.is_none() => 3,
                None => 1,
            },
        };
        Ok((plan, layout))
    }

    /// The same at another rate.
    pub(super) fn at_rate(&self, deliveries_per_s: f64, layout: &Layout) -> Plan {
        Plan { load: open(deliveries_per_s, layout), ..self.clone() }
    }

    /// In one line.
    pub(super) fn sentence(&self) -> String {
        let Plan { scenario, connections, rooms, members, publishers, payload, .. } = self;
        if self.act == Act::Idle {
            let connections = grouped(f64::from(*connections));
            return format!("{scenario}: {connections} connections that do nothing");
        }
        let load = match (&self.sweep[..], self.load) {
            (&[from, .., to], _) => {
                format!("{} to {} deliveries a second", grouped(from), grouped(to))
            }
            (_, Load::None) => "no messages".into(),
            (_, Load::Closed { in_flight }) => format!("{in_flight} messages in flight"),
            (_, Load::Open { deliveries_per_s, .. }) => {
                format!("{} deliveries a second", grouped(deliveries_per_s))
            }
        };
        let act = match self.act {
            Act::Steady | Act::Idle => String::new(),
            Act::Stall => format!(", {} of each room stop reading", self.slow),
            Act::Storm => ", all but the publishers fall and return".into(),
            Act::Mix { requests_per_s } => format!(", {requests_per_s} requests a second beside"),
        };
        let rooms = if *rooms == 1 { "1 room".into() } else { format!("{rooms} rooms") };
        format!(
            "{scenario}: {connections} connections, {rooms} of {members} with {publishers} \
             publishing, {payload} bytes of payload, {load}{act}"
        )
    }
}

fn scene(what: &What, common: &CommonArgs) -> Result<Scene, Failure> {
    Ok(match what {
        What::Fanout(args) => Scene::new("fanout", fanout(args)?, 32),
        What::Pairs(args) => Scene::new("pairs", Layout::pairs(args.pairs), args.pairs),
        What::Rooms(args) => Scene::new("rooms", rooms(args, common.seed)?, 300),
        What::Idle(args) => {
            check_descriptors(args.connections as usize)?;
            let scene = Scene::new("idle", Layout::idle(args.connections), 1);
            Scene { act: Act::Idle, load: Load::None, ..scene }
        }
        What::Storm(args) => {
            check_descriptors(args.rooms as usize * args.members as usize)?;
            let layout = Layout::fanout(args.rooms, args.members, 1);
            let scene = Scene::new("storm", layout, 1).open(20_000.0);
            Scene { act: Act::Storm, duration_s: 6, ..scene }
        }
        What::Slow(args) => slow(args)?,
        What::Mix(args) => mix(args)?,
        What::Preset(_) | What::Compare(_) => {
            return Err(Failure::Usage("this is no scenario".into()));
        }
    })
}

fn fanout(args: &FanoutArgs) -> Result<Layout, Failure> {
    let FanoutArgs { rooms, members, publishers, .. } = *args;
    check_publishers(publishers, members)?;
    check_descriptors(rooms as usize * members as usize)?;
    Ok(Layout::fanout(rooms, members, publishers))
}

fn rooms(args: &RoomsArgs, seed: u64) -> Result<Layout, Failure> {
    let RoomsArgs { rooms, members, publishers, connections, .. } = *args;
    check_publishers(publishers, members)?;
    check_descriptors(connections as usize)?;
    if members > connections {
        return Err(Failure::Usage(format!(
            "rooms of {members} need as many connections, not {connections}: give from {members} to \
             {CONNECTIONS_MAX} --connections"
        )));
    }
    let seats = (rooms as usize * members as usize).div_ceil(connections as usize);
    let refused = |seats: usize| {
        let least = (rooms as usize * members as usize).div_ceil(SEATS_MAX) + 1;
        let least = least.max(connections as usize + 1);
        let what = match least <= CONNECTIONS_MAX {
            true => format!("give from {least} to {CONNECTIONS_MAX} --connections"),
            // The last connection is left free, since the rooms are not spread quite evenly.
            false => {
                let most = SEATS_MAX * (connections as usize - 1) / members as usize;
                format!("give from 1 to {} --rooms", most.max(1))
            }
        };
        Failure::Usage(format!(
            "a connection would be in {seats} rooms, and can be in {SEATS_MAX} at most; {what}"
        ))
    };
    if seats > SEATS_MAX {
        return Err(refused(seats));
    }
    let layout = Layout::rooms(rooms, members, connections, publishers, seed);
    match layout.seats.iter().map(Vec::len).max() {
        Some(most) if most > SEATS_MAX => Err(refused(most)),
        _ => Ok(layout),
    }
}

fn slow(args: &SlowArgs) -> Result<Scene, Failure> {
    let SlowArgs { rooms, members, publishers, slow, .. } = *args;
    if publishers + slow >= members {
        let what = match members.saturating_sub(publishers + 1) {
            0 => format!("from 1 to {} --publishers, and then fewer --slow", members - 2),
            most => format!("from 1 to {most} --slow"),
        };
        return Err(Failure::Usage(format!(
            "of {members} members {publishers} publish and {slow} stop reading; at least one must be \
             left: give {what}"
        )));
    }
    check_descriptors(rooms as usize * members as usize)?;
    let layout = Layout::fanout(rooms, members, publishers).with_stalled(slow);
    let scene = Scene::new("slow", layout, 32);
    // The outbox and the patience of a server at its defaults are larger than a short run.
    let serve_args =
        &["--max-message-bytes=16384", "--outbox-bytes=262144", "--slow-grace-ms=2000"];
    Ok(Scene { slow, act: Act::Stall, duration_s: 9, serve_args, ..scene })
}

fn mix(args: &MixArgs) -> Result<Scene, Failure> {
    let MixArgs { rooms, members, publishers, requests, .. } = *args;
    check_publishers(publishers, members)?;
    check_descriptors(rooms as usize * members as usize)?;
    let layout = Layout::fanout(rooms, members, publishers);
    let act = Act::Mix { requests_per_s: f64::from(requests) };
    Ok(Scene { act, ..Scene::new("mix", layout, 1).open(20_000.0) })
}

/// The flags of the daemon that is started. What the person types comes last, and wins.
fn serve_args(common: &CommonArgs, scene: &[&str]) -> Vec<String> {
    if common.target.is_some() {
        return Vec::new();
    }
    let is_typed = |flag: &str| {
        let name = flag.split('=').next().unwrap_or(flag);
        common.serve_arg.iter().any(|typed| typed.starts_with(name))
    };
    let mut args: Vec<String> =
        scene.iter().filter(|flag| !is_typed(flag)).map(|&flag| flag.to_owned()).collect();
    if let Some(shards) = common.shards {
        args.push(format!("--shards={shards}"));
    }
    if let Some(pin) = &common.pin {
        args.push(format!("--pin={pin}"));
    }
    args.extend(common.serve_arg.iter().cloned());
    args
}

fn check_combination(act: &Act, common: &CommonArgs, sweep: &[f64]) -> Result<(), Failure> {
    let wrong = |why: &str| Err(Failure::Usage(why.to_owned()));
    if common.relay.is_some() && !matches!(act, Act::Steady | Act::Idle) {
        return wrong("a bare relay can't do what this scenario asks; leave --relay out");
    }
    if *act == Act::Idle && (common.rate.is_some() || common.in_flight.is_some()) {
        return wrong("idle connections send nothing; leave --rate and --in-flight out");
    }
    if !sweep.is_empty() && *act != Act::Steady {
        return wrong("rates can be swept in fanout, pairs and rooms");
    }
    Ok(())
}

fn check_publishers(publishers: u32, members: u32) -> Result<(), Failure> {
    match publishers <= members {
        true => Ok(()),
        false => Err(Failure::Usage(format!(
            "{publishers} of {members} members can't publish; give from 1 to {members} --publishers"
        ))),
    }
}

/// Each member expects something of each publisher of its rooms.
fn check_size(layout: &Layout) -> Result<(), Failure> {
    let cursors = layout.groups.iter().map(|group| group.members.len() * group.streams.len());
    let cursors: u64 = cursors.map(|count| count as u64).sum();
    let members: u64 = layout.groups.iter().map(|group| group.members.len() as u64).sum();
    match cursors <= CURSORS_MAX {
        true => Ok(()),
        false => Err(Failure::Usage(format!(
            "every member checks every publisher of its room: that would be {cursors} accounts, and \
             {CURSORS_MAX} is the most; give from 1 to {} --publishers",
            (CURSORS_MAX / members.max(1)).max(1)
        ))),
    }
}

/// A connection needs a descriptor here. The soft limit is raised if it must be and may be.
fn check_descriptors(connections: usize) -> Result<(), Failure> {
    let needed = connections as u64 + OTHER_DESCRIPTORS;
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    if limit.current.is_some_and(|current| current < needed) && needed <= most {
        // If it can't be, connecting will say so.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
    match needed <= most {
        true => Ok(()),
        false => Err(Failure::Usage(format!(
            "{connections} connections need a file descriptor each, and this process may have {most}: \
             give from 1 to {} connections, or raise the limit (ulimit -Hn)",
            most.saturating_sub(OTHER_DESCRIPTORS).max(1)
        ))),
    }
}

impl What {
    /// What every scenario takes; `None` for what is none.
    pub(super) fn common(&self) -> Option<&CommonArgs> {
        match self {
            What::Fanout(args) => Some(&args.common),
            What::Pairs(args) => Some(&args.common),
            What::Rooms(args) => Some(&args.common),
            What::Idle(args) => Some(&args.common),
            What::Storm(args) => Some(&args.common),
            What::Slow(args) => Some(&args.common),
            What::Mix(args) => Some(&args.common),
            What::Preset(args) => Some(&args.common),
            What::Compare(_) => None,
        }
    }

    /// What a preset stands for; anything else stands for itself.
    pub(super) fn expanded(&self) -> Result<Option<What>, Failure> {
        match self {
            What::Preset(args) => presets::expand(args).map(Some),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(words: &str) -> Result<Plan, Failure> {
        let what = What::of_words(words)?;
        let common = what.common().unwrap().clone();
        Plan::of(&what, &common).map(|(plan, _)| plan)
    }

    #[test]
    fn scenarios_have_sensible_defaults() {
        for (words, connections, load) in [
            ("fanout", 100, Load::Closed { in_flight: 32 }),
            ("pairs --pairs 3", 6, Load::Closed { in_flight: 3 }),
            ("rooms", 300, Load::Closed { in_flight: 300 }),
            ("idle --connections 7", 7, Load::None),
            (
                "fanout --members 11 --rate 50k",
                11,
                Load::Open { deliveries_per_s: 50e3, messages_per_s: 5e3 },
            ),
            ("preset deep", 100, Load::Closed { in_flight: 256 }),
        ] {
            let plan = plan(words).unwrap();
            assert_eq!((plan.connections, plan.load), (connections, load), "{words}");
        }
    }

    #[test]
    fn what_can_not_be_is_refused_with_what_can() {
        for (words, why) in [
            ("fanout --members 1", "2..=18000"),
            ("fanout --members 5 --publishers 6", "from 1 to 5 --publishers"),
            ("fanout --rate 0", "from 1 to 100000000"),
            ("fanout --duration 0", "from 0.1 to 3600"),
            ("fanout --payload 10", "52..=1000000"),
            ("fanout --rooms 10000 --members 18000", "file descriptor each"),
            ("fanout --rate 5 --in-flight 5", "cannot be used with"),
            ("rooms --rooms 1000 --members 10 --connections 10", "to 18000 --connections"),
            ("rooms --rooms 100000 --members 1000 --connections 1000", "give from 1 to "),
            ("rooms --members 10 --connections 9", "from 10 to 18000 --connections"),
            ("fanout --members 15000 --publishers 15000", "from 1 to 6666 --publishers"),
            ("fanout --timeout 0", "from 0.001 to 86400"),
            ("fanout --timeout 1e30", "from 0.001 to 86400"),
            ("fanout --rate-sweep 1..2 --knee-p99 0ms", "from 1ns to 600s"),
            ("slow --members 5 --slow 9", "from 1 to 3 --publishers"),
            ("idle --connections 999999", "ulimit"),
            ("idle --rate 5", "send nothing"),
            ("slow --members 10 --publishers 5 --slow 5", "from 1 to 4 --slow"),
            ("storm --relay x", "leave --relay out"),
            ("mix --rate-sweep 1..2", "fanout, pairs and rooms"),
            ("preset nothing", "there are"),
        ] {
            match plan(words) {
                Err(Failure::Usage(told)) => assert!(told.contains(why), "{words}: {told}"),
                other => panic!("{words}: {other:?}"),
            }
        }
    }
}
