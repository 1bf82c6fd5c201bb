//! What a message carries so that whoever gets it can check it: forty digits.
//!
//! | digits | what |
//! |---|---|
//! | 8 | the stream: which publisher in which group |
//! | 8 | the number in that stream, from 0 |
//! | 8 | the token of the closed model, which the last receiver gives back |
//! | 16 | when it was meant to be sent, in nanoseconds since the round began |
//!
//! Each field has a fixed width, so writing is patching and reading is five loads: eight digits are
//! turned into a number by three multiplications, whatever they are.

/// How long a stamp is.
pub(super) const DIGITS: usize = 40;
/// One more than the largest number of the short fields.
pub(super) const FIELD_END: u32 = 100_000_000;

/// A message's own account of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Which stream.
    pub(super) stream: u32,
    /// Which message of it.
    pub(super) number: u32,
    /// Which token it holds.
    pub(super) token: u32,
    /// When it was meant to be sent.
    pub(super) at_ns: u64,
}

impl Stamp {
    /// As digits.
    pub(super) fn write(&self, out: &mut [u8; DIGITS]) {
        let (short, at) = out.split_at_mut(24);
        for (field, value) in short.chunks_exact_mut(8).zip([self.stream, self.number, self.token])
        {
            write_digits(field, u64::from(value));
        }
        write_digits(at, self.at_ns);
    }

    /// From digits; `None` if there is anything else.
    pub(super) fn read(text: &[u8; DIGITS]) -> Option<Stamp> {
        let (fields, _) = text.as_chunks::<8>();
        let mut values = [0; DIGITS / 8];
        let mut are_digits = true;
        for (value, field) in values.iter_mut().zip(fields) {
            let (number, is_number) = eight(*field);
            *value = number;
            are_digits &= is_number;
        }
        let [stream, number, token, high, low] = values;
        let at_ns = u64::from(high) * u64::from(FIELD_END) + u64::from(low);
        are_digits.then_some(Stamp { stream, number, token, at_ns })
    }
}

/// Writes `value` right-aligned with leading zeros; digits that don't fit are left off.
pub(super) fn write_digits(out: &mut [u8], mut value: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Eight digits as a number, and whether they were digits.
fn eight(text: [u8; 8]) -> (u32, bool) {
    const ZEROS: u64 = 0x3030_3030_3030_3030;
    const HIGH: u64 = 0xf0f0_f0f0_f0f0_f0f0;
    let word = u64::from_le_bytes(text);
    // A digit's high half is 3, and stays 3 when 6 is added.
    let is_number =
        word & HIGH == ZEROS && word.wrapping_add(0x0606_0606_0606_0606) & HIGH == ZEROS;
    let digits = word.wrapping_sub(ZEROS);
    // Neighbours are joined: first digits to pairs, then pairs to fours, then fours to eight.
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let low = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(0x000f_4240_0000_0064);
    let high = ((pairs >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(0x0000_2710_0000_0001);
    ((low.wrapping_add(high) >> 32) as u32, is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (stream, number, token, at_ns) in [
            (0, 0, 0, 0),
            (1, 2, 3, 4),
            (12_345_678, 99_999_999, 1, 1_234_567_890_123_456),
            (99_999_999, 10_000_000, 90_909_090, 9_999_999_999_999_999),
        ] {
            let stamp = Stamp { stream, number, token, at_ns };
            let mut text = [0; DIGITS];
            stamp.write(&mut text);
            assert_eq!(
                std::str::from_utf8(&text).unwrap(),
                format!("{stream:08}{number:08}{token:08}{at_ns:016}")
            );
            assert_eq!(Stamp::read(&text), Some(stamp));
        }
    }

    #[test]
    fn only_digits_are_read() {
        for place in 0..DIGITS {
            for bad in [b'/', b':', b' ', b'a', 0, 0xff, b'"'] {
                let mut text = [b'7'; DIGITS];
                text[place] = bad;
                assert_eq!(Stamp::read(&text), None, "{bad} at {place}");
            }
        }
    }
}
