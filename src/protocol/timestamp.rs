//! RFC 3339 times: checking a client's, reading bounds of a query, and writing the server's.
//!
//! Every message has its time checked and a new one written, so both are straight arithmetic on
//! fixed places, without a library and without allocation.
//!
//! *Invariants*: what [`format()`] writes, [`check`] accepts and [`parse_us`] reads back.
//!
//! *Panics*: `TWO_DIGITS` has 100 entries; both writers limit a time to the year 9999 first, so
//! each pair of digits is below 100.
//!
//! *Not here*: clocks; local time zones.

use std::fmt;

/// The length of [`format()`]'s answer.
pub const LENGTH: usize = 27;

/// The last microsecond of the year 9999, the last that four digits can say.
const US_MAX: u64 = 253_402_300_799_999_999;
const DAY_SECONDS: i64 = 86_400;

/// Why a string is no time; the text finishes a sentence that begins with what it was meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampError {
    /// It does not have the shape of a time.
    Shape,
    /// There is no such day.
    Day,
    /// There is no such time of day.
    TimeOfDay,
    /// A second 60 that can't be a leap second.
    LeapSecond,
    /// The zone is missing or wrong.
    Zone,
}

impl fmt::Display for TimestampError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TimestampError::Shape => {
                "must be an RFC 3339 time with a zone, such as 2025-11-30T12:00:00.000Z"
            }
            TimestampError::Day => "names a day that no calendar has; give YYYY-MM-DD",
            TimestampError::TimeOfDay => {
                "names a time that no clock shows; give 00:00:00 to 23:59:59"
            }
            TimestampError::LeapSecond => {
                "has a second 60, which only 23:59:60 UTC on June 30 or December 31 may have"
            }
            TimestampError::Zone => "must end with its zone: Z, or an offset such as +01:00",
        })
    }
}

/// Checks that `text` is an RFC 3339 time: a date, `T`, `t` or a space, a time with any number of
/// digits after the second, and `Z`, `z` or an offset.
pub fn check(text: &str) -> Result<(), TimestampError> {
    if is_usual(text.as_bytes()) { Ok(()) } else { Moment::parse(text).map(|_| ()) }
}

/// The microseconds since 1970 that an RFC 3339 time says; `None` if it is none. An earlier time
/// counts as 1970: the bus knows of nothing before.
pub fn parse_us(text: &str) -> Option<u64> {
    let moment = Moment::parse(text).ok()?;
    u64::try_from(moment.seconds * 1_000_000 + i64::from(moment.microseconds)).ok().or(Some(0))
}

/// UTC with microseconds: `2025-11-30T12:00:00.000000Z`. Times after the year 9999 are written as
/// its last microsecond.
pub fn format(us: u64) -> [u8; LENGTH] {
    let us = us.min(US_MAX);
    let (seconds, microseconds) = ((us / 1_000_000) as i64, (us % 1_000_000) as u32);
    let (year, month, day) = date_of_day(seconds / DAY_SECONDS);
    let second_of_day = (seconds % DAY_SECONDS) as u32;
    let [y1, y2] = two_digits(year / 100);
    let [y3, y4] = two_digits(year % 100);
    let [m1, m2] = two_digits(month);
    let [d1, d2] = two_digits(day);
    let [h1, h2] = two_digits(second_of_day / 3_600);
    let [n1, n2] = two_digits(second_of_day / 60 % 60);
    let [s1, s2] = two_digits(second_of_day % 60);
    let [f1, f2] = two_digits(microseconds / 10_000);
    let [f3, f4] = two_digits(microseconds / 100 % 100);
    let [f5, f6] = two_digits(microseconds % 100);
    [
        y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', n1, n2, b':', s1, s2, b'.',
        f1, f2, f3, f4, f5, f6, b'Z',
    ]
}

/// Writes one time after the other. Most are of the same second as the one before, so that only
/// their fraction has to be written.
#[derive(Debug)]
pub struct Writer {
    second: u64,
    text: [u8; LENGTH],
}

impl Default for Writer {
    fn default() -> Writer {
        Writer { second: 0, text: format(0) }
    }
}

impl Writer {
    /// The same as [`format()`].
    #[inline]
    pub fn format(&mut self, us: u64) -> &[u8; LENGTH] {
        let us = us.min(US_MAX);
        if us / 1_000_000 == self.second {
            let microseconds = (us % 1_000_000) as u32;
            let [.., f1, f2, f3, f4, f5, f6, _] = &mut self.text;
            [*f1, *f2] = two_digits(microseconds / 10_000);
            [*f3, *f4] = two_digits(microseconds / 100 % 100);
            [*f5, *f6] = two_digits(microseconds % 100);
        } else {
            (self.second, self.text) = (us / 1_000_000, format(us));
        }
        &self.text
    }
}

/// Whether it is a good time written as nearly all are: with a capital `T` and `Z` and no leap
/// second. It needs no arithmetic over the calendar.
#[inline]
fn is_usual(text: &[u8]) -> bool {
    let Some((&date, rest)) = text.split_first_chunk() else { return false };
    let Some((&time, [b':', b'0'..=b'5', b'0'..=b'9', end @ ..])) = rest.split_first_chunk() else {
        return false;
    };
    let date = digits(date, *b"0000-00-", [9, 9, 9, 9, 0, 1, 9, 0]);
    let time = digits(time, *b"00T00:00", [3, 9, 0, 2, 9, 0, 5, 9]);
    let (Some(date), Some(time)) = (date, time) else { return false };
    let number = |tens: u8, ones: u8| u32::from(tens) * 10 + u32::from(ones);
    let [y1, y2, y3, y4, _, m1, m2, _] = date;
    let [d1, d2, _, h1, h2, ..] = time;
    let (month, day, hour) = (number(m1, m2), number(d1, d2), number(h1, h2));
    let is_day = match day {
        1..=28 => true,
        _ => (1..=days_in_month(number(y1, y2) * 100 + number(y3, y4), month)).contains(&day),
    };
    let ends_well = match end {
        [b'Z'] => true,
        [b'.', digits @ .., b'Z'] => !digits.is_empty() && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    (1..=12).contains(&month) && is_day && hour <= 23 && ends_well
}

/// The values of the digits of a text, where `shape` has a `0`; what else there is must be as in
/// `shape`. `last` is the highest digit of each place, 0 beside the digits.
#[inline]
fn digits(text: [u8; 8], shape: [u8; 8], last: [u8; 8]) -> Option<[u8; 8]> {
    const TOPS: u64 = u64::from_le_bytes([0x80; 8]);
    // Against the shape a digit is its value, and what is right beside the digits is 0. A byte
    // that is more than its last gets its top bit, from itself or from the addition.
    let digits = u64::from_le_bytes(text) ^ u64::from_le_bytes(shape);
    let above = digits.wrapping_add((TOPS - TOPS / 0x80) - u64::from_le_bytes(last));
    ((digits | above) & TOPS == 0).then_some(digits.to_le_bytes())
}

/// A point in time.
struct Moment {
    /// Seconds since 1970; a leap second counts as the one after it.
    seconds: i64,
    microseconds: u32,
}

impl Moment {
    fn parse(text: &str) -> Result<Moment, TimestampError> {
        let (head, rest) = text.as_bytes().split_first_chunk().ok_or(TimestampError::Shape)?;
        let &[
            y1,
            y2,
            y3,
            y4,
            b'-',
            m1,
            m2,
            b'-',
            d1,
            d2,
            b'T' | b't' | b' ',
            h1,
            h2,
            b':',
            n1,
            n2,
            b':',
            s1,
            s2,
        ] = head
        else {
            return Err(TimestampError::Shape);
        };
        let year = number(y1, y2)? * 100 + number(y3, y4)?;
        let (month, day) = (number(m1, m2)?, number(d1, d2)?);
        let (hour, minute, second) = (number(h1, h2)?, number(n1, n2)?, number(s1, s2)?);
        if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
            return Err(TimestampError::Day);
        }
        if hour > 23 || minute > 59 || second > 60 {
            return Err(TimestampError::TimeOfDay);
        }
        let (microseconds, zone) = fraction(rest)?;
        let local = i64::from(hour * 3_600 + minute * 60 + second);
        let seconds = day_of_date(year, month, day) * DAY_SECONDS + local - offset_seconds(zone)?;
        if second == 60 && !is_after_leap_second(seconds) {
            return Err(TimestampError::LeapSecond);
        }
        Ok(Moment { seconds, microseconds })
    }
}

/// Two ASCII digits as a number.
#[inline]
fn number(tens: u8, ones: u8) -> Result<u32, TimestampError> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    if tens > 9 || ones > 9 {
        return Err(TimestampError::Shape);
    }
    Ok(u32::from(tens) * 10 + u32::from(ones))
}

/// The numbers below 100 as two ASCII digits.
const TWO_DIGITS: [[u8; 2]; 100] = {
    let mut table = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        table[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    table
};

/// A number below 100 as two ASCII digits.
#[inline]
fn two_digits(number: u32) -> [u8; 2] {
    TWO_DIGITS[number as usize]
}

/// Splits the fraction of a second from what follows it; digits after the sixth are dropped.
fn fraction(rest: &[u8]) -> Result<(u32, &[u8]), TimestampError> {
    let Some((b'.', rest)) = rest.split_first() else {
        return Ok((0, rest));
    };
    let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, zone) = rest.split_at(length);
    if digits.is_empty() {
        return Err(TimestampError::Shape);
    }
    let mut microseconds = 0;
    for place in 0..6 {
        microseconds = microseconds * 10 + digits.get(place).map_or(0, |&d| u32::from(d - b'0'));
    }
    Ok((microseconds, zone))
}

/// How far a zone is ahead of UTC.
fn offset_seconds(zone: &[u8]) -> Result<i64, TimestampError> {
    let (sign, h1, h2, m1, m2) = match *zone {
        [b'Z' | b'z'] => return Ok(0),
        [b'+', h1, h2, b':', m1, m2] => (1, h1, h2, m1, m2),
        [b'-', h1, h2, b':', m1, m2] => (-1, h1, h2, m1, m2),
        _ => return Err(TimestampError::Zone),
    };
    match (number(h1, h2), number(m1, m2)) {
        (Ok(hours @ 0..=23), Ok(minutes @ 0..=59)) => {
            Ok(sign * i64::from(hours * 3_600 + minutes * 60))
        }
        _ => Err(TimestampError::Zone),
    }
}

/// Whether the second before this one may be a leap second: RFC 3339, section 5.7, knows them at
/// the end of June and of December, in UTC.
fn is_after_leap_second(seconds: i64) -> bool {
    let (_, month, day) = date_of_day(seconds.div_euclid(DAY_SECONDS));
    seconds.rem_euclid(DAY_SECONDS) == 0 && day == 1 && (month == 1 || month == 7)
}

fn days_in_month(year: u32, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap(year) => 29,
        2 => 28,
        _ => 31,
    }
}

fn is_leap(year: u32) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

// Days are counted in years that begin on March 1, so that a leap day is the last of its year and
// the lengths of months follow one line, and from 400 years before the year 0, so that nothing is
// negative. A cycle of 400 years has 146,097 days.
const CYCLE_DAYS: u32 = 146_097;
const CYCLE_YEARS: u32 = 400;
/// The days from March 1 of the year -400 to 1970-01-01.
const EPOCH_DAYS: i64 = 719_468 + CYCLE_DAYS as i64;

/// The day, counted from 1970-01-01, of a date in the years 0 to 9999.
fn day_of_date(year: u32, month: u32, day: u32) -> i64 {
    let (year, month) = if month > 2 {
        (year + CYCLE_YEARS, month - 3)
    } else {
        (year + CYCLE_YEARS - 1, month + 9)
    };
    let leap_days = year / 4 - year / 100 + year / 400;
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    i64::from(year * 365 + leap_days + day_of_year) - EPOCH_DAYS
}

/// The date of a day, counted from 1970-01-01, that lies in the years 0 to 9999 or a day beside.
fn date_of_day(day: i64) -> (u32, u32, u32) {
    let day = (day + EPOCH_DAYS) as u32;
    let (cycle, day) = (day / CYCLE_DAYS, day % CYCLE_DAYS);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = cycle * CYCLE_YEARS + year;
    // The year -1 can only come of a time beside the range, which nobody asks the year of.
    if month < 10 {
        (year.saturating_sub(CYCLE_YEARS), month + 3, day)
    } else {
        ((year + 1).saturating_sub(CYCLE_YEARS), month - 9, day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    #[test]
    fn good_times_are_read() {
        for (text, us) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T00:00:00.000001Z", 1),
            ("1970-01-01t00:00:01z", 1_000_000),
            ("1970-01-01 01:00:00+01:00", 0),
            ("1969-12-31T23:00:00-01:00", 0),
            ("1969-12-31T23:59:59Z", 0),
            ("0000-01-01T00:00:00Z", 0),
            ("0000-02-29T00:00:00+23:59", 0),
            ("2025-11-30T12:00:00.5Z", 1_764_504_000_500_000),
            ("2025-11-30T12:00:00.123456789123456789Z", 1_764_504_000_123_456),
            ("2025-11-30T12:00:00-00:00", 1_764_504_000_000_000),
            ("1998-12-31T23:59:60Z", 915_148_800_000_000),
            ("1998-12-31T23:59:60.999Z", 915_148_800_999_000),
            ("1990-12-31T15:59:60-08:00", 662_688_000_000_000),
            ("1972-07-01T00:59:60+01:00", 78_796_800_000_000),
            ("9999-12-31T23:59:59.999999Z", US_MAX),
            ("9999-12-31T23:59:59-23:59", 253_402_387_139_000_000),
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
            assert_eq!(parse_us(text), Some(us), "{text}");
        }
    }

    #[test]
    fn bad_times_are_refused_with_the_reason() {
        use TimestampError::{Day, LeapSecond, Shape, TimeOfDay, Zone};
        for (text, why) in [
            ("", Shape),
            ("now", Shape),
            ("2025-11-30", Shape),
            ("2025-11-30T12:00Z", Shape),
            ("20251130T120000Z", Shape),
            ("2025-11-30T12:00:00,5Z", Zone),
            ("2025-11-30T12:00:00.Z", Shape),
            ("2025-11-30T12:00:0xZ", Shape),
            ("2025-11-30_12:00:00Z", Shape),
            ("+2025-11-30T12:00:00Z", Shape),
            (" 2025-11-30T12:00:00Z", Shape),
            ("２025-11-30T12:00:00Z", Shape),
            ("2025-00-30T12:00:00Z", Day),
            ("2025-13-01T12:00:00Z", Day),
            ("2025-11-31T12:00:00Z", Day),
            ("2025-11-00T12:00:00Z", Day),
            ("2025-02-29T12:00:00Z", Day),
            ("1900-02-29T12:00:00Z", Day),
            ("2025-11-30T24:00:00Z", TimeOfDay),
            ("2025-11-30T12:60:00Z", TimeOfDay),
            ("2025-11-30T12:00:61Z", TimeOfDay),
            ("2025-11-30T12:00:60Z", LeapSecond),
            ("2025-11-30T23:59:60Z", LeapSecond),
            ("1998-12-31T22:59:60Z", LeapSecond),
            ("1998-12-31T23:59:60-08:00", LeapSecond),
            ("2025-11-30T12:00:00", Zone),
            ("2025-11-30T12:00:00.5", Zone),
            ("2025-11-30T12:00:00ZZ", Zone),
            ("2025-11-30T12:00:00Z ", Zone),
            ("2025-11-30T12:00:00+0100", Zone),
            ("2025-11-30T12:00:00+01", Zone),
            ("2025-11-30T12:00:00+24:00", Zone),
            ("2025-11-30T12:00:00+01:60", Zone),
            ("2025-11-30T12:00:00+0x:00", Zone),
        ] {
            assert_eq!(check(text), Err(why), "{text}");
            assert_eq!(parse_us(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_written_as_an_independent_library_writes_them() {
        let mut rng = fastrand::Rng::with_seed(11);
        let edges = [0, 1, 999_999, 951_782_400_000_000, 951_868_799_999_999, US_MAX];
        let random = std::iter::repeat_with(|| rng.u64(..=US_MAX)).take(50_000);
        let days = (0..60_000).map(|day| day * 86_400_000_000 + day);
        for us in edges.into_iter().chain(random).chain(days) {
            let text = String::from_utf8(format(us).to_vec()).unwrap();
            let theirs = Timestamp::from_microsecond(us.min(US_MAX) as i64);
            // The library stops a day before the end of its last year.
            if let Ok(theirs) = theirs {
                assert_eq!(text, format!("{theirs:.6}"), "{us}");
            }
            assert_eq!(parse_us(&text), Some(us), "{text}");
        }
        assert_eq!(format(u64::MAX), *b"9999-12-31T23:59:59.999999Z");
    }

    #[test]
    fn times_are_read_as_an_independent_library_reads_them() {
        let mut rng = fastrand::Rng::with_seed(12);
        for _ in 0..100_000 {
            let text = format!(
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}{}{:02}:{:02}",
                rng.u32(1..=9998),
                rng.u32(0..=13),
                rng.u32(0..=32),
                rng.u32(0..=24),
                rng.u32(0..=60),
                rng.u32(0..=59),
                rng.u32(0..=999_999),
                if rng.bool() { '+' } else { '-' },
                rng.u32(0..=23),
                rng.u32(0..=59),
            );
            let theirs: Option<Timestamp> = text.parse().ok();
            let theirs = theirs.map(|time| u64::try_from(time.as_microsecond()).unwrap_or(0));
            assert_eq!(parse_us(&text), theirs, "{text}");
        }
    }

    #[test]
    fn the_quick_check_takes_good_times_only() {
        let good = ["2024-02-29T23:59:59Z", "2025-11-30T12:00:00.123Z", "1998-12-31T23:59:60Z"];
        for text in good {
            assert_eq!(is_usual(text.as_bytes()), !text.contains(":60"), "{text}");
            // Every byte exchanged for every other, left out, and put in.
            for at in 0..text.len() {
                for byte in 0..=u8::MAX {
                    for gone in [0, 1] {
                        let mut changed = text.as_bytes().to_vec();
                        changed.splice(at..at + gone, [byte]);
                        let Ok(changed) = String::from_utf8(changed) else { continue };
                        let verdict = Moment::parse(&changed).map(|_| ());
                        assert!(!is_usual(changed.as_bytes()) || verdict.is_ok(), "{changed}");
                        assert_eq!(check(&changed), verdict, "{changed}");
                    }
                }
                let left = format!("{}{}", &text[..at], &text[at + 1..]);
                assert_eq!(check(&left), Moment::parse(&left).map(|_| ()), "{left}");
            }
        }
        for day in 0..60_000 {
            let text = format(day * 86_400_000_000);
            assert!(is_usual(&text), "day {day}");
        }
    }

    #[test]
    fn a_writer_writes_what_format_does() {
        let mut writer = Writer::default();
        for us in [0, 1, 999_999, 1_000_000, 1_764_504_000_123_456, 1_764_504_000_999_999] {
            for us in [us, us + 7, us, US_MAX, US_MAX + 1, u64::MAX, us / 2] {
                assert_eq!(*writer.format(us), format(us), "{us}");
            }
        }
    }
}
