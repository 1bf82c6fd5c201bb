//! The one clock of the process. Everything else is told the time.

use crate::base::time::Now;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A clock whose monotonic part starts at a second now, so that zero stays "never".
pub fn start() -> Arc<dyn Fn() -> Now + Send + Sync> {
    let started = Instant::now();
    Arc::new(move || Now {
        mono_ns: 1_000_000_000 + started.elapsed().as_nanos() as u64,
        // A machine that believes it is before 1970 gets 1970 until its clock is set.
        wall_us: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_micros() as u64),
    })
}
