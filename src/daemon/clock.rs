//! The one clock of the process. Everything else is told the time.
//!
//! A shard reads it four times a turn, so the wall clock is read a thousand times a second at most
//! and carried on by the monotonic one in between.

use crate::base::time::Now;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// For how long the wall clock is carried on by the monotonic one.
const CARRY_NS: u64 = 1_000_000;

/// A clock whose monotonic part starts at a second now, so that zero stays "never".
pub fn start() -> Arc<dyn Fn() -> Now + Send + Sync> {
    let started = Instant::now();
    // What the wall clock showed, less the microseconds of the monotonic clock then; and when.
    let (ahead_us, read_ns) = (AtomicU64::new(0), AtomicU64::new(0));
    Arc::new(move || {
        let mono_ns = 1_000_000_000 + started.elapsed().as_nanos() as u64;
        if mono_ns.saturating_sub(read_ns.load(Relaxed)) > CARRY_NS {
            // Both are read side by side: this thread may have lost its core meanwhile. Threads
            // that do this at once find the same.
            let beside_us = 1_000_000 + started.elapsed().as_micros() as u64;
            ahead_us.store(wall_us().wrapping_sub(beside_us), Relaxed);
            read_ns.store(mono_ns, Relaxed);
        }
        let wall_us = ahead_us.load(Relaxed).wrapping_add(mono_ns / 1_000);
        Now { mono_ns, wall_us }
    })
}

/// A machine that believes it is before 1970 gets 1970 until its clock is set.
fn wall_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn it_shows_the_wall_clock_and_never_goes_back() {
        let clock = start();
        let mut last = clock();
        assert!(last.mono_ns >= 1_000_000_000);
        for _ in 0..200 {
            std::thread::sleep(Duration::from_micros(50));
            let (before, now, after) = (wall_us(), clock(), wall_us());
            assert!(now.mono_ns > last.mono_ns);
            // A wall clock that is being slewed may drift by a little within a millisecond.
            assert!((before - 1_000..=after + 1_000).contains(&now.wall_us));
            last = now;
        }
    }
}
