//! How much of the machine other programs used while something was measured: what is measured
//! beside busy neighbours is noise, and a report must say so.

use crate::cli::machine::files::Read;

/// The time that all CPUs, and the children of this process, have worked, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Worked {
    /// All there was.
    all: u64,
    /// Not idle.
    busy: u64,
    /// By children that have ended, and theirs.
    own: u64,
}

impl Worked {
    /// Until now; nothing if the kernel does not tell.
    pub(in crate::cli) fn now() -> Option<Worked> {
        Worked::read(&crate::cli::machine::files::disk)
    }

    fn read(read: Read<'_>) -> Option<Worked> {
        let stat = read("/proc/stat".as_ref())?;
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        // user nice system idle iowait irq softirq steal
        let ticks: Vec<u64> =
            line.split_whitespace().take(8).map(|word| word.parse().ok()).collect::<Option<_>>()?;
        let (all, idle) = (ticks.iter().sum::<u64>(), ticks.get(3)? + ticks.get(4)?);
        let own = read("/proc/self/stat".as_ref())?;
        // The name of the program, in brackets, may hold blanks; after it the 14th and 15th are the
        // time of children that were waited for.
        let (_, fields) = own.rsplit_once(')')?;
        let field = |place: usize| fields.split_whitespace().nth(place)?.parse::<u64>().ok();
        Some(Worked { all, busy: all - idle, own: field(13)? + field(14)? })
    }

    /// The share of the machine that others used since then, from 0 to 1.
    pub(in crate::cli) fn by_others_since(&self, then: &Worked) -> f64 {
        let busy = self.busy.saturating_sub(then.busy);
        let own = self.own.saturating_sub(then.own);
        busy.saturating_sub(own) as f64 / self.all.saturating_sub(then.all).max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn at(stat: &str, children: &str) -> Option<Worked> {
        let own = format!("7 (odd (name) S 1 1 1 0 -1 4 5 0 0 0 10 10 {children} 20 0 1");
        Worked::read(&|path: &Path| match path.to_str() {
            Some("/proc/stat") => Some(stat.to_owned()),
            Some("/proc/self/stat") => Some(own.clone()),
            _ => None,
        })
    }

    #[test]
    fn what_children_did_is_not_others_doing() {
        let then = at("cpu  100 0 100 800 0 0 0 0 0 0\n", "30 20").unwrap();
        let now = at("cpu  150 0 140 900 10 0 0 0 0 0\n", "50 40").unwrap();
        // 200 ticks in all, 90 of them busy, 40 by children.
        assert!((now.by_others_since(&then) - 0.25).abs() < 1e-9);
        assert_eq!(at("intr 1\n", "1 1"), None);
        assert_eq!(at("cpu  1 2\n", "1 1"), None);
        let (then, now) = (Worked::now().unwrap(), Worked::now().unwrap());
        assert!((0.0..=1.0).contains(&now.by_others_since(&then)));
    }
}
