use super::*;
use crate::base::ids::ShardId;
use crate::broker::record::Keep;
use crate::broker::room::RoomType;
use crate::protocol::command::{ChannelType, RoomConfig};
use crate::protocol::envelope::MessageType;
use crate::protocol::frame::{Draft, Origin};

const CHANNELS: [&str; 3] = ["a", "b", "c"];

fn address(channel: &'static str) -> Arc<Address> {
    Arc::new(Address { room: Name::fixed("r"), channel: Name::fixed(channel) })
}

fn event(number: usize, sequence: u64, length: usize) -> EventRecord {
    let payload = format!(r#"{{"x":"{}"}}"#, "y".repeat(length));
    let origin = Origin { received_ns: 0, ttl_ms: None };
    let address = address(CHANNELS[number]);
    let names = (&*address.room, &*address.channel);
    let draft = Draft::of_server("arq_1", MessageType::Event, names, &payload, origin);
    EventRecord {
        channel: ChannelId::new(ShardId(0), number as u64),
        epoch: "e".into(),
        frame: draft.stamp(sequence, 1),
        keep: Keep { messages: 1, age_ms: 0, bytes: 0 },
        address,
    }
}

fn channel(epoch: &str) -> Record {
    Record::Channel(Box::new(ChannelRecord {
        address: address("a"),
        epoch: epoch.into(),
        term: 0,
        past: Vec::new(),
        channel_type: ChannelType::General,
        created_us: 0,
        created_by: None,
        metadata: None,
        guests: Vec::new(),
        auto_created: true,
    }))
}

fn room(paused: bool) -> Record {
    Record::Room(Box::new(RoomRecord {
        name: Name::fixed("r"),
        room_type: RoomType::User,
        paused,
        created_us: 0,
        created_by: None,
        config: RoomConfig::default(),
    }))
}

/// The steps that are taken one after the other, as words.
fn story(backlog: &mut Backlog<EventRecord>) -> Vec<String> {
    let mut words = Vec::new();
    loop {
        let (round, _) = backlog.take_round(Instant::now());
        backlog.check(&round);
        if round.is_empty() {
            return words;
        }
        for batch in round {
            words.push(batch.step_word());
            backlog.done(batch);
        }
    }
}

impl Batch<EventRecord> {
    fn step_word(&self) -> String {
        match &self.step {
            Step::Room(room) => format!("room {}", room.paused),
            Step::RoomGone(_) => "no room".into(),
            Step::Channel(channel) => format!("channel {}", channel.epoch),
            Step::ChannelGone => "no channel".into(),
            Step::Task(Probe) => "probe".to_owned(),
            Step::Events(events) => format!("{} events", events.len()),
        }
    }
}

#[test]
fn records_keep_their_place_and_replace_each_other_between_events() {
    let mut backlog = Backlog::new(1 << 20);
    let gone = || Record::ChannelGone(address("a"));
    for record in [channel("1"), channel("2"), Record::Event(event(0, 1, 0)), channel("2")] {
        backlog.push(record);
    }
    for record in [gone(), channel("3"), gone(), channel("4"), Record::Event(event(0, 1, 0))] {
        backlog.push(record);
    }
    assert_eq!(
        story(&mut backlog),
        ["channel 2", "1 events", "no channel", "channel 4", "1 events"]
    );
    for record in [room(false), room(true), Record::RoomGone(Name::fixed("r")), room(false)] {
        backlog.push(record);
    }
    assert_eq!(story(&mut backlog), ["no room", "room false"]);
    assert!(backlog.lanes.is_empty(), "nothing is kept of lanes at rest");
}

#[test]
fn what_is_not_needed_is_dropped_and_what_follows_it_is_done() {
    let mut backlog = Backlog::new(1 << 20);
    let gone = |name| Record::ChannelGone(address(name));
    for record in [gone("a"), gone("b"), Record::Event(event(0, 1, 0)), room(true)] {
        backlog.push(record);
    }
    backlog.drop_steps(|_, step| matches!(step, Step::ChannelGone | Step::Room(_)));
    backlog.check(&[]);
    assert!(backlog.has_due());
    backlog.push(gone("c"));
    assert_eq!(story(&mut backlog), ["1 events", "no channel"]);
    backlog.push(gone("c"));
    backlog.drop_steps(|_, _| true);
    assert!(!backlog.has_due() && backlog.lanes.is_empty());
}

#[test]
fn a_full_lane_loses_until_half_of_it_is_free() {
    let size = EventRecord::bytes(&event(0, 1, 0));
    let mut backlog = Backlog::new(size * 10);
    for sequence in 1..=10 {
        backlog.push(Record::Event(event(0, sequence, 0)));
    }
    let id = |number: u64| ChannelId::new(ShardId(0), number);
    assert_eq!(backlog.take_losses(), [Loss { channel: id(0), first: 9, last: 10 }]);
    // One channel leaves room for the others, and for each of them less than for the one before.
    backlog.push(Record::Event(event(1, 1, 0)));
    assert!(backlog.take_losses().is_empty());
    backlog.push(Record::Event(event(1, 2, 0)));
    backlog.push(Record::Event(event(2, 1, 0)));
    let lost: Vec<ChannelId> = backlog.take_losses().iter().map(|loss| loss.channel).collect();
    assert_eq!((lost, backlog.bytes()), (vec![id(2)], size * 10));
    let (mut round, _) = backlog.take_round(Instant::now());
    backlog.push(Record::Event(event(0, 11, 0)));
    assert_eq!(backlog.take_losses(), [Loss { channel: id(0), first: 11, last: 11 }]);
    while let Some(batch) = round.pop() {
        backlog.done(batch);
    }
    backlog.push(Record::Event(event(0, 12, 0)));
    assert!(backlog.take_losses().is_empty());
    assert_eq!(story(&mut backlog), ["1 events"]);
    // However large one is, it is taken when nothing else waits.
    backlog.push(Record::Event(event(2, 2, 5_000)));
    assert_eq!(story(&mut backlog), ["1 events"]);
    assert!(backlog.take_losses().is_empty());
}

#[test]
fn what_came_later_does_not_count_as_having_waited() {
    let mut backlog = Backlog::new(1 << 20);
    (1..=3).for_each(|sequence| backlog.push(Record::Event(event(0, sequence, 0))));
    backlog.push(channel("e"));
    let received_us = event(0, 1, 0).frame.timestamp_us;
    assert!(!backlog.has_waited_since(received_us));
    assert!(backlog.has_waited_since(received_us + 1));
    // What is under way has not failed yet, and what has failed waits again.
    let (mut round, _) = backlog.take_round(Instant::now());
    assert!(!backlog.has_waited_since(received_us + 1));
    backlog.give_back(round.remove(0));
    assert!(backlog.has_waited_since(received_us + 1));
}

#[test]
fn a_spoilt_lane_loses_its_events_keeps_its_records_and_rests() {
    let mut backlog = Backlog::new(1 << 20);
    let now = Instant::now();
    backlog.push(channel("1"));
    backlog.push(Record::Event(event(0, 1, 0)));
    let (mut round, _) = backlog.take_round(now);
    backlog.spoil(round.remove(0), now);
    backlog.push(Record::Event(event(0, 2, 0)));
    let id = ChannelId::new(ShardId(0), 0);
    assert_eq!(backlog.take_losses(), [Loss { channel: id, first: 1, last: 2 }]);
    assert!(backlog.take_round(now).0.is_empty());
    assert_eq!(backlog.next_due(), Some(now + REST));
    let (mut round, _) = backlog.take_round(now + REST);
    assert!(matches!(round[0].step, Step::Task(Probe)), "it is looked at before it is changed");
    backlog.spoil(round.remove(0), now + REST);
    let (mut round, _) = backlog.take_round(now + 2 * REST);
    assert!(matches!(round[0].step, Step::Task(Probe)), "once");
    assert!(backlog.done(round.remove(0)), "that is over");
    let (mut round, _) = backlog.take_round(now + 2 * REST);
    assert!(matches!(round[0].step, Step::Channel(_)) && !backlog.done(round.remove(0)));
    assert!(backlog.lanes.is_empty());
}

#[test]
fn a_channel_that_could_not_be_read_is_looked_at_before_anything_is_written() {
    let mut backlog: Backlog<EventRecord> = Backlog::new(1 << 20);
    let now = Instant::now();
    backlog.quarantine(&address("a"), now);
    backlog.push(channel("1"));
    backlog.push(Record::Event(event(0, 1, 0)));
    assert_eq!(backlog.take_losses().len(), 1);
    backlog.push_first(channel("2"));
    assert!(backlog.take_round(now).0.is_empty());
    backlog.take_round(now + REST).0.into_iter().for_each(|batch| {
        assert_eq!(batch.step_word(), "probe");
        backlog.done(batch);
    });
    assert_eq!(story(&mut backlog), ["channel 2", "channel 1"]);
}

#[test]
fn what_is_under_way_when_everything_is_lost_comes_back_to_its_lane() {
    let mut backlog: Backlog<EventRecord> = Backlog::new(1 << 20);
    let now = Instant::now();
    backlog.quarantine(&address("a"), now);
    let (mut round, _) = backlog.take_round(now + REST);
    assert_eq!(round[0].step_word(), "probe");
    backlog.push(Record::Event(event(0, 1, 0)));
    backlog.push(Record::Event(event(1, 1, 0)));
    backlog.lose_everything();
    backlog.check(&[]);
    let lost = |number| Loss { channel: ChannelId::new(ShardId(0), number), first: 1, last: 1 };
    assert_eq!(backlog.take_losses(), [lost(0), lost(1)]);
    backlog.push(Record::Event(event(0, 2, 0)));
    assert!(backlog.done(round.remove(0)));
    assert_eq!(story(&mut backlog), ["1 events"]);
    assert!(backlog.lanes.is_empty());
}

#[test]
fn what_is_told_again_while_a_step_is_under_way_follows_it() {
    let mut backlog: Backlog<EventRecord> = Backlog::new(1 << 20);
    backlog.push(channel("1"));
    let (mut round, _) = backlog.take_round(Instant::now());
    backlog.push(channel("2"));
    backlog.push_first(channel("1 again"));
    assert!(backlog.take_round(Instant::now()).0.is_empty(), "one step of a lane at a time");
    backlog.done(round.remove(0));
    assert_eq!(story(&mut backlog), ["channel 1 again", "channel 2"]);
}

/// Whatever fails, the events of a channel are done in their order, and every event is done or
/// told as lost, once.
#[test]
fn every_event_is_done_in_order_or_lost() {
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut backlog = Backlog::new(rng.u64(2_000..200_000));
        let (mut last, mut now) = ([0u64; CHANNELS.len()], Instant::now());
        let mut done: [Vec<u64>; CHANNELS.len()] = Default::default();
        let mut lost: [Vec<u64>; CHANNELS.len()] = Default::default();
        let mut under_way: Vec<Batch<EventRecord>> = Vec::new();
        for step in 0..400 {
            let is_ending = step > 300;
            match rng.u32(..10) {
                _ if is_ending && under_way.is_empty() => {
                    now += REST;
                    under_way = backlog.take_round(now).0;
                }
                0..=4 if !is_ending => {
                    let number = rng.usize(..CHANNELS.len());
                    for _ in 0..rng.u32(1..20) {
                        last[number] += 1;
                        let event = event(number, last[number], rng.usize(..400));
                        backlog.push(Record::Event(event));
                    }
                }
                5 => backlog.push(channel("e")),
                6 if under_way.is_empty() => {
                    now += REST / 4;
                    under_way = backlog.take_round(now).0;
                }
                _ => {
                    let Some(batch) = under_way.pop() else { continue };
                    match rng.u32(..10) {
                        0 if !is_ending => backlog.spoil(batch, now),
                        1..=4 if !is_ending => backlog.give_back(batch),
                        _ => {
                            if let Step::Events(events) = &batch.step {
                                let number =
                                    CHANNELS.iter().position(|&n| n == &*batch.address.channel);
                                let sequences = events.iter().map(|event| event.frame.sequence);
                                done[number.unwrap()].extend(sequences);
                            }
                            backlog.done(batch);
                        }
                    }
                }
            }
            backlog.check(&under_way);
            for Loss { channel, first, last } in backlog.take_losses() {
                let ids = (0..CHANNELS.len() as u64).map(|n| ChannelId::new(ShardId(0), n));
                lost[ids.clone().position(|id| id == channel).unwrap()].extend(first..=last);
            }
        }
        assert_eq!((backlog.events(), backlog.bytes()), (0, 0), "seed {seed}");
        for number in 0..CHANNELS.len() {
            assert!(done[number].is_sorted(), "seed {seed}: out of order");
            let mut all = [done[number].clone(), lost[number].clone()].concat();
            all.sort_unstable();
            assert_eq!(all, (1..=last[number]).collect::<Vec<_>>(), "seed {seed}");
        }
    }
}

#[test]
fn of_what_was_kept_only_the_life_that_goes_on_is_left_in_its_new_places() {
    use crate::broker::late::{Merged, MergedChannel, Renumbering};
    let in_life = |number, sequence, life: &str| {
        Record::Event(EventRecord { epoch: life.into(), ..event(number, sequence, 0) })
    };
    let size = EventRecord::bytes(&event(0, 1, 0));
    let mut backlog = Backlog::new(size * 8);
    let every = |epoch: &str| {
        let Record::Channel(mut record) = channel(epoch) else { unreachable!("it is a channel") };
        record.address = order_of(&Name::fixed("r"));
        Record::Channel(record)
    };
    for record in [room(false), Record::RoomGone(Name::fixed("r")), every("p"), room(true)] {
        backlog.push(record);
    }
    backlog.push(channel("o"));
    (1..=2).for_each(|sequence| backlog.push(in_life(0, sequence, "o")));
    backlog.push(Record::ChannelGone(address("a")));
    backlog.push(channel("p"));
    (1..=4).for_each(|sequence| backlog.push(in_life(0, sequence, "p")));
    // One that was not kept, one that was and is another now, and two that no room was left for.
    backlog.push(in_life(1, 1, "x"));
    backlog.push(in_life(2, 1, "y"));
    backlog.push(in_life(0, 5, "p"));
    backlog.push(in_life(0, 6, "p"));
    let id = ChannelId::new(ShardId(0), 0);
    let Record::Channel(record) = channel("k") else { unreachable!("it is a channel") };
    let said = Renumbering {
        channel: id,
        from: "p".into(),
        to: "k".into(),
        base: 10,
        not_before_us: 7,
        dropped: vec![2, 5],
        keep: Keep { messages: 9, age_ms: 0, bytes: 0 },
    };
    let went_on = MergedChannel { address: address("a"), record: Some(*record), said: Some(said) };
    let untouched = MergedChannel { address: address("b"), record: None, said: None };
    let channels = vec![went_on, untouched];
    backlog.merge(Merged { room: Name::fixed("r"), channels });
    backlog.forget_idle();
    backlog.check(&[]);
    assert_eq!(backlog.take_losses(), [Loss { channel: id, first: 14, last: 14 }]);
    backlog.push(in_life(0, 15, "k"));
    let (round, _) = backlog.take_round(Instant::now());
    let mut words: Vec<String> = round
        .iter()
        .map(|batch| match &batch.step {
            Step::Channel(channel) => format!("{} {}", channel.address, channel.epoch),
            Step::Events(events) => format!("{} {}", batch.address, events[0].epoch),
            other => panic!("{other:?}"),
        })
        .collect();
    words.sort_unstable();
    // Of the room's own order nothing was kept, and it begins.
    assert_eq!(words, ["r:* p", "r:a k", "r:c y"]);
    round.into_iter().for_each(|batch| _ = backlog.done(batch));
    let (round, _) = backlog.take_round(Instant::now());
    let Step::Events(events) = &round[0].step else { panic!("{round:?}") };
    let places: Vec<(u64, &str)> =
        events.iter().map(|event| (event.frame.sequence, &*event.epoch)).collect();
    assert_eq!(places, [(11, "k"), (12, "k"), (13, "k"), (15, "k")]);
    assert!(events.iter().take(3).all(|event| event.frame.timestamp_us == 7));
}
