//! An allocator that counts what a thread holds, sizes as mimalloc rounds them.
//!
//! A bound of memory that is asserted in bytes of the wire says nothing: a frame of two bytes takes
//! hundreds. So the tests here count what the allocator gives out. The daemon's allocator is mimalloc,
//! whose size classes are an eighth of a power of two apart; counting by them needs no second allocator
//! and is the same in every run.

#![expect(unsafe_code, reason = "an allocator can't be written without it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Counts for each thread, and takes the memory from the system.
pub(crate) struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
}

/// The bytes that this thread has taken and not given back.
pub(crate) fn held_bytes() -> isize {
    HELD.with(Cell::get)
}

/// What the allocator takes for that size: a multiple of 8 up to 64 bytes, then eighths of a power of
/// two.
pub(crate) fn class_bytes(size: usize) -> usize {
    if size <= 64 {
        return size.next_multiple_of(8).max(8);
    }
    let step = (size - 1).ilog2() - 2;
    size.next_multiple_of(1 << step)
}

fn note(change: isize) {
    // A thread that ends frees things when its own count is gone already.
    let _ = HELD.try_with(|held| held.set(held.get() + change));
}

// SAFETY: every call is the system's with the same arguments; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(class_bytes(layout.size()) as isize);
        // SAFETY: the caller keeps the contract of this function, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(-(class_bytes(layout.size()) as isize));
        // SAFETY: as above; the pointer came from `alloc`, so from the system.
        unsafe { System.dealloc(pointer, layout) }
    }
}
