//! Whether what the limits allow fits into memory, and stays there.

use crate::cli::doctor::checks::Case;
use crate::cli::doctor::finding::Verdict;
use crate::daemon::config;

/// What an idle connection costs at most, the kernel's part included.
pub(super) const CONNECTION_BYTES: u64 = 8 * 1024;
/// The swappiness above which the kernel swaps though it could give up cached files.
const SWAPPINESS_LOW: u32 = 10;
/// The clients that may stop reading at once, at the least.
const STUCK_CLIENTS: u64 = 64;

pub(super) fn room(case: &Case) -> Verdict {
    let (limits, have) = (&case.config.limits, case.facts.memory.usable_bytes());
    let connections = u64::from(limits.max_connections);
    let idle = connections * CONNECTION_BYTES;
    let mebibytes = |bytes: u64| format!("{} MiB", bytes >> 20);
    if have == 0 {
        return Verdict::ok("the machine does not tell its memory");
    }
    if idle > have / 2 {
        let fitting = have / 2 / CONNECTION_BYTES;
        let found = format!(
            "{connections} idle connections take up to {}, this process may have {}",
            mebibytes(idle),
            mebibytes(have)
        );
        let fix = match fitting {
            0 => "more memory (MemoryMax= in the unit)".to_owned(),
            _ => format!("max_connections = {fitting}, or more memory (MemoryMax= in the unit)"),
        };
        return match idle > have {
            true => Verdict::problem(found, fix),
            false => Verdict::warning(found, fix),
        };
    }
    let outbox = u64::from(limits.outbox_bytes);
    let stuck = (have - idle) / outbox;
    let found = format!("{stuck} clients that stop reading at once fill {}", mebibytes(have));
    let fitting = (have - idle) / (connections / 100).max(STUCK_CLIENTS);
    // An outbox must hold the longest message.
    let least = u64::from(config::outbox_needed(limits.max_message_bytes));
    let fix = match fitting.min(outbox / 2) {
        fitting if fitting < least => {
            "a lower max_message_bytes and outbox_bytes, or a lower slow_grace_ms".to_owned()
        }
        fitting => format!("outbox_bytes = {fitting}, or a lower slow_grace_ms"),
    };
    if stuck < STUCK_CLIENTS {
        return Verdict::warning(found, fix);
    }
    if stuck < connections / 100 {
        return Verdict::note(found, fix);
    }
    Verdict::ok(format!(
        "room for {connections} idle connections ({}) and {stuck} that stopped reading",
        mebibytes(idle)
    ))
}

pub(super) fn swap(case: &Case) -> Verdict {
    let memory = &case.facts.memory;
    let fix = "sysctl -w vm.swappiness=1, and MemorySwapMax=0 in the unit (or swapoff -a)";
    if memory.swap_used_bytes > 0 {
        let found = format!("{} MiB are swapped out now", memory.swap_used_bytes.div_ceil(1 << 20));
        return Verdict::warning(found, fix);
    }
    match memory.swappiness {
        Some(swappiness) if memory.swap_bytes > 0 && swappiness > SWAPPINESS_LOW => Verdict::note(
            format!("there is swap, and the kernel is free to use it (swappiness {swappiness})"),
            fix,
        ),
        _ if memory.swap_bytes > 0 => Verdict::ok("there is swap, which is not used"),
        _ => Verdict::ok("there is no swap"),
    }
}

pub(super) fn huge_pages(case: &Case) -> Verdict {
    let memory = &case.facts.memory;
    let mode = memory.huge_pages.as_deref().unwrap_or("not there");
    if mode != "always" {
        return Verdict::ok(format!("transparent huge pages are {mode}"));
    }
    let fix = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, and \
               transparent_hugepage=madvise on the kernel's command line";
    match memory.huge_pages_defrag.as_deref() {
        Some("always") => Verdict::warning(
            "every program gets huge pages, and waits while they are made (defrag always)",
            fix,
        ),
        _ => Verdict::note("every program gets transparent huge pages", fix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::checks::tests::{assert_verdict, case};
    use crate::cli::doctor::finding::Severity::{Note, Ok, Problem, Warning};

    #[test]
    fn what_the_limits_allow_must_fit() {
        const GIB: u64 = 1 << 30;
        for (total, limit, connections, outbox, severity, words) in [
            (32 * GIB, None, 100_000, 4 << 20, Ok, &["781 MiB"][..]),
            (32 * GIB, Some(GIB), 100_000, 4 << 20, Warning, &["max_connections = 65536"]),
            (32 * GIB, Some(GIB / 2), 100_000, 4 << 20, Problem, &["MemoryMax"]),
            (4 * GIB, None, 1_000, 256 << 20, Warning, &["outbox_bytes ="]),
            (4 * GIB, None, 100_000, 16 << 20, Note, &["outbox_bytes ="]),
            // No number that the configuration would take.
            (GIB, Some(4 << 10), 1, 4 << 20, Problem, &["more memory"]),
            (32 << 20, None, 1, 4 << 20, Warning, &["a lower max_message_bytes"]),
        ] {
            let case = case(|facts, config| {
                (facts.memory.total_bytes, facts.memory.group_limit_bytes) = (total, limit);
                config.limits.max_connections = connections;
                config.limits.outbox_bytes = outbox;
            });
            assert_verdict(&room(&case), severity, words);
        }
    }

    #[test]
    fn swap_is_judged_by_its_use() {
        for (size, used, swappiness, severity) in [
            (0, 0, Some(60), Ok),
            (1 << 30, 0, Some(60), Note),
            (1 << 30, 0, Some(1), Ok),
            (1 << 30, 5, Some(1), Warning),
        ] {
            let case = case(|facts, _| {
                facts.memory.swap_bytes = size;
                facts.memory.swap_used_bytes = used;
                facts.memory.swappiness = swappiness;
            });
            assert_verdict(&swap(&case), severity, &[]);
        }
    }

    #[test]
    fn huge_pages_for_everyone_are_told() {
        for (mode, defrag, severity) in [
            (Some("madvise"), Some("madvise"), Ok),
            (Some("always"), Some("madvise"), Note),
            (Some("always"), Some("always"), Warning),
            (None, None, Ok),
        ] {
            let case = case(|facts, _| {
                facts.memory.huge_pages = mode.map(str::to_owned);
                facts.memory.huge_pages_defrag = defrag.map(str::to_owned);
            });
            assert_verdict(&huge_pages(&case), severity, &[]);
        }
    }
}
