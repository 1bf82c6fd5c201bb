//! What the storage is told once: where Redis is, and what it may take.

use crate::broker::record::Keep;
use crate::storage::url::RedisUrl;

/// How long a node may be silent before another may write in its place, in milliseconds.
pub const LEASE_MS: u64 = 5_000;
/// How long a lost connection may take to come back before it is told, if nothing shorter is asked
/// for, in milliseconds.
pub const GRACE_MS: u64 = 1_000;
/// The longest prefix of keys, in bytes.
const PREFIX_BYTES_MAX: usize = 64;

/// What the storage is told once.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where Redis is.
    pub url: RedisUrl,
    /// What every key begins with; one node writes under it at a time.
    pub prefix: String,
    /// The name of this node, for the message that another one reads.
    pub node: String,
    /// The bytes that may wait for Redis; what comes beyond is lost, and told to be.
    pub backlog_bytes: u64,
    /// How long Redis may be silent while it is waited for, in milliseconds.
    pub commit_timeout_ms: u64,
    /// How many replicas must have an event before it is safe; 0 does not ask.
    pub replicas: u32,
    /// How long they may take for it, in milliseconds.
    pub replicas_timeout_ms: u64,
    /// The most messages read for a channel at the start, if its room says nothing else.
    pub load_messages: u32,
    /// The most bytes of messages read for a channel at the start.
    pub load_bytes: u64,
    /// Nothing older is kept of a channel, in milliseconds; 0 is no limit.
    pub retention_age_ms: u64,
    /// The most bytes that are kept of all channels together; 0 is no limit.
    pub retention_bytes_total: u64,
    /// Whether several nodes share what is kept, and are one bus.
    pub is_shared: bool,
    /// How long the session of a client that has gone is kept, in milliseconds.
    pub session_ttl_ms: u64,
    /// How long a lost connection may take to come back before it is told, in milliseconds.
    pub grace_ms: u64,
}

impl Settings {
    /// The usual settings for a Redis.
    pub fn new(url: RedisUrl) -> Settings {
        Settings {
            url,
            prefix: "arqonbus".into(),
            node: "arqonbus".into(),
            backlog_bytes: 256 * 1024 * 1024,
            commit_timeout_ms: 2_000,
            replicas: 0,
            replicas_timeout_ms: 1_000,
            load_messages: 500,
            load_bytes: 16 * 1024 * 1024,
            retention_age_ms: 0,
            retention_bytes_total: 0,
            is_shared: false,
            session_ttl_ms: 120_000,
            grace_ms: GRACE_MS,
        }
    }

    /// How much is kept of a channel of which no home has said it yet.
    pub(super) fn usual_keep(&self) -> Keep {
        let bytes = match self.load_bytes {
            u64::MAX => 0,
            bytes => bytes,
        };
        Keep { messages: u32::MAX, age_ms: self.retention_age_ms, bytes }
    }

    /// Whether the settings agree with each other; the error is a sentence.
    pub fn check(&self) -> Result<(), String> {
        let is_sound = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte);
        if self.prefix.is_empty() || self.prefix.len() > PREFIX_BYTES_MAX {
            return Err(format!("the prefix of keys must have 1 to {PREFIX_BYTES_MAX} characters"));
        }
        if !self.prefix.bytes().all(is_sound) {
            let prefix = self.prefix.escape_debug();
            return Err(format!(
                "the prefix of keys \"{prefix}\" may hold A-Z a-z 0-9 . _ - : only"
            ));
        }
        if self.commit_timeout_ms == 0 {
            return Err("the time that Redis may be silent must be more than 0 ms".into());
        }
        if self.replicas > 0 && self.replicas_timeout_ms == 0 {
            return Err("the time for replicas must be more than 0 ms, as 0 waits for ever".into());
        }
        if self.backlog_bytes == 0 {
            return Err("the backlog must have room for something".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_must_agree() {
        let good = Settings::new(RedisUrl::parse("redis://h").unwrap());
        assert_eq!(good.check(), Ok(()));
        for (bad, word) in [
            (Settings { prefix: String::new(), ..good.clone() }, "prefix"),
            (Settings { prefix: "a{b}".into(), ..good.clone() }, "prefix"),
            (Settings { commit_timeout_ms: 0, ..good.clone() }, "silent"),
            (Settings { backlog_bytes: 0, ..good.clone() }, "backlog"),
            (Settings { replicas: 1, replicas_timeout_ms: 0, ..good.clone() }, "replicas"),
        ] {
            assert!(bad.check().unwrap_err().contains(word));
        }
    }
}
