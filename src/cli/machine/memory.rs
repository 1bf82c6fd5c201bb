//! How much memory there is, how much of it this process may have, and in what pages it comes.

use crate::cli::machine::files::{Read, chosen, field, value};
use crate::daemon::cgroup;
use serde::{Deserialize, Serialize};

/// The memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Memory {
    /// All there is.
    pub(in crate::cli) total_bytes: u64,
    /// What is free, or can be made free.
    pub(in crate::cli) available_bytes: u64,
    /// What this process's control group allows.
    pub(in crate::cli) group_limit_bytes: Option<u64>,
    /// All swap space.
    pub(in crate::cli) swap_bytes: u64,
    /// Swap space in use.
    pub(in crate::cli) swap_used_bytes: u64,
    /// How readily the kernel swaps.
    pub(in crate::cli) swappiness: Option<u32>,
    /// Transparent huge pages: always, madvise or never.
    pub(in crate::cli) huge_pages: Option<String>,
    /// Whether a page fault waits until a huge page is made.
    pub(in crate::cli) huge_pages_defrag: Option<String>,
    /// Whether the kernel promises more than it has: 0 a little, 1 always, 2 never.
    pub(in crate::cli) overcommit: Option<u32>,
}

impl Memory {
    pub(super) fn read(read: Read<'_>) -> Memory {
        let info = read("/proc/meminfo".as_ref()).unwrap_or_default();
        let bytes = |key| {
            let kib = field(&info, key, ':').and_then(|text| text.split(' ').next()?.parse().ok());
            kib.map_or(0, |kib: u64| kib.saturating_mul(1_024))
        };
        let mode = |file: &str| {
            chosen(&read(format!("/sys/kernel/mm/transparent_hugepage/{file}").as_ref())?)
        };
        Memory {
            total_bytes: bytes("MemTotal"),
            available_bytes: bytes("MemAvailable"),
            group_limit_bytes: cgroup::memory_limit(read),
            swap_bytes: bytes("SwapTotal"),
            swap_used_bytes: bytes("SwapTotal").saturating_sub(bytes("SwapFree")),
            swappiness: value(read, "/proc/sys/vm/swappiness"),
            huge_pages: mode("enabled"),
            huge_pages_defrag: mode("defrag"),
            overcommit: value(read, "/proc/sys/vm/overcommit_memory"),
        }
    }

    /// The most this process can have.
    pub(in crate::cli) fn usable_bytes(&self) -> u64 {
        self.group_limit_bytes.map_or(self.total_bytes, |limit| limit.min(self.total_bytes))
    }
}
