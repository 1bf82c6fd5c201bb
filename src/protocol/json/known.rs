//! The quick way through an object whose keys its reader knows.
//!
//! Senders write the same keys in the same order again and again, so the next key is expected and
//! compared with one load, and its place says whether it stood before: nothing is hashed and no
//! key is kept.
//!
//! *Invariants*: it takes no text that [`members`](super::members) refuses, and gives the values
//! that `members` gives; it says nothing of what it does not take.

use super::{Scanner, Span, TEXT_BYTES_MAX, Value};

/// A key that is known to its reader, with its quotes and its colon, as a word to compare with.
#[derive(Debug)]
pub struct KnownKey {
    word: u128,
    /// Which bytes of the word count.
    mask: u128,
    length: usize,
}

impl KnownKey {
    /// A key of at most 13 bytes that need no escape.
    pub const fn new(key: &str) -> KnownKey {
        let (key, length) = (key.as_bytes(), key.len() + 3);
        assert!(length <= 16);
        let mut bytes = [0; 16];
        let mut at = 0;
        while at < key.len() {
            assert!(key[at] >= b' ' && key[at] != b'"' && key[at] != b'\\');
            bytes[at + 1] = key[at];
            at += 1;
        }
        bytes[0] = b'"';
        bytes[length - 2] = b'"';
        bytes[length - 1] = b':';
        KnownKey { word: u128::from_le_bytes(bytes), mask: !0 >> (128 - 8 * length), length }
    }

    #[inline]
    fn is_at_start_of(&self, window: u128) -> bool {
        window & self.mask == self.word
    }
}

/// Takes an object that has none but these keys, each at most once and written without escapes,
/// with the colon right behind it; its values are put into the places of their keys, which are
/// empty. False if the text is anything else, good or bad, which [`members`](super::members) can
/// tell; `values` mean nothing then.
pub fn known_members<'a, const N: usize>(
    text: &'a str,
    keys: &[KnownKey; N],
    values: &mut [Option<Value<'a>>; N],
) -> bool {
    let mut scanner = Scanner::new(text);
    let is_taken = |place: usize, value: Span| values[place].replace(value.value(text)).is_none();
    text.len() <= TEXT_BYTES_MAX && scanner.known_object(keys, is_taken).is_some()
}

impl Scanner<'_> {
    /// Reads a whole text; `each` says whether a value is welcome.
    #[inline]
    fn known_object(
        &mut self,
        keys: &[KnownKey],
        mut each: impl FnMut(usize, Span) -> bool,
    ) -> Option<()> {
        self.space();
        if self.peek() != b'{' {
            return None;
        }
        self.open().ok()?;
        let mut expected = 0;
        loop {
            let place = self.known_key(keys, expected)?;
            let value = self.value().ok()?;
            if !each(place, value) {
                return None;
            }
            expected = place + 1;
            self.space();
            match self.peek() {
                b',' => self.at += 1,
                b'}' => break,
                _ => return None,
            }
            self.space();
        }
        self.at += 1;
        self.space();
        (self.at == self.text.len()).then_some(())
    }

    /// Passes one of the keys and the space behind its colon; gives its place.
    #[inline]
    fn known_key(&mut self, keys: &[KnownKey], expected: usize) -> Option<usize> {
        let window = u128::from_le_bytes(self.window());
        let is_here = |key: &KnownKey| key.is_at_start_of(window);
        let place = match keys.get(expected) {
            Some(key) if is_here(key) => expected,
            _ => keys.iter().position(is_here)?,
        };
        self.at += keys[place].length;
        self.space();
        Some(place)
    }

    /// The next sixteen bytes, with zeroes behind the end of the text.
    #[inline]
    fn window(&self) -> [u8; 16] {
        let rest = self.rest();
        rest.first_chunk().copied().unwrap_or_else(|| {
            let mut window = [0; 16];
            window[..rest.len()].copy_from_slice(rest);
            window
        })
    }
}
