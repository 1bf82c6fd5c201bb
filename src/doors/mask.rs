//! Taking the mask off a client's payload (RFC 6455, section 5.3), in place.
//!
//! Every byte a client sends passes here, so it goes eight at a time; the plain loop over whole
//! words is one that the compiler turns into vector instructions.

/// Takes `mask` off `payload`, or puts it on: the two are the same.
pub(super) fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let key = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ key).to_ne_bytes();
    }
    // Eight is a multiple of four, so the rest begins with the mask's first byte again.
    let (words, rest) = rest.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(mask)).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::unmask;

    #[test]
    fn every_length_and_alignment_equals_the_rfc_formula() {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        for length in 0..70 {
            for start in 0..9 {
                let mut bytes: Vec<u8> = (0..start + length).map(|n| (n * 31) as u8).collect();
                let expected: Vec<u8> =
                    bytes[start..].iter().enumerate().map(|(i, b)| b ^ mask[i % 4]).collect();
                unmask(&mut bytes[start..], mask);
                assert_eq!(bytes[start..], expected, "{length} bytes from {start}");
            }
        }
    }
}
