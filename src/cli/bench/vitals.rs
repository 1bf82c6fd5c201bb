//! What a process costs: its time on the processors, and its memory, as the kernel counts them.
//!
//! Time comes from the scheduler's own count of nanoseconds, summed over the threads; the one in
//! `/proc/PID/stat` goes in steps of 10 ms. A thread that ends takes its count with it, which no
//! server does while it is measured.

use serde::{Deserialize, Serialize};
use std::fs;

/// A time on the processors, and a time of waiting for one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Schedule {
    /// Nanoseconds on a processor.
    pub(super) run_ns: u64,
    /// Nanoseconds ready to run, but without a processor.
    pub(super) wait_ns: u64,
}

impl Schedule {
    /// From then to now.
    pub(super) fn since(&self, then: &Schedule) -> Schedule {
        Schedule {
            run_ns: self.run_ns.saturating_sub(then.run_ns),
            wait_ns: self.wait_ns.saturating_sub(then.wait_ns),
        }
    }

    fn read(text: &str) -> Option<Schedule> {
        let mut words = text.split_whitespace().map(|word| word.parse().ok());
        Some(Schedule { run_ns: words.next()??, wait_ns: words.next()?? })
    }
}

/// The time of the calling thread.
pub(super) fn of_this_thread() -> Option<Schedule> {
    Schedule::read(&fs::read_to_string("/proc/thread-self/schedstat").ok()?)
}

/// The time of all threads of a process.
pub(super) fn of_process(pid: u32) -> Option<Schedule> {
    let mut sum = Schedule::default();
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        // A thread may end while it is looked at.
        let Ok(text) = fs::read_to_string(task.ok()?.path().join("schedstat")) else {
            continue;
        };
        let one = Schedule::read(&text)?;
        sum.run_ns += one.run_ns;
        sum.wait_ns += one.wait_ns;
    }
    Some(sum)
}

/// The memory of a process that is in RAM, in bytes: counted page by page where the kernel lets us,
/// for the sum that it keeps lags behind.
pub(super) fn resident_bytes(pid: u32) -> Option<u64> {
    let from = |file: &str, key: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        let line = text.lines().find(|line| line.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let kib = from("smaps_rollup", "Rss:").or_else(|| from("status", "VmRSS:"))?;
    Some(kib * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_costs_something() {
        let before = of_this_thread().unwrap();
        let mut sum = 0u64;
        while of_this_thread().unwrap().since(&before).run_ns < 1_000_000 {
            sum = std::hint::black_box(sum + 1);
        }
        let process = of_process(std::process::id()).unwrap();
        assert!(process.run_ns >= 1_000_000);
        assert!(resident_bytes(std::process::id()).unwrap() > 100_000);
        assert_eq!(of_process(0), None);
        assert_eq!(Schedule::read("1 2 3\n"), Some(Schedule { run_ns: 1, wait_ns: 2 }));
        assert_eq!(Schedule::read("1"), None);
    }
}
