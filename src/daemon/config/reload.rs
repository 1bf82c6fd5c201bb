//! What a reload changes. The same flags and the same environment are held against the file as it
//! is now; what can change in a running daemon does, and the rest is named.
//!
//! *Invariants*: a configuration with a mistake changes nothing; what needs a restart stays as it
//! is in force, however often one reloads.

use crate::base::limits::Limits;
use crate::broker::policy::Roles;
use crate::daemon::config::meaning::Config;
use crate::daemon::config::mistake::Mistake;
use crate::daemon::config::table::KEYS;
use crate::daemon::config::typed::ServeArgs;
use crate::daemon::config::{Loaded, load_on};
use crate::daemon::host::Host;
use crate::daemon::logging::Filter;
use crate::protocol::origin::Origins;

/// What a reload changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Reload {
    /// The configuration that is in force from now on.
    pub config: Config,
    /// The limits, if one of them changed.
    pub limits: Option<Limits>,
    /// What the log says, if that changed.
    pub log_level: Option<Filter>,
    /// The origins to let in, if they changed.
    pub allowed_origins: Option<Origins>,
    /// What clients are, if that changed.
    pub roles: Option<Roles>,
    /// How long a drain may take, if that changed.
    pub drain_timeout_ms: Option<u32>,
    /// The keys that changed and stay as they were until a restart.
    pub needs_restart: Vec<&'static str>,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

impl Reload {
    /// Whether there is nothing to do and nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.limits.is_none()
            && self.log_level.is_none()
            && self.allowed_origins.is_none()
            && self.roles.is_none()
            && self.drain_timeout_ms.is_none()
            && self.needs_restart.is_empty()
    }
}

/// Reads the configuration again. `current` is the one in force.
pub fn reload(
    current: &Config,
    args: &ServeArgs,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Reload, Vec<Mistake>> {
    reload_on(&Host::survey(), current, args, env)
}

/// [`reload`], on that machine.
pub(super) fn reload_on(
    host: &Host,
    current: &Config,
    args: &ServeArgs,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Reload, Vec<Mistake>> {
    Ok(compare(current, load_on(host, args, env)?))
}

fn compare(current: &Config, loaded: Loaded) -> Reload {
    let next = loaded.config;
    let mut config = current.clone();
    let mut needs_restart = Vec::new();
    for key in KEYS {
        if key.field.is_same(&next, current) {
            continue;
        }
        if key.is_live {
            key.field.copy(&next, &mut config);
        } else {
            needs_restart.push(key.path);
        }
    }
    if next.rooms != current.rooms && !needs_restart.contains(&"bootstrap") {
        needs_restart.push("rooms");
    }
    Reload {
        limits: (config.limits != current.limits).then(|| config.limits.clone()),
        log_level: (config.log_level != current.log_level).then(|| config.log_level.clone()),
        allowed_origins: (config.allowed_origins != current.allowed_origins)
            .then(|| config.allowed_origins.clone()),
        roles: (config.roles != current.roles).then_some(config.roles),
        drain_timeout_ms: (config.drain_timeout_ms != current.drain_timeout_ms)
            .then_some(config.drain_timeout_ms),
        config,
        needs_restart,
        warnings: loaded.warnings,
    }
}
