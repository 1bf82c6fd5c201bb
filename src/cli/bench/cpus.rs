//! Which cores: a list as it is typed, and a process that is put on them.
//!
//! A server is moved by its id right after it has started, every one of its threads, before any load
//! comes; a thread that is made later inherits the cores of the thread that makes it.

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs;
use std::io;

/// A list of cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cpus(Vec<usize>);

/// Reads a list such as `0`, `1,3` or `2-5`.
pub(super) fn read(text: &str) -> Result<Cpus, String> {
    let wrong = || "write cores as 0 or 1,3 or 2-5".to_owned();
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| wrong())?;
        let last: usize = last.trim().parse().map_err(|_| wrong())?;
        if last < first || last >= CpuSet::MAX_CPU {
            return Err(wrong());
        }
        cores.extend(first..=last);
    }
    let usable = sched_getaffinity(None).map_err(|error| error.to_string())?;
    match cores.iter().find(|&&core| !usable.is_set(core)) {
        Some(core) => Err(format!("core {core} is not among those this process may use")),
        None => Ok(Cpus(cores)),
    }
}

impl std::fmt::Display for Cpus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words: Vec<String> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&words.join(","))
    }
}

impl Cpus {
    /// A single core.
    pub(super) fn one(core: usize) -> Cpus {
        Cpus(vec![core])
    }

    /// The first two cores that this process may use, or fewer.
    pub(super) fn first_two() -> Vec<usize> {
        match sched_getaffinity(None) {
            Ok(set) => (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).take(2).collect(),
            Err(_) => Vec::new(),
        }
    }

    /// Puts the calling thread there.
    pub(super) fn take_this_thread(&self) -> io::Result<()> {
        Ok(sched_setaffinity(None, &self.set())?)
    }

    /// Puts every thread of a process there.
    pub(super) fn take_process(&self, pid: u32) -> io::Result<()> {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let id = task?.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
            // A thread that has ended meanwhile needs no place.
            if let Some(id) = id {
                match sched_setaffinity(Some(id), &self.set()) {
                    Err(rustix::io::Errno::SRCH) | Ok(()) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    fn set(&self) -> CpuSet {
        let mut set = CpuSet::new();
        for &core in &self.0 {
            set.set(core);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_others_refused() {
        assert_eq!(read("0").unwrap(), Cpus(vec![0]));
        assert_eq!(read("0-0").unwrap().to_string(), "0");
        for bad in ["", "a", "1-0", "0-", "-1", "9999", "1023"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
