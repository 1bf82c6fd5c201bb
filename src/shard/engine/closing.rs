//! Timers, and every way in which a connection ends.
//!
//! A connection that is told to go stays until its last bytes are written and the peer has said
//! goodbye, or until its time is up: closing a socket while the peer still sends would make the
//! kernel reset it, and the close frame with its reason would be lost.

use crate::base::ids::ConnId;
use crate::base::limits::{CLOSE_LINGER_MS, SLOW_LINGER_MS};
use crate::base::time::{Moment, Now};
use crate::base::work;
use crate::doors::{self, Farewell};
use crate::protocol::close::CloseReason;
use crate::protocol::frame::Frame;
use crate::shard::connection::{Closing, PausedBy, Stage};
use crate::shard::engine::Engine;
use crate::shard::mail::Letter;
use crate::shard::meters::{Counter, Drop as DropReason, Pause};
use std::mem;

impl Engine {
    /// Does what is due by now, and tells homes and directories who is gone.
    pub fn tick(&mut self, now: Now) {
        self.told.work.begin_part(work::Part::Timers);
        self.run_timers(now);
        self.home.expire(now, &mut self.told);
        self.tally.add(Counter::PresenceTold, mem::take(&mut self.told.presence_told));
        self.tally.add(Counter::PresenceDeferred, mem::take(&mut self.told.presence_deferred));
        self.stage_told(now);
        self.edge.tick(now, &mut self.deliveries);
        self.deliver(now);
        self.end_sessions(now);
    }

    /// Looks at the connections whose time has come, as far as the turn's work allows; the next turn does
    /// the rest.
    fn run_timers(&mut self, now: Now) {
        while let Some(entry) = self.timers.first_entry() {
            let due_ms = *entry.key();
            if due_ms > now.mono_ms() {
                return;
            }
            let mut conns = entry.remove();
            while let Some(conn) = conns.pop() {
                self.told.work.charge(work::MEMBER);
                if let Some(connection) = self.connection_mut(conn)
                    && connection.timer_ms == due_ms
                {
                    connection.timer_ms = u64::MAX;
                    self.look_after(now, conn);
                    self.arm(conn);
                }
                if self.told.work.is_spent() {
                    break;
                }
            }
            if !conns.is_empty() {
                self.tally.pause(Pause::TurnSpent);
                self.timers.entry(due_ms).or_default().append(&mut conns);
                return;
            }
        }
    }

    /// Ends the sessions of the connections that are closed, as far as the turn's work allows.
    fn end_sessions(&mut self, now: Now) {
        if self.leaving.is_empty() && self.retired.is_empty() {
            return;
        }
        while let Some((conn, reason)) = self.leaving.pop_front() {
            let joins = self.edge.session(conn).map_or(0, |session| session.memberships.len());
            self.told.work.charge(work::ASK + joins as u64 * work::MEMBER);
            self.edge.disconnect(conn, reason, &mut self.asks, &mut self.deliveries);
            if self.told.work.is_spent() && !self.leaving.is_empty() {
                self.tally.pause(Pause::TurnSpent);
                break;
            }
        }
        self.deliver(now);
        if self.leaving.is_empty() {
            // Only now that no session is left in them may the slots have new tenants.
            self.free.append(&mut self.retired);
        }
    }

    /// The connections whose sockets are to be closed for writing now: all is written.
    pub fn take_half_closed(&mut self) -> Vec<ConnId> {
        mem::take(&mut self.half_closed)
    }

    /// The connections whose sockets are to be closed now.
    pub fn take_closed(&mut self) -> Vec<ConnId> {
        mem::take(&mut self.closed)
    }

    /// Sends every client away, spread over the window, each told when to come back.
    pub(super) fn drain(&mut self, now: Now, window_ms: u64) {
        if self.draining_until_ms.is_some() {
            return;
        }
        // Who is about to shake hands still learns that it came too late; nobody waits for others.
        let deadline_ms = now.mono_ms() + CLOSE_LINGER_MS.min(window_ms);
        self.draining_until_ms = Some(deadline_ms);
        let clients: Vec<ConnId> = self.edge.clients().collect();
        let count = clients.len() as u64;
        for (place, conn) in clients.into_iter().enumerate() {
            let share_ms = window_ms * place as u64 / count.max(1);
            self.send_away(now, conn, now.mono_ms() + share_ms);
        }
        let mut arriving = Vec::new();
        for connection in self.connections.iter_mut().flatten() {
            if let Stage::Handshake { deadline_ms: known_ms } = &mut connection.stage {
                *known_ms = deadline_ms.min(*known_ms);
                arriving.push(connection.id);
            }
        }
        for conn in arriving {
            self.arm(conn);
        }
    }

    /// Tells a client that it will be closed at that time, and when to come back.
    pub(super) fn send_away(&mut self, now: Now, conn: ConnId, at_ms: u64) {
        // They come back over a time in which a node takes this many without noticing.
        let spread_ms = (2 * self.edge.client_count()).clamp(1_000, 60_000);
        let retry_after_ms = 250 + self.rng.u64(0..spread_ms);
        let notice = self.edge.closing_notice(now, retry_after_ms);
        self.send(now, conn, notice);
        if let Some(connection) = self.connection_mut(conn) {
            connection.drain_at = Some(Moment::at_ms(at_ms));
        }
        self.arm(conn);
    }

    fn look_after(&mut self, now: Now, conn: ConnId) {
        let now_ms = now.mono_ms();
        let (heartbeat_ms, grace_ms) =
            (u64::from(self.limits.heartbeat_ms), u64::from(self.limits.slow_grace_ms));
        let Some(connection) = self.connection_mut(conn) else { return };
        match connection.stage {
            Stage::Handshake { deadline_ms } | Stage::Claiming { deadline_ms, .. } => {
                if now_ms >= deadline_ms {
                    self.begin_close(now, conn, CloseReason::HandshakeTimeout, None);
                }
            }
            Stage::Closing(ref closing) => {
                if now_ms >= closing.deadline_ms {
                    self.forget(conn);
                }
            }
            Stage::Open(_) => {
                let is_over = |since: Option<Moment>, span_ms| {
                    since.is_some_and(|since| now_ms >= since.ms() + span_ms)
                };
                let awaits_turn = connection.outbox.is_catching_up && !connection.is_blocked;
                if connection.behind_since.is_some() && awaits_turn {
                    // Its socket takes bytes: it is this server that does not write.
                    connection.behind_since = Some(now.moment());
                }
                if is_over(connection.drain_at, 0) {
                    let has_ended = connection.paused == Some(PausedBy::Ended);
                    let reason = if has_ended { CloseReason::Lost } else { CloseReason::GoingAway };
                    self.begin_close(now, conn, reason, None);
                } else if is_over(connection.behind_since, grace_ms) {
                    self.begin_close(now, conn, CloseReason::TooSlow, None);
                } else if connection.paused.is_some() {
                    // It is this server that does not read, whatever for.
                    connection.last_heard_ms = now_ms;
                    connection.pinged = None;
                    // Limits may have grown while it waited: it has to read in time all the same,
                    // and is heard again if what waits is little by now.
                    if connection.paused == Some(PausedBy::Outbox) {
                        connection.behind_since.get_or_insert(now.moment());
                        self.resume_if_read(conn);
                    }
                } else if is_over(connection.pinged, heartbeat_ms) {
                    // It had a whole heartbeat for its answer, however late the ping was.
                    self.begin_close(now, conn, CloseReason::Silent, None);
                } else if connection.pinged.is_none()
                    && now_ms >= connection.last_heard_ms + heartbeat_ms
                {
                    connection.pinged = Some(now.moment());
                    self.send_raw(now, conn, doors::ping(b""));
                }
            }
        }
    }

    /// Ends the conversation: the session is over at once, the bytes that explain it follow.
    pub(super) fn begin_close(
        &mut self,
        now: Now,
        conn: ConnId,
        reason: CloseReason,
        words: Option<String>,
    ) {
        if self.connection(conn).is_none_or(|connection| connection.is_closing()) {
            return;
        }
        // Before it is told: who is sent away must not be back before that is recorded.
        self.edge.end_stay(conn, reason);
        // What joins its batches from now on is not for it.
        self.settle_now(now, conn);
        let Some(connection) = self.connection(conn) else { return };
        let was_open = connection.is_open();
        if matches!(reason, CloseReason::TooSlow | CloseReason::Lost) || connection.is_held {
            self.abandon_backlog(conn);
        }
        self.tally.close(reason);
        self.leaving.push_back((conn, reason));
        let says_goodbye = was_open && reason.code() != 1006 && reason != CloseReason::ByClient;
        if says_goodbye {
            let words = words.as_deref().unwrap_or(reason.reason());
            // However much waits: this is the close that too much would lead to.
            let goodbye = doors::close(reason.code(), words);
            self.enqueue(conn, Frame::of_wire(goodbye, now.mono_ns));
        }
        if self.unpause(conn) {
            // What it sent meanwhile is in the way of its goodbye.
            self.unread.push_back(conn);
        }
        let Some(connection) = self.connection_mut(conn) else { return };
        connection.is_held = false;
        connection.stalled = None;
        connection.control = None;
        let linger_ms = match reason {
            CloseReason::TooSlow => SLOW_LINGER_MS,
            _ => CLOSE_LINGER_MS,
        };
        let deadline_ms = now.mono_ms() + linger_ms;
        connection.stage = Stage::Closing(Box::new(Closing {
            farewell: was_open.then(Farewell::default),
            is_answered: !says_goodbye,
            is_half_closed: false,
            read_bytes: 0,
            deadline_ms,
        }));
        self.arm(conn);
        match reason {
            CloseReason::Lost | CloseReason::HandshakeTimeout => self.forget(conn),
            _ => self.mark_dirty(conn),
        }
    }

    /// Drops what waits for a client. The answer to its handshake stays and goes before any goodbye.
    pub(super) fn abandon_backlog(&mut self, conn: ConnId) {
        let Some(connection) = self.connection_mut(conn) else { return };
        let before = connection.outbox.bytes();
        let dropped = connection.outbox.abandon();
        let freed = before - connection.outbox.bytes();
        self.outbox_bytes -= freed as u64;
        self.tally.dropped(DropReason::Closed, dropped);
    }

    /// Refuses a handshake with an HTTP answer.
    pub(super) fn end_handshake(&mut self, now: Now, conn: ConnId, response: Vec<u8>) {
        let answer = Letter::new(Frame::of_wire(response, now.mono_ns), false);
        if self.put_before(now, conn, |outbox| outbox.put_first(answer)) {
            self.tally.add(Counter::MessagesSent, 1);
        }
        self.begin_close(now, conn, CloseReason::HandshakeRefused, None);
    }

    /// A connection that was told to go may end when its last byte is written and nothing more is
    /// awaited from the peer. Until then its socket is closed for writing, so that the peer sees the end
    /// of what it is sent and closes in turn (RFC 6455, section 7.1.1).
    pub(super) fn finish_close_if_written(&mut self, conn: ConnId) {
        let Engine { connections, half_closed, .. } = self;
        let Some(Some(connection)) = connections.get_mut(conn.slot as usize) else { return };
        if connection.id != conn || !connection.outbox.is_empty() {
            return;
        }
        let Stage::Closing(closing) = &mut connection.stage else { return };
        if closing.is_answered {
            self.forget(conn);
        } else if !mem::replace(&mut closing.is_half_closed, true) {
            half_closed.push(conn);
        }
    }

    /// Forgets a connection; its socket is to be closed.
    pub(super) fn forget(&mut self, conn: ConnId) {
        if self.connection(conn).is_none() {
            return;
        }
        self.unpause(conn);
        let Some(connection) = self.connections[conn.slot as usize].take() else { return };
        self.outbox_bytes -= connection.outbox.bytes() as u64;
        self.tally.dropped(DropReason::Closed, connection.outbox.len() as u64);
        self.generations[conn.slot as usize] += 1;
        self.retired.push(conn.slot);
        self.connection_count -= 1;
        self.closed.push(conn);
    }
}
