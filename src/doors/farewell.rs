//! Reads on after the server's own close, only to find the peer's (RFC 6455, section 7.1.1).
//!
//! Frames are measured here and not read: nothing of them is checked, unmasked or kept. The bytes may
//! come from a peer that broke the rules a frame ago, so whatever they say ends in one of two ways: a
//! close is found, or it is not, and then the end of the socket or a deadline ends the connection.
//!
//! *Invariant*: what is left of the input is less than the header of one frame.

/// The opcode of a close, and the bits in which it stands.
const CLOSE: u8 = 0x08;
const OPCODE: u8 = 0x0f;
/// The bit that says that a mask follows, and the bits of the length.
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;
const MASK_BYTES: usize = 4;

/// The reading half of a conversation that the server has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Farewell {
    /// The bytes of the current frame that have not come yet.
    skip_bytes: u64,
}

impl Farewell {
    /// Reads what has come. Gives how many bytes are done with, and whether the peer's close was among
    /// them.
    pub fn read(&mut self, input: &[u8]) -> (usize, bool) {
        let mut used = 0;
        loop {
            let here =
                (input.len() - used).min(usize::try_from(self.skip_bytes).unwrap_or(usize::MAX));
            self.skip_bytes -= here as u64;
            used += here;
            let Some((header_bytes, payload_bytes, is_close)) = measure(&input[used..]) else {
                return (used, false);
            };
            if is_close {
                return (input.len(), true);
            }
            used += header_bytes;
            self.skip_bytes = payload_bytes;
        }
    }
}

/// The lengths of a frame's header and payload, and whether it is a close; `None` if the header is
/// not there as a whole.
fn measure(input: &[u8]) -> Option<(usize, u64, bool)> {
    let (first, rest) = input.split_first()?;
    let (second, rest) = rest.split_first()?;
    let (length_bytes, payload_bytes) = match second & LENGTH {
        126 => (2, u64::from(u16::from_be_bytes(*rest.first_chunk()?))),
        127 => (8, u64::from_be_bytes(*rest.first_chunk()?)),
        length => (0, u64::from(length)),
    };
    let mask_bytes = if second & MASKED == 0 { 0 } else { MASK_BYTES };
    let header_bytes = 2 + length_bytes + mask_bytes;
    let is_close = first & OPCODE == CLOSE;
    (input.len() >= header_bytes).then_some((header_bytes, payload_bytes, is_close))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame with a payload of `length` bytes that would be a close if it were read as a header.
    fn frame(first: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![first];
        match length {
            0..=125 => bytes.push(MASKED | length as u8),
            126..=65_535 => {
                bytes.push(MASKED | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(MASKED | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend([0; MASK_BYTES]);
        bytes.extend(std::iter::repeat_n(0x88, length));
        bytes
    }

    /// Hands over the bytes in pieces, as an engine would; whether a close was found.
    fn finds<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> bool {
        let (mut farewell, mut buffer) = (Farewell::default(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            let (used, is_close) = farewell.read(&buffer);
            if is_close {
                return true;
            }
            buffer.drain(..used);
            assert!(buffer.len() < 14, "only a header may be left: {}", buffer.len());
        }
        false
    }

    #[test]
    fn a_close_is_found_behind_anything_that_can_be_measured() {
        let close = [0x88, 0x82, 1, 2, 3, 4, 0x03 ^ 1, 0xe8 ^ 2];
        // The last is a reserved opcode without a byte in it.
        for before in [frame(0x81, 5), frame(0x02, 70_000), frame(0xff, 300), frame(0x83, 0)] {
            assert!(!finds([&before[..]]), "nothing in a frame is a close");
            let bytes = [before, close.to_vec()].concat();
            assert!(finds([&bytes[..]]));
            assert!(finds(bytes.chunks(1)));
            assert!(!finds(bytes[..bytes.len() - close.len()].chunks(7)));
        }
        assert!(finds([&[0x88, 0x00][..]]), "whether or not it is masked");
    }

    proptest! {
        #[test]
        fn no_bytes_stop_it(bytes in proptest::collection::vec(any::<u8>(), 0..300), size in 1..40_usize) {
            let whole = finds([&bytes[..]]);
            prop_assert_eq!(finds(bytes.chunks(size)), whole);
        }
    }
}
