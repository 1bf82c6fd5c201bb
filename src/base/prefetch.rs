//! Asks the processor to fetch what will be needed soon.
//!
//! A value that is not in a cache takes some hundred nanoseconds to come from memory. Who knows what
//! several pieces of work will touch asks for all of it first; then the waits overlap (group
//! prefetching: Chen, Ailamaki, Gibbons and Mowry, *Improving hash join performance through
//! prefetching*, ICDE 2004).
//!
//! This is the one file with `unsafe` in it. On processors other than x86-64 nothing is fetched.

/// The bytes that a cache fetches at once.
const LINE_BYTES: usize = 64;

/// Fetches all of a value; what it points at is not part of it.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    let start = std::ptr::from_ref(value).cast::<u8>();
    // A value may begin within a line and so lie in one line more than its size says.
    let end = start.wrapping_add(size_of::<T>().max(1) - 1);
    let mut place = start;
    loop {
        fetch(place);
        if place >= end {
            return;
        }
        place = place.wrapping_add(LINE_BYTES).min(end);
    }
}

/// Fetches the place that the next `bytes` bytes of a buffer will be written to, as far as there is
/// room for them.
#[inline(always)]
pub fn prefetch_end(buffer: &Vec<u8>, bytes: usize) {
    let room = bytes.min(buffer.capacity() - buffer.len());
    let start = buffer.as_ptr().wrapping_add(buffer.len());
    (0..room).step_by(LINE_BYTES).for_each(|offset| fetch(start.wrapping_add(offset)));
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn fetch(place: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: the instruction reads nothing that the program could see and faults at no address;
    // every x86-64 processor has it.
    #[allow(unsafe_code, reason = "there is no safe function for it")]
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(place.cast());
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn fetch(_: *const u8) {}
