//! What the storage is told once: where Redis is, and what it may take.
//!
//! *Invariants*: a [`RedisUrl`] that exists names at least one server and is one the client
//! understands; neither its `Display` nor its `Debug`, nor an error about it, shows a password.

use redis::{ConnectionInfo, IntoConnectionInfo};
use std::fmt;

/// How long a node may be silent before another may write in its place, in milliseconds.
pub const LEASE_MS: u64 = 5_000;
/// The longest prefix of keys, in bytes.
const PREFIX_BYTES_MAX: usize = 64;
/// The port of Redis, and then of its sentinels.
const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26_379;

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
    /// Whether several nodes share what is kept, and are one bus.
    pub is_shared: bool,
    /// How long the session of a client that has gone is kept, in milliseconds.
    pub session_ttl_ms: u64,
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
            is_shared: false,
            session_ttl_ms: 120_000,
        }
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

/// Where Redis is:
///
/// | URL | what it means |
/// |---|---|
/// | `redis://[user:password@]host[:port][/database]` | one server, or any node of a cluster |
/// | `redis://host:port,host:port` | nodes of a cluster |
/// | `redis+sentinel://[user:password@]host:port,host:port/master[/database]` | sentinels |
/// | `rediss://…`, `rediss+sentinel://…` | the same over TLS |
#[derive(Clone)]
pub struct RedisUrl {
    /// The servers that are named, with password and database.
    pub(super) servers: Vec<ConnectionInfo>,
    /// The master that sentinels are asked for.
    pub(super) master: Option<String>,
    /// As it was given, password included.
    text: String,
}

/// What stands for a password.
const MASK: &str = "***";

/// Why a text is no [`RedisUrl`]: a sentence without the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlError(String);

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UrlError {}

impl RedisUrl {
    /// Reads a URL.
    pub fn parse(text: &str) -> Result<RedisUrl, UrlError> {
        let error = |sentence: String| Err(UrlError(sentence));
        let Some((scheme, rest)) = text.split_once("://") else {
            return error("the URL of Redis has no scheme; write redis://host:port".into());
        };
        let (tls, sentinel) = match scheme {
            "redis" => ("redis", false),
            "rediss" => ("rediss", false),
            "redis+sentinel" => ("redis", true),
            "rediss+sentinel" => ("rediss", true),
            // It is not quoted: of a text without a scheme the password might stand here.
            _ => {
                let known = "redis, rediss, redis+sentinel or rediss+sentinel";
                return error(format!("the scheme of the URL of Redis must be {known}"));
            }
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (format!("{login}@"), hosts),
            None => (String::new(), authority),
        };
        let (master, database) = match sentinel {
            false => (None, path),
            true => match path.split_once('/').unwrap_or((path, "")) {
                ("", _) => {
                    let form = "redis+sentinel://host:port/master";
                    return error(format!(
                        "the URL names no master for its sentinels; write {form}"
                    ));
                }
                (master, database) => (Some(master.to_owned()), database),
            },
        };
        let number = database.split(['?', '#']).next().unwrap_or_default();
        if !number.is_empty() && number.parse::<u32>().is_err() {
            return error("the database in the URL of Redis must be a number, such as /0".into());
        }
        let mut servers = Vec::new();
        for host in hosts.split(',') {
            servers.push(server(tls, &login, host, sentinel, database)?);
        }
        Ok(RedisUrl { servers, master, text: text.to_owned() })
    }
}

/// One of the hosts of a URL.
fn server(
    scheme: &str,
    login: &str,
    host: &str,
    sentinel: bool,
    database: &str,
) -> Result<ConnectionInfo, UrlError> {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    if name.is_empty() {
        return Err(UrlError("the URL of Redis names no host; write redis://host:port".into()));
    }
    let form = "redis://user:password@host:port";
    if name.contains(':') && !host.starts_with('[') {
        let why = "the host in the URL of Redis has more than one colon";
        return Err(UrlError(format!("{why}; write {form}, and an IPv6 address in brackets")));
    }
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    // It is not quoted: where the host was forgotten the password stands here.
    if has_port && host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_err()) {
        let why = "the port of a host in the URL of Redis is no number up to 65535";
        return Err(UrlError(format!("{why}; write {form}")));
    }
    let default = if sentinel { SENTINEL_PORT } else { REDIS_PORT };
    let port = if has_port { String::new() } else { format!(":{default}") };
    let url = format!("{scheme}://{login}{host}{port}/{database}");
    url.as_str().into_connection_info().map_err(|error| {
        // The client's own words may hold the URL, and so the password: only its kind is told.
        let why = error.category().to_owned();
        UrlError(format!("the URL of Redis is not understood at host {host:?}: {why}"))
    })
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((scheme, rest)) = self.text.split_once("://") else { return f.write_str(MASK) };
        // Whatever stands before the last `@` may be a part of the password.
        match rest.rsplit_once('@') {
            None => f.write_str(&self.text),
            Some((login, host)) => match login.split_once(':') {
                Some((name, _)) => write!(f, "{scheme}://{name}:{MASK}@{host}"),
                None => write!(f, "{scheme}://{login}@{host}"),
            },
        }
    }
}

/// Two are the same if they were written the same; their passwords count.
impl PartialEq for RedisUrl {
    fn eq(&self, other: &RedisUrl) -> bool {
        self.text == other.text
    }
}

impl Eq for RedisUrl {}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_urls_are_shown_without_their_password() {
        for (url, servers, shown) in [
            ("redis://localhost", 1, "redis://localhost"),
            ("redis://:se%20cret@h:1/2", 1, "redis://:***@h:1/2"),
            ("rediss://ann:secret@h", 1, "rediss://ann:***@h"),
            ("rediss://ann@h:1", 1, "rediss://ann@h:1"),
            ("redis://ann:secret@a:1,b:2,[::1]:3", 3, "redis://ann:***@a:1,b:2,[::1]:3"),
            ("redis://[::1]", 1, "redis://[::1]"),
            ("redis+sentinel://:secret@a,b:2/main/1", 2, "redis+sentinel://:***@a,b:2/main/1"),
        ] {
            let parsed = RedisUrl::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(parsed.servers.len(), servers, "{url}");
            assert_eq!(parsed.to_string(), shown);
            let settings = format!("{:?}", Settings::new(parsed));
            assert!(!settings.contains("secret"), "{settings}");
        }
        let url = RedisUrl::parse("redis+sentinel://:p@a/main/3").unwrap();
        assert_eq!(url.master.as_deref(), Some("main"));
        assert_eq!(url.servers[0].redis_settings().db(), 3);
        assert_eq!(url.servers[0].addr().to_string(), "a:26379");
    }

    #[test]
    fn bad_urls_are_refused_in_a_sentence_without_their_password() {
        for (url, word) in [
            ("", "scheme"),
            ("localhost:6379", "scheme"),
            ("http://secret@h", "scheme"),
            ("redis://", "host"),
            ("redis://:secret@", "host"),
            ("redis://:secret@:6379", "host"),
            ("redis://:secret@a:1,,b:2", "host"),
            ("redis://:secret@h:port", "host"),
            ("redis://:secret@h:70000", "host"),
            ("redis://ann:secret", "port"),
            ("redis://ann:secret/0", "port"),
            ("redis://ann:secret:6379", "host"),
            ("redis://:secret@h/main", "database"),
            ("redis://:secret@h/-1", "database"),
            ("redis+sentinel://:secret@h", "master"),
        ] {
            let error = RedisUrl::parse(url).err().unwrap_or_else(|| panic!("{url}")).to_string();
            assert!(error.contains(word), "{url}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

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
