//! The daemon around the bus: what it was told, the machine it runs on, and what it says.

pub mod accept;
mod broadcast;
pub mod cgroup;
pub mod clock;
pub mod config;
pub mod control;
pub mod host;
pub mod logging;
pub mod memory;
pub mod node;
pub mod pinning;
pub mod scaling;
pub mod serve;
mod signals;
pub mod storage;
