//! From a connection's bytes to the edge.
//!
//! *Panics*: a machine never uses more bytes than it was given, and a home is a shard of the
//! placement.

use crate::base::ids::{ConnId, ShardId};
use crate::base::limits::{CLOSE_LINGER_MS, LINGER_BYTES_MAX};
use crate::base::time::{Moment, Now};
use crate::base::work::{self, LATE_UNITS_MAX, Part};
use crate::broker::edge::Flow;
use crate::broker::home::stamp;
use crate::doors::handshake::{self, Handshake};
use crate::doors::{self, Event, Step, WebSocket};
use crate::protocol::close::CloseReason;
use crate::protocol::decode;
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::frame::Frame;
use crate::protocol::reply::{self, Question};
use crate::shard::connection::{PausedBy, Stage};
use crate::shard::engine::Engine;
use crate::shard::meters::{Counter, Pause};
use std::mem;

impl Engine {
    /// A socket was read. The bytes are the driver's and may be written over.
    pub fn receive(&mut self, now: Now, conn: ConnId, bytes: &mut [u8]) {
        self.tally.add(Counter::BytesReceived, bytes.len() as u64);
        let Some(connection) = self.connection_mut(conn) else { return };
        connection.last_heard_ms = now.mono_ms();
        connection.pinged = None;
        if let Stage::Closing(closing) = &mut connection.stage {
            closing.read_bytes += bytes.len() as u64;
            if closing.read_bytes > LINGER_BYTES_MAX {
                return self.forget(conn);
            }
        }
        if connection.input.is_empty() && connection.paused.is_none() {
            // The common case: whole messages, handled where the socket put them.
            let used = self.process(now, conn, bytes);
            if let Some(connection) = self.connection_mut(conn)
                && used < bytes.len()
            {
                connection.input.extend_from_slice(&bytes[used..]);
            }
        } else {
            connection.input.extend_from_slice(bytes);
            self.process_kept(now, conn);
        }
    }

    /// The peer has closed its half of the socket. It may still read: what it is owed is written before its
    /// connection ends, if it comes in time.
    pub fn ended(&mut self, now: Now, conn: ConnId) {
        let is_owed = self.connection(conn).is_some_and(|connection| {
            connection.is_open() && (!connection.outbox.is_empty() || self.edge.owes_answer(conn))
        });
        if !is_owed {
            return self.lost(now, conn);
        }
        self.pause(conn, PausedBy::Ended);
        if let Some(connection) = self.connection_mut(conn) {
            connection.drain_at = Some(Moment::at_ms(now.mono_ms() + CLOSE_LINGER_MS));
        }
        self.arm(conn);
    }

    /// The socket has failed, or ended and nothing is owed.
    pub fn lost(&mut self, now: Now, conn: ConnId) {
        let Some(connection) = self.connection(conn) else { return };
        if connection.is_closing() {
            self.forget(conn);
        } else {
            self.begin_close(now, conn, CloseReason::Lost, None);
        }
    }

    /// Whether the driver should read this connection's socket.
    pub fn wants_input(&self, conn: ConnId) -> bool {
        self.connection(conn).is_some_and(|connection| connection.paused.is_none())
    }

    /// Sockets are read from now on in this turn.
    pub fn begin_reading(&mut self) {
        self.told.work.begin_part(Part::Sockets);
    }

    /// Whether another socket may be read in this turn: its work is not spent.
    pub fn may_read(&self) -> bool {
        !self.told.work.is_spent()
    }

    /// Looks again at the input of connections that were paused and are not any more; gives those
    /// whose sockets should be read again, too. A connection that has more input than its share of a turn
    /// comes again behind the others, as long as there is work left in this one.
    pub fn resume(&mut self, now: Now, resumed: &mut Vec<ConnId>) {
        self.told.work.begin_part(Part::Resumed);
        while !self.told.work.is_spent() {
            let Some(conn) = self.unread.pop_front() else { return };
            self.told.work.charge(work::MEMBER);
            let bytes_max = self.outbox_bytes_max();
            let Some(connection) = self.connection(conn) else { continue };
            if connection.paused == Some(PausedBy::Ended) {
                continue;
            }
            if connection.paused == Some(PausedBy::Outbox)
                && connection.outbox.bytes() > bytes_max / 4
            {
                // It was let go and paused anew since it came to stand here.
                continue;
            }
            self.unpause(conn);
            if let Flow::Blocked(home) = self.edge.run_errands(conn, &mut self.asks) {
                self.wait_for_lane(conn, home);
                continue;
            }
            let may_send = self.edge.may_send(conn);
            let Some(connection) = self.connection_mut(conn) else { continue };
            if connection.has_session() && !may_send {
                self.pause(conn, PausedBy::Arriving);
                continue;
            }
            if connection.is_open() && connection.outbox.waiting_bytes() > bytes_max / 2 {
                // The answer it waited for has first to be read.
                self.pause_if_unread(now, conn);
                continue;
            }
            if let Some(text) = connection.stalled.take() {
                self.offer(now, conn, &text, true);
            }
            self.process_kept(now, conn);
            if self.wants_input(conn) {
                resumed.push(conn);
            }
        }
    }

    fn process_kept(&mut self, now: Now, conn: ConnId) {
        let Some(connection) = self.connection_mut(conn) else { return };
        if connection.input.is_empty() || connection.paused.is_some() {
            return;
        }
        let mut input = mem::take(&mut connection.input);
        let used = self.process(now, conn, &mut input);
        let Some(connection) = self.connection_mut(conn) else { return };
        if used < input.len() {
            input.drain(..used);
            connection.input = input;
        }
    }

    /// Handles what is whole of the input; how many bytes were used up.
    fn process(&mut self, now: Now, conn: ConnId, input: &mut [u8]) -> usize {
        let Some(connection) = self.connection_mut(conn) else { return input.len() };
        match &mut connection.stage {
            Stage::Handshake { .. } => self.process_handshake(now, conn, input),
            Stage::Claiming { .. } => 0,
            Stage::Open(socket) => {
                let mut socket = mem::take(socket);
                let used = self.process_frames(now, conn, &mut socket, input);
                if let Some(connection) = self.connection_mut(conn)
                    && let Stage::Open(place) = &mut connection.stage
                {
                    *place = socket;
                }
                used
            }
            Stage::Closing(closing) => {
                let Some(farewell) = &mut closing.farewell else { return input.len() };
                let (used, is_close) = farewell.read(input);
                if is_close {
                    closing.is_answered = true;
                    self.finish_close_if_written(conn);
                }
                self.told.work.charge(work::bytes(used));
                used
            }
        }
    }

    fn process_handshake(&mut self, now: Now, conn: ConnId, input: &[u8]) -> usize {
        let read = handshake::read(input, &self.handshakes);
        let is_draining = self.draining_until_ms.is_some();
        let no_return = match &read {
            Handshake::Hello { hello, .. } => self.edge.refuses_return(&hello.identity),
            _ => None,
        };
        let Some(connection) = self.connection_mut(conn) else { return input.len() };
        match read {
            Handshake::Need => 0,
            Handshake::Refused { response, fault } => {
                self.tally.fault(fault);
                self.end_handshake(now, conn, response);
                input.len()
            }
            Handshake::Hello { hello, .. } if connection.turned_away.is_some() => {
                let reason = connection.turned_away.unwrap_or(CloseReason::Full);
                connection.stage = Stage::Open(WebSocket::new());
                self.send_raw(now, conn, hello.accept_response());
                self.turn_away(now, conn, reason);
                input.len()
            }
            Handshake::Hello { .. } if is_draining => {
                let refusal = draining();
                self.tally.fault(refusal.fault);
                self.end_handshake(now, conn, doors::refuse(&refusal));
                input.len()
            }
            Handshake::Hello { .. } if let Some(refusal) = no_return => {
                self.tally.fault(refusal.fault);
                self.end_handshake(now, conn, doors::refuse(&refusal));
                input.len()
            }
            Handshake::Hello { used, hello } => {
                let Stage::Handshake { deadline_ms } = connection.stage else { return used };
                let peer = connection.peer;
                let is_local = hello.is_local && peer.is_some_and(|peer| peer.is_loopback());
                let role = self.roles.role_of(is_local);
                let accept = hello.accept_response();
                match self.edge.connect(now, conn, (peer, role), hello.identity, &mut self.asks) {
                    Flow::Done | Flow::Waiting => {
                        self.pause(conn, PausedBy::Arriving);
                        if let Some(connection) = self.connection_mut(conn) {
                            connection.stage =
                                Stage::Claiming { accept: accept.into(), deadline_ms };
                        }
                        used
                    }
                    Flow::Blocked(home) => {
                        self.wait_for_lane(conn, home);
                        0
                    }
                }
            }
        }
    }

    fn process_frames(
        &mut self,
        now: Now,
        conn: ConnId,
        socket: &mut WebSocket,
        input: &mut [u8],
    ) -> usize {
        let bytes_max = self.limits.max_message_bytes as usize;
        let until = self.told.work.spent() + self.told.work.connection_units();
        let mut used = 0;
        while self.connection(conn).is_some_and(|known| known.is_open() && known.paused.is_none()) {
            if used < input.len() && !self.has_turn_for(conn, until) {
                break;
            }
            match socket.next(&mut input[used..], bytes_max) {
                Step::Need { .. } => break,
                Step::Event { used: count, event } => {
                    used += count;
                    self.told.work.charge(work::FRAME + work::bytes(count));
                    self.on_event(now, conn, event);
                }
                Step::Fail(reason) => {
                    if reason == CloseReason::TooBig {
                        self.refuse_large(now, conn);
                    }
                    self.begin_close(now, conn, reason, None);
                    // The peer's own close may stand behind what broke the rules.
                    self.unread.push_back(conn);
                    return used;
                }
            }
        }
        used
    }

    /// Whether more input of a connection is handled now, or after others: it has not spent its share,
    /// and what it published to many is written but for a bounded rest.
    fn has_turn_for(&mut self, conn: ConnId, until: u64) -> bool {
        if self.late_units > LATE_UNITS_MAX
            && self.connection(conn).is_some_and(|connection| connection.fans_out_late)
        {
            self.pause(conn, PausedBy::FanOut);
            self.fanning.push(conn);
            return false;
        }
        if self.told.work.spent() >= until {
            self.pause(conn, PausedBy::Turn);
            self.unread.push_back(conn);
            return false;
        }
        true
    }

    fn on_event(&mut self, now: Now, conn: ConnId, event: Option<Event<'_>>) {
        match event {
            Some(Event::Text(text)) => self.offer(now, conn, text, false),
            Some(Event::Ping(payload)) => {
                if self.takes_control_frame(now, conn)
                    && let Some(connection) = self.connection_mut(conn)
                {
                    connection.set_pong(doors::pong(payload));
                    self.mark_dirty(conn);
                }
            }
            Some(Event::Pong(_)) => {
                self.takes_control_frame(now, conn);
            }
            None => {}
            Some(Event::Close(frame)) => {
                self.send_raw(now, conn, doors::close_reply(frame.as_ref()));
                self.begin_close(now, conn, CloseReason::ByClient, None);
            }
        }
    }

    /// Counts a ping or a pong; a client that sends too many is closed.
    fn takes_control_frame(&mut self, now: Now, conn: ConnId) -> bool {
        let rate = self.limits.rate_control_frames;
        let Some(connection) = self.connection_mut(conn) else { return false };
        let is_taken = connection.takes_control_frame(now, rate);
        if !is_taken {
            self.begin_close(now, conn, CloseReason::ControlFlood, None);
        }
        is_taken
    }

    /// Offers a message to the edge; if its lane is full, the message waits for it.
    fn offer(&mut self, now: Now, conn: ConnId, text: &str, again: bool) {
        let flow = match decode::decode(text) {
            Ok(envelope) => {
                if !again {
                    self.tally.add(Counter::MessagesReceived, 1);
                }
                let (asks, out) = (&mut self.asks, &mut self.deliveries);
                self.edge.on_message(now, conn, &envelope, again, asks, out)
            }
            Err(rejected) => {
                self.edge.on_malformed(now, conn, *rejected, &mut self.deliveries);
                Flow::Done
            }
        };
        self.deliver(now);
        match flow {
            Flow::Done => {
                if !self.edge.may_send(conn) {
                    self.pause(conn, PausedBy::Arriving);
                }
                self.pause_if_unread(now, conn);
            }
            Flow::Blocked(home) => {
                self.keep_for_later(conn, text);
                self.wait_for_lane(conn, home);
            }
            Flow::Waiting => {
                self.keep_for_later(conn, text);
                self.pause(conn, PausedBy::Answer);
            }
        }
    }

    /// Tells a client that there is no room for it: a browser sees no HTTP answer to its
    /// handshake, but it sees this and the close code.
    fn turn_away(&mut self, now: Now, conn: ConnId, reason: CloseReason) {
        let refusal = no_room(reason);
        self.tally.fault(refusal.fault);
        let stamp = stamp(&mut self.rng, now);
        let text = reply::failure(stamp, &Question::unreadable(None), &refusal);
        self.send(now, conn, Frame::of_text(&text, now.mono_ns));
        self.begin_close(now, conn, reason, None);
    }

    /// A message that is too long closes its connection, for its bytes would have to be read to
    /// get past it; the client is told in full before.
    fn refuse_large(&mut self, now: Now, conn: ConnId) {
        let max = self.limits.max_message_bytes;
        let message =
            format!("A message may be at most {max} bytes long; split it, or send a link.");
        let refusal = Refusal::new(Fault::MessageTooLarge, message);
        let rejected = decode::Rejected { refusal, id: None };
        self.edge.on_malformed(now, conn, rejected, &mut self.deliveries);
        self.deliver(now);
    }

    fn keep_for_later(&mut self, conn: ConnId, text: &str) {
        if let Some(connection) = self.connection_mut(conn) {
            connection.stalled = Some(text.into());
        }
    }

    fn wait_for_lane(&mut self, conn: ConnId, home: ShardId) {
        self.pause(conn, PausedBy::Lane(home));
        self.blocked[home.index()].push(conn);
    }

    /// Does not read a client that does not read what it is sent.
    fn pause_if_unread(&mut self, now: Now, conn: ConnId) {
        let bytes_max = self.outbox_bytes_max();
        let Some(connection) = self.connection_mut(conn) else { return };
        if connection.outbox.waiting_bytes() > bytes_max / 2
            && connection.paused.is_none()
            && connection.is_open()
        {
            connection.behind_since.get_or_insert(now.moment());
            self.pause(conn, PausedBy::Outbox);
            self.arm(conn);
        }
    }

    pub(super) fn pause(&mut self, conn: ConnId, by: PausedBy) {
        let Some(connection) = self.connection_mut(conn) else { return };
        if connection.is_closing() {
            return;
        }
        if connection.paused.replace(by).is_none() {
            self.paused += 1;
        }
        self.tally.pause(match by {
            PausedBy::Lane(_) => Pause::AskLaneFull,
            PausedBy::Outbox => Pause::OutboxFull,
            PausedBy::Arriving => Pause::Identifying,
            PausedBy::Answer => Pause::Answer,
            PausedBy::Turn => Pause::TurnSpent,
            PausedBy::FanOut => Pause::FanOut,
            PausedBy::Ended => Pause::Ended,
        });
    }

    /// Lets a connection be read again; whether it was paused.
    pub(super) fn unpause(&mut self, conn: ConnId) -> bool {
        let Some(connection) = self.connection_mut(conn) else { return false };
        let Some(by) = connection.paused.take() else { return false };
        if by == PausedBy::Outbox && !connection.outbox.is_behind() {
            connection.behind_since = None;
        }
        self.paused -= 1;
        true
    }

    /// Lets those go on that waited for lanes which have room again; after the last of what was
    /// staged has gone into the lanes, or they would wait through a sleep.
    pub fn unblock(&mut self) {
        for (home, waiting) in self.blocked.iter_mut().enumerate() {
            let home = ShardId(home as u16);
            if !waiting.is_empty() && self.asks.has_room(home) {
                self.unread.extend(waiting.drain(..));
            }
        }
    }
}

/// Why there is no room for a connection.
fn no_room(reason: CloseReason) -> Refusal {
    match reason {
        CloseReason::Memory => Refusal::new(
            Fault::ConnectionLimit,
            "The server is short of memory and takes no new connections; try again later.",
        ),
        CloseReason::AddressFull => Refusal::new(
            Fault::AddressLimit,
            "Your address has as many connections as it may have; close one, or try again later.",
        ),
        _ => Refusal::new(
            Fault::ConnectionLimit,
            "The server has as many connections as it may have; try again later.",
        ),
    }
}

fn draining() -> Refusal {
    Refusal::new(Fault::Draining, "The server is going away; connect again in a few seconds.")
}
