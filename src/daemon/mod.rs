//! daemon

pub mod control;
