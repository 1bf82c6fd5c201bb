//! One connection of a shard: its bytes, and how far its conversation has come.
//!
//! *Invariant*: a connection that has nothing half read and nothing to write owns no buffer.

use crate::base::ids::{ConnId, ShardId};
use crate::base::prefetch::prefetch;
use crate::base::time::{Moment, Now};
use crate::doors::{Farewell, WebSocket};
use crate::protocol::close::CloseReason;
use crate::shard::outbox::Outbox;
use std::mem::offset_of;
use std::net::IpAddr;

/// A connection. What a delivery touches comes first, in two lines of the cache: a turn may deliver
/// to more connections than the cache can hold.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Connection {
    /// Its id.
    pub id: ConnId,
    /// Whether it is in the list of connections to be written to.
    pub is_dirty: bool,
    /// Whether it is in the list of connections to be written to after all others.
    pub is_late: bool,
    /// Whether its socket took less than it was given.
    pub is_blocked: bool,
    /// Whether everything waits for the welcome.
    pub is_held: bool,
    /// Why it is not read, if it is not.
    pub paused: Option<PausedBy>,
    /// How far its conversation has come.
    pub stage: Stage,
    /// Since when it does not keep up.
    pub behind_since: Option<Moment>,
    /// What waits to be written.
    pub outbox: Outbox,
    /// When anything was last heard of it, on the monotonic clock in milliseconds.
    pub last_heard_ms: u64,
    /// When a ping went out that nothing was heard after.
    pub pinged: Option<Moment>,
    /// Bytes that were read and not used up: half a frame, or what came while it was paused.
    pub input: Vec<u8>,
    /// What is to be known of its pings and pongs, once it has sent one.
    pub control: Option<Box<Control>>,
    /// A message that found a full lane and is offered again.
    pub stalled: Option<Box<str>>,
    /// When its drain closes it, or when it is waited for no longer after it has ended.
    pub drain_at: Option<Moment>,
    /// When it is next looked at, on the monotonic clock in milliseconds.
    pub timer_ms: u64,
    /// Where it comes from.
    pub peer: Option<IpAddr>,
    /// Why it is turned away after its handshake, if it is.
    pub turned_away: Option<CloseReason>,
    /// Whether its last message to a channel was one that is written late.
    pub fans_out_late: bool,
}

const _: () = assert!(offset_of!(Connection, outbox) <= 64);
const _: () = assert!(size_of::<Connection>() <= 256, "idle ones are what most memory is for");

/// What a connection is remembered by for its pings and pongs.
#[derive(Debug, Default)]
pub struct Control {
    /// The answer to the last ping, until it is written.
    pong: Option<Box<[u8]>>,
    /// When the pings and pongs so far would have been within their rate, in microseconds on the
    /// monotonic clock.
    due_us: u64,
}

/// How a connection ends.
#[derive(Debug)]
pub struct Closing {
    /// What looks for the peer's close, if there may be one.
    pub farewell: Option<Farewell>,
    /// Whether the peer has said goodbye too, so that nothing more is awaited.
    pub is_answered: bool,
    /// Whether the server's half of the socket was closed behind its last byte.
    pub is_half_closed: bool,
    /// The bytes that the peer sent since.
    pub read_bytes: u64,
    /// When the connection ends, whatever is left, on the monotonic clock in milliseconds.
    pub deadline_ms: u64,
}

/// How far a conversation has come.
#[derive(Debug)]
pub enum Stage {
    /// The HTTP request has not come in whole.
    Handshake {
        /// When it must have, on the monotonic clock in milliseconds.
        deadline_ms: u64,
    },
    /// The request is in, and a directory decides.
    Claiming {
        /// The answer that upgrades the connection.
        accept: Box<[u8]>,
        /// When all must be decided, on the monotonic clock in milliseconds.
        deadline_ms: u64,
    },
    /// Messages flow.
    Open(WebSocket),
    /// The last bytes are on their way.
    Closing(Box<Closing>),
}

/// Why a connection is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PausedBy {
    /// The lane to this home is full.
    Lane(ShardId),
    /// It does not read what it is sent.
    Outbox,
    /// Who it is is being decided.
    Arriving,
    /// Its next message has to come after an answer that has not come.
    Answer,
    /// Its input had its share of the turn, and others go on first.
    Turn,
    /// It sent to many members, and too much waits to be written to such.
    FanOut,
    /// It has closed its half of the socket, and answers to it are still to come.
    Ended,
}

impl Connection {
    /// A connection whose handshake is awaited.
    pub fn new(id: ConnId, peer: Option<IpAddr>, now_ms: u64, deadline_ms: u64) -> Connection {
        Connection {
            id,
            stage: Stage::Handshake { deadline_ms },
            outbox: Outbox::default(),
            input: Vec::new(),
            control: None,
            stalled: None,
            paused: None,
            peer,
            turned_away: None,
            last_heard_ms: now_ms,
            pinged: None,
            behind_since: None,
            drain_at: None,
            timer_ms: u64::MAX,
            is_dirty: false,
            is_late: false,
            fans_out_late: false,
            is_blocked: false,
            is_held: false,
        }
    }

    /// Looks ahead to a delivery: fetches what it will touch.
    pub fn prefetch_delivery(&self) {
        prefetch(&self.id);
        prefetch(&self.outbox);
    }

    /// Counts a ping or a pong of its; false if there were more than `rate` a second, and a second's worth
    /// at once. A rate of 0 is no limit.
    pub fn takes_control_frame(&mut self, now: Now, rate: u32) -> bool {
        if rate == 0 {
            return true;
        }
        let now_us = now.mono_ns / 1_000;
        let control = self.control.get_or_insert_default();
        control.due_us = control.due_us.max(now_us) + 1_000_000 / u64::from(rate);
        control.due_us <= now_us + 1_000_000
    }

    /// Answers its last ping once it is written to. Only the latest ping is answered (RFC 6455,
    /// section 5.5.3), so however many there are, one answer waits.
    pub fn set_pong(&mut self, pong: Vec<u8>) {
        self.control.get_or_insert_default().pong = Some(pong.into_boxed_slice());
        // Its outbox holds something of its own from now on.
        self.outbox.note_own();
    }

    /// Takes the answer to its last ping, if that is not written yet.
    pub fn take_pong(&mut self) -> Option<Box<[u8]>> {
        self.control.as_mut()?.pong.take()
    }

    /// Whether the edge knows it.
    pub fn has_session(&self) -> bool {
        matches!(self.stage, Stage::Claiming { .. } | Stage::Open(_))
    }

    /// Whether it has been told to go.
    pub fn is_closing(&self) -> bool {
        matches!(self.stage, Stage::Closing(_))
    }

    /// Whether it takes what it is sent, and nothing about it waits for that.
    pub fn keeps_up(&self) -> bool {
        self.behind_since.is_none()
            && self.paused.is_none()
            && self.is_open()
            && !self.outbox.is_behind()
            && !self.outbox.has_gaps()
    }

    /// Whether messages flow.
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open(_))
    }

    /// When it next has to be looked at, on the monotonic clock in milliseconds.
    pub fn next_check_ms(&self, heartbeat_ms: u64, grace_ms: u64) -> u64 {
        let heartbeat = self.pinged.map_or(self.last_heard_ms, Moment::ms) + heartbeat_ms;
        let behind = self.behind_since.map_or(u64::MAX, |since| since.ms() + grace_ms);
        let drain = self.drain_at.map_or(u64::MAX, Moment::ms);
        match self.stage {
            Stage::Handshake { deadline_ms } | Stage::Claiming { deadline_ms, .. } => deadline_ms,
            Stage::Open(_) => heartbeat.min(behind).min(drain),
            Stage::Closing(ref closing) => closing.deadline_ms,
        }
    }
}
