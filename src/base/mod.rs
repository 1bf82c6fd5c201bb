//! The ground floor: values that every other floor is built from.
//!
//! *Invariants*: nothing here names another module of the crate; nothing here reads a clock, a
//! random source or the environment, they are handed in.

pub mod budget;
pub mod hash;
pub mod ids;
pub mod limits;
pub mod prefetch;
pub mod quota;
pub mod time;
pub mod work;
