//! The CPU quota and the memory limit that a container or a service unit puts on this process. A
//! process may be allowed to run on sixty-four cores and still get the time of two; one thread a
//! core would then spend most of its life stopped by the kernel, all threads at once.
//!
//! Both generations of control groups can be mounted on one machine, each with its own limits, and
//! every group above this process's own limits it too: the tightest of all of them holds.
//!
//! *Invariants*: nothing here touches the system; files are read through a function that is handed
//! in. Text that makes no sense is no limit.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// So much CPU time in each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// The CPU time that may be used, in microseconds.
    pub time_us: u64,
    /// The period it may be used in, in microseconds; never 0.
    pub period_us: u64,
}

impl Quota {
    /// The quota in whole cores, rounded up.
    pub fn cores(self) -> u32 {
        u32::try_from(self.time_us.div_ceil(self.period_us)).unwrap_or(u32::MAX).max(1)
    }

    fn is_tighter_than(self, other: Quota) -> bool {
        let this = u128::from(self.time_us) * u128::from(other.period_us);
        this < u128::from(other.time_us) * u128::from(self.period_us)
    }
}

/// The tightest quota this process is under. `read` gives the text of a file, if it can be read.
pub fn cpu_quota(read: impl Fn(&Path) -> Option<String>) -> Option<Quota> {
    let groups = read(Path::new("/proc/self/cgroup"))?;
    let mounts = read(Path::new("/proc/self/mountinfo"))?;
    let mut tightest: Option<Quota> = None;
    for version in [Version::V1, Version::V2] {
        for directory in directories(version, "cpu", &groups, &mounts) {
            let quota = match version {
                Version::V1 => read(&directory.join("cpu.cfs_quota_us")).and_then(|quota| {
                    parse_cfs(&quota, &read(&directory.join("cpu.cfs_period_us"))?)
                }),
                Version::V2 => {
                    read(&directory.join("cpu.max")).and_then(|text| parse_cpu_max(&text))
                }
            };
            if let Some(quota) = quota
                && tightest.is_none_or(|other| quota.is_tighter_than(other))
            {
                tightest = Some(quota);
            }
        }
    }
    tightest
}

/// The least memory this process's groups allow, in bytes. `read` is as for [`cpu_quota`].
pub fn memory_limit(read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let groups = read(Path::new("/proc/self/cgroup"))?;
    let mounts = read(Path::new("/proc/self/mountinfo"))?;
    [(Version::V1, "memory.limit_in_bytes"), (Version::V2, "memory.max")]
        .into_iter()
        .flat_map(|(version, file)| {
            let directories = directories(version, "memory", &groups, &mounts);
            directories.into_iter().map(move |directory| directory.join(file))
        })
        .filter_map(|file| read(&file)?.trim().parse().ok())
        .filter(|&bytes| bytes < UNLIMITED_BYTES)
        .min()
}

/// Version 1 writes "no limit" as the largest number of pages, which depends on their size.
const UNLIMITED_BYTES: u64 = 1 << 60;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    V1,
    V2,
}

/// `cpu.max` of version 2: `max 100000` or `150000 100000`.
fn parse_cpu_max(text: &str) -> Option<Quota> {
    let mut words = text.split_whitespace();
    let time_us = words.next()?.parse().ok()?;
    let period_us = words.next().map_or(Some(100_000), |word| word.parse().ok())?;
    (period_us > 0).then_some(Quota { time_us, period_us })
}

/// `cpu.cfs_quota_us` (-1 for none) and `cpu.cfs_period_us` of version 1.
fn parse_cfs(quota: &str, period: &str) -> Option<Quota> {
    let time_us = quota.trim().parse().ok()?;
    let period_us = period.trim().parse().ok()?;
    (period_us > 0).then_some(Quota { time_us, period_us })
}

/// The directory of this process's group and of each group above it, as far as they are mounted.
fn directories(version: Version, controller: &str, groups: &str, mounts: &str) -> Vec<PathBuf> {
    let (Some(group), Some((root, mount_point))) =
        (group_path(version, controller, groups), mount(version, controller, mounts))
    else {
        return Vec::new();
    };
    // Inside a container the mount may show only a part of the tree, or the group may lie outside
    // of it; then the top of what is mounted is the best that can be seen.
    let below = Path::new(group).strip_prefix(&root).unwrap_or(Path::new(""));
    if below.components().any(|part| part.as_os_str() == "..") {
        return vec![mount_point];
    }
    below.ancestors().map(|part| mount_point.join(part)).collect()
}

/// The path of the group from `/proc/self/cgroup`, whose lines are `id:controllers:path`.
fn group_path<'g>(version: Version, controller: &str, groups: &'g str) -> Option<&'g str> {
    groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let found = match version {
            Version::V1 => controllers.split(',').any(|name| name == controller),
            Version::V2 => id == "0" && controllers.is_empty(),
        };
        found.then_some(path)
    })
}

/// Which part of the tree is mounted, and where, from `/proc/self/mountinfo`.
fn mount(version: Version, controller: &str, mounts: &str) -> Option<(PathBuf, PathBuf)> {
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, mount_point) = (unescape(place.next()?), unescape(place.next()?));
        let mut kind = kind.split(' ');
        let file_system = kind.next()?;
        let options = kind.nth(1)?;
        let found = match version {
            Version::V1 => {
                file_system == "cgroup" && options.split(',').any(|option| option == controller)
            }
            Version::V2 => file_system == "cgroup2",
        };
        found.then(|| (PathBuf::from(root), PathBuf::from(mount_point)))
    })
}

/// The kernel writes blanks in paths as octal.
fn unescape(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2_MOUNT: &str =
        "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1_MOUNT: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        33 31 0:30 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct\n\
        32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n";

    fn quota_of(files: &[(&str, &str)]) -> Option<(u64, u64)> {
        let read = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| text.to_string())
        };
        cpu_quota(read).map(|quota| (quota.time_us, quota.period_us))
    }

    #[test]
    fn the_text_of_both_versions_is_understood() {
        for (text, expected) in [
            ("max 100000\n", None),
            ("150000 100000\n", Some((150_000, 100_000))),
            ("50000", Some((50_000, 100_000))),
            ("", None),
            ("1 0", None),
            ("-1 100000", None),
            ("lots of it", None),
        ] {
            let quota = parse_cpu_max(text).map(|quota| (quota.time_us, quota.period_us));
            assert_eq!(quota, expected, "{text:?}");
        }
        for (time, period, expected) in [
            ("-1\n", "100000\n", None),
            ("200000\n", "100000\n", Some((200_000, 100_000))),
            ("5", "0", None),
            ("x", "100000", None),
        ] {
            let quota = parse_cfs(time, period).map(|quota| (quota.time_us, quota.period_us));
            assert_eq!(quota, expected, "{time:?} {period:?}");
        }
    }

    #[test]
    fn cores_are_rounded_up_and_never_none() {
        for (time_us, period_us, cores) in [
            (1, 100_000, 1),
            (0, 100_000, 1),
            (100_000, 100_000, 1),
            (100_001, 100_000, 2),
            (250_000, 100_000, 3),
            (u64::MAX, 1, u32::MAX),
        ] {
            assert_eq!(Quota { time_us, period_us }.cores(), cores, "{time_us}/{period_us}");
        }
    }

    #[test]
    fn the_tightest_group_on_the_way_up_counts() {
        let files = [
            ("/proc/self/cgroup", "0::/pod/box\n"),
            ("/proc/self/mountinfo", V2_MOUNT),
            ("/sys/fs/cgroup/pod/box/cpu.max", "max 100000"),
            ("/sys/fs/cgroup/pod/cpu.max", "300000 100000"),
        ];
        assert_eq!(quota_of(&files), Some((300_000, 100_000)));
        let mut tighter = files.to_vec();
        tighter[2].1 = "50000 50000";
        assert_eq!(quota_of(&tighter), Some((50_000, 50_000)));
    }

    #[test]
    fn version_one_has_its_own_mount_and_files() {
        let files = [
            ("/proc/self/cgroup", "2:cpuacct:/\n1:cpu,cpuset:/docker/ab\n0::/\n"),
            ("/proc/self/mountinfo", V1_MOUNT),
            ("/sys/fs/cgroup/cpu/docker/ab/cpu.cfs_quota_us", "150000\n"),
            ("/sys/fs/cgroup/cpu/docker/ab/cpu.cfs_period_us", "100000\n"),
            ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ];
        assert_eq!(quota_of(&files), Some((150_000, 100_000)));
    }

    #[test]
    fn a_container_sees_its_group_where_the_mount_begins() {
        let mounted = V2_MOUNT.replace("0:26 / ", "0:26 /docker/ab ");
        for group in ["0::/docker/ab\n", "0::/somewhere/else\n", "0::/../up\n"] {
            let files = [
                ("/proc/self/cgroup", group),
                ("/proc/self/mountinfo", &*mounted),
                ("/sys/fs/cgroup/cpu.max", "250000 100000"),
            ];
            assert_eq!(quota_of(&files), Some((250_000, 100_000)), "{group}");
        }
    }

    #[test]
    fn memory_is_limited_by_the_tightest_group() {
        let limit_of = |files: &[(&str, &str)]| {
            memory_limit(|path| {
                let found = files.iter().find(|(name, _)| Path::new(name) == path);
                found.map(|(_, text)| text.to_string())
            })
        };
        let v2 = [
            ("/proc/self/cgroup", "0::/pod/box\n"),
            ("/proc/self/mountinfo", V2_MOUNT),
            ("/sys/fs/cgroup/pod/box/memory.max", "max\n"),
            ("/sys/fs/cgroup/pod/memory.max", "1073741824\n"),
        ];
        assert_eq!(limit_of(&v2), Some(1 << 30));
        assert_eq!(limit_of(&v2[..3]), None);
        let mounts = V1_MOUNT.replace("cpuacct", "memory");
        let v1 = [
            ("/proc/self/cgroup", "4:memory:/docker/ab\n"),
            ("/proc/self/mountinfo", &*mounts),
            ("/sys/fs/cgroup/memory/docker/ab/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n"),
        ];
        assert_eq!(limit_of(&v1), Some(512 << 20));
        assert_eq!(limit_of(&v1[..3]), None, "no limit is a very large one");
    }

    #[test]
    fn what_makes_no_sense_is_no_quota() {
        assert_eq!(quota_of(&[]), None);
        assert_eq!(
            quota_of(&[("/proc/self/cgroup", "nonsense\n::\n"), ("/proc/self/mountinfo", "x - y")]),
            None
        );
        assert_eq!(
            quota_of(&[("/proc/self/cgroup", "0::/\n"), ("/proc/self/mountinfo", V2_MOUNT)]),
            None
        );
    }
}
