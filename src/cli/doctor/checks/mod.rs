//! The table of checks. Each looks at one case, the machine and the configuration together, and
//! says one thing about it.
//!
//! *Invariants*: a check is pure; what the machine does not tell is no finding against it; every
//! verdict that is not ok names what mends it. (A test holds the verdicts to it.)

mod connections;
mod cores;
mod memory;
mod network;

use crate::cli::doctor::finding::{Finding, Verdict};
use crate::cli::machine::Facts;
use crate::daemon::config::Config;
use crate::storage::ClockReading;

/// What is judged.
#[derive(Clone, Debug)]
pub(super) struct Case {
    /// The machine.
    pub(super) facts: Facts,
    /// What the daemon would run with.
    pub(super) config: Config,
    /// Whether somebody gave `max_connections`, so that it is not simply lowered.
    pub(super) asks_for_connections: bool,
    /// How the clock of this machine compares with that of the Redis of the configuration, if it names
    /// one.
    pub(super) redis_clock: Option<Result<ClockReading, String>>,
}

/// One check.
struct Check {
    name: &'static str,
    /// Why it matters, in a sentence.
    why: &'static str,
    look: fn(&Case) -> Verdict,
}

const CHECKS: &[Check] = &[
    Check {
        name: "descriptors",
        why: "Every connection takes a file descriptor; without one left no client gets in.",
        look: connections::descriptors,
    },
    Check {
        name: "accept queue",
        why: "When all clients come back at once, those that don't fit into the queue are ignored \
              and try again after one, three and seven seconds.",
        look: connections::accept_queue,
    },
    Check {
        name: "half-open connections",
        why: "Connections that are being opened wait here; when the queue is full the kernel falls \
              back to cookies or drops them.",
        look: connections::half_open,
    },
    Check {
        name: "client ports",
        why: "Clients on this machine, a proxy or a load generator among them, need a port each.",
        look: connections::client_ports,
    },
    Check {
        name: "connection tracking",
        why: "The firewall keeps an entry for each connection; when its table is full, new ones \
              are dropped without a word.",
        look: connections::tracking,
    },
    Check {
        name: "shards and cores",
        why: "Shards that wait for each other's core, or for a CPU quota, make every one of their \
              clients wait.",
        look: cores::shards,
    },
    Check {
        name: "hardware threads",
        why: "Two hardware threads of one core share what it can do: the second shard on a core \
              adds far less than the first.",
        look: cores::hardware_threads,
    },
    Check {
        name: "NUMA",
        why: "A message between shards on different nodes crosses the link between them, and so \
              does every read of the other node's memory.",
        look: cores::nodes,
    },
    Check {
        name: "pinning",
        why: "A pinned shard can't move to a core that has time for it.",
        look: cores::pinning,
    },
    Check {
        name: "spinning",
        why: "A shard that spins keeps a core busy, even if others need it.",
        look: cores::spinning,
    },
    Check {
        name: "frequency governor",
        why: "A core that slows down between messages is slow when the next one comes.",
        look: cores::governor,
    },
    Check {
        name: "clock",
        why: "The clock is read several times a turn; some clocks take a system call and a slow \
              register each time.",
        look: cores::clock,
    },
    Check {
        name: "neighbours",
        why: "Time that other machines or programs take is missing here, first in the slowest \
              percent of deliveries.",
        look: cores::neighbours,
    },
    Check {
        name: "memory",
        why: "A process that needs more than it may have is killed, and all history with it.",
        look: memory::room,
    },
    Check {
        name: "swap",
        why: "A shard that waits for a page from disk stops all of its clients for milliseconds.",
        look: memory::swap,
    },
    Check {
        name: "huge pages",
        why: "Pages made huge behind the daemon's back cost memory that it gave back, and stops \
              while the kernel makes them.",
        look: memory::huge_pages,
    },
    Check {
        name: "socket memory",
        why: "When the kernel's memory for all TCP sockets is used up, it drops packets and every \
              connection slows down.",
        look: network::socket_memory,
    },
    Check {
        name: "idle restart",
        why: "A connection that was quiet for a moment starts slowly again, so the first burst \
              after it takes several round trips.",
        look: network::idle_restart,
    },
    Check {
        name: "interrupts",
        why: "A CPU that serves all interrupts of the network has no time for its shard.",
        look: network::interrupts,
    },
    Check {
        name: "clock of Redis",
        why: "Messages carry the time of the server that took them; where clocks differ, so do the \
              times that members of one channel read.",
        look: network::redis_clock,
    },
];

/// Does all checks, in the order of the table.
pub(super) fn examine(case: &Case) -> Vec<Finding> {
    let find = |check: &Check| {
        let Verdict { severity, found, fix } = (check.look)(case);
        Finding { check: check.name, severity, found, why: check.why, fix }
    };
    CHECKS.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::finding::Severity;
    use crate::cli::machine::made_up;
    use crate::daemon::host::Host;

    /// A case on a machine made up for the purpose.
    pub(super) fn case(change: impl FnOnce(&mut Facts, &mut Config)) -> Case {
        let mut facts = made_up::server();
        let host = Host { cores: facts.cpu.for_daemon(), descriptors: None, ..Host::anywhere() };
        let mut config = Config::defaults(&host);
        change(&mut facts, &mut config);
        Case { facts, config, asks_for_connections: false, redis_clock: None }
    }

    /// Holds a verdict to a severity and to words in it.
    #[track_caller]
    pub(super) fn assert_verdict(verdict: &Verdict, severity: Severity, words: &[&str]) {
        let text = format!("{} {}", verdict.found, verdict.fix.as_deref().unwrap_or_default());
        assert_eq!(verdict.severity, severity, "{text}");
        for word in words {
            assert!(text.contains(word), "{word:?} in {text:?}");
        }
    }

    #[test]
    fn every_row_reads_well() {
        let mut names: Vec<_> = CHECKS.iter().map(|check| check.name).collect();
        for check in CHECKS {
            assert!(check.why.ends_with('.') && !check.why.contains("  "), "{}", check.name);
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CHECKS.len());
    }

    #[test]
    fn what_is_not_well_can_be_mended_and_what_is_unknown_is_well() {
        let bad = case(|facts, config| {
            facts.memory.swap_used_bytes = 1;
            config.shards = 200;
        });
        for finding in examine(&bad) {
            assert_eq!(finding.fix.is_some(), finding.severity != Severity::Ok, "{finding:?}");
        }
        let nothing = case(|facts, config| {
            *facts = Facts::default();
            config.shards = 1;
        });
        for finding in examine(&nothing) {
            assert_eq!(finding.severity, Severity::Ok, "{finding:?}");
        }
    }
}
