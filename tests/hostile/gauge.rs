//! What a daemon costs: its memory and descriptors as the kernel counts them, its latency as it counts
//! itself.

use crate::common::http::metric;
use crate::common::{Daemon, PATIENCE};
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

const MIB: u64 = 1024 * 1024;

/// The memory that a process has in RAM, in MiB.
pub(crate) fn resident_mib(pid: u32) -> u64 {
    status_field(pid, "VmRSS:") / MIB
}

/// The most that it had since [`forget_peak`], in MiB.
pub(crate) fn peak_mib(pid: u32) -> u64 {
    status_field(pid, "VmHWM:") / MIB
}

/// Makes the peak what is resident now.
pub(crate) fn forget_peak(pid: u32) {
    // "5" resets the peak; see proc(5). Without the right to do so the old peak counts.
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// The descriptors that a process has open.
pub(crate) fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |folder| folder.count())
}

fn status_field(pid: u32, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() * 1024
}

/// Waits until the daemon has at most so many descriptors and so much memory.
#[track_caller]
pub(crate) fn await_return(daemon: &Daemon, descriptors_max: usize, resident_mib_max: u64) {
    let (pid, deadline) = (daemon.pid(), Instant::now() + PATIENCE);
    loop {
        let (open, mib) = (descriptors(pid), resident_mib(pid));
        if open <= descriptors_max && mib <= resident_mib_max {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "it stays at {open} descriptors and {mib} MiB; right are at most {descriptors_max} and \
             {resident_mib_max}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A histogram of the daemon, summed over its shards: counts up to each bound, in seconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram(Vec<(f64, u64)>);

impl Histogram {
    /// The deliveries of a daemon so far: from the sender's socket to the member's.
    pub(crate) fn of_deliveries(daemon: &Daemon) -> Histogram {
        Histogram::parse(&daemon.get("/metrics").body, "arqonbus_shard_delivery_latency_seconds")
    }

    fn parse(text: &str, name: &str) -> Histogram {
        // By the order in which the bounds stand in the text, which is ascending.
        let (mut order, mut counts) = (Vec::new(), BTreeMap::<String, u64>::new());
        for line in text.lines() {
            let Some(rest) = line.strip_prefix(name).and_then(|r| r.strip_prefix("_bucket{"))
            else {
                continue;
            };
            let Some(bound) = rest.split("le=\"").nth(1).and_then(|r| r.split('"').next()) else {
                continue;
            };
            let count: u64 = rest.rsplit(' ').next().unwrap().parse().unwrap();
            if !counts.contains_key(bound) {
                order.push(bound.to_owned());
            }
            *counts.entry(bound.to_owned()).or_default() += count;
        }
        assert!(!order.is_empty(), "there is no histogram {name}");
        let bound_s = |text: &str| text.parse().unwrap_or(f64::INFINITY);
        Histogram(order.iter().map(|bound| (bound_s(bound), counts[bound])).collect())
    }

    /// What was counted since `earlier`.
    pub(crate) fn since(&self, earlier: &Histogram) -> Histogram {
        let pairs = self.0.iter().zip(&earlier.0);
        Histogram(pairs.map(|(now, then)| (now.0, now.1 - then.1)).collect())
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.last().map_or(0, |last| last.1)
    }

    /// The value that this share of all stays under, in milliseconds; interpolated within its bucket,
    /// as Prometheus does.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        let rank = share * self.count() as f64;
        let (mut below_s, mut below) = (0.0, 0);
        for &(bound_s, count) in &self.0 {
            if count as f64 >= rank && count > below {
                if bound_s.is_infinite() {
                    return below_s * 1e3;
                }
                let part = (rank - below as f64) / (count - below) as f64;
                return (below_s + (bound_s - below_s) * part.max(0.0)) * 1e3;
            }
            (below_s, below) = (bound_s, count);
        }
        below_s * 1e3
    }
}

/// The sum of some counters, each a metric and what its labels must hold.
pub(crate) fn counted(daemon: &Daemon, counters: &[(&str, &str)]) -> f64 {
    let text = daemon.get("/metrics").body;
    counters.iter().map(|(name, label)| metric(&text, name, label)).sum()
}

#[test]
fn a_histogram_is_read_and_interpolated() {
    let text = "x_bucket{shard=\"0\",le=\"0.001\"} 50\nx_bucket{shard=\"0\",le=\"0.002\"} 99\n\
                x_bucket{shard=\"0\",le=\"+Inf\"} 100\nx_bucket{shard=\"1\",le=\"0.001\"} 0\n\
                x_bucket{shard=\"1\",le=\"0.002\"} 0\nx_bucket{shard=\"1\",le=\"+Inf\"} 0\n";
    let histogram = Histogram::parse(text, "x");
    assert_eq!(histogram.count(), 100);
    assert_eq!(histogram.quantile_ms(0.25), 0.5);
    assert_eq!(histogram.quantile_ms(0.5), 1.0);
    assert_eq!(histogram.quantile_ms(0.99), 2.0);
    assert_eq!(histogram.quantile_ms(1.0), 2.0, "beyond the last bound, that bound");
    assert_eq!(histogram.since(&histogram).count(), 0);
}
