//! From what was typed to what it means: each value read, then all of them held against each other
//! and against the machine.

use crate::daemon::config::check::{
    Contradiction, connections_allowed, contradictions, descriptors_needed,
};
use crate::daemon::config::meaning::Config;
use crate::daemon::config::mistake::{Mistake, Source};
use crate::daemon::config::rooms;
use crate::daemon::config::typed::Typed;
use crate::daemon::host::Host;
use std::collections::{BTreeMap, BTreeSet};

/// Where the values come from that are not defaults, by the path of their key.
pub(super) type Sources = BTreeMap<&'static str, Source>;

const CONNECTIONS: &str = "limits.max_connections";

/// What a configuration means, and where its values come from.
#[derive(Debug)]
pub(super) struct Resolved {
    pub config: Config,
    pub sources: Sources,
}

/// Reads everything, or tells everything that is wrong.
pub(super) fn resolve(typed: Typed<'_>, host: &Host) -> Result<Resolved, Vec<Mistake>> {
    let Typed { document, given, rooms, mut mistakes } = typed;
    let mut config = Config::defaults(host);
    let mut sources = Sources::new();
    let mut doubtful = BTreeSet::new();
    for given in given {
        let path = given.key.path;
        match given.key.field.read(&given.raw, &mut config) {
            Ok(()) => {
                sources.insert(path, given.source);
            }
            Err(flaws) => {
                doubtful.insert(path);
                for flaw in flaws {
                    let part = flaw.at.zip(document);
                    mistakes.push(match part {
                        Some((at, document)) => document.mistake(at, path, flaw.sentence),
                        None => Mistake::new(given.source.clone(), path, flaw.sentence),
                    });
                }
            }
        }
    }
    let known = mistakes.len();
    config.rooms = rooms::resolve(config.bootstrap, rooms, document, &mut mistakes);
    if mistakes.len() > known {
        doubtful.insert("rooms");
    }
    // A value that could not be read can't contradict another.
    let found = contradictions(&config).into_iter();
    mistakes.extend(
        found
            .filter(|contradiction| !contradiction.keys.iter().any(|key| doubtful.contains(key)))
            .map(|contradiction| blame(contradiction, &sources)),
    );
    if mistakes.is_empty() {
        return Ok(Resolved { config, sources });
    }
    mistakes.sort_by_key(Mistake::rank);
    Err(mistakes)
}

/// Puts a contradiction down to the key that was given most expressly.
fn blame(contradiction: Contradiction, sources: &Sources) -> Mistake {
    let mut blamed = (contradiction.keys[0], Source::Default);
    for key in contradiction.keys {
        if let Some(source) = sources.get(key)
            && source.precedence() > blamed.1.precedence()
        {
            blamed = (key, source.clone());
        }
    }
    Mistake::new(blamed.1, blamed.0, contradiction.sentence)
}

/// Makes the connections fit into the descriptors this process may hold: a default is lowered,
/// with a warning; a number that was asked for is refused.
pub(super) fn fit_connections(
    resolved: &mut Resolved,
    host: &Host,
) -> Result<Option<String>, Mistake> {
    let Some(descriptors) = host.descriptors else {
        return Ok(None);
    };
    let shards = resolved.config.shards;
    let wanted = resolved.config.limits.max_connections;
    let allowed = connections_allowed(descriptors, shards);
    if wanted <= allowed {
        return Ok(None);
    }
    let needed = descriptors_needed(wanted, shards);
    let source = resolved.sources.get(CONNECTIONS);
    if let Some(source) = source {
        let mut sentence = format!(
            "{wanted} connections and {shards} `shards` need {needed} file descriptors, but this \
             process may hold {descriptors}; raise the limit (`ulimit -n {needed}`, or \
             `LimitNOFILE={needed}` in a systemd unit)"
        );
        if allowed > 0 {
            sentence += &format!(", or ask for at most {allowed}");
        }
        return Err(Mistake::new(source.clone(), CONNECTIONS, sentence));
    }
    if allowed == 0 {
        let least = descriptors_needed(1, shards);
        let sentence = format!(
            "this process may hold {descriptors} file descriptors, too few for a single connection \
             with {shards} `shards`; raise the limit to at least {least} (`ulimit -n {least}`)"
        );
        return Err(Mistake::new(Source::Default, CONNECTIONS, sentence));
    }
    resolved.config.limits.max_connections = allowed;
    Ok(Some(format!(
        "`{CONNECTIONS}` is lowered from {wanted} to {allowed}: this process may hold {descriptors} \
         file descriptors; for more, raise the limit (`ulimit -n {needed}`)"
    )))
}
