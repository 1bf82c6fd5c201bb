//! What the kernel's network settings are.

use crate::cli::machine::files::{Read, value, values, word};
use serde::{Deserialize, Serialize};

/// The network settings that decide what a bus can do, under their own names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct Network {
    /// Connections that may wait to be accepted.
    pub(in crate::cli) somaxconn: Option<u64>,
    /// Connections that may be half open.
    pub(in crate::cli) tcp_max_syn_backlog: Option<u64>,
    /// The ports that outgoing connections get: the first and the last.
    pub(in crate::cli) ip_local_port_range: Vec<u64>,
    /// Whether a port in TIME_WAIT may be used again.
    pub(in crate::cli) tcp_tw_reuse: Option<u64>,
    /// Packets one round of the network softirq may handle.
    pub(in crate::cli) netdev_budget: Option<u64>,
    /// Microseconds one round of the network softirq may take.
    pub(in crate::cli) netdev_budget_usecs: Option<u64>,
    /// Packets that may wait for a CPU.
    pub(in crate::cli) netdev_max_backlog: Option<u64>,
    /// Connections the firewall follows, where it does.
    pub(in crate::cli) conntrack_count: Option<u64>,
    /// The most it may follow.
    pub(in crate::cli) conntrack_max: Option<u64>,
    /// Pages of memory for all TCP sockets: low, pressure, high.
    pub(in crate::cli) tcp_mem: Vec<u64>,
    /// Bytes of a receive buffer: least, first, most.
    pub(in crate::cli) tcp_rmem: Vec<u64>,
    /// Bytes of a send buffer: least, first, most.
    pub(in crate::cli) tcp_wmem: Vec<u64>,
    /// How TCP finds its rate.
    pub(in crate::cli) tcp_congestion_control: Option<String>,
    /// Whether a connection that was idle starts slowly again.
    pub(in crate::cli) tcp_slow_start_after_idle: Option<u64>,
    /// The order in which packets leave.
    pub(in crate::cli) default_qdisc: Option<String>,
    /// Microseconds a poll spins on the network queue.
    pub(in crate::cli) busy_poll: Option<u64>,
    /// Microseconds a read spins on the network queue.
    pub(in crate::cli) busy_read: Option<u64>,
}

impl Network {
    pub(super) fn read(read: Read<'_>) -> Network {
        let core = |name: &str| format!("/proc/sys/net/core/{name}");
        let ipv4 = |name: &str| format!("/proc/sys/net/ipv4/{name}");
        let conntrack = |name: &str| format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
        Network {
            somaxconn: value(read, core("somaxconn")),
            tcp_max_syn_backlog: value(read, ipv4("tcp_max_syn_backlog")),
            ip_local_port_range: values(read, ipv4("ip_local_port_range")),
            tcp_tw_reuse: value(read, ipv4("tcp_tw_reuse")),
            netdev_budget: value(read, core("netdev_budget")),
            netdev_budget_usecs: value(read, core("netdev_budget_usecs")),
            netdev_max_backlog: value(read, core("netdev_max_backlog")),
            conntrack_count: value(read, conntrack("count")),
            conntrack_max: value(read, conntrack("max")),
            tcp_mem: values(read, ipv4("tcp_mem")),
            tcp_rmem: values(read, ipv4("tcp_rmem")),
            tcp_wmem: values(read, ipv4("tcp_wmem")),
            tcp_congestion_control: word(read, ipv4("tcp_congestion_control")),
            tcp_slow_start_after_idle: value(read, ipv4("tcp_slow_start_after_idle")),
            default_qdisc: word(read, core("default_qdisc")),
            busy_poll: value(read, core("busy_poll")),
            busy_read: value(read, core("busy_read")),
        }
    }

    /// How many outgoing connections one address can have to one port.
    pub(in crate::cli) fn client_ports(&self) -> Option<u64> {
        match self.ip_local_port_range[..] {
            [first, last] if first <= last => Some(last - first + 1),
            _ => None,
        }
    }
}
