//! What went wrong with Redis, and what follows from it.
//!
//! *Invariant*: no sentence made here holds a password: the client's errors name hosts and what
//! Redis said, never the login.

use redis::{ErrorKind, RedisError};
use std::fmt;

/// What went wrong, by what is to be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Redis takes nothing now, or does not answer: try again later. In words for a person.
    Outage(String),
    /// The connection was lost, or could not be made: it may well succeed at once.
    Lost(String),
    /// Waiting changes nothing: a person must do something.
    Wrong(Wrong),
    /// What stands at this key is not ours: others are not concerned.
    Foreign,
    /// What is stored of a channel is not what this bus writes; the sentence says which part of it.
    /// Other channels are not concerned.
    Broken(String),
    /// A later writer, of this number, has been here.
    Fenced(u64),
    /// The channel is not known there, or in another life.
    Missing,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Outage(said) | Trouble::Lost(said) => f.write_str(said),
            Trouble::Wrong(wrong) => wrong.fmt(f),
            Trouble::Foreign => f.write_str("a key under the prefix holds something else"),
            Trouble::Broken(why) => f.write_str(why),
            Trouble::Fenced(_) => f.write_str("a later writer was at a channel"),
            Trouble::Missing => f.write_str("Redis has forgotten a channel"),
        }
    }
}

impl Trouble {
    /// Whether the same may well succeed within a second, as when Redis is only restarted.
    pub(super) fn may_pass_at_once(&self) -> bool {
        matches!(self, Trouble::Lost(_)) || self.is_loading()
    }

    /// Whether Redis is there, and only has to read its own files first.
    pub(super) fn is_loading(&self) -> bool {
        matches!(self, Trouble::Outage(said) if said.starts_with("LOADING "))
    }
}

/// What keeps the storage from working until a person does something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// User or password.
    Login(LoginRefused),
    /// The number of the database.
    Database(String),
    /// What the user may do.
    Permission(String),
    /// Commands that are needed are refused; these, with what Redis says to each.
    Lacking(String),
    /// What is needed is refused, for a reason that is not known to pass.
    Refused(String),
    /// The version; this is it.
    TooOld(String),
    /// What stands at a key under the prefix is not ours.
    ForeignKey {
        /// The key.
        key: String,
        /// What is there.
        found: String,
        /// What should be.
        wanted: &'static str,
    },
    /// Another node writes under the prefix; this one.
    AnotherWriter {
        /// Its name.
        node: String,
        /// The prefix.
        prefix: String,
        /// Where it runs and since when it writes, as far as it says; or nothing.
        whereabouts: String,
    },
    /// Nodes that share what is kept are at work under the prefix, which this one would have alone.
    Shared {
        /// The name of one of them.
        node: String,
        /// The prefix.
        prefix: String,
    },
    /// The URL does not fit what is there.
    Url(String),
}

/// A login that a server refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginRefused {
    /// The server, with its kind and its address where that is known.
    pub server: String,
    /// Whether it is a sentinel.
    pub is_sentinel: bool,
    /// What it says.
    pub said: String,
}

impl fmt::Display for LoginRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LoginRefused { server, is_sentinel, said } = self;
        write!(f, "{server} refuses the user or the password ({said}); ")?;
        match is_sentinel {
            false => f.write_str("correct what stands before the @ in the URL of Redis"),
            true => f.write_str(
                "the sentinels have a login of their own: correct `redis_sentinel_user` and \
                 `redis_sentinel_password`, or sentinel_user and sentinel_password behind the URL",
            ),
        }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Login(refused) => refused.fmt(f),
            Wrong::Lacking(commands) => write!(
                f,
                "Redis refuses commands that are needed: {commands}; allow them to the user of the \
                 URL, and do not rename them"
            ),
            Wrong::Refused(said) => {
                write!(f, "Redis refuses what is needed ({said}); correct that")
            }
            Wrong::Database(said) => {
                write!(
                    f,
                    "Redis has no such database ({said}); correct the number at the end of its URL"
                )
            }
            Wrong::Permission(said) => {
                write!(
                    f,
                    "the user of the URL of Redis may not do what is needed ({said}); allow it"
                )
            }
            Wrong::TooOld(version) => {
                write!(f, "Redis {version} is too old; {MAJOR_MIN}.{MINOR_MIN} or newer is needed")
            }
            Wrong::ForeignKey { key, found, wanted } => write!(
                f,
                "the key {key} holds a {found} where a {wanted} of this bus is kept, and was left \
                 as it is; rename it, or choose another prefix"
            ),
            Wrong::AnotherWriter { node, prefix, whereabouts } => write!(
                f,
                "the node {node}{whereabouts} writes under the prefix {prefix} already; stop it, or \
                 choose another prefix"
            ),
            Wrong::Shared { node, prefix } => write!(
                f,
                "the node {node} shares what is kept under the prefix {prefix} with others; let this \
                 node share it, too, or choose another prefix"
            ),
            Wrong::Url(sentence) => f.write_str(sentence),
        }
    }
}

/// The oldest version that has all that is used: `XTRIM … MINID` is the newest of it.
const MAJOR_MIN: u32 = 6;
const MINOR_MIN: u32 = 2;

/// Whether a version is new enough.
pub(super) fn check_version(version: &str) -> Result<(), Trouble> {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match found >= (MAJOR_MIN, MINOR_MIN) {
        true => Ok(()),
        false => Err(Trouble::Wrong(Wrong::TooOld(version.to_owned()))),
    }
}

/// The codes of errors after which the same may succeed.
const OUTAGES: [&str; 18] = [
    "OOM",
    "READONLY",
    "LOADING",
    "MISCONF",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "NOREPLICAS",
    "TRYAGAIN",
    "BUSY",
    "MOVED",
    "ASK",
    "UNBLOCKED",
    "FAILOVER",
    "NOSCRIPT",
    "BUSYKEY",
    "NOMASTERLINK",
    "INPROG",
    "IOERR",
];

/// What else Redis says, under a code that stands for anything, when the same may succeed later.
const PASSING: [&str; 1] = ["max number of clients"];

/// Whether what Redis said is known to pass by itself.
pub(super) fn is_passing(said: &str) -> bool {
    let code = said.trim_start_matches('-').split([' ', ':']).next().unwrap_or_default();
    OUTAGES.contains(&code) || PASSING.iter().any(|words| said.contains(words))
}

impl From<RedisError> for Trouble {
    fn from(error: RedisError) -> Trouble {
        let said = said(&error);
        let code = code_of(&error);
        match (error.kind(), code.as_deref()) {
            (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS")) => {
                let (server, is_sentinel) = ("Redis".to_owned(), false);
                Trouble::Wrong(Wrong::Login(LoginRefused { server, is_sentinel, said }))
            }
            (ErrorKind::InvalidClientConfig, _) => Trouble::Wrong(Wrong::Url(format!(
                "the URL of Redis does not fit what is there ({said}); correct it"
            ))),
            (_, Some("NOPERM")) => Trouble::Wrong(Wrong::Permission(said)),
            (_, Some("WRONGTYPE")) => Trouble::Foreign,
            (_, Some("BROKEN")) => Trouble::Broken(said.replacen("BROKEN ", "", 1)),
            // It may be a server that is about to be replaced, so that the same may succeed later.
            (ErrorKind::Parse, _) => Trouble::Outage(format!(
                "what answers there does not speak the protocol of Redis ({said}); check the address, \
                 and whether it wants TLS"
            )),
            _ if is_of_script(&error) => Trouble::Broken(format!(
                "a script of the bus can't work with what is stored ({said})"
            )),
            (ErrorKind::UnexpectedReturnType, _) => {
                Trouble::Broken(format!("what is stored is not what this bus writes ({said})"))
            }
            _ if is_about_database(&said) => Trouble::Wrong(Wrong::Database(said)),
            // An answer that is not known to pass lasts.
            (_, Some(code)) if !OUTAGES.contains(&code) && !is_passing(&said) => {
                Trouble::Wrong(Wrong::Refused(said))
            }
            (_, None)
                if (error.is_io_error() || error.is_connection_dropped())
                    && !error.is_timeout() =>
            {
                Trouble::Lost(said)
            }
            _ => Trouble::Outage(said),
        }
    }
}

/// Whether a script failed by itself, not by what a command of it answered.
fn is_of_script(error: &RedisError) -> bool {
    let others = ["killed by", "nknown command", "nknown Redis command", "not enough memory"];
    let is_its_own = |detail: &str| {
        detail.contains("user_script:") && !others.iter().any(|other| detail.contains(other))
    };
    code_of(error).as_deref() == Some("ERR") && error.detail().is_some_and(is_its_own)
}

fn is_about_database(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    ["db index", "switch database", "select is not allowed"]
        .iter()
        .any(|words| said.contains(words))
}

/// The code of an error that Redis answered. What went wrong within a script older versions wrap
/// into an `ERR` that names it further on.
fn code_of(error: &RedisError) -> Option<String> {
    let code = error.code()?;
    let inner = error.detail().filter(|_| code == "ERR").and_then(|detail| {
        let codes = OUTAGES.iter().chain(&["WRONGTYPE", "NOPERM", "BROKEN"]);
        let stands =
            |code: &str| ["-", ": "].iter().any(|mark| detail.contains(&format!("{mark}{code} ")));
        codes.copied().find(|code| stands(code))
    });
    Some(inner.unwrap_or(code).to_owned())
}

/// What the error says, in one line.
fn said(error: &RedisError) -> String {
    let text = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => {
            // Redis 7 says where in the script it happened, which is nothing to the reader.
            let detail = detail.split(" script: ").next().unwrap_or(detail);
            format!("{code} {detail}")
        }
        _ => error.to_string(),
    };
    text.replace(['\r', '\n'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::make_extension_error;

    #[test]
    fn versions_are_compared_as_numbers() {
        for version in ["6.2.0", "6.2", "7.0.15", "10.0.0", "8.0-rc1"] {
            assert_eq!(check_version(version), Ok(()), "{version}");
        }
        for version in ["5.0.14", "6.0.20", "6.1.240", "", "x"] {
            assert!(check_version(version).is_err(), "{version}");
        }
    }

    #[test]
    fn a_server_that_is_no_redis_is_told_as_that() {
        let error = redis::parse_redis_value(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap_err();
        let trouble = Trouble::from(error);
        assert!(
            matches!(&trouble, Trouble::Outage(said) if said.contains("protocol of Redis")),
            "{trouble}"
        );
    }

    #[test]
    fn errors_are_known_by_their_codes() {
        let of = |code: &str, detail: &str| {
            Trouble::from(make_extension_error(code.into(), Some(detail.into())))
        };
        assert_eq!(of("WRONGTYPE", "Operation against"), Trouble::Foreign);
        for within in ["-WRONGTYPE Operation", "WRONGTYPE Operation"] {
            let within = format!("Error running script (call to f_1): @user_script:3: {within}");
            assert_eq!(of("ERR", &within), Trouble::Foreign);
        }
        let broken = "the field last is not what this bus writes";
        assert_eq!(of("BROKEN", broken), Trouble::Broken(broken.into()));
        for failed in [
            "user_script:7: attempt to compare nil with number script: ab, on @user_script:7.",
            "Error running script (call to f_1): @user_script:7: attempt to compare nil with number",
        ] {
            assert!(matches!(of("ERR", failed), Trouble::Broken(_)), "{failed}");
        }
        let full = "Error running script (call to f_1): @user_script:3: -OOM command not allowed";
        assert!(matches!(of("ERR", full), Trouble::Outage(_)));
        assert!(matches!(of("OOM", "command not allowed"), Trouble::Outage(_)));
        assert!(!of("OOM", "command not allowed").is_loading());
        assert!(of("LOADING", "Redis is loading the dataset in memory").is_loading());
        assert!(matches!(of("WRONGPASS", "invalid"), Trouble::Wrong(Wrong::Login(_))));
        assert!(matches!(of("NOAUTH", "required"), Trouble::Wrong(Wrong::Login(_))));
        assert!(matches!(
            of("ERR", "DB index is out of range"),
            Trouble::Wrong(Wrong::Database(_))
        ));
    }
}
