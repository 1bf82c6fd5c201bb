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

/// How far apart the two clocks may have been read, and how often it is tried.
const APART_US_MAX: u128 = 20;
const READS_MAX: u32 = 4;

/// A clock whose monotonic part starts at a second now, so that zero stays "never".
pub fn start() -> Arc<dyn Fn() -> Now + Send + Sync> {
    let started = Instant::now();
    // What the wall clock showed, less the microseconds of the monotonic clock then; and when.
    let (ahead_us, read_ns) = (AtomicU64::new(0), AtomicU64::new(0));
    Arc::new(move || {
        let mono_ns = 1_000_000_000 + started.elapsed().as_nanos() as u64;
        if mono_ns.saturating_sub(read_ns.load(Relaxed)) > CARRY_NS {
            // Threads that do this at once find the same.
            ahead_us.store(ahead(&started), Relaxed);
            read_ns.store(mono_ns, Relaxed);
        }
        let wall_us = ahead_us.load(Relaxed).wrapping_add(mono_ns / 1_000);
        Now { mono_ns, wall_us }
    })
}

/// What the wall clock shows, less the microseconds of the monotonic clock. Both are read side by side;
/// if the thread loses its core in between, they are read again.
fn ahead(started: &Instant) -> u64 {
    let mut best = (u128::MAX, 0);
    for _ in 0..READS_MAX {
        let (before, wall_us) = (started.elapsed(), wall_us());
        let apart_us = (started.elapsed() - before).as_micros();
        if apart_us < best.0 {
            let beside_us = 1_000_000 + before.as_micros() as u64;
            best = (apart_us, wall_us.wrapping_sub(beside_us));
        }
        if apart_us <= APART_US_MAX {
            break;
        }
    }
    best.1
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
