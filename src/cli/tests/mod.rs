//! The commands against a bus.
