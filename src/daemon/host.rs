//! What the machine allows this process: cores, file descriptors, and the name it goes by.
//!
//! *Invariants*: read once, at the start; everything that depends on the machine takes a [`Host`],
//! so that a test can be on any machine it likes.
//!
//! *Not here*: pinning threads to cores; what the limits mean for the configuration.

use crate::base::limits::{NAME_BYTES_MAX, SHARDS_MAX};
use crate::daemon::cgroup::{self, Quota};
use crate::protocol::names::Name;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;
use std::path::Path;
use std::thread::available_parallelism;

/// The machine, as far as the configuration depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The cores this process may use.
    pub cores: Cores,
    /// The file descriptors this process may hold; `None` is no limit.
    pub descriptors: Option<u64>,
    /// The memory this process may have, in bytes, where the system tells: what its control group
    /// allows, or what the machine has.
    pub memory_bytes: Option<u64>,
    /// The host name, made into a valid name.
    pub name: Name,
}

/// The cores this process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// The cores its threads may run on.
    pub affinity: u32,
    /// The CPU time it may use, if that is limited.
    pub quota: Option<Quota>,
}

impl Host {
    /// Looks at the machine, and raises this process's descriptor limit as far as it may.
    pub fn survey() -> Host {
        Host {
            cores: Cores::survey(),
            descriptors: raise_descriptor_limit(),
            memory_bytes: memory_bytes(|path| fs::read_to_string(path).ok()),
            name: host_name(),
        }
    }

    /// A machine that depends on nothing, for texts that must be the same everywhere.
    pub fn anywhere() -> Host {
        Host {
            cores: Cores { affinity: 1, quota: None },
            descriptors: None,
            memory_bytes: None,
            name: Name::fixed("node"),
        }
    }
}

impl Cores {
    fn survey() -> Cores {
        let affinity = match rustix::thread::sched_getaffinity(None) {
            Ok(cores) => cores.count(),
            // The mask of a machine with more cores than the mask has bits can't be read; the
            // standard library asks in another way.
            Err(_) => available_parallelism().map_or(1, |cores| cores.get() as u32),
        };
        let quota = cgroup::cpu_quota(|path| fs::read_to_string(path).ok());
        Cores { affinity: affinity.max(1), quota }
    }

    /// How many threads can really run at once.
    pub fn usable(self) -> u32 {
        self.quota.map_or(self.affinity, |quota| self.affinity.min(quota.cores())).max(1)
    }

    /// One shard for each core, as far as there may be so many.
    pub fn shards(self) -> u16 {
        u16::try_from(self.usable()).unwrap_or(SHARDS_MAX).min(SHARDS_MAX)
    }

    /// Whether a quota gives less time than the cores have. Pinning then does harm: the scheduler
    /// can no longer move work to a core that has time left.
    pub fn is_throttled(self) -> bool {
        self.quota.is_some_and(|quota| {
            u128::from(quota.time_us) < u128::from(quota.period_us) * u128::from(self.affinity)
        })
    }
}

/// Raises the soft limit of file descriptors to the hard one, and gives what is then in force;
/// `None` is no limit.
pub fn raise_descriptor_limit() -> Option<u64> {
    let before = getrlimit(Resource::Nofile);
    // A hard limit of infinity still can't pass the kernel's own ceiling.
    let ceiling = before.maximum.or_else(|| {
        fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok())
    });
    if let (Some(soft), Some(ceiling)) = (before.current, ceiling)
        && soft < ceiling
    {
        let raised = Rlimit { current: Some(ceiling), maximum: before.maximum };
        // If it can't be raised, the limit that is read back says so.
        let _ = setrlimit(Resource::Nofile, raised);
    }
    getrlimit(Resource::Nofile).current
}

fn memory_bytes(read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let of_machine = read(Path::new("/proc/meminfo")).and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1_024)
    });
    let of_group = cgroup::memory_limit(read);
    of_machine.into_iter().chain(of_group).min()
}

fn host_name() -> Name {
    node_name(&fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default())
}

/// A host name as a valid name: what no name may hold becomes a dash.
fn node_name(host: &str) -> Name {
    let name: String = host
        .trim()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' })
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(NAME_BYTES_MAX)
        .collect();
    Name::parse(&name).unwrap_or_else(|_| Name::fixed("node"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_follow_the_tighter_of_affinity_and_quota() {
        let quota = |time_us| Some(Quota { time_us, period_us: 100_000 });
        for (affinity, quota, usable, shards, throttled) in [
            (1, None, 1, 1, false),
            (8, None, 8, 8, false),
            (8, quota(250_000), 3, 3, true),
            (8, quota(10_000), 1, 1, true),
            (2, quota(900_000), 2, 2, false),
            (2, quota(200_000), 2, 2, false),
            (2, quota(190_000), 2, 2, true),
            (1_000, None, 1_000, 256, false),
            (100_000, None, 100_000, 256, false),
        ] {
            let cores = Cores { affinity, quota };
            assert_eq!(cores.usable(), usable, "{cores:?}");
            assert_eq!(cores.shards(), shards, "{cores:?}");
            assert_eq!(cores.is_throttled(), throttled, "{cores:?}");
        }
    }

    #[test]
    fn any_host_name_makes_a_name() {
        for (host, name) in [
            ("box-1.example.org\n", "box-1.example.org"),
            ("my box", "my-box"),
            ("--x", "x"),
            ("büro", "b-ro"),
            ("", "node"),
            ("...", "node"),
            (&"h".repeat(70), &"h".repeat(64)),
        ] {
            assert_eq!(node_name(host).as_str(), name, "{host:?}");
        }
    }

    #[test]
    fn this_machine_can_be_surveyed() {
        let host = Host::survey();
        assert!(host.cores.shards() >= 1);
        assert!(host.descriptors.is_none_or(|limit| limit > 3));
        let after = getrlimit(Resource::Nofile);
        assert!(after.maximum.is_none() || after.current == after.maximum, "{after:?}");
    }
}
