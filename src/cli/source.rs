//! What a publisher has to send: one message, or one for each line of its input.
//!
//! *Invariant*: what has ended gives nothing any more.
//!
//! *Not here*: what a payload is (`compose`); how lines are read (`input`).

use crate::cli::compose::Composer;
use crate::cli::input::{Lines, Next};
use crate::cli::window::Outgoing;
use crate::cli::words::Ids;

/// Where messages come from.
pub(super) enum Source {
    /// The arguments: one message.
    One(Outgoing),
    /// The input: one message a line.
    Lines(Lines, Composer),
    /// Nowhere: there is nothing left.
    Ended,
}

/// What there is to send.
#[derive(Debug, PartialEq)]
pub(super) enum Given {
    /// A message.
    Message(Outgoing),
    /// A line that is none, and why.
    Unfit(String),
    /// Nothing more, as the input can't be read.
    Failed(String),
    /// Nothing now, or nothing more.
    Nothing,
}

impl Source {
    /// Takes the next message. Those that are made of lines get ids from `ids`.
    pub(super) fn next(&mut self, ids: &mut Ids) -> Given {
        match self {
            Source::Lines(lines, composer) => match next_of(lines, composer, ids) {
                Some(Given::Failed(why)) => {
                    *self = Source::Ended;
                    Given::Failed(why)
                }
                Some(given) => given,
                None => {
                    *self = Source::Ended;
                    Given::Nothing
                }
            },
            Source::One(_) | Source::Ended => match std::mem::replace(self, Source::Ended) {
                Source::One(message) => Given::Message(message),
                _ => Given::Nothing,
            },
        }
    }

    /// Whether there is nothing left.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self, Source::Ended)
    }
}

/// What comes next of the input; `None` if that is at its end.
fn next_of(lines: &mut Lines, composer: &Composer, ids: &mut Ids) -> Option<Given> {
    loop {
        let line = match lines.next() {
            Next::NotYet => return Some(Given::Nothing),
            Next::End => return None,
            Next::Failed(why) => return Some(Given::Failed(why)),
            Next::Line(line) => line,
        };
        match composer.of_line(&line) {
            Ok(None) => {}
            Ok(Some(payload)) => {
                let message = Outgoing { id: ids.next(), payload, line: line.number };
                return Some(Given::Message(message));
            }
            Err(why) => return Some(Given::Unfit(format!("line {} {why}", line.number))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_is_given_once() {
        let message = Outgoing { id: "arq_1".into(), payload: "{}".into(), line: 1 };
        let (mut source, mut ids) = (Source::One(message.clone()), Ids::new());
        assert!(!source.has_ended());
        assert_eq!(source.next(&mut ids), Given::Message(message));
        assert!(source.has_ended());
        assert_eq!(source.next(&mut ids), Given::Nothing);
    }
}
