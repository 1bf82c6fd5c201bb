//! The processors: what they are, how they hang together, and which of them this process may use.

use crate::cli::machine::files::{CpuList, Read, field, names, value, word};
use crate::daemon::cgroup::{self, Quota};
use crate::daemon::host::Cores;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

const SYSTEM: &str = "/sys/devices/system/cpu";

/// The processors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Cpu {
    /// What the processor calls itself.
    pub(in crate::cli) model: String,
    /// The instruction set.
    pub(in crate::cli) architecture: String,
    /// The CPUs (hardware threads) that run.
    pub(in crate::cli) online: CpuList,
    /// Those this process may use.
    pub(in crate::cli) allowed: CpuList,
    /// The CPU time this process may use, if that is limited.
    pub(in crate::cli) quota: Option<Quota>,
    /// The cores that run; a core may have several hardware threads.
    pub(in crate::cli) cores: u32,
    /// The processor packages.
    pub(in crate::cli) sockets: u32,
    /// The CPUs that share a core, for each core with more than one.
    pub(in crate::cli) siblings: Vec<CpuList>,
    /// The CPUs of each NUMA node.
    pub(in crate::cli) nodes: Vec<CpuList>,
    /// The CPUs that the scheduler was told to leave alone.
    pub(in crate::cli) isolated: CpuList,
    /// How the kernel picks the clock rate, each way that is in use.
    pub(in crate::cli) governors: Vec<String>,
    /// The highest clock rate, where it is known.
    pub(in crate::cli) max_mhz: Option<u32>,
    /// The size of the last cache, as the kernel writes it.
    pub(in crate::cli) last_cache: Option<String>,
    /// Whether this is a virtual machine.
    pub(in crate::cli) is_virtual: bool,
    /// The share of time since the start that the hypervisor gave to others, in percent.
    pub(in crate::cli) steal_percent: Option<f64>,
}

impl Cpu {
    pub(super) fn read(read: Read<'_>) -> Cpu {
        let info = read("/proc/cpuinfo".as_ref()).unwrap_or_default();
        let status = read("/proc/self/status".as_ref()).unwrap_or_default();
        let online = CpuList::read(read, format!("{SYSTEM}/online"));
        let flags = field(&info, "flags", ':').unwrap_or_default();
        let (cores, sockets, siblings) = topology(read, &online);
        Cpu {
            model: model(&info),
            architecture: std::env::consts::ARCH.to_owned(),
            allowed: field(&status, "Cpus_allowed_list", ':')
                .and_then(|text| text.parse().ok())
                .unwrap_or_else(|| online.clone()),
            quota: cgroup::cpu_quota(read),
            cores,
            sockets,
            siblings,
            nodes: nodes(read),
            isolated: CpuList::read(read, format!("{SYSTEM}/isolated")),
            governors: governors(read, &online),
            max_mhz: max_mhz(read, &online, &info),
            last_cache: last_cache(read),
            is_virtual: flags.split(' ').any(|flag| flag == "hypervisor"),
            steal_percent: steal_percent(read),
            online,
        }
    }

    /// What the daemon would make of them.
    pub(in crate::cli) fn for_daemon(&self) -> Cores {
        Cores { affinity: u32::try_from(self.allowed.len()).unwrap_or(1).max(1), quota: self.quota }
    }

    /// How many of the cores' hardware threads this process may use come second on their core.
    pub(in crate::cli) fn second_threads(&self) -> usize {
        let shared = |core: &CpuList| core.iter().filter(|&cpu| self.allowed.contains(cpu)).count();
        self.siblings.iter().map(|core| shared(core).saturating_sub(1)).sum()
    }
}

fn model(info: &str) -> String {
    ["model name", "Model", "cpu model", "Hardware", "CPU part"]
        .iter()
        .find_map(|key| field(info, key, ':'))
        .filter(|name| !name.is_empty())
        .unwrap_or("unknown")
        .to_owned()
}

/// The number of cores and of sockets, and the groups of CPUs that share a core.
fn topology(read: Read<'_>, online: &CpuList) -> (u32, u32, Vec<CpuList>) {
    let mut cores: BTreeSet<String> = BTreeSet::new();
    let mut sockets = BTreeSet::new();
    let mut siblings: BTreeMap<u32, CpuList> = BTreeMap::new();
    for cpu in online.iter() {
        let topology = format!("{SYSTEM}/cpu{cpu}/topology");
        let list = CpuList::read(read, format!("{topology}/thread_siblings_list"));
        let list = if list.is_empty() { CpuList::new(vec![cpu]) } else { list };
        cores.insert(list.to_string());
        sockets.insert(word(read, format!("{topology}/physical_package_id")).unwrap_or_default());
        if list.len() > 1 {
            siblings.insert(list.first().unwrap_or(cpu), list);
        }
    }
    let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    (count(cores.len()), count(sockets.len()), siblings.into_values().collect())
}

fn nodes(read: Read<'_>) -> Vec<CpuList> {
    let directory = "/sys/devices/system/node";
    let online = CpuList::read(read, format!("{directory}/online"));
    online
        .iter()
        .map(|node| CpuList::read(read, format!("{directory}/node{node}/cpulist")))
        .collect()
}

fn governors(read: Read<'_>, online: &CpuList) -> Vec<String> {
    let file = |cpu| format!("{SYSTEM}/cpu{cpu}/cpufreq/scaling_governor");
    let found: BTreeSet<String> = online.iter().filter_map(|cpu| word(read, file(cpu))).collect();
    found.into_iter().collect()
}

fn max_mhz(read: Read<'_>, online: &CpuList, info: &str) -> Option<u32> {
    let file = |cpu| format!("{SYSTEM}/cpu{cpu}/cpufreq/cpuinfo_max_freq");
    let highest_khz = online.iter().filter_map(|cpu| value::<u32>(read, file(cpu))).max();
    // A virtual machine knows the rate of its clock, if not of its cores.
    let shown = || field(info, "cpu MHz", ':')?.parse::<f64>().ok().map(|mhz| mhz as u32);
    highest_khz.map(|khz| khz / 1_000).or_else(shown)
}

fn last_cache(read: Read<'_>) -> Option<String> {
    let directory = format!("{SYSTEM}/cpu0/cache");
    let last = names(read, &directory).into_iter().rfind(|name| name.starts_with("index"))?;
    word(read, format!("{directory}/{last}/size"))
}

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal, …
fn steal_percent(read: Read<'_>) -> Option<f64> {
    let text = read("/proc/stat".as_ref())?;
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    // Guests' time, after these eight, is in the first two already.
    let (steal, all) = (*ticks.get(7)?, ticks.iter().take(8).sum::<u64>());
    (all > 0).then(|| (steal as f64 * 1_000.0 / all as f64).round() / 10.0)
}
