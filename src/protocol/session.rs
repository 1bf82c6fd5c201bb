//! By what a client that returns shows who it was.
//!
//! *Invariants*: a token is shown to nobody but the client that it was made for: neither its `Debug`
//! nor its key tells it.
//!
//! *Panics*: a digest of SHA-256 has 32 bytes, whatever the token is, so the copy into the key
//! always fits.

use ring::digest::{SHA256, digest};
use std::fmt::{self, Write as _};
use std::num::NonZeroU64;

/// The random bytes of a token: too many to be guessed.
pub const TOKEN_BYTES: usize = 20;

/// What a client gets with its welcome and returns with.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionToken(Box<str>);

impl SessionToken {
    /// The token of random bytes.
    pub fn of_random(bytes: [u8; TOKEN_BYTES]) -> SessionToken {
        SessionToken(hex(&bytes).into())
    }

    /// What a client says its token is.
    pub fn given(text: &str) -> SessionToken {
        SessionToken(text.into())
    }

    /// The token, for its client alone.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Under which its session is kept.
    pub fn key(&self) -> SessionKey {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, self.0.as_bytes()).as_ref());
        SessionKey(key)
    }
}

impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionToken(***)")
    }
}

/// Under which a session is kept: the SHA-256 of its token, so that who can read what is kept can't
/// return as somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey([u8; 32]);

impl SessionKey {
    /// Enough of it to tell the sessions of one node from each other.
    pub fn mark(&self) -> Option<NonZeroU64> {
        self.0.first_chunk().and_then(|first| NonZeroU64::new(u64::from_le_bytes(*first)))
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_hash_of_its_token_and_shows_nothing_of_it() {
        let token = SessionToken::given("abc");
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(token.key().to_string(), sha256);
        assert_ne!(SessionToken::given(sha256).key(), token.key());
        assert!(!format!("{token:?}").contains("abc"));
        let random = SessionToken::of_random([0xa5; TOKEN_BYTES]);
        assert_eq!(random.reveal(), "a5".repeat(TOKEN_BYTES));
        assert!(random.key().mark().is_some());
    }
}
