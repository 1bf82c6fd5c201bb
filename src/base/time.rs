//! Time as a value: read once a turn by whoever owns a clock, and passed down.

use std::time::Duration;

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Now {
    /// Nanoseconds on a clock that never goes back; its zero means nothing.
    pub mono_ns: u64,
    /// Microseconds since 1970-01-01T00:00:00Z; may step when an operator sets the clock.
    pub wall_us: u64,
}

impl Now {
    /// The monotonic clock in whole milliseconds, the grain of every timer.
    pub fn mono_ms(self) -> u64 {
        self.mono_ns / 1_000_000
    }

    /// The same reading, later by `duration`.
    pub fn after(self, duration: Duration) -> Now {
        Now {
            mono_ns: self.mono_ns + duration.as_nanos() as u64,
            wall_us: self.wall_us + duration.as_micros() as u64,
        }
    }
}
