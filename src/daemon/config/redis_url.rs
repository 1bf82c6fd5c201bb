//! The keys that say where Redis is and how its sentinels are logged in to. What is a password, or holds
//! one, is shown masked.
//!
//! *Not here*: what a URL may look like, which the storage knows; whether anybody answers there.

use crate::daemon::config::field::{Field, Flaw, Raw, Taken, quoted, string};
use crate::daemon::config::meaning::Config;
use crate::storage::{Login, RedisUrl};

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
        let url = RedisUrl::parse(text).map_err(|error| vec![Flaw::new(error.to_string())])?;
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

/// The keys that hold the user and the password of the sentinels.
pub(super) enum SentinelField {
    User,
    Password,
}

impl SentinelField {
    fn of<'c>(&self, login: &'c Login) -> &'c Option<String> {
        match self {
            SentinelField::User => &login.user,
            SentinelField::Password => &login.password,
        }
    }

    fn of_mut<'c>(&self, login: &'c mut Login) -> &'c mut Option<String> {
        match self {
            SentinelField::User => &mut login.user,
            SentinelField::Password => &mut login.password,
        }
    }
}

impl Field<Config> for SentinelField {
    fn accepts(&self) -> String {
        match self {
            SentinelField::User => "a user".to_owned(),
            SentinelField::Password => "a password, as it is".to_owned(),
        }
    }

    fn value_name(&self) -> &'static str {
        match self {
            SentinelField::User => "USER",
            SentinelField::Password => "PASSWORD",
        }
    }

    fn read(&self, raw: &Raw<'_>, into: &mut Config) -> Taken {
        let text = match raw {
            Raw::Text(text) => text.as_str(),
            Raw::Toml(value) => string(value).map_err(|flaw| vec![flaw])?,
        };
        let value = (!text.is_empty()).then(|| text.to_owned());
        *self.of_mut(&mut into.redis_sentinel) = value;
        Ok(())
    }

    fn show(&self, of: &Config) -> Option<String> {
        let value = self.of(&of.redis_sentinel).as_deref()?;
        Some(match self {
            SentinelField::User => quoted(value),
            SentinelField::Password => quoted("***"),
        })
    }

    /// Two passwords look the same.
    fn is_same(&self, a: &Config, b: &Config) -> bool {
        self.of(&a.redis_sentinel) == self.of(&b.redis_sentinel)
    }

    fn copy(&self, from: &Config, to: &mut Config) {
        self.of_mut(&mut to.redis_sentinel).clone_from(self.of(&from.redis_sentinel));
    }
}
