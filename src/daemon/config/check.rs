//! What no key can be wrong about alone: values that contradict each other, and values that ask
//! for more than the machine gives. Each sentence names every key it is about.

use crate::broker::policy::{Role, Roles};
use crate::daemon::config::meaning::{Config, Storage};
use crate::protocol::origin::Origin;
use crate::storage::Login;
use std::net::SocketAddr;

/// What must fit into an outbox besides the longest message: the envelope around it, and the
/// notice that tells of what was dropped.
const OUTBOX_SPARE_BYTES: u32 = 64 * 1024;
/// What a kept message takes besides its own bytes.
const HISTORY_SPARE_BYTES: u32 = 1_024;
/// The descriptors a shard needs for itself: its poll, its waker and what it may listen on.
const DESCRIPTORS_PER_SHARD: u64 = 4;
/// The descriptors of everything else: listeners, the log, HTTP and telemetry connections.
const DESCRIPTORS_SPARE: u64 = 256;

/// Keys that can't all hold at once.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Contradiction {
    /// The keys, the likeliest culprit first.
    pub keys: Vec<&'static str>,
    /// What is wrong.
    pub sentence: String,
}

/// Everything in a configuration that contradicts something else in it.
pub(super) fn contradictions(config: &Config) -> Vec<Contradiction> {
    let mut found = ports(config);
    found.extend(outbox(config));
    found.extend(history(config));
    found.extend(origins(config));
    found.extend(roles(config));
    found.extend(storage(config));
    found.extend(sentinels(config));
    found.extend(many_nodes(config));
    found.extend(backlog(config));
    found.extend(rooms(config));
    found
}

fn ports(config: &Config) -> Vec<Contradiction> {
    let listeners: Vec<_> = config.listeners().collect();
    let mut found = Vec::new();
    for (index, &(key, address)) in listeners.iter().enumerate() {
        for &(other_key, other) in &listeners[..index] {
            if are_in_conflict(address, other) {
                let sentence =
                    format!("`{key}` ({address}) and `{other_key}` ({other}) need different ports");
                found.push(Contradiction { keys: vec![key, other_key], sentence });
            }
        }
    }
    found
}

fn are_in_conflict(one: SocketAddr, other: SocketAddr) -> bool {
    let overlap =
        one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    overlap && one.port() == other.port() && one.port() != 0
}

/// The least that an outbox must hold where messages may be so long.
pub fn outbox_needed(max_message_bytes: u32) -> u32 {
    max_message_bytes.saturating_add(OUTBOX_SPARE_BYTES)
}

fn outbox(config: &Config) -> Option<Contradiction> {
    let needed = outbox_needed(config.limits.max_message_bytes);
    (config.limits.outbox_bytes < needed).then(|| Contradiction {
        keys: vec!["limits.outbox_bytes", "limits.max_message_bytes"],
        sentence: format!(
            "`limits.outbox_bytes` is {}, too little for a message of `limits.max_message_bytes`, \
             {}; it must be at least {needed}",
            config.limits.outbox_bytes, config.limits.max_message_bytes
        ),
    })
}

fn history(config: &Config) -> Option<Contradiction> {
    let limits = &config.limits;
    let needed = limits.max_message_bytes.saturating_add(HISTORY_SPARE_BYTES);
    let is_too_little = limits.history_size > 0 && (1..needed).contains(&limits.history_bytes);
    is_too_little.then(|| Contradiction {
        keys: vec!["limits.history_bytes", "limits.max_message_bytes"],
        sentence: format!(
            "`limits.history_bytes` is {}, too little for a message of `limits.max_message_bytes`, \
             {}; it must be at least {needed}, or 0 for no limit",
            limits.history_bytes, limits.max_message_bytes
        ),
    })
}

fn origins(config: &Config) -> Option<Contradiction> {
    let rules = config.allowed_origins.rules();
    (rules.len() > 1 && rules.contains(&Origin::Any)).then(|| Contradiction {
        keys: vec!["allowed_origins"],
        sentence: "`*` lets in every origin; give it alone, or leave it out".to_owned(),
    })
}

/// Every page that may connect could do what an admin may, on behalf of whoever visits it.
fn roles(config: &Config) -> Option<Contradiction> {
    let is_open = config.roles == Roles::Everybody(Role::Admin)
        && !config.origins_at(config.listen).are_local();
    is_open.then(|| Contradiction {
        keys: vec!["policy.role", "allowed_origins", "listen"],
        sentence:
            "`policy.role` is admin, but `allowed_origins` lets pages of other websites connect \
                   to `listen`; give `allowed_origins` = [\"loopback\"], or leave `policy.role` out"
                .to_owned(),
    })
}

fn storage(config: &Config) -> Option<Contradiction> {
    let sentence = match (config.storage, &config.redis_url) {
        (Storage::Redis, None) => {
            "`storage` is redis, but nothing says where that is; give `redis_url`, for instance \
             redis://127.0.0.1:6379"
        }
        (Storage::Memory, Some(_)) => {
            "`redis_url` is given, but `storage` is memory; give `storage` = \"redis\" to use it, \
             or leave it out"
        }
        (Storage::Redis, Some(_)) | (Storage::Memory, None) => return None,
    };
    let keys = vec!["redis_url", "storage"];
    Some(Contradiction { keys, sentence: sentence.to_owned() })
}

fn sentinels(config: &Config) -> Option<Contradiction> {
    let sentence = match config.redis() {
        Ok(None) if config.redis_sentinel != Login::default() => {
            "a login for sentinels is given, but no `redis_url` that names any; leave it out"
                .to_owned()
        }
        Ok(_) => return None,
        Err(sentence) => sentence,
    };
    let keys = vec!["redis_sentinel_password", "redis_sentinel_user", "redis_url"];
    Some(Contradiction { keys, sentence })
}

fn many_nodes(config: &Config) -> Option<Contradiction> {
    let is_alone = config.persistence.many_nodes && config.storage == Storage::Memory;
    is_alone.then(|| Contradiction {
        keys: vec!["persistence.many_nodes", "storage"],
        sentence: "`persistence.many_nodes` is true, but `storage` is memory, which no other node \
                   reaches; give `storage` = \"redis\" and `redis_url`, or leave it out"
            .to_owned(),
    })
}

fn backlog(config: &Config) -> Option<Contradiction> {
    let needed = u64::from(config.limits.max_message_bytes) + u64::from(HISTORY_SPARE_BYTES);
    let given = config.persistence.backlog_bytes;
    (given < needed).then(|| Contradiction {
        keys: vec!["persistence.backlog_bytes", "limits.max_message_bytes"],
        sentence: format!(
            "`persistence.backlog_bytes` is {given}, too little for a message of \
             `limits.max_message_bytes`, {}; it must be at least {needed}",
            config.limits.max_message_bytes
        ),
    })
}

fn rooms(config: &Config) -> Vec<Contradiction> {
    let mut found = Vec::new();
    let (count, limit) = (config.rooms.len(), config.limits.max_rooms);
    if count as u64 > u64::from(limit) {
        found.push(Contradiction {
            keys: vec!["limits.max_rooms", "rooms", "bootstrap"],
            sentence: format!(
                "`limits.max_rooms` is {limit}, but {count} rooms are there from the start \
                 (`rooms`, `bootstrap` and the system's own)"
            ),
        });
    }
    let (count, limit) = (
        config.rooms.iter().map(|room| room.channels.len() as u64).sum::<u64>(),
        config.limits.max_channels,
    );
    if count > u64::from(limit) {
        found.push(Contradiction {
            keys: vec!["limits.max_channels", "rooms", "bootstrap"],
            sentence: format!(
                "`limits.max_channels` is {limit}, but {count} channels are there from the start \
                 (`rooms`, `bootstrap` and the system's own)"
            ),
        });
    }
    let limit = config.limits.max_channels_per_room;
    for room in &config.rooms {
        let count = room.channels.len();
        if count as u64 > u64::from(limit) {
            found.push(Contradiction {
                keys: vec!["limits.max_channels_per_room", "rooms"],
                sentence: format!(
                    "`limits.max_channels_per_room` is {limit}, but `{}` in `rooms` has {count} \
                     channels from the start",
                    room.name
                ),
            });
        }
    }
    found
}

/// How many descriptors that many connections take, all in all.
pub(super) fn descriptors_needed(connections: u32, shards: u16) -> u64 {
    u64::from(connections) + DESCRIPTORS_SPARE + DESCRIPTORS_PER_SHARD * u64::from(shards)
}

/// How many connections that many descriptors allow.
pub(super) fn connections_allowed(descriptors: u64, shards: u16) -> u32 {
    let rest = descriptors.saturating_sub(descriptors_needed(0, shards));
    u32::try_from(rest).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_conflict_where_the_kernel_would_refuse_one() {
        for (one, other, expected) in [
            ("127.0.0.1:9100", "127.0.0.1:9100", true),
            ("127.0.0.1:9100", "127.0.0.1:9101", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("0.0.0.0:9100", "127.0.0.1:9100", true),
            ("127.0.0.1:9100", "[::]:9100", true),
            ("127.0.0.1:9100", "127.0.0.2:9100", false),
            ("127.0.0.1:9100", "[::1]:9100", false),
        ] {
            let (a, b): (SocketAddr, SocketAddr) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!(are_in_conflict(a, b), expected, "{one} {other}");
            assert_eq!(are_in_conflict(b, a), expected, "{other} {one}");
        }
    }

    #[test]
    fn descriptors_and_connections_are_two_ways_to_say_it() {
        for (connections, shards) in [(1, 1), (1_000, 4), (100_000, 256)] {
            let needed = descriptors_needed(connections, shards);
            assert_eq!(connections_allowed(needed, shards), connections);
            assert_eq!(connections_allowed(needed - 1, shards), connections - 1);
        }
        assert_eq!(connections_allowed(10, 1), 0);
        assert_eq!(connections_allowed(u64::MAX, 1), u32::MAX);
    }
}
