//! The network interfaces that are hardware, their queues, and which CPUs serve their interrupts.
//!
//! *Not here*: loopback, bridges and other interfaces without a device behind them: their work is
//! done by the CPU that sends.

use crate::cli::machine::files::{CpuList, Read, field, names, value, word};
use serde::{Deserialize, Serialize};

/// One network card, or what a hypervisor shows as one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Interface {
    /// Its name.
    pub(in crate::cli) name: String,
    /// The driver.
    pub(in crate::cli) driver: Option<String>,
    /// Whether it is up.
    pub(in crate::cli) is_up: bool,
    /// Its speed, where it is known.
    pub(in crate::cli) megabits: Option<u64>,
    /// Queues it receives into.
    pub(in crate::cli) rx_queues: u32,
    /// Queues it sends from.
    pub(in crate::cli) tx_queues: u32,
    /// Whether received packets are spread over CPUs in software.
    pub(in crate::cli) has_rps: bool,
    /// Its interrupts.
    pub(in crate::cli) interrupts: Vec<Interrupt>,
}

/// One interrupt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Interrupt {
    /// Its number.
    pub(in crate::cli) number: u32,
    /// What it is for.
    pub(in crate::cli) name: String,
    /// The CPUs that may serve it.
    pub(in crate::cli) cpus: CpuList,
    /// How often it came since the start, on all CPUs.
    pub(in crate::cli) count: u64,
}

impl Interface {
    /// All of them.
    pub(super) fn read_all(read: Read<'_>) -> Vec<Interface> {
        let counts = read("/proc/interrupts".as_ref()).unwrap_or_default();
        names(read, "/sys/class/net")
            .into_iter()
            .filter_map(|name| Interface::read(read, name, &counts))
            .collect()
    }

    fn read(read: Read<'_>, name: String, counts: &str) -> Option<Interface> {
        let directory = format!("/sys/class/net/{name}");
        let device = read(format!("{directory}/device/uevent").as_ref())?;
        let queues = names(read, format!("{directory}/queues"));
        let count = |kind: &str| queues.iter().filter(|queue| queue.starts_with(kind)).count();
        let is_spread = |queue: &String| {
            let mask = word(read, format!("{directory}/queues/{queue}/rps_cpus"));
            mask.is_some_and(|mask| mask.contains(|digit| !matches!(digit, '0' | ',')))
        };
        Some(Interface {
            driver: field(&device, "DRIVER", '=').map(str::to_owned),
            is_up: word(read, format!("{directory}/operstate")).is_some_and(|state| state == "up"),
            megabits: value(read, format!("{directory}/speed")),
            rx_queues: u32::try_from(count("rx-")).unwrap_or(u32::MAX),
            tx_queues: u32::try_from(count("tx-")).unwrap_or(u32::MAX),
            has_rps: queues.iter().any(is_spread),
            interrupts: interrupts(read, &directory, counts),
            name,
        })
    }
}

/// The message interrupts of the device, or, for a virtual device, of the one that carries it.
fn interrupts(read: Read<'_>, directory: &str, counts: &str) -> Vec<Interrupt> {
    let own = names(read, format!("{directory}/device/msi_irqs"));
    let numbers =
        if own.is_empty() { names(read, format!("{directory}/device/../msi_irqs")) } else { own };
    let mut found: Vec<Interrupt> = numbers
        .iter()
        .filter_map(|number| number.parse().ok())
        .filter_map(|number: u32| {
            let (name, count) = line_of(counts, number)?;
            let file = format!("/proc/irq/{number}/smp_affinity_list");
            Some(Interrupt { number, name, cpus: CpuList::read(read, file), count })
        })
        .collect();
    found.sort_by_key(|interrupt| interrupt.number);
    found
}

/// A line of `/proc/interrupts`: number, a count for each CPU, controller, kind and name.
fn line_of(counts: &str, number: u32) -> Option<(String, u64)> {
    let cpus = counts.lines().next()?.split_whitespace().count();
    let rest = counts.lines().find_map(|line| {
        let (head, rest) = line.split_once(':')?;
        (head.trim().parse() == Ok(number)).then_some(rest)
    })?;
    let sum = rest.split_whitespace().take(cpus).filter_map(|word| word.parse::<u64>().ok()).sum();
    Some((rest.split_whitespace().last()?.to_owned(), sum))
}
