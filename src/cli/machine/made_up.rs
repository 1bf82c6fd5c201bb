//! Machines that exist only in tests: files, and what they say.

use crate::cli::machine::Facts;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// A machine made of files.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Files(BTreeMap<PathBuf, String>);

impl Files {
    /// The same, with that file.
    pub(in crate::cli) fn with(mut self, path: &str, text: &str) -> Files {
        self.0.insert(path.into(), text.to_owned());
        self
    }

    /// The text of a file, or the names in a directory.
    fn text(&self, path: &Path) -> Option<String> {
        let path = &plain(path);
        if let Some(text) = self.0.get(path) {
            return Some(text.clone());
        }
        let mut names: Vec<&str> = self
            .0
            .keys()
            .filter_map(|file| file.strip_prefix(path).ok()?.iter().next()?.to_str())
            .collect();
        names.dedup();
        (!names.is_empty()).then(|| names.join("\n"))
    }

    /// What is known of it.
    pub(in crate::cli) fn facts(&self) -> Facts {
        Facts::read(&|path| self.text(path))
    }
}

/// A path without `..`, as if nothing in it were a link.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => _ = plain.pop(),
            part => plain.push(part),
        }
    }
    plain
}

/// Four cores with two threads each, two nodes, a quota, a memory limit, and a card.
pub(in crate::cli) fn server() -> Facts {
    server_files().facts()
}

/// The files of [`server`].
pub(in crate::cli) fn server_files() -> Files {
    let mut files = Files::default()
        .with("/proc/cpuinfo", "processor\t: 0\nmodel name\t: Made Up 9000\nflags\t\t: fpu sse2\n")
        .with("/proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-5\n")
        .with("/proc/stat", "cpu  600 0 300 75 0 0 0 25 0 0\ncpu0 1 1 1 1\n")
        .with("/proc/self/cgroup", "0::/\n")
        .with("/proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
        .with("/sys/fs/cgroup/cpu.max", "250000 100000\n")
        .with("/sys/fs/cgroup/memory.max", "1073741824\n")
        .with("/sys/devices/system/cpu/online", "0-7\n")
        .with("/sys/devices/system/cpu/isolated", "7\n")
        .with("/sys/devices/system/cpu/cpu0/cache/index0/size", "32K\n")
        .with("/sys/devices/system/cpu/cpu0/cache/index3/size", "32768K\n")
        .with("/sys/devices/system/cpu/vulnerabilities/mds", "Not affected\n")
        .with("/sys/devices/system/cpu/vulnerabilities/spectre_v2", "Mitigation: Retpolines\n")
        .with("/sys/devices/system/node/online", "0-1\n")
        .with("/sys/devices/system/node/node0/cpulist", "0-1,4-5\n")
        .with("/sys/devices/system/node/node1/cpulist", "2-3,6-7\n");
    for cpu in 0..8 {
        let directory = format!("/sys/devices/system/cpu/cpu{cpu}");
        let siblings = format!("{},{}\n", cpu % 4, cpu % 4 + 4);
        let governor = if cpu == 7 { "performance\n" } else { "powersave\n" };
        files = files
            .with(&format!("{directory}/topology/thread_siblings_list"), &siblings)
            .with(&format!("{directory}/topology/physical_package_id"), "0\n")
            .with(&format!("{directory}/cpufreq/scaling_governor"), governor)
            .with(&format!("{directory}/cpufreq/cpuinfo_max_freq"), "3500000\n");
    }
    settings(card(files))
}

fn settings(files: Files) -> Files {
    files
        .with(
            "/proc/meminfo",
            "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\nSwapTotal: 1048576 kB\n\
             SwapFree: 1048576 kB\n",
        )
        .with("/sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n")
        .with("/sys/kernel/mm/transparent_hugepage/defrag", "always [madvise] never\n")
        .with("/proc/sys/vm/swappiness", "60\n")
        .with("/proc/sys/kernel/osrelease", "6.1.0\n")
        .with("/proc/sys/kernel/version", "#1 SMP\n")
        .with("/proc/cmdline", "root=/dev/sda1 secret=1 mitigations=auto isolcpus=7\n")
        .with("/proc/loadavg", "0.10 0.20 0.30 1/100 42\n")
        .with("/sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n")
        .with("/sys/devices/system/clocksource/clocksource0/available_clocksource", "tsc hpet\n")
        .with(
            "/proc/self/limits",
            "Limit  Soft Limit  Hard Limit  Units\nMax open files  1024  524288  files\n",
        )
        .with("/proc/sys/fs/nr_open", "1048576\n")
        .with("/proc/sys/net/core/somaxconn", "4096\n")
        .with("/proc/sys/net/ipv4/tcp_max_syn_backlog", "4096\n")
        .with("/proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n")
        .with("/proc/sys/net/ipv4/tcp_congestion_control", "cubic\n")
}

fn card(files: Files) -> Files {
    files
        .with(
            "/proc/interrupts",
            "     CPU0  CPU1\n 40:  12  24  PCI-MSI 1-edge  eth0-TxRx-0\n 41:  0  7  PCI-MSI 2-edge  \
             eth0-TxRx-1\nLOC:  9  9  Local timer interrupts\n",
        )
        .with("/sys/class/net/lo/operstate", "unknown\n")
        .with("/sys/class/net/br0/operstate", "up\n")
        .with("/sys/class/net/eth0/operstate", "up\n")
        .with("/sys/class/net/eth0/speed", "10000\n")
        .with("/sys/class/net/eth0/device/uevent", "DRIVER=made_up\nPCI_ID=1\n")
        .with("/sys/class/net/eth0/device/msi_irqs/40", "msix\n")
        .with("/sys/class/net/eth0/device/msi_irqs/41", "msix\n")
        .with("/sys/class/net/eth0/queues/rx-0/rps_cpus", "00,00000000\n")
        .with("/sys/class/net/eth0/queues/rx-1/rps_cpus", "00,00000000\n")
        .with("/sys/class/net/eth0/queues/tx-0/xps_cpus", "ff\n")
        .with("/proc/irq/40/smp_affinity_list", "0-7\n")
        .with("/proc/irq/41/smp_affinity_list", "2\n")
}
