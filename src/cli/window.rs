//! The messages a publisher has not seen accepted yet, in the order in which they must arrive.
//!
//! A pure machine. Messages enter at the back and leave wherever the bus answers. Up to `limit` of
//! them may be on their way at once; after a loss all that are left go again, in their order and
//! with their ids, so that the bus can tell what it has already (`duplicate`).
//!
//! When the bus refuses a message for the moment (429, 503), those sent after it may have been
//! accepted already, and nothing can put it before them any more. From then on the publisher goes
//! one by one: a message leaves only when the one before it is answered, so no order is lost again.
//!
//! *Invariants*: what has not left is in the order in which it came; while it goes one by one at
//! most one message is on its way.

use std::collections::VecDeque;

/// A message for the bus.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Outgoing {
    /// Its id, and with it its idempotency key.
    pub(super) id: String,
    /// The text of its payload.
    pub(super) payload: String,
    /// The line of input it came from, for sentences.
    pub(super) line: u64,
}

/// What became of the messages.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Tally {
    /// Messages that left at least once.
    pub(super) sent: u64,
    /// Messages the bus has, the ones it had already included.
    pub(super) accepted: u64,
    /// Messages the bus had already.
    pub(super) duplicate: u64,
    /// Messages the bus does not want.
    pub(super) refused: u64,
}

/// The publisher's memory.
#[derive(Debug)]
pub(super) struct Window {
    limit: usize,
    is_one_by_one: bool,
    queue: VecDeque<Entry>,
    /// Nothing before this place waits to leave.
    cursor: usize,
    /// How many are on their way.
    flying: usize,
    tally: Tally,
}

#[derive(Debug)]
struct Entry {
    message: Outgoing,
    is_flying: bool,
    was_sent: bool,
}

impl Window {
    /// A window of `limit` messages.
    pub(super) fn new(limit: usize) -> Window {
        Window {
            limit: limit.max(1),
            is_one_by_one: limit <= 1,
            queue: VecDeque::new(),
            cursor: 0,
            flying: 0,
            tally: Tally::default(),
        }
    }

    /// What became of the messages so far.
    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// How many messages are not answered yet.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether every message is answered.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many messages are on their way.
    pub(super) fn flying(&self) -> usize {
        self.flying
    }

    /// Whether another message may enter.
    pub(super) fn has_room(&self) -> bool {
        self.queue.len() < self.limit
    }

    /// Lets at most `limit` messages be on their way from now on.
    pub(super) fn narrow(&mut self, limit: usize) {
        self.limit = self.limit.min(limit).max(1);
        self.is_one_by_one |= self.limit == 1;
    }

    /// A message enters.
    pub(super) fn push(&mut self, message: Outgoing) {
        self.queue.push_back(Entry { message, is_flying: false, was_sent: false });
    }

    /// The next message that may leave now; it counts as on its way.
    pub(super) fn take_next(&mut self) -> Option<&Outgoing> {
        if self.is_one_by_one && self.flying > 0 {
            return None;
        }
        while self.queue.get(self.cursor).is_some_and(|entry| entry.is_flying) {
            self.cursor += 1;
        }
        let entry = self.queue.get_mut(self.cursor)?;
        self.cursor += 1;
        self.flying += 1;
        self.tally.sent += u64::from(!entry.was_sent);
        (entry.is_flying, entry.was_sent) = (true, true);
        Some(&entry.message)
    }

    /// The bus has the message with this id. Gives the message, unless it is none of these.
    pub(super) fn on_accepted(&mut self, id: &str, is_duplicate: bool) -> Option<Outgoing> {
        let message = self.remove(id)?;
        self.tally.accepted += 1;
        self.tally.duplicate += u64::from(is_duplicate);
        Some(message)
    }

    /// The bus does not want the message with this id.
    pub(super) fn on_refused(&mut self, id: &str) -> Option<Outgoing> {
        let message = self.remove(id)?;
        self.tally.refused += 1;
        Some(message)
    }

    /// The bus wants the message with this id later: it goes again. If the bus may have taken
    /// later ones meanwhile, all go one by one from now on. Says whether the id is one of these.
    pub(super) fn on_not_now(&mut self, id: &str, takes_others: bool) -> bool {
        let Some(place) = self.find(id).filter(|&place| self.queue[place].is_flying) else {
            return false;
        };
        self.queue[place].is_flying = false;
        self.flying -= 1;
        self.cursor = self.cursor.min(place);
        self.is_one_by_one |= takes_others;
        true
    }

    /// The connection was lost: everything that is left goes again.
    pub(super) fn on_lost(&mut self) {
        for entry in &mut self.queue {
            entry.is_flying = false;
        }
        self.flying = 0;
        self.cursor = 0;
    }

    /// Takes a message that left and will not be answered.
    pub(super) fn forget_sent(&mut self) {
        while self.queue.front().is_some_and(|entry| entry.is_flying) {
            self.queue.pop_front();
            self.flying -= 1;
            self.cursor = self.cursor.saturating_sub(1);
        }
    }

    /// Counts a message that was refused though nothing was known of it any more.
    pub(super) fn count_refused(&mut self) {
        self.tally.refused += 1;
    }

    fn remove(&mut self, id: &str) -> Option<Outgoing> {
        let place = self.find(id)?;
        let entry = self.queue.remove(place)?;
        self.flying -= usize::from(entry.is_flying);
        self.cursor -= usize::from(place < self.cursor);
        Some(entry.message)
    }

    /// Answers come in the order of the messages, so this looks at few.
    fn find(&self, id: &str) -> Option<usize> {
        self.queue.iter().position(|entry| entry.message.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(limit: usize, messages: u64) -> Window {
        let mut window = Window::new(limit);
        for line in 1..=messages {
            window.push(Outgoing { id: format!("arq_{line}"), payload: "{}".into(), line });
        }
        window
    }

    fn take(window: &mut Window) -> Vec<u64> {
        std::iter::from_fn(|| window.take_next().map(|message| message.line)).collect()
    }

    #[test]
    fn messages_leave_in_order_and_answers_make_room() {
        let mut window = window(4, 4);
        assert!(!window.has_room());
        assert_eq!(take(&mut window), [1, 2, 3, 4]);
        assert_eq!(window.on_accepted("arq_1", false).unwrap().line, 1);
        assert_eq!(window.on_accepted("arq_1", false), None, "an answer counts once");
        assert!(window.has_room());
        window.on_refused("arq_3").unwrap();
        window.on_accepted("arq_4", true).unwrap();
        assert_eq!((window.len(), window.flying()), (1, 1));
        let tally = Tally { sent: 4, accepted: 2, duplicate: 1, refused: 1 };
        assert_eq!(*window.tally(), tally);
    }

    #[test]
    fn after_a_loss_the_unanswered_go_again_first() {
        let mut window = window(8, 5);
        assert_eq!(take(&mut window), [1, 2, 3, 4, 5]);
        window.on_accepted("arq_1", false);
        window.on_accepted("arq_3", false);
        window.on_lost();
        window.push(Outgoing { id: "arq_6".into(), payload: "{}".into(), line: 6 });
        assert_eq!(take(&mut window), [2, 4, 5, 6]);
        assert_eq!(window.tally().sent, 6, "a message counts once");
    }

    #[test]
    fn a_message_wanted_later_makes_all_go_one_by_one() {
        let mut window = window(8, 5);
        assert_eq!(take(&mut window), [1, 2, 3, 4, 5]);
        assert!(window.on_not_now("arq_2", true));
        assert!(!window.on_not_now("arq_2", true), "it is not on its way any more");
        assert!(window.on_not_now("arq_4", true));
        assert_eq!(take(&mut window), [0; 0], "the others are not answered yet");
        for id in ["arq_1", "arq_3", "arq_5"] {
            window.on_accepted(id, false).unwrap();
        }
        assert_eq!(take(&mut window), [2]);
        window.on_accepted("arq_2", false);
        assert_eq!(take(&mut window), [4]);
        window.on_lost();
        assert_eq!(take(&mut window), [4], "one by one stays");
    }

    #[test]
    fn what_needs_no_answer_is_forgotten_when_it_left() {
        let mut window = window(8, 3);
        assert_eq!(take(&mut window), [1, 2, 3]);
        window.forget_sent();
        assert!(window.is_empty() && window.flying() == 0);
        assert_eq!(window.tally().sent, 3);
        window.push(Outgoing { id: "arq_4".into(), payload: "{}".into(), line: 4 });
        assert_eq!(take(&mut window), [4]);
    }

    /// Against a bus that accepts, repeats, refuses for the moment and loses connections at
    /// random: everything arrives once, and with one message at a time in order.
    #[test]
    fn everything_arrives_once_whatever_happens() {
        for seed in 0..500 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let limit = rng.usize(1..6);
            let may_refuse = rng.bool();
            let mut window = Window::new(limit);
            let (mut entered, mut arrived) = (0, Vec::<u64>::new());
            let mut wire = VecDeque::new();
            while arrived.len() < 60 || !window.is_empty() {
                match rng.u8(0..10) {
                    0..3 if window.has_room() && entered < 60 => {
                        entered += 1;
                        let id = format!("arq_{entered}");
                        window.push(Outgoing { id, payload: "{}".into(), line: entered });
                    }
                    0..6 => wire.extend(window.take_next().map(|message| message.line)),
                    6..9 => {
                        let Some(line) = wire.pop_front() else { continue };
                        let id = format!("arq_{line}");
                        if may_refuse && rng.u8(0..8) == 0 {
                            assert!(window.on_not_now(&id, true));
                            continue;
                        }
                        let is_duplicate = arrived.contains(&line);
                        if !is_duplicate {
                            arrived.push(line);
                        }
                        // The answer may be lost with the connection.
                        if rng.u8(0..20) > 0 {
                            assert!(window.on_accepted(&id, is_duplicate).is_some());
                        } else {
                            wire.clear();
                            window.on_lost();
                        }
                    }
                    _ => {
                        wire.clear();
                        window.on_lost();
                    }
                }
            }
            let mut sorted = arrived.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (1..=60).collect::<Vec<_>>(), "seed {seed}");
            if !may_refuse || limit == 1 {
                assert_eq!(arrived, sorted, "seed {seed}");
            }
        }
    }
}
