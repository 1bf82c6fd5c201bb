//! The kernel: which it is, which clock it reads, what it pays for safety, and how busy it is.

use crate::cli::machine::files::{Read, names, value, values, word};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Boot options that decide where and how threads run; others are nobody's business in a report.
const TELLING_OPTIONS: [&str; 8] = [
    "mitigations",
    "isolcpus",
    "nohz_full",
    "rcu_nocbs",
    "irqaffinity",
    "preempt",
    "idle",
    "processor.max_cstate",
];

/// The kernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Kernel {
    /// Its release.
    pub(in crate::cli) release: String,
    /// How it was built: the line with `SMP PREEMPT…`.
    pub(in crate::cli) build: String,
    /// The clock it reads.
    pub(in crate::cli) clock_source: Option<String>,
    /// The clocks it could read.
    pub(in crate::cli) clock_sources: Vec<String>,
    /// The hypervisor or the maker of the machine, where it says so.
    pub(in crate::cli) platform: Option<String>,
    /// The flaws of the processor that the kernel works around, and how.
    pub(in crate::cli) mitigations: BTreeMap<String, String>,
    /// Boot options that decide where and how threads run.
    pub(in crate::cli) boot_options: Vec<String>,
    /// How many threads wanted to run in the last 1, 5 and 15 minutes.
    pub(in crate::cli) load_average: Vec<f64>,
}

impl Kernel {
    pub(super) fn read(read: Read<'_>) -> Kernel {
        let clocks = "/sys/devices/system/clocksource/clocksource0";
        Kernel {
            release: word(read, "/proc/sys/kernel/osrelease").unwrap_or_default(),
            build: word(read, "/proc/sys/kernel/version").unwrap_or_default(),
            clock_source: word(read, format!("{clocks}/current_clocksource")),
            clock_sources: values(read, format!("{clocks}/available_clocksource")),
            platform: platform(read),
            mitigations: mitigations(read),
            boot_options: boot_options(read),
            load_average: values(read, "/proc/loadavg").into_iter().take(3).collect(),
        }
    }
}

fn platform(read: Read<'_>) -> Option<String> {
    let vendor = word(read, "/sys/class/dmi/id/sys_vendor");
    let product = word(read, "/sys/class/dmi/id/product_name");
    let parts: Vec<String> = [vendor, product].into_iter().flatten().collect();
    if parts.is_empty() { word(read, "/sys/hypervisor/type") } else { Some(parts.join(" ")) }
}

fn mitigations(read: Read<'_>) -> BTreeMap<String, String> {
    let directory = "/sys/devices/system/cpu/vulnerabilities";
    names(read, directory)
        .into_iter()
        .filter_map(|name| Some((word(read, format!("{directory}/{name}"))?, name)))
        .filter(|(state, _)| state != "Not affected")
        .map(|(state, name)| (name, state))
        .collect()
}

fn boot_options(read: Read<'_>) -> Vec<String> {
    let line = word(read, "/proc/cmdline").unwrap_or_default();
    let is_telling = |option: &&str| {
        TELLING_OPTIONS.contains(&option.split_once('=').map_or(*option, |(name, _)| name))
    };
    line.split_whitespace().filter(is_telling).map(str::to_owned).collect()
}

/// How many files this process, and the machine, may have open.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Descriptors {
    /// What holds for this process; nothing is no limit.
    pub(in crate::cli) soft: Option<u64>,
    /// How far it may raise it itself; nothing is no limit.
    pub(in crate::cli) hard: Option<u64>,
    /// How far anyone may raise it.
    pub(in crate::cli) nr_open: Option<u64>,
    /// How many the whole machine may have.
    pub(in crate::cli) file_max: Option<u64>,
}

impl Descriptors {
    pub(super) fn read(read: Read<'_>) -> Descriptors {
        let limits = read("/proc/self/limits".as_ref()).unwrap_or_default();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        let mut words = line.unwrap_or_default().split_whitespace().map(|word| word.parse().ok());
        Descriptors {
            soft: words.next().flatten(),
            hard: words.next().flatten(),
            nr_open: value(read, "/proc/sys/fs/nr_open"),
            file_max: value(read, "/proc/sys/fs/file-max"),
        }
    }

    /// What the daemon gets, which raises its soft limit as far as it may; nothing is no limit.
    pub(in crate::cli) fn for_daemon(&self) -> Option<u64> {
        self.hard.or(self.nr_open)
    }
}
