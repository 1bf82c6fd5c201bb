//! The facts in a few lines, for a person and for the head of a report.

use crate::cli::machine::{Cpu, Descriptors, Facts, Interface, Kernel, Memory, Network};

impl Facts {
    /// Each line: what it is about, and what is so.
    pub(in crate::cli) fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![
            ("processor", processor(&self.cpu)),
            ("may use", allowance(&self.cpu)),
            ("memory", memory(&self.memory)),
            ("kernel", kernel(&self.kernel)),
            ("load", load(&self.cpu, &self.kernel)),
            ("files", files(&self.descriptors)),
            ("network", network(&self.network)),
        ];
        lines.extend(self.interfaces.iter().map(|card| ("interface", interface(card))));
        lines
    }
}

fn processor(cpu: &Cpu) -> String {
    let mut parts = vec![
        format!("{} ({})", cpu.model, cpu.architecture),
        counted(cpu.cores.into(), "core"),
        counted(cpu.online.len() as u64, "hardware thread"),
        counted(cpu.sockets.into(), "socket"),
        counted(cpu.nodes.len().max(1) as u64, "NUMA node"),
    ];
    parts.extend(cpu.max_mhz.map(|mhz| format!("{mhz} MHz")));
    parts.extend(cpu.last_cache.as_ref().map(|size| format!("last cache {size}")));
    parts.push(match cpu.governors.is_empty() {
        true => "no cpufreq".to_owned(),
        false => format!("governor {}", cpu.governors.join(" and ")),
    });
    parts.extend(cpu.is_virtual.then(|| "virtual machine".to_owned()));
    parts.join(", ")
}

fn allowance(cpu: &Cpu) -> String {
    let quota = match cpu.quota {
        None => "no CPU quota".to_owned(),
        Some(quota) => {
            let cores = quota.time_us as f64 / quota.period_us as f64;
            format!("a CPU quota of {cores:.2} cores")
        }
    };
    let usable = counted(cpu.for_daemon().usable().into(), "thread");
    let mut text = format!("CPUs {}, {quota}: {usable} at once", cpu.allowed);
    match cpu.second_threads() {
        0 => {}
        count => text += &format!(", {count} of the CPUs share a core with another"),
    }
    text
}

fn memory(memory: &Memory) -> String {
    let mut parts = vec![
        gibibytes(memory.total_bytes),
        format!("{} available", gibibytes(memory.available_bytes)),
    ];
    if memory.usable_bytes() < memory.total_bytes {
        parts.push(format!("limited to {}", gibibytes(memory.usable_bytes())));
    }
    parts.push(match memory.swap_bytes {
        0 => "no swap".to_owned(),
        bytes => {
            format!("swap {}, {} in use", gibibytes(bytes), gibibytes(memory.swap_used_bytes))
        }
    });
    parts.extend(memory.huge_pages.as_ref().map(|mode| format!("huge pages {mode}")));
    parts.join(", ")
}

fn kernel(kernel: &Kernel) -> String {
    let mut parts = vec![kernel.release.clone()];
    parts.extend(kernel.platform.clone());
    parts.extend(kernel.clock_source.as_ref().map(|clock| format!("clock {clock}")));
    parts.push(match kernel.mitigations.len() {
        0 => "no mitigations".to_owned(),
        count => counted(count as u64, "mitigation"),
    });
    parts.extend(kernel.boot_options.iter().cloned());
    parts.join(", ")
}

fn load(cpu: &Cpu, kernel: &Kernel) -> String {
    let averages: Vec<String> =
        kernel.load_average.iter().map(|load| format!("{load:.2}")).collect();
    let steal = cpu.steal_percent.map(|percent| format!(", {percent} % stolen since the start"));
    format!("{}{}", averages.join(" "), steal.unwrap_or_default())
}

fn files(descriptors: &Descriptors) -> String {
    let limit = |limit: Option<u64>| limit.map_or("none".to_owned(), |limit| limit.to_string());
    let [soft, hard] = [descriptors.soft, descriptors.hard].map(limit);
    let [nr_open, daemon] = [descriptors.nr_open, descriptors.for_daemon()].map(limit);
    format!("soft limit {soft}, hard limit {hard}, nr_open {nr_open}: the daemon gets {daemon}")
}

fn network(network: &Network) -> String {
    let mut parts = Vec::new();
    let numbers = [("somaxconn", network.somaxconn), ("SYN backlog", network.tcp_max_syn_backlog)];
    for (name, number) in numbers {
        parts.extend(number.map(|number| format!("{name} {number}")));
    }
    if let [first, last] = network.ip_local_port_range[..] {
        let count = network.client_ports().unwrap_or_default();
        parts.push(format!("{count} client ports ({first}-{last})"));
    }
    parts.extend(network.tcp_congestion_control.clone());
    parts.push(match (network.conntrack_count, network.conntrack_max) {
        (Some(count), Some(max)) => format!("conntrack {count} of {max}"),
        _ => "no conntrack".to_owned(),
    });
    let spins = [("busy_poll", network.busy_poll), ("busy_read", network.busy_read)];
    for (name, us) in spins {
        parts.extend(us.filter(|&us| us > 0).map(|us| format!("{name} {us} us")));
    }
    parts.join(", ")
}

fn interface(card: &Interface) -> String {
    let mut parts = vec![card.name.clone()];
    parts.extend(card.driver.clone());
    parts.push(if card.is_up { "up" } else { "not up" }.to_owned());
    parts.extend(card.megabits.map(|megabits| format!("{megabits} Mbit/s")));
    parts.push(format!("{} rx and {} tx queues", card.rx_queues, card.tx_queues));
    parts.extend(card.has_rps.then(|| "RPS".to_owned()));
    let busy = card.interrupts.iter().filter(|interrupt| interrupt.count > 0);
    let served: Vec<String> =
        busy.map(|interrupt| format!("{} on {}", interrupt.name, interrupt.cpus)).collect();
    parts.extend((!served.is_empty()).then(|| format!("interrupts {}", served.join(" "))));
    parts.join(", ")
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use crate::cli::machine::made_up;

    #[test]
    fn a_server_in_a_few_lines() {
        let lines = made_up::server().lines();
        let text: Vec<String> =
            lines.iter().map(|(about, text)| format!("{about}: {text}")).collect();
        assert_eq!(
            text,
            [
                &*format!(
                    "processor: Made Up 9000 ({}), 4 cores, 8 hardware threads, 1 socket, \
                     2 NUMA nodes, 3500 MHz, last cache 32768K, \
                     governor performance and powersave",
                    std::env::consts::ARCH
                ),
                "may use: CPUs 0-5, a CPU quota of 2.50 cores: 3 threads at once, \
                 2 of the CPUs share a core with another",
                "memory: 16.0 GiB, 8.0 GiB available, limited to 1.0 GiB, swap 1.0 GiB, \
                 0.0 GiB in use, huge pages always",
                "kernel: 6.1.0, clock tsc, 1 mitigation, mitigations=auto, isolcpus=7",
                "load: 0.10 0.20 0.30, 2.5 % stolen since the start",
                "files: soft limit 1024, hard limit 524288, nr_open 1048576: \
                 the daemon gets 524288",
                "network: somaxconn 4096, SYN backlog 4096, 28232 client ports (32768-60999), cubic, \
                 no conntrack",
                "interface: eth0, made_up, up, 10000 Mbit/s, 2 rx and 1 tx queues, \
                 interrupts eth0-TxRx-0 on 0-7 eth0-TxRx-1 on 2",
            ]
        );
    }
}
