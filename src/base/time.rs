//! Time as a value: read once a turn by whoever owns a clock, and passed down.

use std::num::NonZeroU64;
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

    /// The monotonic clock as something to be remembered.
    pub fn moment(self) -> Moment {
        Moment::at_ms(self.mono_ms())
    }

    /// The same reading, later by `duration`.
    pub fn after(self, duration: Duration) -> Now {
        Now {
            mono_ns: self.mono_ns + duration.as_nanos() as u64,
            wall_us: self.wall_us + duration.as_micros() as u64,
        }
    }
}

/// A time on the monotonic clock in milliseconds, which is never zero: so that a time that may not
/// be there takes no more memory than one that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(NonZeroU64);

impl Moment {
    /// That many milliseconds, or one if that is none.
    pub fn at_ms(ms: u64) -> Moment {
        Moment(NonZeroU64::new(ms).unwrap_or(NonZeroU64::MIN))
    }

    /// In milliseconds.
    pub fn ms(self) -> u64 {
        self.0.get()
    }
}

const _: () = assert!(size_of::<Option<Moment>>() == 8);
