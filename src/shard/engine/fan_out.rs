//! From one event to all local members of its channel.
//!
//! A member costs little to note and much to write to. A channel with few members is written to at the
//! end of the turn, like everything else; one with many is written to *late*: after all other connections,
//! for half of the turn at most, and in the next turns where that is not enough. So a room in which much is
//! said to many does not hold up the others. What is said there meanwhile joins what waits, and a
//! member that is reached takes all of it with one write. Who says it is not read while too much waits.
//!
//! *Invariants*: letters of a connection go out in the order of their numbers, late or not; while somebody
//! is late the mail of these turns stays.

use crate::base::ids::{ChannelId, ConnId};
use crate::base::work;
use crate::protocol::frame::Frame;
use crate::shard::connection::Connection;
use crate::shard::engine::Engine;
use crate::shard::engine::output::open;
use crate::shard::mail::Letter;
use crate::shard::meters::{Counter, Drop as DropReason};
use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

/// How many connections that are written to late are taken at a time.
const LATE_TOGETHER: usize = 16;

impl Engine {
    /// Gives a frame to every local member of a channel; how many get it.
    pub(super) fn fan_out(
        &mut self,
        frame: Arc<Frame>,
        channel: ChannelId,
        sender: Option<ConnId>,
    ) -> u32 {
        let Engine { connections, edge, mail, dirty, late, tally, told, .. } = self;
        let Some(audience) = edge.audience(channel) else { return 0 };
        let is_late = audience.seats().len() > self.few_members_max;
        let publisher = sender.filter(|_| is_late);
        let mut list = if is_late { List::Late(late) } else { List::Dirty(dirty) };
        let sender = sender.filter(|&sender| audience.is_deaf_to_itself(sender));
        let is_event = frame.sequence > 0;
        let channel = is_event.then_some(channel);
        let number = mail.add(Letter { channel, sender, is_late, ..Letter::new(frame, true) });
        let batch = mail.open_batch(audience.mark()).unwrap_or_else(|| {
            let batch = mail.begin_batch(sender);
            audience.set_mark(mail.mark(batch));
            let mut members = 0;
            for seat in audience.seats() {
                match open(connections, seat.conn) {
                    Some(connection) => {
                        members += 1;
                        if Some(seat.conn) != sender {
                            put_batch(connection, batch, &mut list);
                        }
                    }
                    None => tally.dropped(DropReason::Closed, 1),
                }
            }
            mail.set_members(batch, members);
            let each = if is_late { work::LETTER } else { work::LETTER + work::WRITE };
            told.work.charge(u64::from(members) * each);
            batch
        });
        let was_absent = mail.join_batch(batch, number);
        if let Some(connection) = was_absent.and_then(|conn| open(connections, conn)) {
            put_batch(connection, batch, &mut list);
            connection.outbox.note_own();
        }
        let present = sender.filter(|_| mail.batch(batch).absent() != sender);
        if let Some(connection) = present.and_then(|conn| open(connections, conn)) {
            connection.outbox.note_own();
        }
        let letter = mail.letter(number);
        let receivers = letter.receivers;
        let units = u64::from(receivers) * work::bytes(letter.frame.wire().len());
        match is_late {
            // It is charged when it is written.
            true => self.late_units += units,
            false => told.work.charge(units),
        }
        if let Some(connection) = publisher.and_then(|conn| open(connections, conn)) {
            connection.fan_out_units = units.try_into().unwrap_or(u32::MAX);
        }
        tally.add(Counter::MessagesSent, u64::from(receivers));
        tally.add(Counter::Deliveries, u64::from(receivers) * u64::from(is_event));
        self.note_pressure();
        receivers
    }

    /// Takes some of those that are written to after all others, within the work of a turn.
    pub(super) fn take_late(&mut self, dirty: &mut Vec<ConnId>) {
        let Engine { connections, late, late_left, .. } = self;
        while dirty.len() < LATE_TOGETHER
            && *late_left > 0
            && let Some(conn) = late.pop_front()
        {
            let Some(connection) = open(connections, conn) else { continue };
            connection.is_late = false;
            if connection.outbox.has_fresh() {
                connection.is_dirty = true;
                *late_left = late_left.saturating_sub(work::WRITE);
                dirty.push(conn);
            }
        }
        self.is_late_phase = !dirty.is_empty();
    }
}

/// Where connections wait to be written to.
enum List<'a> {
    /// With all others.
    Dirty(&'a mut Vec<ConnId>),
    /// After all others.
    Late(&'a mut VecDeque<ConnId>),
}

fn put_batch(connection: &mut Connection, batch: u32, list: &mut List<'_>) {
    connection.outbox.put_batch(batch);
    match list {
        List::Dirty(dirty) => {
            if !mem::replace(&mut connection.is_dirty, true) {
                dirty.push(connection.id);
            }
        }
        List::Late(late) => {
            if !connection.is_dirty && !mem::replace(&mut connection.is_late, true) {
                late.push_back(connection.id);
            }
        }
    }
}
