//! What Redis tells the nodes that follow a channel, as the scripts of `scripts/order.lua` write it.
//!
//! ```text
//! events EPOCH TERM                          term EPOCH TERM FORMER LAST ID ORIGIN PAST
//! SEQUENCE ID ORIGIN LENGTH [LEFT]
//! MESSAGE                                    (and so on)
//! ```
//!
//! `LEFT` is there if the event may expire: for how many milliseconds it may still be delivered.
//!
//! *Invariant*: what can't be read is told in a sentence, never a panic.

/// An entry of an order, as another that got the same sequence can be told from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) sequence: u64,
    /// The id of the entry.
    pub(super) id: Box<str>,
    /// Who asked for it; `-` if that is not known.
    pub(super) origin: Box<str>,
}

/// An event with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) mark: Mark,
    pub(super) message: String,
    /// For how long it may still be delivered, in milliseconds, if that was said.
    pub(super) left_ms: Option<u64>,
}

/// What was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Push {
    /// The life of the channel.
    pub(super) epoch: Box<str>,
    /// The term that the order is in.
    pub(super) term: u32,
    pub(super) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Events, in the order of their sequences.
    Events(Vec<Entry>),
    /// Another term has begun.
    Term {
        /// The term before it.
        former: u32,
        /// The last entry that was there.
        last: Mark,
        /// The terms before it, and how much of them is sure.
        past: Vec<(u32, u64)>,
    },
}

impl Push {
    /// Reads what was told.
    pub(super) fn parse(text: &str) -> Result<Push, String> {
        let (head, rest) = text.split_once('\n').unwrap_or((text, ""));
        let words: Vec<&str> = head.split(' ').collect();
        match words[..] {
            ["events", epoch, term] => Ok(Push {
                epoch: epoch.into(),
                term: number(term)?,
                what: What::Events(entries(rest)?),
            }),
            ["term", epoch, term, former, last, id, origin, past] => {
                let last = Mark { sequence: number(last)?, id: id.into(), origin: origin.into() };
                let past = serde_json::from_str(past)
                    .map_err(|error| format!("the past is no list of terms: {error}"))?;
                let what = What::Term { former: number(former)?, last, past };
                Ok(Push { epoch: epoch.into(), term: number(term)?, what })
            }
            _ => Err(format!("it begins with {:?}", head.chars().take(80).collect::<String>())),
        }
    }

    /// About the memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        match &self.what {
            What::Events(entries) => {
                entries.iter().map(|entry| size_of::<Entry>() + entry.message.len()).sum()
            }
            What::Term { .. } => size_of::<Push>(),
        }
    }
}

fn entries(mut rest: &str) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let (head, after) = rest.split_once('\n').ok_or("an entry ends early")?;
        let words: Vec<&str> = head.split(' ').collect();
        let (sequence, id, origin, length, left) = match words[..] {
            [sequence, id, origin, length] => (sequence, id, origin, length, None),
            [sequence, id, origin, length, left] => (sequence, id, origin, length, Some(left)),
            _ => return Err(format!("an entry begins with {head:?}")),
        };
        let left_ms = left.map(number).transpose()?;
        let length: usize = number(length)?;
        let message = after.get(..length).ok_or("a message ends early")?.to_owned();
        rest = &after[length..];
        let mark = Mark { sequence: number(sequence)?, id: id.into(), origin: origin.into() };
        entries.push(Entry { mark, message, left_ms });
    }
    Ok(entries)
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushes_are_read_and_nothing_else() {
        let text = "events e 7\n1 5-1 a:1 4\nü\nx2 5-2 - 0 250\n";
        let push = Push::parse(text).unwrap();
        let What::Events(entries) = &push.what else { panic!("{push:?}") };
        assert_eq!((&*push.epoch, push.term), ("e", 7));
        let found: Vec<_> = entries
            .iter()
            .map(|it| (it.mark.sequence, &*it.mark.origin, &*it.message, it.left_ms))
            .collect();
        assert_eq!(found, [(1, "a:1", "ü\nx", None), (2, "-", "", Some(250))]);
        let term = Push::parse("term e 9 7 2 5-2 b:1 [[3,1],[7,2]]").unwrap();
        let last = Mark { sequence: 2, id: "5-2".into(), origin: "b:1".into() };
        assert_eq!(term.what, What::Term { former: 7, last, past: vec![(3, 1), (7, 2)] });
        for bad in [
            "",
            "x",
            "events e",
            "events e x",
            "events e 1\n1 5-1 - 9\nx",
            "events e 1\n1 5-1 - 0 x\n",
            "term e 1 2 3",
        ] {
            assert!(Push::parse(bad).is_err(), "{bad:?}");
        }
        for at in (0..text.len()).filter(|&at| text.is_char_boundary(at)) {
            let _ = Push::parse(&text[..at]);
        }
    }
}
