//! The configuration, in two stages: what was typed (`typed`: flags, environment, file) and what
//! it means ([`Config`]). A flag beats the environment beats the file beats the default.
//!
//! One table (`table`) is the only place where a key is described; everything that knows keys by
//! name is made from it.
//!
//! *Invariants*: a [`Config`] is valid, whole and consistent; a mistake is never a warning, and
//! all mistakes are told at once, each with the place where it was typed.
//!
//! *Not here*: what the parts of the daemon do with their values.

mod check;
mod environment;
mod field;
mod file;
mod meaning;
mod mistake;
mod print;
mod redis_url;
mod reload;
mod resolve;
mod rooms;
mod summary;
mod table;
mod typed;

#[cfg(test)]
mod tests;

pub use check::outbox_needed;
pub use environment::{environment, unread_variables};
pub use meaning::{Config, Persistence, Pin, Storage, is_loopback};
pub use mistake::{Mistake, Position, Source};
pub use print::{markdown_table, print_config};
pub use reload::{Reload, reload};
pub use rooms::RoomSpec;
pub use summary::{Difference, Summary, check_file};
pub use typed::ServeArgs;

use crate::daemon::host::Host;
use file::Document;
use resolve::{Resolved, Sources, fit_connections, resolve};
use std::path::PathBuf;
use typed::Typed;

/// A configuration that was read, and how it came to be.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it means.
    pub config: Config,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    /// What the operator should know, though it is no mistake.
    pub warnings: Vec<String>,
    /// The machine it was read for.
    pub host: Host,
    sources: Sources,
}

impl Loaded {
    /// Where the value of a key comes from; the key as it stands in the file.
    pub fn source(&self, path: &str) -> &Source {
        self.sources.get(path).unwrap_or(&Source::Default)
    }
}

/// Reads the configuration for this machine. `env` gives the value of an environment variable;
/// [`environment`] is the real one.
pub fn load(
    args: &ServeArgs,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Loaded, Vec<Mistake>> {
    load_on(&Host::survey(), args, env)
}

/// [`load`], on that machine.
pub fn load_on(
    host: &Host,
    args: &ServeArgs,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Loaded, Vec<Mistake>> {
    let (mut resolved, file) = read(host, args, env)?;
    let mut warnings = Vec::new();
    warnings.extend(fit_connections(&mut resolved, host).map_err(|mistake| vec![mistake])?);
    warnings.extend(crowding(&resolved.config, host));
    let Resolved { config, sources } = resolved;
    Ok(Loaded { config, file, warnings, host: host.clone(), sources })
}

/// Everything but the fit to the machine's descriptors.
fn read(
    host: &Host,
    args: &ServeArgs,
    env: impl Fn(&str) -> Option<String>,
) -> Result<(Resolved, Option<PathBuf>), Vec<Mistake>> {
    let document = match args.file(&env) {
        Some(path) => Some(Document::read(&path).map_err(|mistake| vec![mistake])?),
        None => None,
    };
    let resolved = resolve(Typed::collect(args, env, document.as_ref()), host)?;
    Ok((resolved, document.map(|document| document.path().to_owned())))
}

fn crowding(config: &Config, host: &Host) -> Option<String> {
    let (shards, cores) = (config.shards, host.cores.usable());
    (u32::from(shards) > cores).then(|| {
        format!("`shards` is {shards}, but this process may use {cores} cores: shards will wait for each other")
    })
}
