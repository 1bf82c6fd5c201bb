//! One thread's world: an engine that is pure, and the driver that gives it sockets and time.

pub mod meters;
