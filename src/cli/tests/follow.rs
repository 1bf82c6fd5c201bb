//! The subscriber's memory against a model of a bus: random publishing, losing, resuming,
//! forgetting and answering, thousands of times from seeds.

use crate::cli::follow::{Follow, Joined};
use crate::cli::stream::{Page, Question, Span, Step, Verdict};
use crate::protocol::command::{Address, Recover};
use serde_json::json;
use std::collections::VecDeque;

/// A channel as the bus has it.
struct Model {
    rng: fastrand::Rng,
    ring_max: u64,
    sequence: u64,
    /// What travels to the subscriber, in order.
    wire: VecDeque<Wire>,
    is_member: bool,
    is_connected: bool,
}

enum Wire {
    Joined(Address, Option<Recover>, Joined),
    Page(Address, Span, Page),
    Message(u64),
    Gap(u64, u64),
}

impl Model {
    fn publish(&mut self) {
        self.sequence += 1;
        if self.is_member {
            match self.rng.u8(0..30) {
                0 => self.wire.push_back(Wire::Gap(self.sequence, self.sequence)),
                _ => self.wire.push_back(Wire::Message(self.sequence)),
            }
        }
    }

    fn answer(&mut self, question: Question) {
        let oldest = self.sequence.saturating_sub(self.ring_max) + 1;
        match question {
            Question::Join { address, recover } => {
                self.is_member = true;
                let recovered =
                    recover.as_ref().is_some_and(|recover| recover.sequence + 1 >= oldest);
                let mut answer = json!({"epoch": "e", "sequence": self.sequence,
                                        "recovered": recovered});
                if address.channel.is_every() {
                    answer = json!({"channels": [
                        {"channel": "general", "epoch": "e", "sequence": self.sequence}]});
                }
                let answer = serde_json::from_value(answer).unwrap();
                let after = recover.as_ref().map(|recover| recover.sequence);
                self.wire.push_back(Wire::Joined(address, recover, answer));
                if let (true, Some(after)) = (recovered, after) {
                    self.wire.extend((after + 1..=self.sequence).map(Wire::Message));
                }
            }
            Question::Leave { .. } => {}
            Question::History { address, span } => {
                let (from, to) = match span {
                    Span::After(after) => (after + 1, self.sequence),
                    Span::Range(first, last) => (first, last.min(self.sequence)),
                    Span::Epoch => (self.sequence, self.sequence),
                };
                let from = from.max(oldest);
                let page_to = to.min(from + self.rng.u64(0..7));
                let messages: Vec<_> = (from..=page_to).map(|s| (s, s.to_string())).collect();
                let page = Page { epoch: Some("e".into()), has_more: page_to < to, messages };
                self.wire.push_back(Wire::Page(address, span, page));
            }
        }
    }
}

#[test]
fn after_a_new_order_nothing_is_printed_twice_and_nothing_is_passed_over() {
    // Up to where both orders are one, and what comes next.
    for (sure, next) in [(6, 7), (4, 5), (4, 6), (0, 1), (9, 7)] {
        let address = crate::cli::target::address("science:general").unwrap();
        let mut follow = Follow::new(std::slice::from_ref(&address), 0);
        follow.on_connected(false);
        let answer = json!({"epoch": "old", "sequence": 0, "recovered": false});
        follow.on_joined(&address, None, serde_json::from_value(answer).unwrap());
        let place = ("science", "general");
        for sequence in 1..=6 {
            assert_eq!(follow.on_message(place, Some(sequence), ""), Verdict::Print);
        }
        follow.take_steps();
        follow.on_epoch(place, Some("new".to_owned()), sure);
        assert_eq!(follow.take_steps(), [], "what was printed is not read again");
        assert_eq!(follow.on_message(place, Some(next), ""), Verdict::Print, "{sure} {next}");
        follow.on_connected(false);
        let Some(Step::Ask(Question::Join { recover, .. })) = follow.take_steps().pop() else {
            panic!("it joins again")
        };
        assert_eq!(recover, Some(Recover { epoch: "new".to_owned(), sequence: next }));
    }
}

/// Plays one seed. Without losses in the ring everything must be printed, in order and once; with
/// them, whatever is not printed must be told.
fn play(seed: u64, target: &str, ring_max: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let address = crate::cli::target::address(target).unwrap();
    let mut follow = Follow::new(std::slice::from_ref(&address), 0);
    let mut model = Model {
        rng: rng.fork(),
        ring_max,
        sequence: rng.u64(0..5),
        wire: VecDeque::new(),
        is_member: false,
        is_connected: false,
    };
    let mut asked = VecDeque::new();
    let (mut printed, mut missed) = (Vec::new(), Vec::new());
    let mut begun_after = None;
    for step in 0.. {
        let is_ending = step > 400;
        match rng.u8(0..12) {
            0..3 if !is_ending => model.publish(),
            3 if !is_ending && rng.u8(0..8) == 0 => {
                model.wire.clear();
                asked.clear();
                (model.is_member, model.is_connected) = (false, false);
            }
            3 if !model.is_connected => {
                model.is_connected = true;
                // With a session it is a member at once, and before it has asked for anything.
                model.is_member = begun_after.is_some() && rng.bool();
                follow.on_connected(model.is_member);
            }
            4..6 => {
                if let Some(question) = asked.pop_front() {
                    model.answer(question);
                }
            }
            _ => match model.wire.pop_front() {
                None => {}
                Some(Wire::Joined(address, recover, answer)) => {
                    begun_after.get_or_insert(model.sequence);
                    follow.on_joined(&address, recover.as_ref(), answer);
                }
                Some(Wire::Page(address, span, page)) => follow.on_history(&address, span, page),
                Some(Wire::Gap(first, last)) => follow.on_gap(("science", "general"), first, last),
                Some(Wire::Message(sequence)) => {
                    let place = ("science", "general");
                    let text = sequence.to_string();
                    if follow.on_message(place, Some(sequence), &text) == Verdict::Print {
                        printed.push(sequence);
                    }
                }
            },
        }
        for step in follow.take_steps() {
            match step {
                Step::Print(text) => printed.push(text.parse().unwrap()),
                Step::Ask(question) => asked.push_back(question),
                Step::Tell(text) => missed.push(text),
            }
        }
        let is_quiet = model.wire.is_empty() && asked.is_empty() && model.is_member;
        if is_ending && is_quiet && follow.is_caught_up() {
            break;
        }
        assert!(step < 5_000, "seed {seed} does not end");
    }
    check(seed, &printed, &missed, model.sequence, ring_max);
}

fn check(seed: u64, printed: &[u64], missed: &[String], last: u64, ring_max: u64) {
    assert!(printed.is_sorted_by(|a, b| a < b), "seed {seed}: in order and once: {printed:?}");
    let told: Vec<(u64, u64)> = missed.iter().filter_map(|text| range_of(text)).collect();
    let Some(&first) = printed.iter().chain(told.iter().map(|(from, _)| from)).min() else {
        return;
    };
    for sequence in first..=last {
        let was_told = told.iter().any(|&(from, to)| (from..=to).contains(&sequence));
        let was_printed = printed.binary_search(&sequence).is_ok();
        assert!(was_told != was_printed, "seed {seed}: {sequence} in {printed:?}, {missed:?}");
    }
    if ring_max > last {
        assert_eq!(told, [], "seed {seed}: nothing was lost: {missed:?}");
    }
}

pub(super) fn range_of(text: &str) -> Option<(u64, u64)> {
    let (_, rest) = text.split_once("messages ")?;
    let (from, rest) = rest.split_once(" to ")?;
    let (to, _) = rest.split_once(' ')?;
    Some((from.parse().ok()?, to.parse().ok()?))
}

#[test]
fn whatever_happens_everything_is_printed_once_or_told() {
    for seed in 0..3_000 {
        for target in ["science:general", "science:*"] {
            play(seed, target, 1_000_000);
            play(seed, target, 5);
        }
    }
}

#[test]
fn a_room_followed_as_a_whole_covers_its_channels() {
    let addresses = ["science:general", "science:*", "a:b", "a:b"]
        .map(|text| crate::cli::target::address(text).unwrap());
    let mut follow = Follow::new(&addresses, 0);
    follow.on_connected(false);
    let asked: Vec<String> = follow
        .take_steps()
        .into_iter()
        .map(|step| match step {
            Step::Ask(Question::Join { address, .. }) => address.to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(asked, ["science:*", "a:b"]);
}

#[test]
fn another_epoch_goes_on_behind_what_both_orders_have() {
    let place = ("hall", "door");
    let mut follow = in_hall("door", "aaaa", 5);
    // Nothing that was seen has another place.
    follow.on_epoch(place, Some("aaaa-00000001".into()), 5);
    assert_eq!(follow.on_message(place, Some(6), "6"), Verdict::Print);
    // The fifth and the sixth are others by now; they were missed, and are read.
    follow.on_epoch(place, Some("aaaa-00000002".into()), 4);
    follow.on_gap(place, 5, 7);
    assert_eq!(follow.take_steps(), [history_after("hall:door", 4)]);
    assert_eq!(follow.on_message(place, Some(8), "8"), Verdict::Pass, "it is held");
    let address = crate::cli::target::address("hall:door").unwrap();
    let messages = [5, 6, 7].map(|sequence| (sequence, sequence.to_string())).into();
    let page = Page { epoch: Some("aaaa-00000002".into()), has_more: false, messages };
    follow.on_history(&address, Span::After(4), page);
    let printed = ["5", "6", "7", "8"].map(|text| Step::Print(text.to_owned()));
    assert_eq!(follow.take_steps(), printed);
    // While a history is read it may be of either order.
    follow.on_gap(place, 9, 10);
    follow.take_steps();
    assert_eq!(follow.on_message(place, Some(11), "11"), Verdict::Pass);
    follow.on_epoch(place, Some("aaaa-00000003".into()), 9);
    let messages = vec![(9, "9".to_owned())];
    let page = Page { epoch: Some("aaaa-00000003".into()), has_more: false, messages };
    follow.on_history(&address, Span::After(8), page);
    let steps = follow.take_steps();
    assert!(!steps.iter().any(|step| *step == Step::Print("11".into())), "{steps:?}");
    assert!(steps.contains(&history_after("hall:door", 9)), "{steps:?}");
}

/// A subscriber that has joined all of `hall`, and has heard so many messages of a channel.
fn in_hall(channel: &str, epoch: &str, heard: u64) -> Follow {
    let address = crate::cli::target::address("hall:*").unwrap();
    let mut follow = Follow::new(std::slice::from_ref(&address), 0);
    follow.on_connected(false);
    follow.on_joined(&address, None, hall(channel, epoch, 0));
    for sequence in 1..=heard {
        let text = sequence.to_string();
        let verdict = follow.on_message(("hall", channel), Some(sequence), &text);
        assert_eq!(verdict, Verdict::Print);
    }
    follow.take_steps();
    follow
}

/// The answer to joining all of a room that has one channel, or none but the room itself.
fn hall(channel: &str, epoch: &str, sequence: u64) -> Joined {
    let at = json!({"channel": channel, "epoch": epoch, "sequence": sequence});
    let answer = match channel {
        "*" => json!({"channels": [], "epoch": epoch, "sequence": sequence}),
        _ => json!({"channels": [at]}),
    };
    serde_json::from_value(answer).unwrap()
}

/// Comes back by the session, to a room whose channel is where it is said to be.
fn come_back(follow: &mut Follow, answer: Joined) -> Vec<Step> {
    let address = crate::cli::target::address("hall:*").unwrap();
    follow.on_connected(true);
    follow.take_steps();
    follow.on_joined(&address, None, answer);
    follow.take_steps()
}

fn history_after(address: &str, after: u64) -> Step {
    let address = crate::cli::target::address(address).unwrap();
    Step::Ask(Question::History { address, span: Span::After(after) })
}

#[test]
fn what_is_said_to_a_whole_room_goes_on_in_another_term_and_not_in_another_life() {
    for epoch in ["aaaa", "aaaa-00000001", "aaaa-00000007"] {
        let mut follow = in_hall("*", "aaaa-00000001", 3);
        let steps = come_back(&mut follow, hall("*", epoch, 5));
        assert_eq!(steps, [history_after("hall:*", 3)], "{epoch}");
    }
    for (epoch, sequence) in [("bbbb", 5), ("bbbb-00000001", 5), ("aaaa-00000007", 2)] {
        let mut follow = in_hall("*", "aaaa-00000001", 3);
        let steps = come_back(&mut follow, hall("*", epoch, sequence));
        let [Step::Tell(told), asked] = &steps[..] else { panic!("{epoch}: {steps:?}") };
        assert!(told.contains("went or began anew") && told.contains("* (after 3)"), "{told}");
        assert_eq!(*asked, history_after("hall:*", 0), "{epoch}");
    }
}

/// The channel that was to be recovered in a room, and from where.
fn asked_to_recover(steps: &[Step]) -> (Address, Recover) {
    match steps {
        [Step::Ask(Question::Join { address, recover: Some(recover) })] => {
            (address.clone(), recover.clone())
        }
        other => panic!("{other:?}"),
    }
}

/// The answer to a join that could not be recovered.
fn not_recovered(epoch: &str, sequence: u64, reason: &str) -> Joined {
    let answer = json!({"epoch": epoch, "sequence": sequence, "recovered": false,
                        "reason": reason});
    serde_json::from_value(answer).unwrap()
}

#[test]
fn what_is_too_much_to_recover_is_read_on_from_where_it_was_seen() {
    for reason in ["too_many_bytes", "history_overrun"] {
        // A channel of a room that is followed as a whole.
        let mut follow = in_hall("door", "aaaa", 3);
        let steps = come_back(&mut follow, hall("door", "aaaa-00000001", 9));
        let (address, recover) = asked_to_recover(&steps);
        assert_eq!((&*recover.epoch, recover.sequence), ("aaaa", 3));
        let answer = not_recovered("aaaa-00000001", 9, reason);
        follow.on_joined(&address, Some(&recover), answer);
        let leave = Step::Ask(Question::Leave { address: address.clone() });
        assert_eq!(follow.take_steps(), [leave, history_after("hall:door", 3)], "{reason}");
        let messages = (7..=9).map(|n| (n, n.to_string())).collect();
        let page = Page { epoch: Some("aaaa-00000001".into()), has_more: false, messages };
        follow.on_history(&address, Span::After(3), page);
        let steps = follow.take_steps();
        assert!(matches!(&steps[0], Step::Tell(told) if told.contains("messages 4 to 6")));
        assert_eq!(steps[1..], ["7", "8", "9"].map(|text| Step::Print(text.into())));
        // One that is followed by its name.
        let mut follow = Follow::new(std::slice::from_ref(&address), 0);
        follow.on_connected(false);
        let first = json!({"epoch": "aaaa", "sequence": 3});
        follow.on_joined(&address, None, serde_json::from_value(first).unwrap());
        follow.take_steps();
        follow.on_connected(true);
        let (_, recover) = asked_to_recover(&follow.take_steps());
        let answer = not_recovered("aaaa-00000001", 9, reason);
        follow.on_joined(&address, Some(&recover), answer);
        let steps = follow.take_steps();
        assert!(matches!(&steps[0], Step::Tell(told) if told.contains("could not recover")));
        assert_eq!(steps[1..], [history_after("hall:door", 3)], "{reason}");
    }
    for reason in ["epoch_changed", "unknown_sequence"] {
        let mut follow = in_hall("door", "aaaa", 3);
        let (address, recover) = asked_to_recover(&come_back(&mut follow, hall("door", "bbbb", 9)));
        follow.on_joined(&address, Some(&recover), not_recovered("bbbb", 9, reason));
        let steps = follow.take_steps();
        assert!(matches!(&steps[1], Step::Tell(told) if told.contains("began anew")));
        assert_eq!(steps[2..], [history_after("hall:door", 0)], "{reason}");
    }
}

#[test]
fn a_recovery_that_is_refused_is_told_and_ends_nothing() {
    let mut follow = in_hall("door", "aaaa", 3);
    let (address, _) = asked_to_recover(&come_back(&mut follow, hall("door", "aaaa-00000001", 5)));
    // What comes meanwhile waits.
    assert_eq!(follow.on_message(("hall", "door"), Some(6), "6"), Verdict::Pass);
    assert!(follow.on_join_refused(&address, "No."));
    let steps = follow.take_steps();
    assert!(matches!(&steps[0], Step::Tell(told) if told.contains("No.; what came after 3")));
    assert_eq!(steps[1..], [history_after("hall:door", 0)]);
    let messages = (1..=5).map(|n| (n, n.to_string())).collect();
    let page = Page { epoch: Some("cccc".into()), has_more: false, messages };
    follow.on_history(&address, Span::After(0), page);
    let printed = ["1", "2", "3", "4", "5", "6"].map(|text| Step::Print(text.into()));
    assert_eq!(follow.take_steps(), printed);
    // It has the epoch that it was read in, and did not join the channel.
    let steps = come_back(&mut follow, hall("door", "cccc-00000001", 6));
    assert_eq!(asked_to_recover(&steps).1.epoch, "cccc");
    let room = crate::cli::target::address("hall:*").unwrap();
    assert!(!follow.on_join_refused(&room, "No."), "without the room there is nothing");
}

#[test]
fn what_was_joined_for_a_recovery_is_left_on_the_next_connection() {
    let left = |follow: &mut Follow, is_resumed| {
        follow.on_connected(is_resumed);
        let is_leave = |step: &Step| matches!(step, Step::Ask(Question::Leave { .. }));
        follow.take_steps().iter().filter(|step| is_leave(step)).count()
    };
    let mut follow = in_hall("door", "aaaa", 3);
    let (address, recover) =
        asked_to_recover(&come_back(&mut follow, hall("door", "aaaa-00000001", 5)));
    // Before the join was answered, and after it, but before the leave was.
    assert_eq!(left(&mut follow, true), 1);
    let answer = json!({"epoch": "aaaa-00000001", "sequence": 5, "recovered": true});
    follow.on_joined(&address, Some(&recover), serde_json::from_value(answer).unwrap());
    follow.take_steps();
    assert_eq!(left(&mut follow, true), 1);
    follow.on_left(&address);
    assert_eq!(left(&mut follow, true), 0);
    come_back(&mut follow, hall("door", "bbbb", 5));
    assert_eq!(left(&mut follow, false), 0, "a new client is in nothing");
}
