//! From one event to all local members of its channel.
//!
//! A member costs little to note and much to write to. A message that costs little to write to all its
//! members is written at the end of the turn, like everything else; one that costs more is written *late*:
//! after all other connections, for half of the turn at most, and in the next turns where that is not
//! enough. So a room in which much is said to many does not hold up the others. What is said there
//! meanwhile joins what waits, and a member that is reached takes all of it with one write. Who says it is
//! not read while too much waits. Where all that is not late costs more than a turn, the rest of it is
//! late, too.
//!
//! *Invariants*: letters of a connection go out in the order of their numbers, late or not; while somebody
//! is late the mail of these turns stays.

use crate::base::ids::{ChannelId, ConnId};
use crate::base::time::Now;
use crate::base::work::{self, Work};
use crate::broker::audience::Audience;
use crate::protocol::frame::Frame;
use crate::shard::connection::Connection;
use crate::shard::engine::output::open;
use crate::shard::engine::{Engine, Offer, Phase};
use crate::shard::mail::{Letter, Mail};
use crate::shard::meters::{Counter, Drop as DropReason, Tally};
use std::collections::VecDeque;
use std::mem;
use std::ops::Range;
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
        if let Some(room) = audience.room() {
            return self.fan_out_in_room(frame, channel, room, sender);
        }
        let is_late = write_units(audience.seats().len(), &frame) > self.fan_out_units_max;
        let publisher = sender.filter(|_| is_late);
        let sender = sender.filter(|&sender| audience.is_deaf_to_itself(sender));
        let (event, to) = ((frame, channel, sender), (connections, mail, tally, &mut told.work));
        let (receivers, units) = match is_late {
            true => give(event, audience, Late(late), to),
            false => give(event, audience, Dirty(dirty), to),
        };
        self.note_fan_out(publisher, units, is_late);
        receivers
    }

    /// The same for a channel whose members are, beside its own, the followers of its room.
    #[cold]
    fn fan_out_in_room(
        &mut self,
        frame: Arc<Frame>,
        channel: ChannelId,
        room: ChannelId,
        sender: Option<ConnId>,
    ) -> u32 {
        let units_max = self.fan_out_units_max;
        let publisher = sender;
        let (own, follower) = match sender.map(|sender| self.edge.sender_in(channel, room, sender))
        {
            Some((true, false)) => (sender, None),
            Some((true, true)) => (None, sender),
            _ => (None, None),
        };
        let mut receivers = 0;
        for (audience, sender) in [(None, own), (Some(room), follower)] {
            let Engine { connections, edge, mail, dirty, late, tally, told, .. } = self;
            let audience = match audience {
                None => edge.audience(channel).filter(|members| members.has_own_receivers()),
                Some(room) => edge.followers(room),
            };
            let Some(audience) = audience else { continue };
            let is_late = write_units(audience.seats().len(), &frame) > units_max;
            let event = (frame.clone(), channel, sender);
            let to = (connections, mail, tally, &mut told.work);
            let (count, units) = match is_late {
                true => give(event, audience, Late(late), to),
                false => give(event, audience, Dirty(dirty), to),
            };
            receivers += count;
            self.note_fan_out(publisher.filter(|_| is_late), units, is_late);
        }
        receivers
    }

    /// What the bytes of a frame cost is charged now, or when they are written.
    fn note_fan_out(&mut self, publisher: Option<ConnId>, units: u64, is_late: bool) {
        match is_late {
            true => self.late_units += units,
            false => self.told.work.charge(units),
        }
        if let Some(connection) = publisher.and_then(|conn| open(&mut self.connections, conn)) {
            connection.fans_out_late = true;
        }
        self.note_pressure();
    }

    /// Gives frames to some connections at once, which get all of them but those about themselves.
    pub(super) fn send_together(
        &mut self,
        frames: Vec<(Arc<Frame>, Option<ConnId>)>,
        receivers: Range<usize>,
    ) {
        let each: u64 = frames.iter().map(|(frame, _)| work::bytes(frame.wire().len())).sum();
        let is_late = receivers.len() as u64 * (work::WRITE + each) > self.fan_out_units_max;
        let Engine { connections, deliveries, mail, dirty, late, tally, told, .. } = self;
        let subjects: Vec<ConnId> = frames.iter().filter_map(|(_, about)| *about).collect();
        let (batch, mut members, mut named) = (mail.begin_batch(None), 0, Vec::new());
        for &conn in &deliveries.receivers[receivers] {
            let own = subjects.iter().filter(|about| **about == conn).count();
            if own == frames.len() {
                continue;
            }
            match open(connections, conn) {
                Some(connection) => {
                    members += 1;
                    connection.outbox.put_batch(batch);
                    match is_late {
                        true => Late(late).list(connection),
                        false => Dirty(dirty).list(connection),
                    }
                    if own > 0 {
                        connection.outbox.note_own();
                        named.push(conn);
                    }
                }
                None => tally.dropped(DropReason::Closed, frames.len() as u64),
            }
        }
        let each = if is_late { work::LETTER } else { work::LETTER + work::WRITE };
        told.work.charge(u64::from(members) * each);
        if members == 0 {
            return;
        }
        mail.set_members(batch, members);
        let mut units = 0;
        for (frame, about) in frames {
            let sender = about.filter(|about| named.contains(about));
            let number = mail.add(Letter { sender, is_late, ..Letter::new(frame, true) });
            mail.join_batch(batch, number);
            let letter = mail.letter(number);
            units += u64::from(letter.receivers) * work::bytes(letter.frame.wire().len());
            tally.add(Counter::MessagesSent, u64::from(letter.receivers));
        }
        self.note_fan_out(None, units, is_late);
    }

    /// Whether a connection is written to later in this turn or in the next ones, though it has frames of
    /// this turn: a backlog is written behind all others, and so is what this turn has no units for.
    /// Nothing is gathered for it then.
    pub(super) fn is_put_off(&mut self, now: Now, conn: ConnId) -> bool {
        let is_spent = self.dirty_left == 0;
        let keeps_pace = self.keeps_pace == Some(conn);
        let Engine { connections, late, scratch, offer, .. } = self;
        let Some(connection) = open(connections, conn) else { return false };
        let has_backlog = connection.outbox.bytes() > 0;
        let is_late = is_spent && connection.outbox.has_fresh();
        let is_shut = connection.is_held || connection.is_blocked;
        if is_shut || keeps_pace || !(has_backlog || is_late) {
            return false;
        }
        connection.is_dirty = false;
        *offer = Offer::Listed;
        scratch.clear();
        if has_backlog {
            self.settle_now(now, conn);
            self.catch_up(conn);
        } else {
            if !mem::replace(&mut connection.is_late, true) {
                late.push_back(conn);
            }
            self.mail.put_off();
        }
        true
    }

    /// Takes some of those that are written to after all others, within the work of a turn.
    pub(super) fn take_late(&mut self, dirty: &mut Vec<ConnId>) {
        let Engine { connections, late, late_left, mail, .. } = self;
        // One connection may get all frames of the turn, so take few at a time when they are large.
        let each = work::WRITE + work::bytes(mail.bytes());
        let count = (*late_left / each + 1).min(LATE_TOGETHER as u64) as usize;
        while dirty.len() < count
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
        if !dirty.is_empty() {
            self.phase = Phase::Late;
        }
    }

    /// Takes the next connection that catches up, within its part of the turn's work.
    pub(super) fn take_catching_up(&mut self, dirty: &mut Vec<ConnId>) {
        let Engine { connections, catching_up, catch_up_left, .. } = self;
        while dirty.is_empty()
            && *catch_up_left > 0
            && let Some(conn) = catching_up.pop_front()
        {
            let connection = connections.get_mut(conn.slot as usize).and_then(Option::as_deref_mut);
            // A closing connection still has its close frame to be written.
            let Some(connection) = connection.filter(|known| known.id == conn) else { continue };
            connection.outbox.is_catching_up = false;
            // A blocked connection is queued again by `writable`.
            if !connection.is_blocked && !connection.outbox.is_empty() {
                connection.is_dirty = true;
                *catch_up_left = catch_up_left.saturating_sub(work::WRITE);
                self.phase = Phase::CatchingUp;
                dirty.push(conn);
            }
        }
    }
}

/// What it costs to write a frame to so many.
fn write_units(members: usize, frame: &Frame) -> u64 {
    members as u64 * (work::WRITE + work::bytes(frame.wire().len()))
}

/// Puts a frame into the open batch of an audience, or into a new one; how many get it, and what the bytes
/// cost that are copied for them.
#[inline]
fn give<L: List>(
    (frame, channel, sender): (Arc<Frame>, ChannelId, Option<ConnId>),
    audience: &mut Audience,
    mut list: L,
    (connections, mail, tally, work): (
        &mut Vec<Option<Box<Connection>>>,
        &mut Mail,
        &mut Tally,
        &mut Work,
    ),
) -> (u32, u64) {
    let is_event = frame.sequence > 0;
    let channel = is_event.then_some(channel);
    let letter = Letter { channel, sender, is_late: L::IS_LATE, ..Letter::new(frame, true) };
    let number = mail.add(letter);
    let batch = mail.open_batch(audience.mark()).unwrap_or_else(|| {
        let batch = mail.begin_batch(sender);
        audience.set_mark(mail.mark(batch));
        let mut members = 0;
        for seat in audience.seats().iter().filter(|seat| !seat.follows) {
            match open(connections, seat.conn) {
                Some(connection) => {
                    members += 1;
                    if Some(seat.conn) != sender {
                        connection.outbox.put_batch(batch);
                        list.list(connection);
                    }
                }
                None => tally.dropped(DropReason::Closed, 1),
            }
        }
        mail.set_members(batch, members);
        let each = if L::IS_LATE { work::LETTER } else { work::LETTER + work::WRITE };
        work.charge(u64::from(members) * each);
        batch
    });
    let was_absent = mail.join_batch(batch, number);
    if let Some(connection) = was_absent.and_then(|conn| open(connections, conn)) {
        connection.outbox.put_batch(batch);
        list.list(connection);
        connection.outbox.note_own();
    }
    let present = sender.filter(|_| mail.batch(batch).absent() != sender);
    if let Some(connection) = present.and_then(|conn| open(connections, conn)) {
        connection.outbox.note_own();
    }
    let letter = mail.letter(number);
    let receivers = letter.receivers;
    let units = u64::from(receivers) * work::bytes(letter.frame.wire().len());
    tally.add(Counter::MessagesSent, u64::from(receivers));
    tally.add(Counter::Deliveries, u64::from(receivers) * u64::from(is_event));
    (receivers, units)
}

/// Where connections wait to be written to.
trait List {
    /// Whether they are written to after all others.
    const IS_LATE: bool;

    /// Adds a connection, unless it waits already.
    fn list(&mut self, connection: &mut Connection);
}

/// They are written to with all others.
struct Dirty<'a>(&'a mut Vec<ConnId>);

/// They are written to after all others.
struct Late<'a>(&'a mut VecDeque<ConnId>);

impl List for Dirty<'_> {
    const IS_LATE: bool = false;

    #[inline]
    fn list(&mut self, connection: &mut Connection) {
        if !mem::replace(&mut connection.is_dirty, true) {
            self.0.push(connection.id);
        }
    }
}

impl List for Late<'_> {
    const IS_LATE: bool = true;

    #[inline]
    fn list(&mut self, connection: &mut Connection) {
        if !connection.is_dirty && !mem::replace(&mut connection.is_late, true) {
            self.0.push_back(connection.id);
        }
    }
}
