//! What was kept and could not be read when the node started: how it goes together with what was made
//! and said meanwhile.
//!
//! A node that starts while its storage is away begins with nothing, and its homes make **provisional**
//! rooms and lives of channels. When the storage is there for the first time it reads everything before
//! it writes anything, and gives each room to its home ([`StorageNews::Late`]). The home puts the two
//! together, in one step, and answers with one record ([`Record::Merged`]), by which the storage changes
//! what still waits to be written:
//!
//! ```text
//! storage --Late(room)--> home --Merged(room)--> storage --writes--> Redis
//! ```
//!
//! **A channel** that was kept goes on with its kept life. What was said meanwhile comes behind what was
//! kept, in the same order, with sequences that go on from there ([`Renumbering`]), in a term of its own
//! as after any start: nobody takes a sequence of the one for one of the other. Who is a member heard it
//! already and does not hear it again, but is told that its order is another one, as where several nodes
//! share a storage. An event whose id and sender are those of one that was kept is a repeat: the later
//! one goes, by the rule that finds any repeat, which is that the history holds the first.
//!
//! **Settings.** A room or a channel of the same name is the same one. What was said of it since the
//! start in so many words is the newer word, and stands; whatever was not said is as it was kept: so a
//! room that a join made has all its kept settings. A configured room is what the configuration says. A
//! room that was paused in either is paused. Who may enter a channel is who might enter both: neither
//! what was kept of a private channel, nor what was said in one since, is shown to anybody else.
//!
//! *Invariants*: the storage writes nothing between reading and the last `Merged`; it has said that it is
//! degraded before, so no ack waits for a provisional sequence; home and storage renumber by the same
//! rule to the same bytes; nothing that was kept is deleted, but where a start would (a configuration
//! that says that it is not kept any more).
//!
//! *Not here*: the home that does it (`home/late.rs`), the storage's side (`storage/keeper/late.rs`).

use crate::base::ids::ChannelId;
use crate::broker::history::History;
use crate::broker::policy;
use crate::broker::record::{ChannelRecord, EventRecord, Keep, KeptChannel, RoomRecord, Snapshot};
#[cfg(doc)]
use crate::broker::record::{Record, StorageNews};
use crate::protocol::command::{Address, ChannelType, Persist, RoomConfig};
use crate::protocol::frame::FrameRef;
use crate::protocol::names::Name;
use crate::protocol::timestamp::Writer;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What was kept of one room.
#[derive(Clone, Debug)]
pub struct KeptRoom {
    /// Its name.
    pub name: Name,
    /// The room, if it was recorded.
    pub room: Option<RoomRecord>,
    /// Its channels, `*` among them.
    pub channels: Vec<KeptChannel>,
}

/// What became of a room that was read late.
#[derive(Clone, Debug)]
pub struct Merged {
    /// Its name.
    pub room: Name,
    /// Every channel that was kept of it.
    pub channels: Vec<MergedChannel>,
}

/// What became of a channel that was read late. What waits to be written of earlier lives of it, and that
/// they began and ended, is not to be written any more.
#[derive(Clone, Debug)]
pub struct MergedChannel {
    /// Its names.
    pub address: Arc<Address>,
    /// The channel as it goes on, if it is another than was kept; before anything else of it.
    pub record: Option<ChannelRecord>,
    /// What happens to the events of the life that it had meanwhile, if it had one.
    pub said: Option<Renumbering>,
}

/// How the events of a provisional life find their places behind those that were kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renumbering {
    /// The channel's id in this process.
    pub channel: ChannelId,
    /// The provisional life.
    pub from: Arc<str>,
    /// The kept one.
    pub to: Arc<str>,
    /// The last sequence of the kept one.
    pub base: u64,
    /// The time of its last event, in microseconds since 1970: nothing behind it is earlier.
    pub not_before_us: u64,
    /// The provisional sequences of repeats, which go; in order.
    pub dropped: Vec<u64>,
    /// How much of the channel is kept from now on.
    pub keep: Keep,
}

impl Renumbering {
    /// The sequence that another becomes; nothing if it goes.
    pub fn of(&self, sequence: u64) -> Option<u64> {
        match self.dropped.binary_search(&sequence) {
            Ok(_) => None,
            Err(before) => Some(self.base + sequence - before as u64),
        }
    }

    /// The run of sequences that another run becomes; nothing if all of it goes.
    pub fn of_run(&self, (first, last): (u64, u64)) -> Option<(u64, u64)> {
        let before = self.dropped.partition_point(|&dropped| dropped < first) as u64;
        let up_to = self.dropped.partition_point(|&dropped| dropped <= last) as u64;
        let (first, last) = (self.base + first - before, self.base + last - up_to);
        (first <= last).then_some((first, last))
    }

    /// The event that another becomes, with the bytes that its home has given it; nothing if it goes.
    pub fn of_event(&self, event: EventRecord, times: &mut Writer) -> Option<EventRecord> {
        let sequence = self.of(event.frame.sequence)?;
        let timestamp_us = event.frame.timestamp_us.max(self.not_before_us);
        let frame = event.frame.moved(times, sequence, timestamp_us);
        Some(EventRecord { epoch: self.to.clone(), frame, keep: self.keep, ..event })
    }
}

impl Snapshot {
    /// The same by rooms, in the order of their names.
    pub fn by_room(self) -> Vec<KeptRoom> {
        let mut rooms = BTreeMap::<Name, KeptRoom>::new();
        let empty = |name: &Name| KeptRoom { name: name.clone(), room: None, channels: Vec::new() };
        for room in self.rooms {
            let name = room.name.clone();
            rooms.entry(name.clone()).or_insert_with(|| empty(&name)).room = Some(room);
        }
        for channel in self.channels {
            let name = channel.record.address.room.clone();
            rooms.entry(name.clone()).or_insert_with(|| empty(&name)).channels.push(channel);
        }
        rooms.into_values().collect()
    }
}

/// Puts what `said` holds behind what was kept, in a history that is `new`; gives the sequences in `said`
/// of repeats, which go. It comes to what it would have come to if what was kept had been there from the
/// start: what has left one memory by now would have pushed all that was kept out of the other.
pub fn put_behind(
    new: &mut History,
    epoch: Arc<str>,
    kept: &KeptChannel,
    said: &History,
    times: &mut Writer,
) -> Vec<u64> {
    let missing = said.last() - said.held().messages as u64;
    match missing {
        0 => new.restore(epoch, kept.last, kept.last_us, &kept.messages),
        _ => new.restore(epoch, kept.last + missing, kept.last_us, &[]),
    }
    let is_repeat = |message: &FrameRef<'_>| !new.append_moved(*message, times);
    said.frames().filter(is_repeat).map(|message| message.sequence).collect()
}

/// The settings of a room that has some since the start and was kept with others.
pub fn settings_of_both(new: RoomConfig, kept: RoomConfig) -> RoomConfig {
    RoomConfig {
        history_size: new.history_size.or(kept.history_size),
        member_limit: new.member_limit.or(kept.member_limit),
        create_on_join: new.create_on_join.or(kept.create_on_join),
        publishers: new.publishers.or(kept.publishers),
        // What is kept is kept on, whatever another hand may have written there.
        persist: new.persist.or(kept.persist.filter(|persist| *persist != Persist::None)),
        ack_when: new.ack_when.or(kept.ack_when),
    }
}

/// A channel that has been made since the start and was kept: what it is beside its order, which stays
/// the kept one's.
pub fn channel_of_both(new: &ChannelRecord, kept: &ChannelRecord) -> ChannelRecord {
    let is_private = |channel: &ChannelRecord| channel.channel_type == ChannelType::Private;
    let mut both = kept.clone();
    both.auto_created &= new.auto_created;
    both.metadata = new.metadata.clone().or(both.metadata);
    match (is_private(new), is_private(kept)) {
        (false, _) => {}
        (true, false) => {
            both.channel_type = ChannelType::Private;
            (both.created_by, both.guests) = (new.created_by.clone(), new.guests.clone());
        }
        (true, true) => {
            let circle = kept.created_by.iter().chain(&kept.guests).chain(&new.created_by);
            let mut circle: Vec<Name> = circle.chain(&new.guests).cloned().collect();
            circle.retain(|name| may_enter(new, name) && may_enter(kept, name));
            circle.sort_unstable();
            circle.dedup();
            both.created_by.take_if(|creator| !circle.contains(creator));
            circle.retain(|name| both.created_by.as_ref() != Some(name));
            both.guests = circle;
        }
    }
    both
}

fn may_enter(channel: &ChannelRecord, name: &Name) -> bool {
    let (creator, guests) = (channel.created_by.as_ref(), &channel.guests);
    policy::may_enter((policy::Role::User, name), channel.channel_type, creator, guests)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::hash::seeded;
    use crate::base::ids::ShardId;
    use crate::broker::history::newest;
    use crate::protocol::envelope::MessageType;
    use crate::protocol::frame::{Draft, Frame, Origin};

    fn draft(id: u64) -> Draft {
        let origin = Origin { received_ns: 0, ttl_ms: None };
        Draft::of_server(&format!("arq_{id}"), MessageType::Event, ("r", "c"), "{}", origin)
    }

    fn history(size: u32) -> History {
        History::new("p".into(), size, usize::MAX, seeded(1))
    }

    fn record() -> ChannelRecord {
        ChannelRecord {
            address: Arc::new(Address { room: Name::fixed("r"), channel: Name::fixed("c") }),
            epoch: "k".into(),
            term: 0,
            past: Vec::new(),
            channel_type: ChannelType::General,
            created_us: 1,
            created_by: None,
            metadata: None,
            guests: Vec::new(),
            auto_created: true,
        }
    }

    fn kept(ids: &[u64], first: u64) -> KeptChannel {
        let stamp = |(&id, sequence): (&u64, u64)| draft(id).stamp(sequence, 100 + sequence);
        let messages: Vec<Arc<Frame>> = ids.iter().zip(first..).map(stamp).collect();
        let last = first + ids.len() as u64 - 1;
        KeptChannel { record: record(), last, last_us: 100 + last, messages }
    }

    fn found(history: &History) -> Vec<(u64, String)> {
        let query = newest(Name::fixed("r"), Name::fixed("c"), 99);
        let page = history.page(&query, 0, usize::MAX).messages;
        page.iter().map(|frame| (frame.sequence, frame.id()[4..].to_owned())).collect()
    }

    #[test]
    fn what_was_said_comes_behind_what_was_kept_and_no_repeat_twice() {
        /// The size, what was kept and from where on, what was said, what there is, what went.
        type Case<'a> = (u32, (&'a [u64], u64), &'a [u64], &'a [(u64, u64)], &'a [u64]);
        let cases: [Case<'_>; 10] = [
            (9, (&[1, 2], 1), &[7, 8], &[(1, 1), (2, 2), (3, 7), (4, 8)], &[]),
            (9, (&[1, 2], 5), &[7], &[(5, 1), (6, 2), (7, 7)], &[]),
            (9, (&[1, 2], 1), &[], &[(1, 1), (2, 2)], &[]),
            (9, (&[], 1), &[7, 8], &[(1, 7), (2, 8)], &[]),
            (9, (&[], 5), &[7], &[(5, 7)], &[]),
            (9, (&[1, 2], 1), &[2, 7, 1], &[(1, 1), (2, 2), (3, 7)], &[1, 3]),
            // A history holds the first as long as nothing has pushed it out.
            (3, (&[1, 2, 3], 1), &[1, 7, 8], &[(3, 3), (4, 7), (5, 8)], &[1]),
            (3, (&[1, 2, 3], 1), &[7, 1, 3], &[(3, 3), (4, 7), (5, 1)], &[3]),
            // What was said has left the memory, and so has all that was kept.
            (2, (&[1, 2], 1), &[7, 1, 2], &[(4, 1), (5, 2)], &[]),
            (0, (&[1, 2], 1), &[7], &[], &[]),
        ];
        for (size, (ids, first), said_ids, expected, dropped) in cases {
            let (mut said, mut both) = (history(size), history(size));
            let times = &mut Writer::default();
            for (&id, us) in said_ids.iter().zip(101..) {
                said.append(draft(id), us, times);
            }
            let kept = kept(ids, first);
            let went = put_behind(&mut both, "k-1".into(), &kept, &said, times);
            both.check();
            let there: Vec<_> =
                found(&both).into_iter().map(|(at, id)| (at, id.parse().unwrap())).collect();
            assert_eq!((&there[..], &went[..]), (expected, dropped), "{size} {ids:?} {said_ids:?}");
            let all = kept.last + said.last() - dropped.len() as u64;
            assert_eq!((both.last(), &**both.epoch()), (all, "k-1"), "{said_ids:?}");
            // The storage comes to the same bytes.
            let renumbering = Renumbering {
                channel: ChannelId::new(ShardId(0), 1),
                from: "p".into(),
                to: "k".into(),
                base: kept.last,
                not_before_us: kept.last_us,
                dropped: went,
                keep: Keep { messages: 5, age_ms: 0, bytes: 0 },
            };
            for message in said.frames() {
                let frame = message.moved(times, message.sequence, message.timestamp_us());
                let event = EventRecord {
                    channel: renumbering.channel,
                    address: record().address,
                    epoch: "p".into(),
                    frame: frame.clone(),
                    keep: Keep { messages: 1, age_ms: 0, bytes: 0 },
                };
                let event = renumbering.of_event(event, times);
                let place = event.as_ref().map(|event| event.frame.sequence);
                assert_eq!(place, renumbering.of(frame.sequence));
                let same = place.and_then(|at| both.frames().find(|frame| frame.sequence == at));
                if let (Some(event), Some(same)) = (event, same) {
                    assert_eq!((event.frame.wire(), &*event.epoch), (same.wire(), "k"));
                    assert_eq!(event.frame.memory_bytes(), frame.memory_bytes());
                    assert_eq!(event.keep.messages, 5);
                }
            }
        }
    }

    #[test]
    fn a_run_becomes_a_run_without_what_goes() {
        let renumbering = Renumbering {
            channel: ChannelId::new(ShardId(0), 1),
            from: "p".into(),
            to: "k".into(),
            base: 10,
            not_before_us: 0,
            dropped: vec![2, 3, 6],
            keep: Keep { messages: 1, age_ms: 0, bytes: 0 },
        };
        let places: Vec<_> = (1..=7).map(|sequence| renumbering.of(sequence)).collect();
        let expected = [Some(11), None, None, Some(12), Some(13), None, Some(14)];
        assert_eq!(places, expected);
        for first in 1..=7_u64 {
            for last in first..=7 {
                let each: Vec<u64> = (first..=last).filter_map(|at| renumbering.of(at)).collect();
                let ends = each.first().copied().zip(each.last().copied());
                assert_eq!(renumbering.of_run((first, last)), ends, "{first} {last}");
            }
        }
    }

    #[test]
    fn what_was_said_since_the_start_stands_and_all_else_is_as_it_was_kept() {
        let kept = RoomConfig {
            history_size: Some(5),
            member_limit: Some(7),
            persist: Some(Persist::History),
            ..RoomConfig::default()
        };
        assert_eq!(settings_of_both(RoomConfig::default(), kept.clone()), kept);
        let new = RoomConfig {
            member_limit: Some(9),
            create_on_join: Some(false),
            ..RoomConfig::default()
        };
        let both = settings_of_both(new.clone(), kept.clone());
        assert_eq!(both, RoomConfig { member_limit: Some(9), create_on_join: Some(false), ..kept });
        let none = RoomConfig { persist: Some(Persist::None), ..RoomConfig::default() };
        assert_eq!(settings_of_both(new.clone(), none).persist, None);
    }

    #[test]
    fn who_may_enter_is_who_might_enter_both() {
        let names = ["ann", "bob", "cid", "dan"];
        let channel = |creator: Option<&'static str>, guests: &[&'static str]| ChannelRecord {
            channel_type: match creator {
                Some(_) => ChannelType::Private,
                None => ChannelType::General,
            },
            created_by: Some(Name::fixed(creator.unwrap_or("dan"))),
            guests: guests.iter().map(|name| Name::fixed(name)).collect(),
            ..record()
        };
        let channels = [
            channel(None, &[]),
            channel(Some("ann"), &[]),
            channel(Some("ann"), &["bob"]),
            channel(Some("bob"), &["cid"]),
            channel(Some("cid"), &["ann", "bob", "dan"]),
        ];
        for new in &channels {
            for kept in &channels {
                let both = channel_of_both(new, kept);
                for name in names {
                    let name = &Name::fixed(name);
                    let expected = may_enter(new, name) && may_enter(kept, name);
                    assert_eq!(may_enter(&both, name), expected, "{name} {new:?} {kept:?}");
                }
            }
        }
        let mut made = channel(None, &[]);
        made.auto_created = false;
        let both = channel_of_both(&made, &record());
        assert!(!both.auto_created, "a command made it by now");
    }
}
