//! No key twice: the keys of every object that is open, on one stack.
//!
//! A key is compared by what it says, so `"a"` and `"\u0061"` are the same. Small objects, which
//! are nearly all, compare each new key with those before it, by a fingerprint first; and a word
//! with a bit for each key so far mostly says that not even this is needed. In a large object that
//! would be quadratic, so its keys are sorted when it closes. Sorting needs no hash, so there is no
//! seed to keep and no flood of collisions to fear: keys with equal fingerprints cost a comparison
//! of bytes, and the bytes of all keys together are bounded by the text.
//!
//! *Invariants*: the stack holds the keys of the innermost open object last, and nothing of any
//! object that is closed.
//!
//! *Panics*: a key is cut out of the text by the span that the scanner found in the same text.

use super::{Complaint, Kind, Span};
use smallvec::SmallVec;

/// How many keys are compared one by one before an object counts as large.
const COMPARED_MAX: usize = 24;
/// Set in `Key::start` when the key's text lies in `Keys::unescaped`.
const UNESCAPED: u32 = 1 << 31;

/// One key: sixteen bytes, so that a message of nothing but keys takes little more than itself.
#[derive(Clone, Copy)]
struct Key {
    fingerprint: u64,
    start: u32,
    length: u32,
}

#[derive(Default)]
pub(super) struct Keys {
    stack: SmallVec<[Key; 48]>,
    /// What keys with escapes say; empty for nearly every message.
    unescaped: String,
    duplicate: Option<String>,
}

/// Where an object's keys begin.
pub(super) struct Mark {
    stack: usize,
    unescaped: usize,
    /// One bit for each key so far, chosen by its fingerprint: a key whose bit is not set is new.
    seen: u64,
}

impl Keys {
    /// Begins an object.
    #[inline]
    pub(super) fn open(&self) -> Mark {
        Mark { stack: self.stack.len(), unescaped: self.unescaped.len(), seen: 0 }
    }

    /// Takes the next key of the innermost object.
    #[inline]
    pub(super) fn add(
        &mut self,
        text: &str,
        object: &mut Mark,
        span: Span,
    ) -> Result<(), Complaint> {
        let key = match span.kind {
            Kind::EscapedText => self.unescape(text, span),
            _ => {
                let (start, end) = (span.start + 1, span.end - 1);
                // Texts are shorter than 2^31 bytes, so these fit; see `TEXT_BYTES_MAX`.
                let fingerprint = fingerprint(&text.as_bytes()[start..end]);
                Key { fingerprint, start: start as u32, length: (end - start) as u32 }
            }
        };
        let bit = 1 << (key.fingerprint >> 58);
        if object.seen & bit != 0 {
            self.compare(text, object, key)?;
        }
        object.seen |= bit;
        self.stack.push(key);
        Ok(())
    }

    /// Ends the innermost object.
    #[inline]
    pub(super) fn close(&mut self, text: &str, object: Mark) -> Result<(), Complaint> {
        if self.stack.len() - object.stack > COMPARED_MAX {
            self.check_large(text, &object)?;
        }
        self.stack.truncate(object.stack);
        if self.unescaped.len() > object.unescaped {
            self.unescaped.truncate(object.unescaped);
        }
        Ok(())
    }

    /// The key that stood twice, if one did.
    pub(super) fn duplicate(&self) -> Option<&str> {
        self.duplicate.as_deref()
    }

    /// Compares a key with those before it, unless they are too many.
    fn compare(&mut self, text: &str, object: &Mark, key: Key) -> Result<(), Complaint> {
        let others = &self.stack[object.stack..];
        let is_same = |other: &Key| {
            other.fingerprint == key.fingerprint && self.said(text, other) == self.said(text, &key)
        };
        if others.len() < COMPARED_MAX && others.iter().any(is_same) {
            self.duplicate = Some(self.said(text, &key).to_owned());
            return Err(Complaint::DuplicateKey);
        }
        Ok(())
    }

    #[cold]
    fn unescape(&mut self, text: &str, span: Span) -> Key {
        let start = self.unescaped.len();
        span.text(text).unescape_into(&mut self.unescaped);
        Key {
            fingerprint: fingerprint(&self.unescaped.as_bytes()[start..]),
            start: start as u32 | UNESCAPED,
            length: (self.unescaped.len() - start) as u32,
        }
    }

    #[cold]
    fn check_large(&mut self, text: &str, object: &Mark) -> Result<(), Complaint> {
        let mut keys = std::mem::take(&mut self.stack);
        let order = |key: &Key| (key.fingerprint, self.said(text, key));
        let of_object = &mut keys[object.stack..];
        of_object.sort_unstable_by(|a, b| order(a).cmp(&order(b)));
        let twice = of_object.windows(2).find(|pair| order(&pair[0]) == order(&pair[1]));
        self.duplicate = twice.map(|pair| self.said(text, &pair[0]).to_owned());
        self.stack = keys;
        if self.duplicate.is_some() { Err(Complaint::DuplicateKey) } else { Ok(()) }
    }

    /// What a key says.
    #[inline]
    fn said<'t>(&'t self, text: &'t str, key: &Key) -> &'t str {
        let (from, start) = match key.start & UNESCAPED {
            0 => (text, key.start),
            _ => (&*self.unescaped, key.start & !UNESCAPED),
        };
        &from[start as usize..start as usize + key.length as usize]
    }
}

/// A word that differs for most pairs of different keys: it mixes the length, the first bytes and
/// the last ones.
#[inline]
fn fingerprint(key: &[u8]) -> u64 {
    const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
    let (first, last) = match (key.first_chunk(), key.last_chunk()) {
        (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
        _ => match (key.first_chunk(), key.last_chunk()) {
            (Some(first), Some(last)) => {
                (u32::from_le_bytes(*first).into(), u32::from_le_bytes(*last).into())
            }
            _ => match *key {
                [] => (0, 0),
                [one] => (one.into(), 0),
                [one, .., last] => (one.into(), u64::from(key[1]) << 8 | u64::from(last)),
            },
        },
    };
    (first ^ last.rotate_left(29) ^ key.len() as u64).wrapping_mul(ODD) ^ last
}
