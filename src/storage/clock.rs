//! How far the clock of this machine is apart from that of Redis.
//!
//! Nothing that must be right depends on it: how long an event may still be delivered is kept as a time
//! of Redis's clock and counted by monotonic ones. But the times that members read are a machine's own,
//! and a channel's never go back; so clocks that differ are told.

use crate::base::limits::CLOCKS_APART_MS;
use crate::storage::codec::clock_ms;
use crate::storage::keys::Keys;
use crate::storage::link::{CLOCK, Link};
use crate::storage::settings::Settings;
use crate::storage::trouble::Trouble;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// By how much this machine's clock is ahead of that of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockReading {
    /// In microseconds; negative if it is behind.
    pub ahead_us: i64,
    /// How wrong that may be: half of the time that the question took.
    pub within_us: u64,
}

impl ClockReading {
    /// Whether the clocks differ by more than is usual where both are set by the network.
    pub fn is_apart(self) -> bool {
        self.ahead_us.unsigned_abs() > CLOCKS_APART_MS * 1_000 + self.within_us
    }
}

/// Connects to Redis, asks for its time, and compares it with this machine's; for who runs no bus.
///
/// # Errors
/// A sentence that says why that can't be done.
pub fn compare_clocks(settings: &Settings, limit: Duration) -> Result<ClockReading, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let keys = Keys::new(&settings.prefix, settings.url.database());
    let asked = async { measure(&Link::connect(settings).await?, &keys).await };
    let answer = runtime.block_on(async { tokio::time::timeout(limit, asked).await });
    match answer {
        Ok(reading) => reading.map_err(|trouble| trouble.to_string()),
        Err(_) => Err(format!("no answer within {} ms", limit.as_millis())),
    }
}

/// Asks Redis for its time.
pub(super) async fn measure(link: &Link, keys: &Keys) -> Result<ClockReading, Trouble> {
    let (before_us, started) = (wall_us(), Instant::now());
    let time: (u64, u64) = link.run(&CLOCK, &CLOCK.call(&[&keys.writer])).await?;
    let within_us = started.elapsed().as_micros() as u64 / 2;
    let of_redis_us = clock_ms(time).saturating_mul(1_000) + time.1 % 1_000;
    let here_us = before_us.saturating_add(within_us);
    let ahead_us = here_us.saturating_sub(of_redis_us).min(i64::MAX as u64) as i64
        - of_redis_us.saturating_sub(here_us).min(i64::MAX as u64) as i64;
    Ok(ClockReading { ahead_us, within_us })
}

fn wall_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_apart_if_they_differ_by_more_than_the_question_took() {
        let limit_us = CLOCKS_APART_MS as i64 * 1_000;
        for (ahead_us, within_us, expected) in [
            (0, 0, false),
            (limit_us, 0, false),
            (limit_us + 1, 0, true),
            (-limit_us - 1, 0, true),
            (limit_us + 1, 1, false),
            (i64::MIN, 1_000, true),
        ] {
            let reading = ClockReading { ahead_us, within_us };
            assert_eq!(reading.is_apart(), expected, "{reading:?}");
        }
    }
}
