//! Asks the processor to fetch what will be needed soon.
//!
//! A value that is not in a cache takes some hundred nanoseconds to come from memory. Who knows what
//! several pieces of work will touch asks for all of it first; then the waits overlap (group
//! prefetching: Chen, Ailamaki, Gibbons and Mowry, *Improving hash join performance through
//! prefetching*, ICDE 2004).
//!
//! This is the one file with `unsafe` in it. On processors other than x86-64 nothing is fetched.

/// Whether anything is fetched on this kind of processor.
pub const FETCHES: bool = cfg!(target_arch = "x86_64");

/// The bytes that a cache fetches at once.
const LINE_BYTES: usize = 64;
/// Of a buffer no more than this is fetched.
const BYTES_MAX: usize = 1_024;

/// Fetches all of a value; what it points at is not part of it.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    fetch_all(std::ptr::from_ref(value).cast(), size_of::<T>());
}

/// Fetches some bytes; of many the first, as the processor sees by itself how it goes on.
#[inline(always)]
pub fn prefetch_bytes(bytes: &[u8]) {
    fetch_all(bytes.as_ptr(), bytes.len().min(BYTES_MAX));
}

/// Fetches the place that the next `bytes` bytes of a buffer will be written to, as far as there is
/// room for them.
#[inline(always)]
pub fn prefetch_end(buffer: &Vec<u8>, bytes: usize) {
    let room_bytes = bytes.min(buffer.capacity() - buffer.len()).min(BYTES_MAX);
    fetch_all(buffer.as_ptr().wrapping_add(buffer.len()), room_bytes);
}

/// Fetches every line that some bytes lie in.
#[inline(always)]
fn fetch_all(start: *const u8, bytes: usize) {
    let into_line = start.addr() % LINE_BYTES;
    let lines = start.wrapping_sub(into_line);
    let offsets = (0..into_line + bytes).step_by(LINE_BYTES);
    offsets.for_each(|offset| fetch(lines.wrapping_add(offset)));
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn fetch(place: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: the instruction reads nothing that the program could see and faults at no address;
    // every x86-64 processor has it.
    #[expect(unsafe_code, reason = "there is no safe function for it")]
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(place.cast());
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn fetch(_: *const u8) {}
