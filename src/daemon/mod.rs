//! The daemon around the bus: what it was told, the machine it runs on, and what it says.

pub mod cgroup;
pub mod config;
pub mod control;
pub mod host;
pub mod logging;
