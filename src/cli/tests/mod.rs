//! The commands against a bus: a small one that speaks the protocol over a real socket, and can be
//! told to fail in every way a bus can.

mod bus;
mod follow;
mod other;
mod publish;
mod restarts;
mod run;
mod speed;
mod subscribe;
mod world;
