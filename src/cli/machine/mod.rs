//! What must be known of a machine before a figure that was measured on it means anything.
//!
//! [`Facts`] go into every report of a measurement, and `doctor` judges them. They can be written
//! and read back, so that two reports can be compared.
//!
//! | file | what |
//! |---|---|
//! | `cpu` `memory` `kernel` `network` `interfaces` | what is there, a struct each |
//! | `files` | how it is read |
//! | `others` | how much of it other programs used meanwhile |
//! | `summary` | the facts in a few lines for a person |
//!
//! *Invariants*: what the kernel does not tell is absent, never guessed; a fact that an older
//! report lacks reads as absent.
//!
//! *Not here*: names and addresses of the machine, which are nobody's business in a report; whether
//! the facts are good or bad.

mod cpu;
mod files;
mod interfaces;
mod kernel;
#[cfg(test)]
pub(in crate::cli) mod made_up;
mod memory;
mod network;
mod others;
mod summary;

pub(in crate::cli) use cpu::Cpu;
pub(in crate::cli) use files::{CpuList, Read};
pub(in crate::cli) use interfaces::Interface;
pub(in crate::cli) use kernel::{Descriptors, Kernel};
pub(in crate::cli) use memory::Memory;
pub(in crate::cli) use network::Network;
pub(in crate::cli) use others::Worked;

use serde::{Deserialize, Serialize};

/// A machine, as far as it decides how fast a bus can be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Facts {
    /// The processors, and which of them this process may use.
    pub(in crate::cli) cpu: Cpu,
    /// The memory.
    pub(in crate::cli) memory: Memory,
    /// The kernel.
    pub(in crate::cli) kernel: Kernel,
    /// How many files may be open.
    pub(in crate::cli) descriptors: Descriptors,
    /// The network settings.
    pub(in crate::cli) network: Network,
    /// The network cards.
    pub(in crate::cli) interfaces: Vec<Interface>,
}

impl Facts {
    /// Looks at this machine.
    pub(in crate::cli) fn survey() -> Facts {
        Facts::read(&files::disk)
    }

    /// Looks at the machine whose files `read` gives.
    pub(in crate::cli) fn read(read: Read<'_>) -> Facts {
        Facts {
            cpu: Cpu::read(read),
            memory: Memory::read(read),
            kernel: Kernel::read(read),
            descriptors: Descriptors::read(read),
            network: Network::read(read),
            interfaces: Interface::read_all(read),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_survive_being_written() {
        let facts = made_up::server();
        let text = serde_json::to_string(&facts).unwrap();
        assert_eq!(serde_json::from_str::<Facts>(&text).unwrap(), facts);
        assert_eq!(serde_json::from_str::<Facts>("{}").unwrap(), Facts::default());
    }

    #[test]
    fn this_machine_has_facts() {
        let facts = Facts::survey();
        assert!(!facts.cpu.allowed.is_empty());
        assert!(facts.memory.total_bytes > 1 << 20);
        assert!(!facts.kernel.release.is_empty());
        let text = serde_json::to_string(&facts).unwrap();
        assert_eq!(serde_json::from_str::<Facts>(&text).unwrap(), facts);
    }

    #[test]
    fn a_machine_that_tells_nothing_has_facts_too() {
        let facts = Facts::read(&|_| None);
        assert_eq!(facts.cpu.for_daemon().usable(), 1);
        assert!(!facts.lines().is_empty());
    }

    #[test]
    fn a_server_is_read_whole() {
        let facts = made_up::server();
        let cpu = &facts.cpu;
        assert_eq!((cpu.cores, cpu.sockets, cpu.nodes.len()), (4, 1, 2));
        assert_eq!((cpu.online.len(), cpu.allowed.len(), cpu.second_threads()), (8, 6, 2));
        assert_eq!(cpu.governors, ["performance", "powersave"]);
        assert_eq!((cpu.max_mhz, cpu.steal_percent), (Some(3_500), Some(2.5)));
        assert_eq!(cpu.for_daemon().usable(), 3, "a quota of two and a half cores");
        assert_eq!(facts.memory.usable_bytes(), 1 << 30);
        assert_eq!(facts.memory.huge_pages.as_deref(), Some("always"));
        assert_eq!(facts.descriptors.for_daemon(), Some(524_288));
        assert_eq!(facts.network.client_ports(), Some(28_232));
        let names: Vec<_> = facts.interfaces.iter().map(|card| &*card.name).collect();
        assert_eq!(names, ["eth0"], "loopback and bridges are no cards");
        let card = &facts.interfaces[0];
        assert_eq!((card.rx_queues, card.tx_queues, card.megabits), (2, 1, Some(10_000)));
        assert_eq!(card.interrupts.len(), 2);
        assert_eq!(card.interrupts[0].count, 36);
        assert_eq!(card.interrupts[1].name, "eth0-TxRx-1");
        assert_eq!(facts.kernel.boot_options, ["mitigations=auto", "isolcpus=7"]);
        assert_eq!(facts.kernel.mitigations.len(), 1);
    }
}
