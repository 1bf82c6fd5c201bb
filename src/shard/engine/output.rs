//! From the edge's deliveries to the bytes of each connection.

use crate::base::ids::{ChannelId, ConnId};
use crate::base::time::Now;
use crate::broker::delivery::Delivery;
use crate::broker::telemetry::{Event, Telemetry};
use crate::doors::{self, WebSocket};
use crate::protocol::close::CloseReason;
use crate::protocol::command::Address;
use crate::protocol::frame::Frame;
use crate::protocol::names::Name;
use crate::shard::connection::{PausedBy, Stage};
use crate::shard::engine::Engine;
use crate::shard::meters::{Counter, Drop as DropReason};
use crate::shard::outbox::{Gap, Put};
use std::mem;
use std::sync::Arc;

/// What a frame is longer than the message it was made from: a header, a sequence, another time.
const FRAME_SPARE_BYTES: usize = 1_024;

impl Engine {
    /// The connections that have something to be written, or are to be closed; false if there are
    /// none. Writing may add some, so it is asked until there are none.
    pub fn take_dirty(&mut self, dirty: &mut Vec<ConnId>) -> bool {
        dirty.clear();
        mem::swap(&mut self.dirty, dirty);
        !dirty.is_empty()
    }

    /// What is to be written to a connection now: at most some 128 KiB, or one frame if that is
    /// longer; nothing if there is nothing, or the socket is known to be full.
    pub fn output(&mut self, now: Now, conn: ConnId) -> &[u8] {
        let dropped = match self.connection_mut(conn) {
            Some(connection) => {
                connection.is_dirty = false;
                match connection.is_held || connection.is_blocked {
                    // What waits is looked through when the socket takes some of it, not for
                    // every message that joins it.
                    true => 0,
                    false => self.prune(now, conn),
                }
            }
            None => return &[],
        };
        self.tally.dropped(DropReason::Expired, dropped);
        let Engine { connections, mail, scratch, gathered, .. } = self;
        let Some(connection) = connections[conn.slot as usize].as_deref_mut() else { return &[] };
        if connection.is_held || connection.is_blocked || connection.outbox.is_empty() {
            connection.outbox.settle(mail);
            return &[];
        }
        match connection.outbox.only_fresh() {
            Some(fresh) if !gathered.is_empty() && fresh == gathered.as_slice() => {}
            fresh => {
                gathered.clear();
                gathered.extend_from_slice(fresh.unwrap_or_default());
                scratch.clear();
                connection.outbox.gather(mail, scratch);
            }
        }
        scratch
    }

    /// A socket took `count` bytes of what [`Engine::output`] gave; `is_full` says that it takes
    /// no more now. True if there is more to write at once.
    pub fn wrote(&mut self, now: Now, conn: ConnId, count: usize, is_full: bool) -> bool {
        self.tally.add(Counter::BytesSent, count as u64);
        let bytes_max = self.outbox_bytes_max();
        let Engine { connections, mail, outbox_bytes, .. } = self;
        let Some(connection) = connections[conn.slot as usize].as_deref_mut() else { return false };
        if connection.id != conn {
            return false;
        }
        connection.outbox.advance(mail, count);
        *outbox_bytes -= count as u64;
        connection.is_blocked = is_full;
        if is_full || connection.outbox.is_empty() {
            connection.outbox.settle(mail);
        }
        let has_more = !is_full && !connection.outbox.is_empty();
        if has_more {
            // A part of it was written: the same numbers no longer mean the same bytes.
            self.gathered.clear();
        }
        if count > 0 && connection.behind_since_ms.is_some() && !connection.outbox.is_behind() {
            // It reads, if slowly.
            connection.behind_since_ms = Some(now.mono_ms());
        }
        if connection.outbox.bytes() <= bytes_max / 4 && !connection.outbox.is_behind() {
            // It keeps up again, whether or not it was paused for not doing so.
            connection.behind_since_ms = None;
        }
        self.resume_if_read(conn);
        self.finish_close_if_written(conn);
        let has_gaps = self.connection(conn).is_some_and(|known| known.outbox.has_gaps());
        if has_gaps {
            self.tell_gaps(now, conn);
        }
        has_more
    }

    /// There was nothing to write: if the connection waited only for that, it ends.
    pub fn wrote_nothing(&mut self, conn: ConnId) {
        self.finish_close_if_written(conn);
    }

    /// The socket takes bytes again.
    pub fn writable(&mut self, conn: ConnId) {
        if let Some(connection) = self.connection_mut(conn) {
            connection.is_blocked = false;
            if !connection.outbox.is_empty() {
                self.mark_dirty(conn);
            }
        }
    }

    /// Whether a connection has bytes that wait for its socket.
    pub fn is_blocked(&self, conn: ConnId) -> bool {
        self.connection(conn).is_some_and(|connection| connection.is_blocked)
    }

    /// Ends a turn, after the sockets were written to.
    pub fn end_turn(&mut self, now: Now) {
        assert!(self.dirty.is_empty(), "what is fresh is written or settled before its mail goes");
        for letter in self.mail.letters() {
            if letter.frame.sequence > 0 && letter.receivers > 0 {
                let ns = now.mono_ns.saturating_sub(letter.frame.received_ns);
                self.tally.delivery(ns, u64::from(letter.receivers));
            }
        }
        self.mail.clear();
        self.gathered.clear();
        self.is_pressed = false;
        if self.scratch.capacity() > 4 * crate::shard::outbox::WRITE_BYTES {
            self.scratch = Vec::new();
        }
        self.report_traces(now);
        self.unblock();
    }

    /// Does what the edge wants done.
    pub(super) fn deliver(&mut self, now: Now) {
        if self.deliveries.is_empty() {
            return;
        }
        let mut deliveries = mem::take(&mut self.deliveries);
        let mut next = 0;
        for delivery in deliveries.list.drain(..) {
            match delivery {
                Delivery::Fanout { frame, channel, receivers, trace } => {
                    let list = &deliveries.receivers[next..next + receivers];
                    next += receivers;
                    self.fan_out(now, frame, channel, list);
                    self.traced.extend(trace.map(|reply_to| (reply_to, receivers as u64)));
                }
                Delivery::Message(conn, frame) => self.fan_out(now, frame, None, &[conn]),
                Delivery::Reply(conn, frame) => {
                    let is_replay = frame.sequence > 0;
                    self.tally.add(Counter::Replayed, u64::from(is_replay));
                    self.send(now, conn, frame);
                }
                Delivery::Admit(conn) => self.admit(now, conn),
                Delivery::Reject(conn, refusal) => {
                    self.end_handshake(now, conn, doors::refuse(&refusal));
                }
                Delivery::Welcome(conn, frame) => self.welcome(now, conn, frame),
                Delivery::Resume(conn) => self.unread.push_back(conn),
                Delivery::Close(conn, reason, words) => self.begin_close(now, conn, reason, words),
            }
        }
        for event in deliveries.telemetry.drain(..) {
            self.tell_telemetry(now, event);
        }
        for fault in deliveries.faults.drain(..) {
            self.tally.fault(fault);
        }
        deliveries.receivers.clear();
        // Nothing above delivers in turn, so the emptied lists can be used again.
        self.deliveries = deliveries;
    }

    /// Puts a frame that is never dropped into an outbox. A client that has let too many of them
    /// pile up is closed.
    pub(super) fn send(&mut self, now: Now, conn: ConnId, frame: Arc<Frame>) {
        let bytes_max = 2 * self.outbox_bytes_max();
        if self.enqueue(conn, frame).is_some_and(|waiting| waiting > bytes_max) {
            self.begin_close(now, conn, CloseReason::TooSlow, None);
        }
    }

    /// Puts a frame into an outbox, whatever waits there; how many bytes wait then, unless the
    /// connection is closing.
    pub(super) fn enqueue(&mut self, conn: ConnId, frame: Arc<Frame>) -> Option<usize> {
        let length = frame.wire().len();
        let Engine { connections, mail, outbox_bytes, .. } = self;
        let connection = connections.get_mut(conn.slot as usize)?.as_deref_mut()?;
        if connection.id != conn || connection.is_closing() {
            return None;
        }
        let number = mail.add(frame, None);
        connection.outbox.put_reply(mail, number);
        let waiting = connection.outbox.bytes();
        *outbox_bytes += length as u64;
        self.tally.add(Counter::MessagesSent, 1);
        self.mark_dirty(conn);
        Some(waiting)
    }

    /// Sends finished bytes, such as a pong or an HTTP answer.
    pub(super) fn send_raw(&mut self, now: Now, conn: ConnId, bytes: Vec<u8>) {
        self.send(now, conn, Frame::of_wire(bytes, now.mono_ns));
    }

    pub(super) fn mark_dirty(&mut self, conn: ConnId) {
        if let Some(connection) = self.connection_mut(conn)
            && !mem::replace(&mut connection.is_dirty, true)
        {
            self.dirty.push(conn);
        }
    }

    fn fan_out(
        &mut self,
        now: Now,
        frame: Arc<Frame>,
        channel: Option<ChannelId>,
        receivers: &[ConnId],
    ) {
        let (length, bytes_max) = (frame.wire().len() as u64, self.outbox_bytes_max());
        let next_bytes = self.limits.max_message_bytes as usize + FRAME_SPARE_BYTES;
        let number = self.mail.add(frame, channel);
        let Engine { connections, mail, outbox_bytes, is_pressed, dirty, tally, .. } = self;
        let (mut delivered, mut slow) = (0, Vec::new());
        for &conn in receivers {
            let Some(Some(connection)) = connections.get_mut(conn.slot as usize) else { continue };
            if connection.id != conn || connection.is_closing() {
                tally.dropped(DropReason::Closed, 1);
                continue;
            }
            match connection.outbox.put_message(mail, number, bytes_max) {
                Put::Queued => {
                    delivered += 1;
                    *outbox_bytes += length;
                    let may_be_written = !connection.is_blocked && !connection.is_held;
                    *is_pressed |=
                        may_be_written && connection.outbox.bytes() + next_bytes > bytes_max;
                    if !mem::replace(&mut connection.is_dirty, true) {
                        dirty.push(conn);
                    }
                }
                Put::Dropped { first } => {
                    tally.dropped(DropReason::OutboxFull, 1);
                    if first {
                        slow.push(conn);
                        // Where nothing waits, nothing else would lead to the gap notice.
                        if !mem::replace(&mut connection.is_dirty, true) {
                            dirty.push(conn);
                        }
                    }
                }
            }
        }
        tally.add(Counter::MessagesSent, delivered);
        if channel.is_some() {
            tally.add(Counter::Deliveries, delivered);
        }
        for conn in slow {
            self.note_slow(now, conn);
        }
    }

    /// A client fell behind: it has a while to catch up.
    fn note_slow(&mut self, now: Now, conn: ConnId) {
        let Some(connection) = self.connection_mut(conn) else { return };
        connection.behind_since_ms = Some(now.mono_ms());
        let waiting_bytes = connection.outbox.bytes() as u64;
        self.arm(conn);
        if let Some(session) = self.edge.session(conn) {
            let client_id = session.card.client_id.clone();
            let event = Event::SlowConsumer { client_id, waiting_bytes };
            self.telemetry.push(Telemetry { at_us: now.wall_us, event });
        }
    }

    /// Drops what has expired in an outbox, and gives notice; how many messages that were.
    fn prune(&mut self, now: Now, conn: ConnId) -> u64 {
        let Engine { connections, mail, outbox_bytes, .. } = self;
        let Some(connection) = connections[conn.slot as usize].as_deref_mut() else { return 0 };
        let before = connection.outbox.bytes();
        let dropped = connection.outbox.prune(mail, now.mono_ms());
        *outbox_bytes -= (before - connection.outbox.bytes()) as u64;
        let has_gaps = connection.outbox.has_gaps();
        if has_gaps {
            self.tell_gaps(now, conn);
        }
        if dropped > 0 {
            self.resume_if_read(conn);
        }
        dropped
    }

    /// Reads a client again that was not read because it did not read, once it has read enough.
    pub(super) fn resume_if_read(&mut self, conn: ConnId) {
        let bytes_max = self.outbox_bytes_max();
        if let Some(connection) = self.connection(conn)
            && connection.paused == Some(PausedBy::Outbox)
            && connection.outbox.bytes() <= bytes_max / 4
        {
            self.unread.push_back(conn);
        }
    }

    /// Gives notice of messages that were dropped, once there will be no more of them.
    fn tell_gaps(&mut self, now: Now, conn: ConnId) {
        let bytes_max = self.outbox_bytes_max();
        let Some(connection) = self.connection_mut(conn) else { return };
        if connection.is_closing() {
            return;
        }
        let was_behind = connection.outbox.is_behind();
        let gaps = connection.outbox.take_gaps(bytes_max);
        if was_behind && !connection.outbox.is_behind() {
            // A client that is paused for what it has not read still has to read it in time.
            let is_paused = connection.paused == Some(PausedBy::Outbox);
            connection.behind_since_ms = is_paused.then_some(now.mono_ms());
        }
        for gap in gaps {
            let Gap { channel, first, last, count, reason } = gap;
            let known = channel.and_then(|channel| self.edge.address(channel));
            if channel.is_some() && known.is_none() {
                // It has left the channel meanwhile.
                continue;
            }
            let every = || Address { room: Name::every(), channel: Name::every() };
            let sequences = channel.map(|_| (first, last));
            let address = known.unwrap_or_else(every);
            let frame = self.edge.gap_notice(now, &address, sequences, count, reason.label());
            self.tally.add(Counter::Gaps, 1);
            self.send(now, conn, frame);
        }
    }

    /// The handshake is answered; what flows now waits for the welcome.
    fn admit(&mut self, now: Now, conn: ConnId) {
        let Some(connection) = self.connection_mut(conn) else { return };
        let Stage::Claiming { accept, .. } = &mut connection.stage else { return };
        let accept = mem::take(accept);
        connection.stage = Stage::Open(WebSocket::new());
        connection.is_held = true;
        // The answer goes first when the welcome comes, or at once if there is nothing to join.
        connection.last_heard_ms = now.mono_ms();
        connection.input.shrink_to_fit();
        let frame = Frame::of_wire(accept, now.mono_ns);
        let length = frame.wire().len() as u64;
        let Engine { connections, mail, outbox_bytes, .. } = self;
        if let Some(connection) = connections[conn.slot as usize].as_deref_mut() {
            connection.outbox.put_first(mail, frame);
            *outbox_bytes += length;
        }
        self.arm(conn);
    }

    /// Everything flows, behind the answer to the handshake and the welcome.
    fn welcome(&mut self, now: Now, conn: ConnId, frame: Arc<Frame>) {
        let length = frame.wire().len() as u64;
        let Engine { connections, mail, outbox_bytes, .. } = self;
        let Some(Some(connection)) = connections.get_mut(conn.slot as usize) else { return };
        if connection.id != conn || connection.is_closing() {
            return;
        }
        connection.outbox.put_second(mail, frame);
        connection.is_held = false;
        *outbox_bytes += length;
        self.tally.add(Counter::MessagesSent, 1);
        self.mark_dirty(conn);
        if self.is_draining {
            // It came while everybody else was told to go.
            self.send_away(now, conn, now.mono_ms());
        }
    }
}
