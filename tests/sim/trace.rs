//! Every choice of a run, as a hash and, if asked for, as text.

use ahash::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};

/// What was chosen so far. Two runs of a seed have the same hash.
pub struct Trace {
    hash: u64,
    state: RandomState,
    is_printed: bool,
    text: String,
}

impl Trace {
    /// Nothing chosen yet.
    pub fn new(is_printed: bool) -> Trace {
        let state = RandomState::with_seeds(1, 2, 3, 4);
        Trace { hash: 0, state, is_printed, text: String::new() }
    }

    /// Notes something that happened.
    pub fn note(&mut self, what: fmt::Arguments<'_>) {
        self.text.clear();
        // Writing to a string can't fail.
        let _ = fmt::write(&mut self.text, what);
        let mut hasher = self.state.build_hasher();
        hasher.write_u64(self.hash);
        hasher.write(self.text.as_bytes());
        self.hash = hasher.finish();
        if self.is_printed {
            println!("{}", self.text);
        }
    }

    /// The hash of everything noted.
    pub fn hash(&self) -> u64 {
        self.hash
    }
}
