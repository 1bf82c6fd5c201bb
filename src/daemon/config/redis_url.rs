//! Where Redis is. The address may hold a password, so it is shown masked, and what is wrong with it
//! is said without repeating it.
//!
//! *Not here*: whether anybody answers there; the storage finds out.

use crate::daemon::config::field::{Field, Flaw, Raw, Taken, quoted, string};
use crate::daemon::config::meaning::Config;
use std::fmt;

/// One server, or nodes of a cluster; sentinels; the same over TLS.
const SCHEMES: [&str; 4] = ["redis", "rediss", "redis+sentinel", "rediss+sentinel"];
/// What stands for a password.
const MASK: &str = "***";

/// The URL of a Redis.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// The URL as it was given, password included.
    pub fn secret(&self) -> &str {
        &self.0
    }

    fn parse(text: &str) -> Result<RedisUrl, &'static str> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err("is no URL; give redis://host:port or rediss://host:port");
        };
        if !SCHEMES.contains(&scheme) {
            return Err("must begin with redis:// or redis+sentinel://, for TLS with rediss");
        }
        if rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err("may hold no white space; write it as %20");
        }
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        if host.is_empty() || host.starts_with(['/', ':', '?', '#']) {
            return Err("names no host; give redis://host:port");
        }
        Ok(RedisUrl(text.to_owned()))
    }

    /// The URL without its password.
    fn masked(&self) -> String {
        let Some((scheme, rest)) = self.0.split_once("://") else { return MASK.to_owned() };
        // Whatever stands before the last `@` may be a part of the password.
        let Some((user, host)) = rest.rsplit_once('@') else { return self.0.clone() };
        match user.split_once(':') {
            Some((name, _)) => format!("{scheme}://{name}:{MASK}@{host}"),
            None => format!("{scheme}://{user}@{host}"),
        }
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

/// The key that holds it.
pub(super) struct RedisUrlField;

impl Field<Config> for RedisUrlField {
    fn accepts(&self) -> String {
        "redis://user:password@host:port/database; rediss:// for TLS".to_owned()
    }

    fn value_name(&self) -> &'static str {
        "URL"
    }

    fn read(&self, raw: &Raw<'_>, into: &mut Config) -> Taken {
        let text = match raw {
            Raw::Text(text) => text.as_str(),
            Raw::Toml(value) => string(value).map_err(|flaw| vec![flaw])?,
        };
        let url = RedisUrl::parse(text).map_err(|sentence| vec![Flaw::new(sentence)])?;
        into.redis_url = Some(url);
        Ok(())
    }

    fn show(&self, of: &Config) -> Option<String> {
        of.redis_url.as_ref().map(|url| quoted(&url.to_string()))
    }

    /// Two passwords look the same.
    fn is_same(&self, a: &Config, b: &Config) -> bool {
        a.redis_url == b.redis_url
    }

    fn copy(&self, from: &Config, to: &mut Config) {
        to.redis_url = from.redis_url.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_never_shown() {
        for (url, shown) in [
            ("redis://localhost", "redis://localhost"),
            ("redis://localhost:6379/2", "redis://localhost:6379/2"),
            ("rediss://ann@h:1", "rediss://ann@h:1"),
            ("redis://:secret@h", "redis://:***@h"),
            ("rediss+sentinel://:secret@a:1,b:2/m", "rediss+sentinel://:***@a:1,b:2/m"),
            ("redis://ann:secret@h:1/0", "redis://ann:***@h:1/0"),
            ("redis://ann:se@cr/et@h:1", "redis://ann:***@h:1"),
        ] {
            let url = RedisUrl::parse(url).unwrap();
            assert_eq!((url.to_string(), format!("{url:?}")), (shown.to_owned(), shown.to_owned()));
        }
    }

    #[test]
    fn what_is_no_address_of_a_redis_is_refused_without_being_repeated() {
        for (url, expected) in [
            ("", "is no URL"),
            ("secret@localhost", "is no URL"),
            ("http://:secret@h", "must begin with redis://"),
            ("redis://", "names no host"),
            ("redis://:secret@", "names no host"),
            ("redis://:secret@:6379", "names no host"),
            ("redis://:sec ret@h", "white space"),
        ] {
            let sentence = RedisUrl::parse(url).unwrap_err();
            assert!(sentence.contains(expected), "{url}: {sentence}");
            assert!(!sentence.contains("secret"));
        }
    }
}
