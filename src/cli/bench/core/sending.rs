//! Frames out: what is due is gathered for each connection, and written at once.
//!
//! *Invariant*: a connection whose socket has not taken everything gets nothing more; its messages
//! wait with the time at which they were due.

use super::Core;
use super::conn::Stage;
use crate::cli::bench::shared::Trouble;
use crate::cli::bench::stamp::{FIELD_END, Stamp};
use rustix::event::epoll;
use std::io::{ErrorKind, Write};
use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release};

/// When a message is due that is to be sent as soon as it can be.
const AT_ONCE: u64 = u64::MAX;
/// The longest batch that is gathered for one connection in a turn.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// A message to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    conn: u32,
    stream: u32,
    token: u32,
    at_ns: u64,
}

impl Core<'_> {
    /// A message of the closed model is to be sent.
    pub(super) fn push_due(&mut self, stream: u32, token: u32) {
        let conn = self.local_publisher(stream);
        self.due.push(Due { conn, stream, token, at_ns: AT_ONCE });
    }

    /// Which of this core's connections publishes a stream.
    fn local_publisher(&self, stream: u32) -> u32 {
        self.shared.layout.streams[stream as usize].conn / self.shared.threads as u32
    }

    /// Takes from the schedule what is due by now, up to the end of measuring.
    pub(super) fn take_due(&mut self) {
        let Some(timeline) = self.timeline else {
            return;
        };
        let Some(mut pace) = self.pace.take() else {
            return;
        };
        let until_ns = self.shared.clock.now_ns().min(timeline.to_ns - 1);
        while let Some((stream, at_ns)) = pace.take(until_ns) {
            let conn = self.local_publisher(stream);
            self.due.push(Due { conn, stream, token: 0, at_ns });
        }
        if pace.next_ns().is_some_and(|next_ns| next_ns < timeline.to_ns) {
            self.pace = Some(pace);
        }
    }

    /// All members on this core have a token's message.
    pub(super) fn on_part_done(&mut self, token: u32) {
        let shared = self.shared;
        let is_done = shared.threads == 1
            || shared.tokens[token as usize].parts_left.fetch_sub(1, AcqRel) == 1;
        if !is_done {
            return;
        }
        let track = &shared.tracks[token as usize];
        let step = (shared.tokens[token as usize].step.load(Relaxed) + 1) % track.len() as u32;
        shared.tokens[token as usize].step.store(step, Release);
        let owner = self.owner(track[step as usize]);
        if owner == self.number {
            self.go_on(token);
        } else if shared.mailboxes[owner].tokens.0.send(token).is_ok() {
            shared.ring(owner);
        }
    }

    /// Sends a token's next message, unless measuring has ended.
    pub(super) fn go_on(&mut self, token: u32) {
        let is_time = self.timeline.is_some_and(|time| self.shared.clock.now_ns() < time.to_ns);
        if is_time {
            let step = self.shared.tokens[token as usize].step.load(Relaxed);
            self.push_due(self.shared.tracks[token as usize][step as usize], token);
        }
    }

    /// Writes everything that is due, connection by connection.
    pub(super) fn send_due(&mut self) {
        if self.due.is_empty() {
            return;
        }
        let mut due = std::mem::take(&mut self.due);
        // Stable: the messages of a stream stay in order.
        due.sort_by_key(|message| message.conn);
        let now_ns = self.shared.clock.now_ns();
        for messages in due.chunk_by(|one, next| one.conn == next.conn) {
            self.send_to(messages[0].conn as usize, messages, now_ns);
        }
        due.clear();
        // What could be written again meanwhile has put its held messages there.
        due.append(&mut self.due);
        self.due = due;
    }

    fn send_to(&mut self, local: usize, messages: &[Due], now_ns: u64) {
        let conn = &mut self.conns[local];
        if conn.stage == Stage::Closed {
            return;
        }
        if !conn.is_open() {
            self.held += messages.len() as u64;
            conn.held.extend_from_slice(messages);
            return;
        }
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let mut taken = 0;
        for message in messages {
            if out.len() > BATCH_BYTES_MAX {
                break;
            }
            self.push_frame(&mut out, message, now_ns);
            taken += 1;
        }
        self.write(local, &out);
        self.out = out;
        let rest = &messages[taken..];
        if !rest.is_empty() {
            match self.conns[local].is_open() {
                true => self.due.extend_from_slice(rest),
                false => {
                    self.held += rest.len() as u64;
                    self.conns[local].held.extend_from_slice(rest);
                }
            }
        }
    }

    fn push_frame(&mut self, out: &mut Vec<u8>, message: &Due, now_ns: u64) {
        let Due { stream, token, .. } = *message;
        let at_ns = match message.at_ns {
            AT_ONCE => now_ns,
            at_ns => at_ns,
        };
        // While warming up, a message may be late because everything is done for the first time.
        if self.timeline.is_some_and(|timeline| timeline.measures(at_ns)) {
            self.lateness.saturating_record(now_ns.saturating_sub(at_ns));
        }
        let number = self.numbers[stream as usize];
        if number + 1 == FIELD_END {
            let why = format!("a publisher has sent {number} messages, as many as are numbered");
            return self.shared.raise(Trouble::Refused(why));
        }
        self.numbers[stream as usize] = number + 1;
        if self.shared.threads > 1 && !self.shared.tokens.is_empty() {
            let parts = self.parts_of(stream);
            self.shared.tokens[token as usize].parts_left.store(parts, Release);
        }
        if let Some(stencil) = &self.stencils[stream as usize] {
            stencil.push(out, &Stamp { stream, number, token, at_ns });
        }
        self.sent += 1;
        self.expected += u64::from(self.shared.layout.receivers(stream));
    }

    /// How many cores hold members that get a stream.
    fn parts_of(&self, stream: u32) -> u32 {
        let source = self.shared.layout.streams[stream as usize];
        let threads = self.shared.threads;
        let counts = &self.shared.parts[source.group as usize * threads..][..threads];
        let sender = source.conn as usize % threads;
        let has_receiver = |(core, &count): (usize, &u32)| count > u32::from(core == sender);
        counts.iter().enumerate().filter(|&part| has_receiver(part)).count() as u32
    }

    /// Writes bytes; what the socket does not take waits.
    pub(super) fn write(&mut self, local: usize, bytes: &[u8]) {
        let conn = &mut self.conns[local];
        let Some(socket) = &mut conn.socket else {
            return;
        };
        let mut written = 0;
        if conn.backlog.is_empty() {
            match socket.write(bytes) {
                Ok(count) => written = count,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => {
                    // If the server said why it closes, that is still there to be read.
                    self.read_socket(local);
                    return self.died(local, &error.to_string());
                }
            }
        }
        if written < bytes.len() {
            conn.backlog.extend_from_slice(&bytes[written..]);
            self.watch_out(local);
        }
    }

    fn watch_out(&mut self, local: usize) {
        let conn = &mut self.conns[local];
        if let Some(socket) = conn.socket.as_ref().filter(|_| !conn.is_out_watched) {
            let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
            let data = epoll::EventData::new_u64(local as u64);
            conn.is_out_watched = epoll::modify(&self.epoll, socket, data, flags).is_ok();
        }
    }

    /// The socket takes more, or is connected.
    pub(super) fn on_writable(&mut self, local: usize) {
        if self.conns[local].stage == Stage::Connecting {
            return self.on_connected(local);
        }
        if self.conns[local].backlog.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut self.conns[local].backlog);
        self.write(local, &waiting);
        if self.conns[local].is_open() {
            let held = std::mem::take(&mut self.conns[local].held);
            self.held -= held.len() as u64;
            self.due.extend(held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::shared::Shared;
    use crate::cli::bench::timeline::Timeline;

    #[test]
    fn only_what_was_due_while_measured_can_be_late() {
        let shared = Shared::of_words("fanout --members 3 --publishers 1 --rate 100");
        let mut core = Core::new(&shared, 0).unwrap();
        core.timeline = Some(Timeline::new(1_000, 1_000, 1_000));
        for (at_ns, now_ns, count) in
            [(1_000, 90_000, 0), (1_999, 2_500, 0), (2_000, 2_500, 1), (2_999, 90_000, 2)]
        {
            let message = Due { conn: 0, stream: 0, token: 0, at_ns };
            core.push_frame(&mut Vec::new(), &message, now_ns);
            assert_eq!(core.lateness.len(), count, "due at {at_ns}");
        }
        assert_eq!(core.sent, 4);
    }
}
