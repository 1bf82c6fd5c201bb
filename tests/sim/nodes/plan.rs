//! What one run of several nodes is like, chosen by its seed.

use crate::sabotage::Bug;
use crate::setup::{Setup, Share, pick};
use arqonbus::base::limits::Limits;
use arqonbus::broker::durable::Durability;
use arqonbus::broker::policy::{PublishAnywhere, Role};
use arqonbus::broker::returning::SessionPlan;
use arqonbus::protocol::command::Persist;
use arqonbus::protocol::session::TOKEN_BYTES;
use fastrand::Rng;

/// The channels that clients talk about.
pub const ADDRESSES: [(&str, &str); 5] =
    [("r0", "a"), ("r0", "b"), ("r1", "a"), ("r2", "a"), ("science", "general")];

/// What one run is like.
#[derive(Clone, Debug)]
pub struct Plan {
    pub nodes: usize,
    pub clients: usize,
    pub steps: usize,
    /// What each node is like.
    pub setup: Setup,
    /// Channels that clients talk about.
    pub channels: usize,
    /// The events that one piece of news brings at most.
    pub page: usize,
    /// The pages that a node reads on.
    pub pages: usize,
    pub ack_timeout_ms: u32,
    pub has_sessions: bool,
    /// How often, of a thousand answers of Redis, one is lost.
    pub lost_answers: u32,
    /// How often, of a thousand steps, a link breaks.
    pub cuts: u32,
    /// How often, of ten thousand steps, a node dies, ends or stands still.
    pub ends: u32,
    /// How far the clock of each node is ahead, in milliseconds.
    pub ahead_ms: Vec<u64>,
    /// How often, in a hundred steps, the storage does something.
    pub pace: u8,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(rng: &mut Rng, bug: Option<Bug>) -> Plan {
        let is_steady = bug.is_some() || rng.u8(..4) == 0;
        let mut setup = Setup::new(rng);
        setup.shards = pick(rng, &[1, 2, 2, 3]);
        setup.roles = vec![Role::Admin; usize::from(setup.shards)];
        if rng.bool() {
            setup.roles[0] = Role::User;
        }
        setup.publish_anywhere = PublishAnywhere { user: false, admin: false };
        setup.limits = limits(rng);
        setup.faults = pick(rng, &[0, 5, 20]);
        setup.socket_bytes = pick(rng, &[700, 4_096, 1 << 20]);
        let mut plan = Plan {
            nodes: pick(rng, &[2, 2, 3]),
            clients: rng.usize(3..8),
            steps: rng.usize(300..2_500),
            setup,
            channels: rng.usize(1..=ADDRESSES.len()),
            page: pick(rng, &[1, 4, 16]),
            pages: pick(rng, &[2, 8]),
            ack_timeout_ms: pick(rng, &[200, 5_000, 5_000]),
            has_sessions: rng.bool(),
            lost_answers: pick(rng, &[0, 2, 20]),
            cuts: pick(rng, &[0, 2, 10]),
            ends: pick(rng, &[0, 5, 20]),
            ahead_ms: (0..3).map(|_| pick(rng, &[0, 0, 70, 3_600_000])).collect(),
            pace: pick(rng, &[10, 30, 50]),
        };
        if is_steady {
            (plan.lost_answers, plan.cuts, plan.ends) = (0, 0, 0);
            (plan.ack_timeout_ms, plan.setup.has_leaps) = (60_000, false);
            plan.setup.faults = plan.setup.faults.min(5);
        }
        match bug {
            // It is seen where a node comes back.
            Some(Bug::WholeCatchUp) => {
                (plan.cuts, plan.channels, plan.page, plan.pages) = (6, 1, 1, 200);
                (plan.setup.has_floods, plan.steps, plan.clients) = (true, 2_500, 7);
                (plan.setup.lane_budget, plan.setup.limits.outbox_bytes) = (1, 1 << 20);
            }
            Some(Bug::HideNewOrder | Bug::AckUnstored | Bug::LosePeerGone | Bug::LeakClaim) => {
                (plan.cuts, plan.ends) = (4, 10);
            }
            Some(_) => plan.setup.shards = plan.setup.shards.max(2),
            None => {}
        }
        let shards = usize::from(plan.setup.shards);
        let role = plan.setup.roles[0];
        plan.setup.roles.resize(shards, role);
        plan
    }

    /// Whether nothing goes wrong between nodes and Redis.
    pub fn is_steady(&self) -> bool {
        (self.lost_answers, self.cuts, self.ends) == (0, 0, 0)
    }

    /// What the process of a number is like.
    pub fn of_process(&self, number: usize) -> Setup {
        let durability = Durability {
            persist: Persist::All,
            retention_messages: 0,
            retention_age_ms: 0,
            ack_timeout_ms: self.ack_timeout_ms,
            is_shared: true,
        };
        let random = || Some(std::array::from_fn::<u8, TOKEN_BYTES, _>(|_| fastrand::u8(..)));
        let sessions = SessionPlan { ttl_ms: 60_000, answer_timeout_ms: 5_000, random };
        let share = Share {
            node: format!("n{number}").into(),
            seed: 7 + number as u64,
            durability,
            sessions: self.has_sessions.then_some(sessions),
            slots: 64,
        };
        Setup { share: Some(share), ..self.setup.clone() }
    }
}

fn limits(rng: &mut Rng) -> Limits {
    Limits {
        history_size: pick(rng, &[20, 500, 500]),
        outbox_bytes: pick(rng, &[20_000, 1 << 20, 1 << 20]),
        slow_grace_ms: pick(rng, &[500, 5_000]),
        heartbeat_ms: pick(rng, &[2_000, 25_000]),
        empty_channel_ttl_ms: pick(rng, &[20, 1_000, 60_000]),
        max_message_bytes: 65_536,
        ..Limits::default()
    }
}
