//! Which core each shard stays on, if it stays on one.
//!
//! Pinning helps when the cores are the bus's own: caches stay warm and no shard is moved behind
//! another. It harms where a CPU quota is in force or where shards outnumber cores, for then the
//! scheduler must be free to move them. `auto` decides by that.

use crate::daemon::config::Pin;
use crate::daemon::host::Cores;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs;

/// The core of each shard, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinning {
    /// The core of each shard; empty if shards are not pinned.
    pub cores: Vec<usize>,
    /// Why it is so, for the log.
    pub reason: &'static str,
}

/// Decides whether and where the shards are pinned.
pub fn decide(pin: Pin, shards: u16, cores: Cores) -> Pinning {
    let free = |reason| Pinning { cores: Vec::new(), reason };
    match pin {
        Pin::Off => return free("pin is off"),
        Pin::Auto if cores.is_throttled() => return free("a CPU quota is in force"),
        Pin::Auto if u32::from(shards) > cores.affinity => {
            return free("there are more shards than cores");
        }
        Pin::Auto | Pin::On => {}
    }
    let usable = whole_cores_first(&usable_cores(), |core| {
        let path = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
        fs::read_to_string(path).ok()
    });
    if usable.is_empty() {
        return free("the cores of this process can't be read");
    }
    let cores = usable.iter().copied().cycle().take(usize::from(shards)).collect();
    Pinning { cores, reason: if pin == Pin::On { "pin is on" } else { "each shard has a core" } }
}

/// Keeps the calling thread on one core.
///
/// # Errors
/// If the core is not one this process may use.
pub fn pin_here(core: usize) -> std::io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

fn usable_cores() -> Vec<usize> {
    match sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect(),
        Err(_) => Vec::new(),
    }
}

/// One hardware thread of every core before the second of any: two shards on one core share it.
fn whole_cores_first(usable: &[usize], siblings: impl Fn(usize) -> Option<String>) -> Vec<usize> {
    let is_first = |core: &usize| {
        let list = siblings(*core).unwrap_or_default();
        let first = list.trim().split([',', '-']).next().and_then(|first| first.parse().ok());
        first.is_none_or(|first: usize| first == *core || !usable.contains(&first))
    };
    let (first, second): (Vec<usize>, Vec<usize>) = usable.iter().copied().partition(is_first);
    first.into_iter().chain(second).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::cgroup::Quota;

    const FREE: Cores = Cores { affinity: 2, quota: None };

    #[test]
    fn auto_pins_only_where_the_cores_are_its_own() {
        let quota = Some(Quota { time_us: 50_000, period_us: 100_000 });
        let throttled = Cores { affinity: 2, quota };
        assert!(decide(Pin::Auto, 1, throttled).cores.is_empty());
        assert!(decide(Pin::Auto, 3, FREE).cores.is_empty());
        assert!(decide(Pin::Off, 1, FREE).cores.is_empty());
        assert_eq!(decide(Pin::Auto, 1, FREE).cores.len(), 1);
        assert_eq!(decide(Pin::On, 16, throttled).cores.len(), 16);
    }

    #[test]
    fn hyper_threads_come_second() {
        let siblings = |core: usize| {
            Some(match core {
                0 | 2 => "0,2\n".to_owned(),
                _ => "1,3\n".to_owned(),
            })
        };
        assert_eq!(whole_cores_first(&[0, 1, 2, 3], siblings), [0, 1, 2, 3]);
        assert_eq!(whole_cores_first(&[0, 2, 3], siblings), [0, 3, 2]);
        assert_eq!(whole_cores_first(&[4, 5], |_| None), [4, 5]);
    }
}
