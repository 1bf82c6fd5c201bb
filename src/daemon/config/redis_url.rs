//! The key that says where Redis is. Its value may hold a password, so it is shown masked.
//!
//! *Not here*: what a URL may look like, which the storage knows; whether anybody answers there.

use crate::daemon::config::field::{Field, Flaw, Raw, Taken, quoted, string};
use crate::daemon::config::meaning::Config;
use crate::storage::RedisUrl;

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
