//! Makes new inputs from known ones: bytes changed, cut, repeated, put together, and words of the
//! format put in. The same seed makes the same inputs.

use fastrand::Rng;

/// The longest input that is made, in bytes.
const BYTES_MAX: usize = 4_096;
/// Bytes that parsers treat in a way of their own.
const ODD: &[u8] =
    &[0, 1, 0x7e, 0x7f, 0x80, 0x81, 0xc0, 0xed, 0xff, b'"', b'\\', b'{', b'\r', b'\n'];

/// A new input from the known ones, with words of the format.
pub(crate) fn mutate(rng: &mut Rng, known: &[Vec<u8>], words: &[&str]) -> Vec<u8> {
    let mut input = pick(rng, known).cloned().unwrap_or_default();
    for _ in 0..rng.usize(1..8) {
        change(rng, &mut input, known, words);
    }
    input.truncate(BYTES_MAX);
    input
}

fn change(rng: &mut Rng, input: &mut Vec<u8>, known: &[Vec<u8>], words: &[&str]) {
    let at = rng.usize(0..=input.len());
    let until = rng.usize(at..=input.len()).min(at + 64);
    match rng.u32(0..8) {
        0 if at < input.len() => input[at] ^= 1 << rng.u32(0..8),
        1 if at < input.len() => input[at] = ODD[rng.usize(0..ODD.len())],
        2 => drop(input.drain(at..until)),
        3 => {
            let part = input[at..until].to_vec();
            input.splice(at..at, part);
        }
        4 => input.truncate(at),
        5 => {
            let other = pick(rng, known).cloned().unwrap_or_default();
            let from = rng.usize(0..=other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        6 => input.insert(at, rng.u8(..)),
        _ => {
            let word = pick(rng, words).copied().unwrap_or_default();
            input.splice(at..at, word.bytes());
        }
    }
}

fn pick<'k, T>(rng: &mut Rng, known: &'k [T]) -> Option<&'k T> {
    (!known.is_empty()).then(|| &known[rng.usize(0..known.len())])
}
