//! Questions on their way: a few at a time, each answered, asked again, or too late.
//!
//! A subscriber to a large room has a question for each of its channels at once. They leave in
//! order, at most [`FLYING_MAX`] wait for an answer, and when the bus says that it is too much,
//! the refused one goes first again after a pause.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The most questions that wait for an answer at a time.
const FLYING_MAX: usize = 16;
/// The first pause after the bus said that it was too much; it doubles up to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Questions of type `Q`.
#[derive(Debug)]
pub(super) struct Asking<Q> {
    waiting: VecDeque<Q>,
    /// Id, question and time of asking, oldest first.
    flying: VecDeque<(String, Q, Instant)>,
    pause: Duration,
    quiet_until: Option<Instant>,
}

impl<Q> Asking<Q> {
    /// No questions.
    pub(super) fn new() -> Asking<Q> {
        Asking {
            waiting: VecDeque::new(),
            flying: VecDeque::new(),
            pause: PAUSE_FIRST,
            quiet_until: None,
        }
    }

    /// Asks after all that were asked before.
    pub(super) fn push(&mut self, question: Q) {
        self.waiting.push_back(question);
    }

    /// Whether nothing waits to be asked.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The next question that may leave now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Q> {
        if self.flying.len() >= FLYING_MAX || self.quiet_until.is_some_and(|until| now < until) {
            return None;
        }
        self.quiet_until = None;
        self.waiting.pop_front()
    }

    /// A question has left under this id.
    pub(super) fn on_sent(&mut self, id: String, question: Q, now: Instant) {
        self.flying.push_back((id, question, now));
    }

    /// The question that has this id, if it is one of these.
    pub(super) fn on_answer(&mut self, id: &str) -> Option<Q> {
        let place = self.flying.iter().position(|(flying, ..)| flying == id)?;
        self.flying.remove(place).map(|(_, question, _)| question)
    }

    /// The bus answered one of them: it is not too much.
    pub(super) fn on_success(&mut self) {
        self.pause = PAUSE_FIRST;
    }

    /// The bus asked to be asked later.
    pub(super) fn on_too_much(&mut self, question: Q, now: Instant) {
        self.waiting.push_front(question);
        self.quiet_until = Some(now + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    /// When the oldest question was asked.
    pub(super) fn asked_at(&self) -> Option<Instant> {
        self.flying.front().map(|&(_, _, at)| at)
    }

    /// Until when nothing may be asked, if something would be.
    pub(super) fn quiet_until(&self) -> Option<Instant> {
        self.quiet_until.filter(|_| !self.waiting.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_leave_in_order_and_few_at_a_time() {
        let now = Instant::now();
        let mut asking = Asking::new();
        (0..40).for_each(|question| asking.push(question));
        let mut asked = Vec::new();
        while let Some(question) = asking.next(now) {
            asking.on_sent(format!("arq_{question}"), question, now);
            asked.push(question);
        }
        assert_eq!(asked, (0..16).collect::<Vec<_>>());
        assert_eq!(asking.asked_at(), Some(now));
        assert_eq!(asking.on_answer("arq_99"), None);
        assert_eq!(asking.on_answer("arq_7"), Some(7));
        assert_eq!(asking.on_answer("arq_7"), None, "an answer answers once");
        assert_eq!(asking.next(now), Some(16));
    }

    #[test]
    fn a_question_that_was_too_much_goes_first_after_a_growing_pause() {
        let now = Instant::now();
        let mut asking = Asking::new();
        asking.push(1);
        asking.push(2);
        let one = asking.next(now).unwrap();
        asking.on_too_much(one, now);
        assert_eq!(asking.next(now), None);
        assert_eq!(asking.quiet_until(), Some(now + PAUSE_FIRST));
        let later = now + PAUSE_FIRST;
        assert_eq!(asking.next(later), Some(1));
        asking.on_too_much(1, later);
        assert_eq!(asking.quiet_until(), Some(later + 2 * PAUSE_FIRST));
    }
}
