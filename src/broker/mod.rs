//! The truth as pure state machines: who is connected, which rooms there are, what was said.

pub mod policy;
pub mod telemetry;
