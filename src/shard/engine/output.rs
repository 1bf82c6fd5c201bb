//! From the edge's deliveries to the bytes of each connection.
//!
//! *Panics*: `Engine::end_turn` asserts that nothing fresh is left, because the mail of the turn is
//! dropped next and a client would get another client's bytes. The driver keeps to that; no byte of
//! a client changes it.

use crate::base::ids::ConnId;
use crate::base::limits::GAP_NOTICES_PER_TURN;
use crate::base::time::Now;
use crate::base::work::{self, LATE_UNITS_MAX};
use crate::broker::delivery::Delivery;
use crate::broker::telemetry::{Event, Telemetry};
use crate::doors::{self, WebSocket};
use crate::protocol::close::CloseReason;
use crate::protocol::command::Address;
use crate::protocol::frame::Frame;
use crate::protocol::names::Name;
use crate::shard::connection::{Connection, PausedBy, Stage};
use crate::shard::engine::{Engine, Offer, Phase};
use crate::shard::mail::Letter;
use crate::shard::meters::{Counter, Drop as DropReason};
use crate::shard::outbox::{Gap, Outbox};
use std::mem;
use std::sync::Arc;

/// What a frame is longer than the message it was made from: a header, a sequence, another time.
const FRAME_SPARE_BYTES: usize = 1_024;
/// What the buffer for writes may keep from one turn to the next.
const SCRATCH_BYTES: usize = 4 * 1024 * 1024;

impl Engine {
    /// The connections that have something to be written, or are to be closed; false if there are
    /// none. Writing may add some, so it is asked until there are none.
    pub fn take_dirty(&mut self, dirty: &mut Vec<ConnId>) -> bool {
        dirty.clear();
        mem::swap(&mut self.dirty, dirty);
        self.phase = Phase::Dirty;
        if dirty.is_empty() {
            self.take_late(dirty);
        }
        if dirty.is_empty() {
            self.take_catching_up(dirty);
        }
        !dirty.is_empty()
    }

    /// What is to be written to a connection now: at most 128 KiB, or the one batch that is all it gets;
    /// nothing if there is nothing, or the socket is known to be full.
    pub fn output(&mut self, now: Now, conn: ConnId) -> &[u8] {
        let is_dirty = self.phase == Phase::Dirty;
        if is_dirty && self.dirty_left == 0 && self.is_put_off(now, conn) {
            return &self.scratch;
        }
        let is_gathered = self.gather_shared(conn);
        if !is_gathered && (!is_dirty || !self.is_put_off(now, conn)) {
            self.gather_own(now, conn);
        }
        &self.scratch
    }

    /// Gathers what waits for a connection if that is one batch, which every member of its audience
    /// may be given as it is; false if it is something else.
    fn gather_shared(&mut self, conn: ConnId) -> bool {
        let Engine { connections, mail, scratch, offer, .. } = self;
        let Some(Some(connection)) = connections.get_mut(conn.slot as usize) else { return false };
        if connection.id != conn || connection.is_held || connection.is_blocked {
            return false;
        }
        let Some(number) = connection.outbox.only_batch() else { return false };
        if mail.batch(number).may_expire() {
            return false;
        }
        connection.is_dirty = false;
        if *offer != Offer::Batch(number) {
            *offer = Offer::Batch(number);
            scratch.clear();
            mail.gather(number, scratch);
        }
        true
    }

    /// Gathers what waits for a connection that gets something of its own.
    fn gather_own(&mut self, now: Now, conn: ConnId) {
        self.offer = Offer::Listed;
        self.scratch.clear();
        let Some(connection) = self.connection_mut(conn) else { return };
        connection.is_dirty = false;
        let is_shut = connection.is_held || connection.is_blocked;
        if !is_shut {
            self.put_pong(now, conn);
        }
        self.list_fresh(conn);
        if is_shut {
            return self.settle(now, conn);
        }
        let may_expire = |number: &u32| self.mail.letter(*number).frame.expires_ms.is_some();
        if self.numbers.iter().any(may_expire) {
            self.settle_listed(conn);
        }
        self.prune(now, conn);
        // Once more, for the notice of what has expired.
        self.list_fresh(conn);
        let Engine { connections, mail, scratch, numbers, .. } = self;
        if let Some(connection) = connections[conn.slot as usize].as_deref_mut() {
            connection.outbox.gather(mail, numbers, scratch);
            if scratch.is_empty() {
                // Its batches held nothing but what it sent itself.
                connection.outbox.clear();
            }
        }
    }

    /// Queues the answer to the last ping, now that it can be written.
    fn put_pong(&mut self, now: Now, conn: ConnId) {
        let Engine { connections, mail, tally, .. } = self;
        if let Some(connection) = open(connections, conn)
            && let Some(pong) = connection.take_pong()
        {
            let frame = Frame::of_wire(pong.into_vec(), now.mono_ns);
            let number = mail.add(Letter::new(frame, false));
            connection.outbox.put(mail, number);
            tally.add(Counter::MessagesSent, 1);
        }
    }

    /// Lists the letters of this turn for a connection; one that is behind gets no messages.
    fn list_fresh(&mut self, conn: ConnId) {
        let Engine { connections, mail, numbers, tally, .. } = self;
        numbers.clear();
        let Some(Some(connection)) = connections.get_mut(conn.slot as usize) else { return };
        connection.outbox.list(mail, conn, numbers);
        if connection.outbox.is_behind() && !numbers.is_empty() {
            let dropped = connection.outbox.drop_messages(mail, numbers);
            tally.dropped(DropReason::OutboxFull, dropped);
            self.settle_listed(conn);
        }
    }

    /// Listed letters become backlog, within its bound.
    fn settle(&mut self, now: Now, conn: ConnId) {
        self.settle_listed(conn);
        let bytes_max = self.outbox_bytes_max();
        let Engine { connections, outbox_bytes, tally, .. } = self;
        let Some(Some(connection)) = connections.get_mut(conn.slot as usize) else { return };
        let before = connection.outbox.bytes();
        if before > bytes_max {
            // What nobody is to get any more takes nobody's place.
            tally.dropped(DropReason::Expired, connection.outbox.prune(now.mono_ms()));
        }
        let dropped = connection.outbox.enforce(bytes_max);
        *outbox_bytes -= (before - connection.outbox.bytes()) as u64;
        tally.dropped(DropReason::OutboxFull, dropped.count);
        if dropped.is_first {
            self.note_slow(now, conn);
        }
    }

    /// Listed letters become backlog, however much that is.
    fn settle_listed(&mut self, conn: ConnId) {
        let Engine { connections, mail, numbers, outbox_bytes, .. } = self;
        let Some(Some(connection)) = connections.get_mut(conn.slot as usize) else { return };
        let before = connection.outbox.bytes();
        connection.outbox.settle(mail, numbers);
        *outbox_bytes += (connection.outbox.bytes() - before) as u64;
        numbers.clear();
    }

    /// Makes backlog at once of what a connection was sent in this turn so far.
    pub(super) fn settle_now(&mut self, now: Now, conn: ConnId) {
        self.offer = Offer::Listed;
        self.list_fresh(conn);
        self.settle(now, conn);
    }

    /// A socket took `count` bytes of what [`Engine::output`] gave; `is_full` says that it takes
    /// no more now. True if there is more to write at once: frames of this turn are charged to it and may
    /// all be written. The rest of a backlog waits until all other connections are written to.
    pub fn wrote(&mut self, now: Now, conn: ConnId, count: usize, is_full: bool) -> bool {
        self.tally.add(Counter::BytesSent, count as u64);
        let (left, each) = match self.phase {
            Phase::Dirty => (&mut self.dirty_left, work::WRITE),
            Phase::Late => (&mut self.late_left, 0),
            Phase::CatchingUp => (&mut self.catch_up_left, 0),
        };
        *left = left.saturating_sub(each + work::bytes(count));
        let Some(Some(connection)) = self.connections.get_mut(conn.slot as usize) else {
            return false;
        };
        if connection.id != conn {
            return false;
        }
        if count == self.scratch.len()
            && matches!(self.offer, Offer::Batch(_))
            && connection.keeps_up()
        {
            connection.outbox.clear();
            return false;
        }
        self.note_written(now, conn, count, is_full)
    }

    /// Counts what was written to a connection whose mail was not all taken at once, or who has
    /// been behind.
    fn note_written(&mut self, now: Now, conn: ConnId, count: usize, is_full: bool) -> bool {
        let bytes_max = self.outbox_bytes_max();
        let Engine { connections, mail, numbers, outbox_bytes, offer, .. } = self;
        let Some(connection) = connections[conn.slot as usize].as_deref_mut() else { return false };
        if let Offer::Batch(_) = offer {
            connection.outbox.list(mail, conn, numbers);
        }
        let before = connection.outbox.bytes();
        if before == 0 {
            self.keeps_pace = Some(conn);
        }
        connection.outbox.advance(mail, numbers, count);
        *outbox_bytes = *outbox_bytes + connection.outbox.bytes() as u64 - before as u64;
        // What was listed is written, or backlog.
        numbers.clear();
        connection.is_blocked = is_full;
        let has_more = !is_full && !connection.outbox.is_empty();
        let is_later = has_more && self.keeps_pace != Some(conn);
        if is_later {
            self.catch_up(conn);
        }
        if is_full || is_later {
            self.settle(now, conn);
        }
        self.note_pace(now, conn, count, bytes_max);
        self.resume_if_read(conn);
        self.finish_close_if_written(conn);
        self.end_if_answered(now, conn);
        let has_gaps = self.connection(conn).is_some_and(|known| known.outbox.has_gaps());
        if has_gaps {
            self.tell_gaps(now, conn);
        }
        has_more && !is_later
    }

    /// A client that will send no more and has got all it was owed is gone.
    fn end_if_answered(&mut self, now: Now, conn: ConnId) {
        if let Some(connection) = self.connection(conn)
            && connection.paused == Some(PausedBy::Ended)
            && connection.outbox.is_empty()
            && !self.edge.owes_answer(conn)
        {
            self.begin_close(now, conn, CloseReason::Lost, None);
        }
    }

    /// Notes how well a client keeps up that has just taken some bytes.
    fn note_pace(&mut self, now: Now, conn: ConnId, count: usize, bytes_max: usize) {
        let Some(connection) = self.connection_mut(conn) else { return };
        if connection.outbox.is_behind() {
            return;
        }
        if count > 0 && connection.behind_since.is_some() {
            // It reads, if slowly.
            connection.behind_since = Some(now.moment());
        }
        if connection.outbox.bytes() <= bytes_max / 4 {
            // It keeps up again, whether or not it was paused for not doing so.
            connection.behind_since = None;
        }
    }

    /// There was nothing to write: if the connection waited only for that, it ends.
    pub fn wrote_nothing(&mut self, conn: ConnId) {
        self.finish_close_if_written(conn);
    }

    /// The socket takes bytes again.
    pub fn writable(&mut self, conn: ConnId) {
        if let Some(connection) = self.connection_mut(conn) {
            // What expired while it was blocked leaves a notice, and a pong may wait, too.
            let was_blocked = std::mem::replace(&mut connection.is_blocked, false);
            if connection.outbox.bytes() > 0 {
                self.catch_up(conn);
            } else if was_blocked || !connection.outbox.is_empty() {
                self.mark_dirty(conn);
            }
        }
    }

    /// Queues a connection with a backlog, to be written to after all others.
    pub(super) fn catch_up(&mut self, conn: ConnId) {
        if let Some(connection) = self.connection_mut(conn)
            && !mem::replace(&mut connection.outbox.is_catching_up, true)
        {
            self.catching_up.push_back(conn);
        }
    }

    /// Whether a connection has bytes that wait for its socket.
    pub fn is_blocked(&self, conn: ConnId) -> bool {
        self.connection(conn).is_some_and(|connection| connection.is_blocked)
    }

    /// Ends a turn, after the sockets were written to.
    pub fn end_turn(&mut self, now: Now) {
        assert!(self.dirty.is_empty(), "what is fresh is written or settled before its mail goes");
        let is_all = self.late.is_empty();
        let Engine { mail, tally, .. } = self;
        mail.count_written(is_all, |letter| {
            // What is replayed was delivered long ago.
            if letter.is_message && letter.frame.sequence > 0 && letter.receivers > 0 {
                let ns = now.mono_ns.saturating_sub(letter.frame.received_ns);
                tally.delivery(ns, u64::from(letter.receivers));
            }
        });
        self.gap_notices_left = GAP_NOTICES_PER_TURN;
        for conn in mem::take(&mut self.gapped) {
            self.mark_dirty(conn);
        }
        self.told.work.begin_turn();
        self.offer = Offer::Listed;
        let work = &self.told.work;
        (self.dirty_left, self.late_left, self.catch_up_left) =
            (work.dirty_units(), work.late_units(), work.catch_up_units());
        self.keeps_pace = None;
        if is_all {
            self.mail.clear();
            (self.is_pressed, self.late_units) = (false, 0);
            self.report_traces(now);
            self.unread.extend(self.fanning.drain(..));
        } else {
            // Some members have had their batches; what comes goes into others.
            self.mail.end_batches();
        }
        if self.scratch.capacity() > SCRATCH_BYTES {
            self.scratch = Vec::new();
        }
        self.own_tells_first = !self.own_tells_first;
    }

    /// Does what the edge wants done.
    pub(super) fn deliver(&mut self, now: Now) {
        if self.deliveries.is_empty() {
            return;
        }
        let (mut list, mut next) = (mem::take(&mut self.deliveries.list), 0);
        for delivery in list.drain(..) {
            match delivery {
                Delivery::Fanout { frame, channel, sender, trace } => {
                    let receivers = self.fan_out(frame, channel, sender);
                    self.traced.extend(trace.map(|reply_to| (reply_to, u64::from(receivers))));
                }
                Delivery::Together { frames, receivers } => {
                    self.send_together(frames, next..next + receivers);
                    next += receivers;
                }
                Delivery::Message(conn, frame) => self.send_message(conn, frame),
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
        self.told.work.charge(mem::take(&mut self.deliveries.units));
        // Nothing above delivers in turn, so the emptied list can be used again.
        self.deliveries.list = list;
        self.deliveries.receivers.clear();
        if !self.deliveries.telemetry.is_empty() {
            let events = self.deliveries.telemetry.drain(..);
            self.telemetry.extend(events.map(|event| Telemetry { at_us: now.wall_us, event }));
        }
        for fault in self.deliveries.faults.drain(..) {
            self.tally.fault(fault);
        }
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
        self.put(conn, Letter::new(frame, false))
    }

    /// Puts a frame into an outbox that may be dropped if its receiver does not keep up.
    fn send_message(&mut self, conn: ConnId, frame: Arc<Frame>) {
        if self.put(conn, Letter::new(frame, true)).is_none() {
            let is_early = self.connection(conn).is_some_and(|known| !known.is_closing());
            let reason = if is_early { DropReason::NotOpen } else { DropReason::Closed };
            self.tally.dropped(reason, 1);
        }
    }

    /// Queues a letter, if the handshake is answered and the connection is not closing: whatever is
    /// routed to a connection, its peer is sent nothing before the answer to its handshake.
    fn put(&mut self, conn: ConnId, letter: Letter) -> Option<usize> {
        let Engine { connections, mail, told, .. } = self;
        let connection = open(connections, conn)?;
        let bytes = letter.frame.wire().len();
        let write = if connection.is_dirty { 0 } else { work::WRITE };
        told.work.charge(work::LETTER + write + work::bytes(bytes));
        let number = mail.add(letter);
        connection.outbox.put(mail, number);
        let waiting = connection.outbox.waiting_bytes();
        self.tally.add(Counter::MessagesSent, 1);
        self.mark_dirty(conn);
        self.note_pressure();
        Some(waiting)
    }

    /// The letters of one turn, however many there are for one connection, fit into its outbox:
    /// no message is dropped that its socket was not offered.
    pub(super) fn note_pressure(&mut self) {
        let next_bytes = self.limits.max_message_bytes as usize + FRAME_SPARE_BYTES;
        self.is_pressed |= self.mail.bytes() + next_bytes > self.outbox_bytes_max()
            || self.late_units > 2 * LATE_UNITS_MAX;
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

    /// A client fell behind: it has a while to catch up.
    fn note_slow(&mut self, now: Now, conn: ConnId) {
        let Some(connection) = self.connection_mut(conn) else { return };
        connection.behind_since = Some(now.moment());
        let waiting_bytes = connection.outbox.bytes() as u64;
        self.arm(conn);
        if let Some(session) = self.edge.session(conn) {
            let client_id = session.card.client_id.clone();
            let event = Event::SlowConsumer { client_id, waiting_bytes };
            self.telemetry.push(Telemetry { at_us: now.wall_us, event });
        }
    }

    /// Drops what has expired in an outbox, and gives notice.
    fn prune(&mut self, now: Now, conn: ConnId) {
        let Engine { connections, outbox_bytes, .. } = self;
        let Some(connection) = connections[conn.slot as usize].as_deref_mut() else { return };
        let before = connection.outbox.bytes();
        let dropped = connection.outbox.prune(now.mono_ms());
        *outbox_bytes -= (before - connection.outbox.bytes()) as u64;
        let has_gaps = connection.outbox.has_gaps();
        self.tally.dropped(DropReason::Expired, dropped);
        if has_gaps {
            self.tell_gaps(now, conn);
        }
        if dropped > 0 {
            self.resume_if_read(conn);
        }
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
        let (bytes_max, count_max) = (self.outbox_bytes_max(), self.gap_notices_left);
        let Some(connection) = self.connection_mut(conn) else { return };
        if connection.is_closing() {
            return;
        }
        let was_behind = connection.outbox.is_behind();
        let gaps = connection.outbox.take_gaps(bytes_max, count_max);
        let has_more = connection.outbox.has_gaps() && !connection.outbox.is_behind();
        if was_behind && !connection.outbox.is_behind() {
            // A client that is paused for what it has not read still has to read it in time.
            let is_paused = connection.paused == Some(PausedBy::Outbox);
            connection.behind_since = is_paused.then_some(now.moment());
        }
        self.gap_notices_left -= gaps.len();
        if has_more && self.gap_notices_left == 0 {
            self.gapped.push(conn);
        }
        for gap in gaps {
            let Gap { channel, first, last, count, reason } = gap;
            let known = channel.and_then(|channel| self.edge.address_for(conn, channel));
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
        let accept = mem::take(accept).into_vec();
        connection.stage = Stage::Open(WebSocket::new());
        connection.is_held = true;
        // The answer goes first when the welcome comes, or at once if there is nothing to join.
        connection.last_heard_ms = now.mono_ms();
        connection.input.shrink_to_fit();
        let greeting = Letter::new(Frame::of_wire(accept, now.mono_ns), false);
        if self.put_before(now, conn, |outbox| outbox.put_first(greeting)) {
            self.arm(conn);
        }
    }

    /// Puts something before what a connection was sent so far. A connection to which bytes were written
    /// that should have come later is closed, and false is given: its peer can't read what follows.
    pub(super) fn put_before(
        &mut self,
        now: Now,
        conn: ConnId,
        put: impl FnOnce(&mut Outbox) -> bool,
    ) -> bool {
        self.settle_now(now, conn);
        // What is sent to its audiences later in this turn must find it anew.
        self.mail.end_batches();
        let Engine { connections, outbox_bytes, .. } = self;
        let Some(Some(connection)) = connections.get_mut(conn.slot as usize) else { return false };
        if connection.id != conn || connection.is_closing() {
            return false;
        }
        let before = connection.outbox.bytes();
        let is_put = put(&mut connection.outbox);
        *outbox_bytes += (connection.outbox.bytes() - before) as u64;
        if !is_put {
            self.begin_close(now, conn, CloseReason::Internal, None);
        }
        is_put
    }

    /// Everything flows, behind the answer to the handshake and the welcome.
    fn welcome(&mut self, now: Now, conn: ConnId, frame: Arc<Frame>) {
        if self.connection(conn).is_none_or(|connection| connection.is_closing()) {
            return;
        }
        if !self.put_before(now, conn, |outbox| outbox.put_second(Letter::new(frame, false))) {
            return;
        }
        if let Some(connection) = self.connection_mut(conn) {
            connection.is_held = false;
        }
        self.tally.add(Counter::MessagesSent, 1);
        self.mark_dirty(conn);
        if self.draining_until_ms.is_some() {
            // It came while everybody else was told to go.
            self.send_away(now, conn, now.mono_ms());
        }
    }
}

/// A connection whose handshake is answered and that is not closing.
pub(super) fn open(
    connections: &mut [Option<Box<Connection>>],
    conn: ConnId,
) -> Option<&mut Connection> {
    let connection = connections.get_mut(conn.slot as usize)?.as_deref_mut()?;
    (connection.id == conn && connection.is_open()).then_some(connection)
}
