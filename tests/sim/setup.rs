//! What one run is like, chosen by its seed: how many shards, how narrow the lanes, how small the
//! buffers, how patient the server.

use crate::storage::Habits;
use arqonbus::base::limits::Limits;
use arqonbus::base::work::TURN_UNITS;
use arqonbus::base::work::{FAN_OUT_UNITS_MAX, WRITE};
use arqonbus::broker::durable::Durability;
use arqonbus::broker::home::Bootstrap;
use arqonbus::broker::policy::{PublishAnywhere, Role};
use arqonbus::broker::returning::SessionPlan;
use arqonbus::protocol::command::RoomConfig;
use arqonbus::protocol::names::Name;
use fastrand::Rng;
use std::sync::Arc;

/// The room whose channels are made private, and by `create_channel` only.
pub const VAULT: &str = "vault";
/// The room that may say that less is kept of it.
pub const LAX_ROOM: &str = "r3";
/// The rooms that clients talk about.
pub const ROOMS: [&str; 6] = ["science", "r0", "r1", "r2", "r3", VAULT];
/// The channels that clients talk about.
pub const CHANNELS: [&str; 5] = ["general", "a", "b", "c", "explore"];
/// The private channels of the vault.
pub const SECRETS: [&str; 3] = ["s0", "s1", "s2"];

/// The clients that `metadata.members` of a private channel names.
pub fn guests(secret: &str) -> Vec<String> {
    match secret {
        "s0" => vec!["c0".into(), "c1".into()],
        "s1" => vec!["c2".into()],
        _ => Vec::new(),
    }
}

/// What one run is like.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How many shards there are.
    pub shards: u16,
    /// How many clients there are.
    pub clients: usize,
    /// Steps of chaos before everything comes to rest.
    pub steps: usize,
    /// The limits at the start.
    pub limits: Limits,
    /// How many asks, and how many tells, a shard's lane holds.
    pub lane_slots: usize,
    /// How many asks or tells may be staged for a lane before someone has to wait.
    pub staged_max: usize,
    /// How many asks, and how many tells, a shard takes in one turn.
    pub lane_budget: usize,
    /// The units of work of one turn.
    pub turn_units: u64,
    /// What writing a message may cost without being late.
    pub fan_out_units_max: u64,
    /// How many bytes are read from one socket in one turn.
    pub read_bytes: usize,
    /// How many bytes a socket takes that the client has not read.
    pub socket_bytes: usize,
    /// What the clients of each shard may do.
    pub roles: Vec<Role>,
    /// Who may publish where it is not joined.
    pub publish_anywhere: PublishAnywhere,
    /// How often, in a thousand steps, something breaks.
    pub faults: u32,
    /// How often, in a hundred messages, a client asks for an ack.
    pub acks: u32,
    /// How often, in a hundred steps, everyone has a turn; the rest of the time somebody has.
    pub breaths: u8,
    /// Whether clients send many messages at a time.
    pub has_floods: bool,
    /// Whether time may leap.
    pub has_leaps: bool,
    /// Whether the run ends with a drain.
    pub ends_with_drain: bool,
    /// The storage, if there is one.
    pub storage: Option<Habits>,
    /// What this node shares with others, if it does.
    pub share: Option<Share>,
}

/// One node of several.
#[derive(Clone, Debug)]
pub struct Share {
    /// What it is called.
    pub node: Arc<str>,
    /// Where its randomness comes from: no two processes have the same.
    pub seed: u64,
    pub durability: Durability,
    /// How its clients return, if they can.
    pub sessions: Option<SessionPlan>,
    /// The records that it gives away before some were taken.
    pub slots: usize,
}

impl Setup {
    /// The setup of a seed.
    pub fn new(rng: &mut Rng) -> Setup {
        let shards = pick(rng, &[1, 2, 2, 4, 4, 16]);
        let is_narrow = rng.u8(..4) > 0;
        let roles = (0..shards).map(|shard| match (shard + rng.u16(..3)) % 3 {
            0 => Role::User,
            _ => Role::Admin,
        });
        let roles = roles.collect();
        let publish_anywhere = PublishAnywhere { user: rng.u8(..8) == 0, admin: rng.u8(..4) == 0 };
        Setup {
            shards,
            clients: rng.usize(2..10),
            steps: rng.usize(200..4_000),
            limits: limits(rng),
            lane_slots: if is_narrow { rng.usize(1..6) } else { 64 },
            staged_max: if is_narrow { rng.usize(1..9) } else { 1_024 },
            lane_budget: if is_narrow { rng.usize(1..6) } else { 1_024 },
            read_bytes: pick(rng, &[16, 256, 4_096, 65_536]),
            socket_bytes: pick(rng, &[64, 700, 4_096, 1 << 20]),
            roles,
            publish_anywhere,
            faults: pick(rng, &[0, 5, 20, 60]),
            acks: pick(rng, &[10, 50, 90]),
            breaths: pick(rng, &[1, 4, 4, 25]),
            has_floods: rng.u8(..4) == 0,
            has_leaps: rng.bool(),
            ends_with_drain: rng.u8(..4) == 0,
            storage: None,
            // Behind all else, so that the seeds that were found before still do what they did.
            turn_units: pick(rng, &[4_000, 40_000, TURN_UNITS]),
            fan_out_units_max: pick(rng, &[0, 3 * WRITE, FAN_OUT_UNITS_MAX]),
            share: None,
        }
    }
}

/// The rooms that are there from the start.
pub fn bootstraps() -> Vec<Bootstrap> {
    let name = Name::fixed;
    let closed = RoomConfig { create_on_join: Some(false), ..RoomConfig::default() };
    vec![
        Bootstrap {
            name: name("science"),
            channels: vec![name("general"), name("explore")],
            config: RoomConfig::default(),
        },
        Bootstrap { name: name(VAULT), channels: Vec::new(), config: closed },
        Bootstrap {
            name: name("integriguard"),
            channels: vec![name("telemetry-stream"), name("dashboard-events")],
            config: RoomConfig::default(),
        },
    ]
}

/// The last messages of a channel that are kept whatever comes.
pub fn history_kept(limits: &Limits) -> u64 {
    match (limits.history_bytes, limits.history_bytes_total) {
        (0 | 1_000_000.., 0 | 1_000_000..) => u64::from(limits.history_size),
        // A large message may be all that fits, or not fit itself.
        _ => 0,
    }
}

/// Limits that are met now and then.
pub fn limits(rng: &mut Rng) -> Limits {
    Limits {
        max_rooms: pick(rng, &[5, 100]),
        max_channels: pick(rng, &[8, 200_000, 200_000]),
        max_channels_per_room: pick(rng, &[3, 100]),
        max_members_per_channel: pick(rng, &[3, 100, 100]),
        max_joins_per_client: pick(rng, &[3, 100, 100]),
        max_message_bytes: pick(rng, &[1_500, 8_192, 65_536]),
        history_size: pick(rng, &[0, 1, 3, 20, 500, 500]),
        history_bytes: pick(rng, &[3_000, 0, 1 << 24, 1 << 24]),
        history_bytes_total: pick(rng, &[20_000, 0, 1 << 29, 1 << 29]),
        outbox_bytes: pick(rng, &[2_000, 8_000, 40_000, 1 << 20]),
        slow_grace_ms: pick(rng, &[50, 500, 5_000]),
        heartbeat_ms: pick(rng, &[200, 2_000, 25_000]),
        handshake_timeout_ms: pick(rng, &[100, 10_000]),
        max_violations: pick(rng, &[0, 3, 10]),
        rate_messages: pick(rng, &[0, 0, 0, 50]),
        rate_commands: pick(rng, &[0, 0, 0, 20]),
        // Clients here ping as fast as they like.
        rate_control_frames: 0,
        empty_channel_ttl_ms: pick(rng, &[0, 20, 1_000, 60_000]),
        create_on_join: rng.u8(..8) > 0,
        ..Limits::default()
    }
}

/// One of a few.
pub fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())]
}
