//! Frames in: every message is recognised, checked against what its member should get next, and
//! timed. All frames of one read came by the time it returned, so they share one look at the clock.

use super::chores::{CHORE_ID, CHORE_KEY};
use super::conn::Stage;
use super::storming::RECOVERY_ID;
use super::{Core, Mark};
use crate::cli::bench::frames::{self, Kind, Next};
use crate::cli::bench::plan::{Act, Load};
use crate::cli::bench::shape::Seen;
use crate::cli::bench::shared::Trouble;
use crate::cli::bench::site::Dialect;
use crate::cli::bench::stamp::Stamp;
use crate::cli::bench::stencil::push_masked_header;
use crate::cli::words::{Heard, Reply};
use crate::protocol::envelope::MessageType;
use std::io::{ErrorKind, Read};

/// Reads of one socket before others have their turn.
const READS_PER_VISIT: usize = 4;
/// The messages of each connection that are compared byte for byte, and then one in so many.
const INSPECTED_FIRST: u32 = 8;
const INSPECTED_EVERY: u32 = 1_024;

impl Core<'_> {
    /// Reads a socket until it is drained, or until others must have their turn.
    pub(super) fn read_socket(&mut self, local: usize) {
        if self.stalling.is_now && self.is_slow(local) {
            return;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        for _ in 0..READS_PER_VISIT {
            let conn = &mut self.conns[local];
            let Some(socket) = &mut conn.socket else {
                break;
            };
            let kept = conn.partial.len();
            if kept * 2 > scratch.len() {
                scratch.resize(kept * 2, 0);
            }
            scratch[..kept].copy_from_slice(&conn.partial);
            match socket.read(&mut scratch[kept..]) {
                Ok(0) => {
                    self.died(local, "the server closed it without a word");
                    break;
                }
                Ok(count) => {
                    conn.partial.clear();
                    let end = kept + count;
                    self.on_bytes(local, &scratch[..end]);
                    if end < scratch.len() {
                        self.scratch = scratch;
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.scratch = scratch;
                    return;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.died(local, &error.to_string());
                    break;
                }
            }
        }
        self.scratch = scratch;
        if self.conns[local].socket.is_some() {
            self.unread.push(local as u32);
        }
    }

    fn on_bytes(&mut self, local: usize, bytes: &[u8]) {
        let now_ns = self.shared.clock.now_ns();
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.conns[local].stage == Stage::Upgrading {
                match self.on_head(local, rest) {
                    0 => break,
                    taken => rest = &rest[taken..],
                }
                continue;
            }
            match frames::next(rest) {
                Next::Partial => break,
                Next::Wrong(what) => return self.died(local, &format!("it sent {what}")),
                Next::Frame(frame) => {
                    rest = &rest[frame.length..];
                    match frame.kind {
                        Kind::Text => self.on_text(local, frame.payload, now_ns),
                        Kind::Close => return self.on_close(local, frame.payload),
                        Kind::Ping => self.on_ping(local, frame.payload),
                        Kind::Pong => {}
                    }
                }
            }
            if self.conns[local].stage == Stage::Closed {
                return;
            }
        }
        if !rest.is_empty() {
            self.conns[local].partial.extend_from_slice(rest);
        }
    }

    #[inline]
    fn on_text(&mut self, local: usize, text: &[u8], now_ns: u64) {
        match self.shared.shape.glance(text) {
            Seen::Message { stamp, sequence, is_replayed } => {
                let place = (sequence, is_replayed);
                self.on_message(local, text, &stamp, place, now_ns);
            }
            Seen::Wrong(why) => self.on_wrong(text, &why),
            Seen::Other => self.on_other(local, text),
        }
    }

    #[inline]
    fn on_message(
        &mut self,
        local: usize,
        text: &[u8],
        stamp: &Stamp,
        (sequence, is_replayed): (u64, bool),
        now_ns: u64,
    ) {
        let Some((seat, cursor)) = self.cursor(local, stamp.stream) else {
            return self.on_wrong(text, "it was not meant for this member");
        };
        let conn = &mut self.conns[local];
        conn.seen = conn.seen.wrapping_add(1);
        if conn.seen <= INSPECTED_FIRST || conn.seen.is_multiple_of(INSPECTED_EVERY) {
            let shape = &self.shared.shape;
            if let Err(why) = shape.inspect(&self.shared.layout, text, stamp) {
                return self.on_wrong(text, &why);
            }
        }
        if self.shared.act == Act::Stall && self.is_slow(local) {
            return self.on_slow_message(seat, sequence);
        }
        // A relay gives no sequence.
        if self.shared.site.dialect == Dialect::Bus {
            let last = &mut self.seat_sequence[seat];
            if sequence <= *last {
                self.ledger.checks.reordered += 1;
            }
            *last = sequence;
        }
        if self.shared.act == Act::Storm {
            self.on_storm_message(seat, is_replayed);
        }
        if !self.ledger.on_message(cursor, stamp.number) {
            return;
        }
        self.received += 1;
        self.record(stamp.at_ns, now_ns, is_replayed);
        if let Load::Closed { .. } = self.shared.load {
            self.on_token(stamp);
        }
    }

    #[inline]
    fn record(&mut self, at_ns: u64, now_ns: u64, is_replayed: bool) {
        let Some(timeline) = &self.timeline else {
            return;
        };
        if timeline.measures(now_ns) {
            self.piece.deliveries += 1;
        }
        // What a member fetches later came late by its own absence.
        if timeline.measures(at_ns) && !is_replayed {
            self.piece.latencies.saturating_record(now_ns.saturating_sub(at_ns));
        }
    }

    /// The seat and the cursor of a stream at a member, if it is in the stream's group.
    #[inline]
    fn cursor(&self, local: usize, stream: u32) -> Option<(usize, usize)> {
        let source = self.shared.layout.streams.get(stream as usize)?;
        let conn = self.global(local);
        let seat = self.shared.layout.seat_of(conn, source.group)?;
        if source.conn == conn {
            return None;
        }
        let seat = self.seat_base[local] as usize + seat;
        Some((seat, (self.seat_cursor[seat] + source.rank) as usize))
    }

    /// A member here has got the message that holds a token.
    fn on_token(&mut self, stamp: &Stamp) {
        let source = self.shared.layout.streams[stamp.stream as usize];
        let message = u64::from(stamp.stream) << 32 | u64::from(stamp.number);
        let Some(mark) = self.marks.get_mut(stamp.token as usize) else {
            return;
        };
        if mark.message != message {
            let (threads, number) = (self.shared.threads, self.number);
            let members = self.shared.parts[source.group as usize * threads + number];
            let is_sender_here = source.conn as usize % threads == number;
            *mark = Mark { message, left: members - u32::from(is_sender_here) };
        }
        mark.left -= 1;
        if mark.left == 0 {
            self.on_part_done(stamp.token);
        }
    }

    #[cold]
    fn on_wrong(&mut self, text: &[u8], why: &str) {
        self.ledger.checks.wrong += 1;
        if self.first_wrong.is_none() {
            let text = String::from_utf8_lossy(&text[..text.len().min(400)]);
            self.first_wrong = Some(format!("{why}: {text}"));
        }
    }

    /// A text that is no message of the scenario.
    #[cold]
    fn on_other(&mut self, local: usize, text: &[u8]) {
        if self.conns[local].stage == Stage::Entering {
            return self.on_welcome(local, text);
        }
        let Some(heard) = std::str::from_utf8(text).ok().and_then(Heard::read) else {
            return self.on_wrong(text, "it is no envelope");
        };
        match heard.kind() {
            Some(MessageType::System) => {
                if heard.payload.get().contains(r#""event":"gap""#) {
                    self.on_gap(local, &heard);
                }
            }
            Some(MessageType::CommandResponse) => self.on_reply(&heard),
            Some(MessageType::Event | MessageType::Private)
                if heard.payload.get().contains(CHORE_KEY) =>
            {
                self.on_chore_message();
            }
            _ => self.on_wrong(text, "it is no message of this round"),
        }
    }

    fn on_reply(&mut self, heard: &Heard<'_>) {
        let Some(reply) = Reply::read(heard) else {
            return;
        };
        let id = reply.request_id.as_deref().unwrap_or_default();
        if let Some(serial) = id.strip_prefix(CHORE_ID) {
            self.on_chore_reply(serial, &reply);
        } else if let Some(seat) = id.strip_prefix(RECOVERY_ID) {
            self.on_recovery(seat, &reply);
        } else if let Err(refused) = reply.outcome() {
            let why = format!("the bus refuses messages: {refused}");
            self.shared.raise(Trouble::Refused(why));
        }
    }

    fn on_ping(&mut self, local: usize, payload: &[u8]) {
        let mut pong = Vec::with_capacity(payload.len() + 14);
        push_masked_header(&mut pong, 0x8a, payload.len(), 0);
        pong.extend_from_slice(payload);
        self.write(local, &pong);
    }

    fn on_close(&mut self, local: usize, payload: &[u8]) {
        if self.is_slow(local) {
            return self.on_slow_end(local, Ok(payload));
        }
        let (code, reason) = frames::close_words(payload);
        self.died(local, &format!("the server closed it with {code} {reason:?}"));
    }
}
