//! How far a connection has come in each channel, and what it missed on the way.

use crate::conn::{Conn, Cursor, Gap, Member, Missing, Room};
use crate::model::{Model, Publish};
use crate::violation;
use std::collections::BTreeMap;

impl Conn {
    /// The end of a connection, or of the run: whatever it missed must have a reason. One that is
    /// gone may not have been told of everything that expired on its way.
    pub fn check_missing(&self, model: &Model, is_alive: bool) {
        let number = self.number;
        let unplaced = |room: &str, channel: &str| {
            let own = model.publishes.iter().filter(|publish| {
                publish.conn == number && publish.room == room && publish.channel == channel
            });
            let unknown = |publish: &&Publish| {
                publish.place.is_none() && !publish.is_refused && !publish.is_duplicate
            };
            own.filter(unknown).count() as u64
        };
        let mut told: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        let mut unknown: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for missing in &self.missing {
            let address = (missing.room.as_str(), missing.channel.as_str());
            let key = (missing.room.clone(), missing.channel.clone());
            for sequence in missing.sequences.0..=missing.sequences.1 {
                let nonce = model.at(missing.life, sequence);
                let publish = nonce.map(|nonce| &model.publishes[nonce]);
                if missing.may_be_own && publish.is_some_and(|publish| publish.conn == number) {
                    continue;
                }
                let is_told = self.gaps.iter().any(|gap| {
                    (gap.room.as_str(), gap.channel.as_str()) == address
                        && (gap.first..=gap.last).contains(&sequence)
                });
                if is_told {
                    // Another notice may have been on its way to one that is gone or has left.
                    let is_owed = missing.is_skipped || is_alive && self.is_in(missing);
                    if publish.is_some() && is_owed {
                        *told.entry(address).or_default() += 1;
                    }
                    continue;
                }
                // The ack of a traced event does not say of which life of the channel it is.
                let is_own = |publish: &Publish| {
                    publish.conn == number
                        && (publish.room.as_str(), publish.channel.as_str()) == address
                        && publish.place.is_some_and(|(_, at)| at == sequence)
                };
                match publish {
                    None if missing.may_be_own && model.publishes.iter().any(is_own) => {}
                    None if !self.is_in(missing)
                        && (!missing.is_skipped || model.with_ttl.contains(&key)) => {}
                    None if missing.may_be_own => *unknown.entry(address).or_default() += 1,
                    None if !is_alive => {}
                    Some(publish) if !is_alive && publish.has_ttl => {}
                    // Whoever has left a channel is not told any more what expired or was dropped
                    // before.
                    Some(publish)
                        if (publish.has_ttl || !missing.is_skipped) && !self.is_in(missing) => {}
                    // The notice may have been on its way when the connection ended.
                    Some(_) if !is_alive && !missing.is_skipped => {}
                    _ => violation!(
                        "no gap",
                        "{number} ({}) never got {sequence} of {address:?} (message {nonce:?})",
                        self.client_id
                    ),
                }
            }
        }
        for (address, count) in unknown {
            let own = unplaced(address.0, address.1);
            if is_alive && count > own {
                violation!("no gap", "{number} missed {count} of {address:?}, {own} its own");
            }
        }
        for (address, count) in told {
            let gaps = self.gaps.iter();
            let gaps = gaps.filter(|gap| (gap.room.as_str(), gap.channel.as_str()) == address);
            let noticed: u64 = gaps.map(|gap| gap.count).sum();
            if count > noticed {
                violation!("gaps add up", "{number} missed {count} of {address:?}, not {noticed}");
            }
        }
        let owed = self.rooms.values().flat_map(|room| room.channels.values());
        let owed = owed.filter_map(|member| member.cursor.replay.as_ref());
        let lost = self.replays_lost + owed.map(|replay| replay.left).sum::<u64>();
        if is_alive && lost > self.unordered_lost {
            violation!("recovery", "{number} never got {lost} replayed messages");
        }
    }

    /// Whether it stayed a member since it missed something.
    pub(super) fn is_in(&self, missing: &Missing) -> bool {
        missing.stay.is_some() && self.stay(&missing.room, &missing.channel) == missing.stay
    }

    pub(super) fn stay(&self, room: &str, channel: &str) -> Option<u64> {
        let room = self.rooms.get(room)?;
        match channel {
            "*" => Some(room.stay),
            channel => Some(room.channels.get(channel)?.stay),
        }
    }

    /// What it knows of a room it is in, or now comes into.
    pub(super) fn room_mut(&mut self, room: &str) -> &mut Room {
        known_room(&mut self.rooms, &mut self.stays, room)
    }

    /// The channel has come this far: so must its members have.
    pub fn check_tail(&mut self, model: &mut Model, room: &str, channel: &str, last: u64) {
        let known = self.rooms.get(room);
        let life = match channel {
            "*" => known.and_then(|known| known.star.as_ref()).map(|cursor| cursor.life),
            _ => known.and_then(|room| room.channels.get(channel)).map(|known| known.cursor.life),
        };
        if let Some(life) = life {
            self.reach(model, (room, channel), life, last);
        } else if known.is_some_and(|known| known.whole.is_some()) && channel != "*" && last > 0 {
            // It opened after the room was joined, and nothing of it has come; or its order became another
            // one, and the notice was lost.
            let is_unsure = known.is_some_and(|known| known.is_unsure_of_others);
            let cursor = Cursor::new(model.new_life(), if is_unsure { last } else { 0 });
            let whole = known.and_then(|known| known.whole);
            self.stays += 1;
            let stay = self.stays;
            let member = Member { named: None, whole, cursor, stay, is_early: false };
            if let Some(known) = self.rooms.get_mut(room) {
                known.channels.insert(channel.to_owned(), member);
            }
            self.check_tail(model, room, channel, last);
        }
    }

    /// The home says how far a channel is: whatever was before it has come or is missing.
    pub(super) fn reach(
        &mut self,
        model: &mut Model,
        (room, channel): (&str, &str),
        life: usize,
        last: u64,
    ) {
        let known = known_room(&mut self.rooms, &mut self.stays, room);
        if channel == "*" {
            let echoes = known.echoes();
            let Some(cursor) = &mut known.star else {
                known.star = Some(Cursor::new(life, last));
                return;
            };
            if cursor.is_order_unsure {
                cursor.settle_order(model, last + 1);
            }
            cursor.life = model.unite(life, cursor.life);
            if self.is_entering {
                return;
            }
            let may_be_own = !echoes || cursor.is_echo_unsure;
            let missing = cursor.reach(last);
            return self.miss((room, channel), life, missing, (may_be_own, false));
        }
        let Some(member) = known.channels.get_mut(channel) else {
            let cursor = Cursor::new(life, last);
            self.stays += 1;
            let stay = self.stays;
            let member = Member { named: None, whole: None, cursor, stay, is_early: false };
            known.channels.insert(channel.to_owned(), member);
            return;
        };
        let echo = member.named.or(member.whole).is_some_and(|options| options.echo);
        let may_be_own = !echo || member.cursor.is_echo_unsure;
        if member.cursor.is_order_unsure {
            member.cursor.settle_order(model, last + 1);
        }
        member.cursor.life = model.unite(life, member.cursor.life);
        if std::mem::take(&mut member.is_early) || self.is_entering {
            return;
        }
        let lost = member.cursor.replay.as_ref().map_or(0, |replay| replay.left);
        if last > member.cursor.last && lost > 0 {
            self.replays_lost += lost;
            member.cursor.replay = None;
        }
        let missing = member.cursor.reach(last);
        self.miss((room, channel), life, missing, (may_be_own, false));
    }

    pub(super) fn miss(
        &mut self,
        (room, channel): (&str, &str),
        life: usize,
        missing: Option<(u64, u64)>,
        (may_be_own, is_skipped): (bool, bool),
    ) {
        let Some(sequences) = missing else { return };
        let stay = self.stay(room, channel);
        let (room, channel) = (room.to_owned(), channel.to_owned());
        let missing = Missing { room, channel, life, sequences, may_be_own, is_skipped, stay };
        self.missing.push(missing);
    }

    /// The order of a channel is another one: this is how far it goes.
    pub(super) fn change_order(&mut self, (room, channel): (&str, &str), life: usize, last: u64) {
        let (named, of) = (room.to_owned(), channel.to_owned());
        if last > 0 {
            self.gaps.push(Gap { room: named, channel: of, first: 1, last, count: last });
        }
        let Some(known) = self.rooms.get_mut(room) else { return };
        if channel != "*" && known.whole.is_some() && !known.channels.contains_key(channel) {
            // It came back while the room was joined as a whole.
            let (whole, cursor) = (known.whole, Cursor::new(life, last));
            self.stays += 1;
            let member = Member { named: None, whole, cursor, stay: self.stays, is_early: false };
            known.channels.insert(channel.to_owned(), member);
        }
        let cursor = match channel {
            "*" => known.star.as_mut(),
            channel => known.channels.get_mut(channel).map(|member| &mut member.cursor),
        };
        let Some(cursor) = cursor else { return };
        let lost = cursor.replay.take().map_or(0, |replay| replay.left);
        (cursor.life, cursor.last, cursor.is_order_unsure) = (life, last, false);
        self.replays_lost += lost;
    }

    /// Any order may be another one.
    pub(super) fn doubt_orders(&mut self) {
        for known in self.rooms.values_mut() {
            known.is_unsure_of_others = true;
            let cursors = known.channels.values_mut().map(|member| &mut member.cursor);
            for cursor in cursors.chain(known.star.as_mut()) {
                cursor.is_order_unsure = true;
            }
        }
    }

    /// It is not in a channel any more, however it came to be.
    pub(super) fn let_go(&mut self, room: &str, channel: &str) {
        let Some(known) = self.rooms.get_mut(room) else { return };
        known.channels.remove(channel);
        if known.whole.is_none() && known.channels.is_empty() {
            self.rooms.remove(room);
        }
    }

    pub(super) fn member_mut(&mut self, room: &str, channel: &str) -> Option<&mut Member> {
        self.rooms.get_mut(room)?.channels.get_mut(channel)
    }

    pub(super) fn left(&mut self, room: &str, channel: &str) {
        let Some(known) = self.rooms.get_mut(room) else { return };
        let echoed = known.echoes();
        if channel == "*" {
            known.whole = None;
            known.channels.retain(|_, member| {
                member.whole = None;
                member.named.is_some()
            });
        } else if let Some(member) = known.channels.get_mut(channel) {
            member.named = None;
            member.cursor.is_echo_unsure = true;
            if member.whole.is_none() {
                known.channels.remove(channel);
            }
        }
        known.note_echo(echoed);
        if known.whole.is_none() && known.channels.is_empty() {
            self.rooms.remove(room);
        }
    }
}

/// What a connection knows of a room that it is in, or now comes into.
fn known_room<'a>(
    rooms: &'a mut BTreeMap<String, Room>,
    stays: &mut u64,
    room: &str,
) -> &'a mut Room {
    rooms.entry(room.to_owned()).or_insert_with(|| {
        *stays += 1;
        Room { stay: *stays, ..Room::default() }
    })
}

impl Cursor {
    pub(super) fn new(life: usize, last: u64) -> Cursor {
        Cursor { life, last, replay: None, is_echo_unsure: false, is_order_unsure: false }
    }

    /// Something comes that says how far the order goes, which may be another one.
    pub(super) fn settle_order(&mut self, model: &mut Model, sequence: u64) {
        if std::mem::take(&mut self.is_order_unsure) && sequence > self.last {
            (self.life, self.last) = (model.new_life(), sequence - 1);
        }
    }

    /// An event comes; what it skipped.
    pub(super) fn step(&mut self, sequence: u64) -> Option<(u64, u64)> {
        if sequence <= self.last {
            violation!("order", "{sequence} came after {}", self.last);
        }
        let skipped = (self.last + 1, sequence - 1);
        self.last = sequence;
        (skipped.0 <= skipped.1).then_some(skipped)
    }

    /// Everything up to `sequence` has come, or is missing.
    pub(super) fn reach(&mut self, sequence: u64) -> Option<(u64, u64)> {
        let skipped = (self.last + 1, sequence);
        self.last = self.last.max(sequence);
        (skipped.0 <= skipped.1).then_some(skipped)
    }

    pub(super) fn replayed(&mut self, sequence: u64, number: usize, channel: &str) {
        let Some(replay) = &mut self.replay else {
            violation!("recovery", "{number} got {sequence} of {channel} replayed for no reason")
        };
        if sequence <= replay.seen || sequence > replay.last || replay.left == 0 {
            violation!("recovery", "{number} got {sequence} of {channel} after {}", replay.seen);
        }
        replay.seen = sequence;
        replay.left -= 1;
        if replay.left == 0 {
            self.replay = None;
        }
    }
}
