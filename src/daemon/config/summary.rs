//! `check-config`: what is wrong with a file, or what it changes.

use crate::daemon::config::meaning::Config;
use crate::daemon::config::mistake::Mistake;
use crate::daemon::config::resolve::fit_connections;
use crate::daemon::config::rooms::RoomSpec;
use crate::daemon::config::table::KEYS;
use crate::daemon::config::typed::ServeArgs;
use crate::daemon::config::{crowding, read};
use crate::daemon::host::Host;
use std::fmt;
use std::path::Path;

/// What a good file changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The keys whose values are not the defaults.
    pub differences: Vec<Difference>,
    /// What the operator should know, though it is no mistake.
    pub warnings: Vec<String>,
}

/// A key whose value is not the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The key, as it stands in the file.
    pub key: String,
    /// Its value, as TOML.
    pub value: String,
    /// Its default, as TOML.
    pub default: String,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "ok")?;
        if self.differences.is_empty() {
            writeln!(f, "  all values are the defaults")?;
        }
        for Difference { key, value, default } in &self.differences {
            writeln!(f, "  {key} = {value} (default {default})")?;
        }
        for warning in &self.warnings {
            writeln!(f, "  warning: {warning}")?;
        }
        Ok(())
    }
}

/// Checks a file alone, without flags and environment. What this process may hold is no mistake of
/// the file, which may be meant for another machine: it is a warning.
pub fn check_file(path: &Path) -> Result<Summary, Vec<Mistake>> {
    check_file_on(&Host::survey(), path)
}

/// [`check_file`], on that machine.
pub(super) fn check_file_on(host: &Host, path: &Path) -> Result<Summary, Vec<Mistake>> {
    let (mut resolved, _) = read(host, &ServeArgs::of_file(path), |_| None)?;
    let differences = differences(&resolved.config, &Config::defaults(host));
    let mut warnings = Vec::new();
    if resolved.sources.contains_key("limits.max_connections") {
        let misfit = fit_connections(&mut resolved, host).err();
        warnings.extend(misfit.map(|mistake| format!("on this machine, {}", mistake.sentence)));
    }
    warnings.extend(crowding(&resolved.config, host));
    Ok(Summary { differences, warnings })
}

fn differences(config: &Config, defaults: &Config) -> Vec<Difference> {
    let mut found = Vec::new();
    for key in KEYS {
        let (value, default) = (key.field.show(config), key.field.show(defaults));
        if value != default {
            let or_none = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
            let (value, default) = (or_none(value), or_none(default));
            found.push(Difference { key: key.path.to_owned(), value, default });
        }
    }
    for room in &config.rooms {
        if !defaults.rooms.contains(room) {
            let value = channels(room);
            let default = match defaults.rooms.iter().find(|other| other.name == room.name) {
                Some(other) => channels(other),
                None => "no such room".to_owned(),
            };
            found.push(Difference { key: format!("rooms.{}", room.name), value, default });
        }
    }
    found
}

fn channels(room: &RoomSpec) -> String {
    match room.channels.len() {
        1 => "1 channel".to_owned(),
        count => format!("{count} channels"),
    }
}
