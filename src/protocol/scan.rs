//! Looking for a byte of some kind, sixteen bytes at once.
//!
//! Every byte of every message passes here, most of them in strings and names that are shorter
//! than a block, so what counts is the cost of the first block: one load, a few comparisons, and
//! one bit for each byte.
//!
//! *Panics*: a start beyond the end of the text panics; callers start at 0 or behind a byte that
//! they have read.

use wide::u8x16;

/// Sixteen bytes; a byte of the answer to a question about each is all ones or all zeros.
pub(super) type Block = u8x16;

const BLOCK_BYTES: usize = 16;

/// Where the first byte at or behind `at` is that is of the kind; the length of `text` if there is
/// none. `at` is at most that length.
#[inline(always)]
pub(super) fn find(text: &[u8], mut at: usize, is_of_kind: impl Fn(Block) -> Block) -> usize {
    while let Some(block) = text[at..].first_chunk() {
        let found = is_of_kind(Block::new(*block)).to_bitmask();
        if found != 0 {
            return at + found.trailing_zeros() as usize;
        }
        at += BLOCK_BYTES;
    }
    find_at_end(text, at, is_of_kind)
}

/// [`find`] where less than a block is left: it is looked at together with the bytes before it.
#[inline]
fn find_at_end(text: &[u8], at: usize, is_of_kind: impl Fn(Block) -> Block) -> usize {
    let left = text.len() - at;
    let (block, skipped) = match text.last_chunk() {
        Some(last) => (*last, BLOCK_BYTES - left),
        None => {
            let mut block = [0; BLOCK_BYTES];
            block[..left].copy_from_slice(&text[at..]);
            (block, 0)
        }
    };
    let found = is_of_kind(Block::new(block)).to_bitmask() >> skipped | 1 << left;
    at + found.trailing_zeros() as usize
}

/// What may not stand in a JSON string as it is: a quote, a backslash, a control character.
#[inline(always)]
pub(super) fn is_special(block: Block) -> Block {
    let is_control = block.simd_eq(block.min(Block::splat(0x1f)));
    block.simd_eq(Block::splat(b'"')) | block.simd_eq(Block::splat(b'\\')) | is_control
}

/// No decimal digit.
#[inline(always)]
pub(super) fn is_no_digit(block: Block) -> Block {
    !is_within(block, b'0', b'9')
}

/// None of `A-Z a-z 0-9 . _ -`.
#[inline(always)]
pub(super) fn is_no_name_byte(block: Block) -> Block {
    let is_other = is_within(block, b'-', b'9') & !block.simd_eq(Block::splat(b'/'));
    !(is_letter(block) | is_other | block.simd_eq(Block::splat(b'_')))
}

/// None of `A-Z a-z 0-9 _ -`.
#[inline(always)]
pub(super) fn is_no_id_byte(block: Block) -> Block {
    let is_other = block.simd_eq(Block::splat(b'_')) | block.simd_eq(Block::splat(b'-'));
    !(is_letter(block) | is_within(block, b'0', b'9') | is_other)
}

#[inline(always)]
fn is_letter(block: Block) -> Block {
    // The bit that a small letter has and its capital has not.
    is_within(block | Block::splat(0x20), b'a', b'z')
}

#[inline(always)]
fn is_within(block: Block, first: u8, last: u8) -> Block {
    let place = block - Block::splat(first);
    place.simd_eq(place.min(Block::splat(last - first)))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Kind = (fn(Block) -> Block, fn(u8) -> bool);

    const KINDS: [Kind; 4] = [
        (is_special, |byte| byte < 0x20 || matches!(byte, b'"' | b'\\')),
        (is_no_digit, |byte| !byte.is_ascii_digit()),
        (is_no_name_byte, |byte| !byte.is_ascii_alphanumeric() && !b"._-".contains(&byte)),
        (is_no_id_byte, |byte| !byte.is_ascii_alphanumeric() && !b"_-".contains(&byte)),
    ];

    #[test]
    fn kinds_are_what_they_say() {
        for (kind, (of_block, of_byte)) in KINDS.into_iter().enumerate() {
            for byte in 0..=255 {
                let mask = of_block(Block::splat(byte)).to_bitmask();
                let expected = if of_byte(byte) { 0xffff } else { 0 };
                assert_eq!(mask, expected, "kind {kind}, byte {byte:#x}");
            }
        }
    }

    #[test]
    fn the_first_is_found_wherever_it_is() {
        for length in 0..70 {
            for start in 0..=length {
                let mut text = vec![b'"'; start];
                text.resize(length, b'a');
                assert_eq!(find(&text, start, is_special), length, "{start} of {length}");
                for at in start..length {
                    let mut text = text.clone();
                    text[at] = b'\n';
                    text[at + 1..].fill(b'"');
                    assert_eq!(find(&text, start, is_special), at, "{start} of {length}");
                }
            }
        }
    }
}
