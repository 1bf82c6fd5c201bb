//! The quick way through an object whose keys its reader knows.
//!
//! Senders write the same keys in the same order again and again, so the next key is expected and
//! compared with one load, and its place says whether it stood before: nothing is hashed and no
//! key is kept. The reader knows what each value should be, too, so a name is found and checked in
//! one look at its bytes.
//!
//! *Invariants*: it takes no text that [`members`](super::members) refuses, and gives the values
//! that `members` gives; it says nothing of what it does not take. A walk ends with the first
//! `None`, but for [`KnownMembers::take`], which passes nothing then.
//!
//! *Panics*: the position only passes bytes that were compared or found in the text;
//! `KnownKey::new` asserts about this program's own keys, at compile time.

use super::{Complaint, Scanner, Span, TEXT_BYTES_MAX, Text, Value};
use crate::protocol::scan::{Block, find};

/// A key that is known to its reader, with its quotes and its colon.
#[derive(Debug)]
pub(crate) struct KnownKey {
    bytes: [u8; 16],
    /// A bit for each byte that counts.
    mask: u32,
    length: usize,
}

impl KnownKey {
    /// A key of at most 13 bytes that need no escape.
    pub(crate) const fn new(key: &str) -> KnownKey {
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
        KnownKey { bytes, mask: (1 << length) - 1, length }
    }

    #[inline]
    fn is_at_start_of(&self, window: Block) -> bool {
        let differs = !window.simd_eq(Block::new(self.bytes)).to_bitmask();
        differs & self.mask == 0
    }
}

/// A walk through a text that is an object of known keys, written without escapes, with the colon
/// right behind it. Every step gives `None` if the text is anything else, good or bad, which
/// [`members`](super::members) can tell.
///
/// [`KnownMembers::open`] comes first and [`KnownMembers::end`] last; each key that
/// [`KnownMembers::key`] gives is followed by one call for its value and one of
/// [`KnownMembers::goes_on`]. Who knows the order of the keys, too, may [take](KnownMembers::take)
/// them with all that stands around them.
pub(crate) struct KnownMembers<'a> {
    text: &'a str,
    /// The next byte to look at.
    at: usize,
    /// A bit for each key so far.
    seen: u32,
    /// How many keys there were so far.
    count: u32,
    expected: usize,
}

impl<'a> KnownMembers<'a> {
    /// At the start of a text, which is not too long.
    #[inline(always)]
    pub(crate) fn of(text: &'a str) -> Option<KnownMembers<'a>> {
        let members = KnownMembers { text, at: 0, seen: 0, count: 0, expected: 0 };
        (text.len() <= TEXT_BYTES_MAX).then_some(members)
    }

    /// Goes before the first key.
    #[inline(always)]
    pub(crate) fn open(&mut self) -> Option<()> {
        self.next_byte().filter(|&byte| byte == b'{')?;
        self.at += 1;
        Some(())
    }

    /// Goes to the next value; gives the place of its key among `keys`.
    #[inline(always)]
    pub(crate) fn key<const N: usize>(&mut self, keys: &[KnownKey; N]) -> Option<usize> {
        let place = match keys.get(self.expected) {
            Some(key) if key.is_at_start_of(self.window()) => self.expected,
            _ => self.other_key(keys)?,
        };
        self.seen |= 1 << place;
        self.count += 1;
        self.expected = place + 1;
        self.at += keys[place].length;
        self.next_byte().map(|_| place)
    }

    fn other_key(&mut self, keys: &[KnownKey]) -> Option<usize> {
        self.next_byte()?;
        let window = self.window();
        keys.iter().position(|key| key.is_at_start_of(window))
    }

    /// Whether the keys so far were those of the first places, each once.
    #[inline(always)]
    pub(crate) fn were_first(&self, count: u32) -> bool {
        self.count == count && self.seen == (1 << count) - 1
    }

    /// Passes these bytes, if they are what comes next.
    #[inline(always)]
    pub(crate) fn take<const N: usize>(&mut self, wanted: &[u8; N]) -> Option<()> {
        if self.rest().first_chunk() != Some(wanted) {
            return None;
        }
        self.at += N;
        Some(())
    }

    /// The value is a string without escapes. `is_end` says which bytes it can't hold, the quote
    /// and everything that would need an escape among them.
    #[inline(always)]
    pub(crate) fn string(&mut self, is_end: impl Fn(Block) -> Block) -> Option<&'a str> {
        let bytes = self.text.as_bytes();
        if bytes.get(self.at) != Some(&b'"') {
            return None;
        }
        let start = self.at + 1;
        let end = find(bytes, start, is_end);
        if bytes.get(end) != Some(&b'"') {
            return None;
        }
        self.at = end + 1;
        self.text.get(start..end)
    }

    /// The value is an object. Gives it with its braces.
    #[inline(always)]
    pub(crate) fn object(&mut self) -> Option<&'a str> {
        self.object_by(|scanner| scanner.pass(b'{').map(|_| ()))
    }

    /// [`KnownMembers::object`] that calls `each` for its members.
    #[inline(always)]
    pub(crate) fn object_of(
        &mut self,
        mut each: impl FnMut(Text<'a>, Value<'a>),
    ) -> Option<&'a str> {
        let text = self.text;
        let each = |key: Span, value: Span| each(key.text(text), value.value(text));
        self.object_by(|scanner| scanner.object(each))
    }

    #[inline(always)]
    fn object_by(
        &mut self,
        pass: impl FnOnce(&mut Scanner<'a>) -> Result<(), Complaint>,
    ) -> Option<&'a str> {
        let (text, start) = (self.text, self.at);
        if text.as_bytes().get(start) != Some(&b'{') {
            return None;
        }
        let mut scanner = Scanner { at: start, depth: 1, ..Scanner::new(text) };
        pass(&mut scanner).ok()?;
        self.at = scanner.at;
        text.get(start..scanner.at)
    }

    /// Goes behind a value: whether another key follows.
    #[inline(always)]
    pub(crate) fn goes_on(&mut self) -> Option<bool> {
        let goes_on = match self.next_byte()? {
            b',' => true,
            b'}' => false,
            _ => return None,
        };
        self.at += 1;
        Some(goes_on)
    }

    /// Passes space, if nothing else follows.
    #[inline(always)]
    pub(crate) fn end(&mut self) -> Option<()> {
        self.next_byte().is_none().then_some(())
    }

    /// Goes to the next byte that is no space.
    #[inline(always)]
    fn next_byte(&mut self) -> Option<u8> {
        loop {
            match *self.text.as_bytes().get(self.at)? {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    /// The next sixteen bytes, with zeroes behind the end of the text.
    #[inline(always)]
    fn window(&self) -> Block {
        let rest = self.rest();
        Block::new(rest.first_chunk().copied().unwrap_or_else(|| {
            let mut window = [0; 16];
            window[..rest.len()].copy_from_slice(rest);
            window
        }))
    }

    #[inline(always)]
    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }
}
