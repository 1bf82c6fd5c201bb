//! Giving an event its place, and spreading it: the hot path of a home.

use crate::base::ids::{ChannelId, ShardId};
use crate::base::time::Now;
use crate::broker::acks::Acks;
use crate::broker::channel::{Channel, Spread};
use crate::broker::history::{History, Verdict};
use crate::broker::home::{Home, Told};
use crate::broker::lane::{Accepted, Fanout, PendingRef, Publish, RefusedEvent, Target, Tell};
use crate::broker::policy;
use crate::broker::record::{EventRecord, Record};
use crate::broker::retention::Retention;
use crate::broker::room::Room;
use crate::protocol::command::{Address, ChannelType};
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::reply::Question;
use crate::protocol::timestamp::Writer;
use std::sync::Arc;

impl Home {
    pub(super) fn publish(&mut self, now: Now, publish: Publish, told: &mut Told) {
        let target = match &publish.to {
            Target::Channel(id) => Some(*id),
            Target::Named(address) => self.resolve(address),
        };
        let Some(id) = target else {
            return refuse(publish, None, not_found(), told);
        };
        let Home { channels, rooms, whole_rooms, retention, times, acks, .. } = self;
        if let Some(channel) = channels.get_mut(&id) {
            let verdict = may_reach(channel, &publish).and_then(|()| match channel.open {
                true => Ok(()),
                false => may_publish(rooms.get(&channel.address.room), &publish),
            });
            let verdict = verdict.and_then(|()| is_for_events(channel));
            match verdict {
                Ok(()) if channel.history.is_shared() => self.submit(now, id, publish, told),
                Ok(()) => {
                    let Channel { address, history, .. } = channel;
                    let place =
                        append(now, publish, (id, address), (history, times), retention, told);
                    let ack = spread(place, channel.spread(), told);
                    acknowledge(now, ack, acks, (id, &channel.history), told);
                    self.shed(told);
                }
                Err(refusal) => refuse(publish, Some(&channel.address), refusal, told),
            }
            return;
        }
        let name = whole_rooms.get(&id);
        let Some(room) = name.and_then(|name| rooms.get_mut(name)) else {
            return refuse(publish, None, not_found(), told);
        };
        match may_publish(Some(room), &publish) {
            Ok(()) if room.history.is_shared() => self.submit(now, id, publish, told),
            Ok(()) => {
                let (every, history) = (&room.every, &mut room.history);
                let place = append(now, publish, (id, every), (history, times), retention, told);
                let ack = spread(place, &room.spread, told);
                acknowledge(now, ack, acks, (id, &room.history), told);
                self.shed(told);
            }
            Err(refusal) => refuse(publish, Some(&room.every), refusal, told),
        }
    }

    /// The channel with this id, if it is at home here.
    pub fn channel_of(&self, id: ChannelId) -> Option<&Channel> {
        self.channels.get(&id)
    }

    fn resolve(&self, address: &Address) -> Option<ChannelId> {
        let room = self.rooms.get(&address.room)?;
        if address.channel.is_every() {
            return Some(room.id);
        }
        room.channels.get(&address.channel).copied()
    }
}

/// What is left to do for an event that has its place.
struct Placed {
    fanout: Option<Fanout>,
    accepted: Option<(ShardId, Accepted)>,
}

fn append(
    now: Now,
    publish: Publish,
    (channel, address): (ChannelId, &Arc<Address>),
    (history, times): (&mut History, &mut Writer),
    retention: &mut Retention,
    told: &mut Told,
) -> Placed {
    let before = history.held();
    let Publish { draft, from, ack, trace, .. } = publish;
    let (frame, duplicate) = match history.append(draft, now.wall_us, times) {
        Verdict::Fresh(frame) => (frame, false),
        Verdict::Duplicate(frame) => (frame, true),
    };
    retention.account(channel, before, history);
    let accepted = from.filter(|_| ack || trace.is_some()).map(|conn| {
        let accepted = Accepted {
            conn: conn.conn,
            sequence: frame.sequence,
            frame: frame.clone(),
            duplicate,
            trace: trace.map(|pending| (pending, now.mono_ns, 0)),
            address: address.clone(),
            home: channel.home(),
        };
        (conn.shard, accepted)
    });
    if duplicate {
        told.duplicates += 1;
        return Placed { fanout: None, accepted };
    }
    told.accepted += 1;
    if let Some(durable) = &mut history.durable {
        if !durable.is_recorded {
            told.begun.insert(channel);
        }
        let (address, frame) = (address.clone(), frame.clone());
        let (epoch, keep) = (durable.life.clone(), durable.keep);
        told.records.push(Record::Event(EventRecord { channel, address, epoch, frame, keep }));
    }
    let trace = from.zip(trace).map(|(conn, pending)| PendingRef { shard: conn.shard, pending });
    let fanout = Fanout { channel, frame, from, trace };
    Placed { fanout: Some(fanout), accepted }
}

/// Spreads an event; gives the ack that is left to be given.
fn spread(placed: Placed, spread: &Spread, told: &mut Told) -> Option<(ShardId, Accepted)> {
    let mut shards = 0;
    if let Some(fanout) = placed.fanout {
        let places = spread.shards();
        let count = places.len();
        for (shard, fanout) in places.zip(std::iter::repeat_n(fanout, count)) {
            told.tell(shard, Tell::Fanout(fanout));
        }
        shards = count as u16;
    }
    let (shard, mut accepted) = placed.accepted?;
    if let Some((_, _, to_shards)) = &mut accepted.trace {
        *to_shards = shards;
    }
    Some((shard, accepted))
}

/// Gives an ack, at once or when the storage has what it promises.
fn acknowledge(
    now: Now,
    ack: Option<(ShardId, Accepted)>,
    acks: &mut Acks,
    (channel, history): (ChannelId, &History),
    told: &mut Told,
) {
    let Some((to, accepted)) = ack else { return };
    match &history.durable {
        None => told.tell(to, Tell::Accepted(Box::new(accepted))),
        Some(durable) => acks.settle(now, (channel, durable), (to, accepted), told),
    }
}

/// Who may publish unjoined may do so where it could join. What is addressed by a channel's id comes
/// from a member.
fn may_reach(channel: &Channel, publish: &Publish) -> Result<(), Refusal> {
    let is_stranger = publish.from.is_some() && matches!(publish.to, Target::Named(_));
    match is_stranger && !channel.admits_as(publish.role, publish.draft.from()) {
        true => Err(policy::private_channel()),
        false => Ok(()),
    }
}

fn may_publish(room: Option<&Room>, publish: &Publish) -> Result<(), Refusal> {
    // What the server itself says is never refused.
    let (Some(room), Some(_)) = (room, publish.from) else { return Ok(()) };
    if room.paused {
        return Err(Refusal::of_field(
            Fault::RoomPaused,
            "room",
            format!("The room {} is paused; wait for an admin to resume it.", room.name()),
        ));
    }
    if !policy::may_publish(publish.role, publish.draft.from(), &room.config) {
        return Err(Refusal::of_field(
            Fault::PublishForbidden,
            "room",
            format!(
                "The room {} does not let you publish; its publishers are listed in its config.",
                room.name()
            ),
        ));
    }
    Ok(())
}

fn is_for_events(channel: &Channel) -> Result<(), Refusal> {
    if channel.channel_type == ChannelType::Pm {
        return Err(Refusal::of_field(
            Fault::ChannelIsPm,
            "channel",
            "The channel carries private messages; send type private with payload.target.",
        ));
    }
    Ok(())
}

fn not_found() -> Refusal {
    Refusal::of_field(
        Fault::ChannelNotFound,
        "channel",
        "There is no such channel; see list_channels, or join it, if joins make channels here.",
    )
}

pub(super) fn refuse(
    publish: Publish,
    address: Option<&Address>,
    refusal: Refusal,
    told: &mut Told,
) {
    let Some(conn) = publish.from else { return };
    let named = match &publish.to {
        Target::Named(named) => Some(&**named),
        Target::Channel(_) => None,
    };
    let (room, channel) = match address.or(named) {
        Some(address) => (address.room.as_str(), address.channel.as_str()),
        None => ("*", "*"),
    };
    let refused = RefusedEvent {
        conn: conn.conn,
        question: Question::of_message(publish.draft.id(), room, channel),
        refusal,
        trace: publish.trace,
    };
    told.tell(conn.shard, Tell::Refused(Box::new(refused)));
}
