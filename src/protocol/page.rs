//! Paging through a list: how many rows a client wants, and from where on.
//!
//! Lists have an order that does not change while rows come and go, so a cursor is the place of the last
//! row that was told. Whatever comes and goes meanwhile, a row that is there all the time is on just one
//! page.
//!
//! *Invariant*: a [`Cursor`] that was parsed is one that [`Cursor::text`] wrote for the same list, or it
//! was forged with care: it then gives a page of the same list, and nothing more.

use crate::base::limits::{NAME_BYTES_MAX, PAGE_ROWS_MAX};
use crate::protocol::names::Name;

/// What of a list is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageQuery {
    /// How many rows at most.
    pub limit: usize,
    /// Behind which row; the list from its beginning if there is none.
    pub cursor: Option<Cursor>,
}

impl Default for PageQuery {
    fn default() -> PageQuery {
        PageQuery { limit: PAGE_ROWS_MAX, cursor: None }
    }
}

/// A place in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// Behind the row of that name.
    Name(Name),
    /// Behind the member of that connection, among those that a channel lists or that follow its room,
    /// on the node with this mark.
    Connection {
        /// The mark of the node: its connections have no meaning elsewhere.
        mark: u32,
        /// Whether the member follows the room.
        follows: bool,
        /// The shard, the slot and its generation.
        at: (u16, u32, u32),
    },
}

/// The lists that can be paged through; a cursor of one is none of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List<'a> {
    /// The rooms of the bus.
    Rooms,
    /// The clients of the bus.
    Clients,
    /// The channels of a room.
    Channels(&'a str),
    /// The participants of a channel of a room.
    Participants(&'a str, &'a str),
}

impl List<'_> {
    fn mark(self, place: &str) -> u32 {
        let parts = match self {
            List::Rooms => ["rooms", "", ""],
            List::Clients => ["clients", "", ""],
            List::Channels(room) => ["channels", room, ""],
            List::Participants(room, channel) => ["participants", room, channel],
        };
        // FNV-1a: it tells a cursor from what is none, and guards nothing.
        let bytes = parts.into_iter().chain([place]).flat_map(|part| part.bytes().chain([b':']));
        bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
    }
}

impl Cursor {
    /// The cursor as clients get it.
    pub fn text(&self, list: List<'_>) -> String {
        let place = match self {
            Cursor::Name(name) => format!("n{name}"),
            Cursor::Connection { mark, follows, at: (shard, slot, generation) } => {
                let kind = if *follows { 'f' } else { 'l' };
                format!("{kind}{mark:x}.{shard:x}.{slot:x}.{generation:x}")
            }
        };
        format!("{:08x}{place}", list.mark(&place))
    }

    /// The cursor of that text, if it is one of this list.
    pub fn parse(text: &str, list: List<'_>) -> Option<Cursor> {
        if text.len() > 9 + NAME_BYTES_MAX {
            return None;
        }
        let (mark, place) = text.split_at_checked(8)?;
        if mark != format!("{:08x}", list.mark(place)) {
            return None;
        }
        let (kind, rest) = place.split_at_checked(1)?;
        if kind == "n" {
            return Name::parse(rest).ok().map(Cursor::Name);
        }
        let follows = match kind {
            "l" => false,
            "f" => true,
            _ => return None,
        };
        let mut numbers = rest.split('.').map(|digits| u32::from_str_radix(digits, 16).ok());
        let (mark, shard) = (numbers.next()??, u16::try_from(numbers.next()??).ok()?);
        let at = (shard, numbers.next()??, numbers.next()??);
        numbers.next().is_none().then_some(Cursor::Connection { mark, follows, at })
    }

    /// The name that the rows come behind, of a list in the order of names.
    pub fn name(&self) -> Option<&Name> {
        match self {
            Cursor::Name(name) => Some(name),
            Cursor::Connection { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_one_of_its_list_only_and_not_of_another_text() {
        let lists = [
            List::Rooms,
            List::Clients,
            List::Channels("a"),
            List::Channels("b"),
            List::Participants("a", "b"),
            List::Participants("b", "a"),
        ];
        let name = Name::parse(&"n".repeat(NAME_BYTES_MAX)).unwrap();
        let at = (u16::MAX, u32::MAX, u32::MAX);
        for cursor in [
            Cursor::Name(Name::fixed("lab.x-1")),
            Cursor::Name(name),
            Cursor::Connection { mark: 7, follows: false, at: (1, 2, 3) },
            Cursor::Connection { mark: u32::MAX, follows: true, at },
        ] {
            for (number, list) in lists.into_iter().enumerate() {
                let text = cursor.text(list);
                for (other, of) in lists.into_iter().enumerate() {
                    let expected = (other == number).then(|| cursor.clone());
                    assert_eq!(Cursor::parse(&text, of), expected);
                }
                for end in 0..text.len() {
                    assert_eq!(Cursor::parse(&text[..end], list), None);
                }
                assert_eq!(Cursor::parse(&format!("{text}x"), list), None);
            }
        }
        for text in ["", "x", "nlab", "00000000nlab", "ä", "aäbcdefgh", "0000000ä", "last"] {
            assert_eq!(Cursor::parse(text, List::Rooms), None, "{text}");
        }
    }
}
