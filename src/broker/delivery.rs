//! What an edge wants done for its connections: the last link of the chain, which makes nothing.

use crate::base::ids::{ChannelId, ConnId};
use crate::broker::lane::PendingRef;
use crate::broker::telemetry::Event;
use crate::protocol::close::CloseReason;
use crate::protocol::fault::Fault;
use crate::protocol::frame::Frame;
use std::sync::Arc;

/// What an edge wants done, collected while it handles one tell or one client's message.
#[derive(Debug, Default)]
pub struct Deliveries {
    /// In the order in which it is to be done.
    pub list: Vec<Delivery>,
    /// The receivers of every [`Delivery::Together`], one after the other.
    pub receivers: Vec<ConnId>,
    /// What is to be told about the bus.
    pub telemetry: Vec<Event>,
    /// Refusals to be counted.
    pub faults: Vec<Fault>,
    /// The units of work that the edge did beside what is listed here, such as rows it built; the engine
    /// charges them to the turn ([`base::work`](crate::base::work)).
    pub units: u64,
}

/// One thing to be done.
#[derive(Debug)]
pub enum Delivery {
    /// A frame for every local member of a channel.
    Fanout {
        /// The frame.
        frame: Arc<Frame>,
        /// The channel.
        channel: ChannelId,
        /// The local connection that sent it, which gets it only if it asked for echo.
        sender: Option<ConnId>,
        /// Where to report that it was delivered, if it is traced.
        trace: Option<PendingRef>,
    },
    /// Frames without an order for many, who get all of them but those about themselves.
    Together {
        /// The frames, and whom each is about.
        frames: Vec<(Arc<Frame>, Option<ConnId>)>,
        /// How many of the next receivers get them.
        receivers: usize,
    },
    /// A frame that may be dropped when its receiver does not keep up.
    Message(ConnId, Arc<Frame>),
    /// A frame that its receiver asked for.
    Reply(ConnId, Arc<Frame>),
    /// The handshake is done: the connection may be upgraded.
    Admit(ConnId),
    /// The handshake is refused.
    Reject(ConnId, Box<crate::protocol::fault::Refusal>),
    /// Everything held back may flow, behind this first frame.
    Welcome(ConnId, Arc<Frame>),
    /// The connection's input may be read again.
    Resume(ConnId),
    /// Close the connection, with these words if they are not the reason's own.
    Close(ConnId, CloseReason, Option<String>),
}

impl Deliveries {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
            && self.telemetry.is_empty()
            && self.faults.is_empty()
            && self.units == 0
    }
}
