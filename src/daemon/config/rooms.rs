//! The rooms that are there before the first client: the hard-coded ones, and `[[rooms]]`.
//!
//! A room of the file that has the name of a hard-coded one adds its channels and its settings to
//! it, so what `--print-config` writes can be read back as it is.

use crate::base::limits::HISTORY_SIZE_MAX;
use crate::daemon::config::field::{
    Choice, Field, Flaw, List, Number, Raw, Switch, Taken, Word, array, at, quoted, string,
    strings, wrong_type,
};
use crate::daemon::config::file::Document;
use crate::daemon::config::mistake::{Mistake, nearest};
use crate::protocol::command::{AckWhen, Persist, Publishers, RoomConfig};
use crate::protocol::names::{
    DASHBOARD_CHANNEL, Name, PRIVATE_CHANNEL, TELEMETRY_CHANNEL, TELEMETRY_ROOM,
};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The room that shows newcomers around.
const SCIENCE: &str = "science";
const SCIENCE_CHANNELS: [&str; 7] =
    ["general", "explore", "hypothesize", "design", "execute", "interpret", "share"];

/// A room that is there from the start. Clients can delete neither it nor its channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomSpec {
    /// Its name.
    pub name: Name,
    /// Its channels, each once.
    pub channels: Vec<Name>,
    /// How it differs from the others.
    pub config: RoomConfig,
}

/// One key of a `[[rooms]]` table.
pub(super) struct RoomKey {
    pub name: &'static str,
    pub doc: &'static str,
    pub default: &'static str,
    pub field: &'static dyn Field<RoomSpec>,
}

pub(super) static ROOM_KEYS: &[RoomKey] = &[
    RoomKey {
        name: "name",
        doc: "The room's name.",
        default: "must be given",
        field: &Word {
            at: at!(RoomSpec, name),
            accepts: "a name",
            value_name: "NAME",
            options: &[],
            parse: parse_name,
            show: Name::to_string,
        },
    },
    RoomKey {
        name: "channels",
        doc: "Its channels, besides those that clients make.",
        default: "none",
        field: &List {
            at: at!(RoomSpec, channels),
            accepts: "a list of names",
            parse: parse_channel,
            show: Name::to_string,
        },
    },
    RoomKey {
        name: "history_size",
        doc: "Messages kept for each of its channels.",
        default: "limits.history_size",
        field: &Number {
            at: at!(RoomSpec, config.history_size),
            min: 0,
            max: HISTORY_SIZE_MAX as u64,
            unit: "messages",
            zero: Some("no history"),
        },
    },
    RoomKey {
        name: "member_limit",
        doc: "Clients that may be in the room.",
        default: "no limit",
        field: &Number {
            at: at!(RoomSpec, config.member_limit),
            min: 1,
            max: 10_000_000,
            unit: "clients",
            zero: None,
        },
    },
    RoomKey {
        name: "create_on_join",
        doc: "Whether joining a channel that is not there makes it.",
        default: "limits.create_on_join",
        field: &Switch { at: at!(RoomSpec, config.create_on_join) },
    },
    RoomKey {
        name: "publishers",
        doc: "Who may publish events: every member, admins alone, or these clients and admins.",
        default: "members",
        field: &PublishersField,
    },
    RoomKey {
        name: "persist",
        doc: "What of it Redis keeps: nothing, what was said and its settings, or also whether it is paused.",
        default: "persistence.persist",
        field: &Choice {
            at: at!(RoomSpec, config.persist),
            words: Persist::WORDS,
            parse: Persist::parse,
            show: Persist::as_str,
        },
    },
    RoomKey {
        name: "ack_when",
        doc: "When an event that Redis is to keep is acknowledged: when it is stored, or when it \
              has its place.",
        default: "stored",
        field: &Choice {
            at: at!(RoomSpec, config.ack_when),
            words: AckWhen::WORDS,
            parse: AckWhen::parse,
            show: AckWhen::as_str,
        },
    },
];

/// The rooms the program itself spells out.
pub(super) fn hard_coded(bootstrap: bool) -> Vec<RoomSpec> {
    let room = |name, channels: &[&'static str]| RoomSpec {
        name: Name::fixed(name),
        channels: channels.iter().map(|channel| Name::fixed(channel)).collect(),
        config: RoomConfig::default(),
    };
    let science = bootstrap.then(|| room(SCIENCE, &SCIENCE_CHANNELS));
    let telemetry = room(TELEMETRY_ROOM, &[TELEMETRY_CHANNEL, DASHBOARD_CHANNEL]);
    science.into_iter().chain([telemetry]).collect()
}

/// The hard-coded rooms, and those of the file.
pub(super) fn resolve(
    bootstrap: bool,
    tables: Vec<Spanned<DeValue<'_>>>,
    document: Option<&Document>,
    mistakes: &mut Vec<Mistake>,
) -> Vec<RoomSpec> {
    let mut rooms = hard_coded(bootstrap);
    let Some(document) = document else {
        return rooms;
    };
    let mut seen: Vec<Name> = Vec::new();
    for table in tables {
        let at = table.span().start;
        let DeValue::Table(entries) = table.into_inner() else {
            mistakes.push(document.mistake(at, "rooms", "must be a table: `[[rooms]]`"));
            continue;
        };
        let Some((room, name_at)) = read_room(entries, at, document, mistakes) else {
            continue;
        };
        if seen.contains(&room.name) {
            let sentence = format!("the room `{}` is in `rooms` twice", room.name);
            mistakes.push(document.mistake(name_at, "rooms.name", sentence));
            continue;
        }
        seen.push(room.name.clone());
        merge(&mut rooms, room);
    }
    rooms
}

/// The room of one table and where its name stands, if it has a good one.
fn read_room(
    entries: DeTable<'_>,
    table_at: usize,
    document: &Document,
    mistakes: &mut Vec<Mistake>,
) -> Option<(RoomSpec, usize)> {
    let nameless = Name::fixed("nameless");
    let mut room = RoomSpec { name: nameless, channels: Vec::new(), config: RoomConfig::default() };
    if !entries.contains_key("name") {
        mistakes.push(document.mistake(table_at, "rooms.name", "must be given"));
    }
    let mut name_at = None;
    for (word, value) in entries {
        let path = format!("rooms.{}", word.get_ref());
        let Some(key) = ROOM_KEYS.iter().find(|key| key.name == word.get_ref()) else {
            let known = ROOM_KEYS.iter().map(|key| key.name);
            let sentence = match nearest(word.get_ref(), known) {
                Some(name) => format!("is no key of a room; did you mean `{name}`?"),
                None => "is no key of a room".to_owned(),
            };
            mistakes.push(document.mistake(word.span().start, &path, sentence));
            continue;
        };
        let at = value.span().start;
        match key.field.read(&Raw::Toml(value), &mut room) {
            Ok(()) if key.name == "name" => name_at = Some(at),
            Ok(()) => {}
            Err(flaws) => mistakes.extend(
                flaws
                    .into_iter()
                    .map(|flaw| document.mistake(flaw.at.unwrap_or(at), &path, flaw.sentence)),
            ),
        }
    }
    name_at.map(|at| (room, at))
}

fn merge(rooms: &mut Vec<RoomSpec>, room: RoomSpec) {
    let index = match rooms.iter().position(|other| other.name == room.name) {
        Some(index) => index,
        None => {
            rooms.push(RoomSpec { channels: Vec::new(), ..room.clone() });
            rooms.len() - 1
        }
    };
    let merged = &mut rooms[index];
    merged.config = room.config;
    for channel in room.channels {
        if !merged.channels.contains(&channel) {
            merged.channels.push(channel);
        }
    }
}

pub(super) fn parse_name(text: &str) -> Result<Name, String> {
    Name::parse(text).map_err(|why| format!("`{text}` is no name: it {why}"))
}

fn parse_channel(text: &str) -> Result<Name, String> {
    if text == PRIVATE_CHANNEL {
        return Err(format!("`{text}` is a channel that every room has by itself"));
    }
    parse_name(text)
}

/// Who may publish: one of two words, or a list of client ids.
struct PublishersField;

impl Field<RoomSpec> for PublishersField {
    fn accepts(&self) -> String {
        "\"members\", \"admins\" or a list of client ids".to_owned()
    }

    fn value_name(&self) -> &'static str {
        "WHO"
    }

    fn read(&self, raw: &Raw<'_>, into: &mut RoomSpec) -> Taken {
        let Raw::Toml(value) = raw else {
            return Err(vec![Flaw::new("can be given in a file only")]);
        };
        let publishers = match value.get_ref() {
            DeValue::String(_) => match string(value).map_err(|flaw| vec![flaw])? {
                "members" => Publishers::Members,
                "admins" => Publishers::Admins,
                other => {
                    let sentence = format!("must be {}, but is `{other}`", self.accepts());
                    return Err(vec![Flaw::new(sentence)]);
                }
            },
            DeValue::Array(_) => Publishers::Clients(client_ids(raw)?),
            other => return Err(vec![wrong_type(&self.accepts(), other)]),
        };
        into.config.publishers = Some(publishers);
        Ok(())
    }

    fn show(&self, of: &RoomSpec) -> Option<String> {
        of.config.publishers.as_ref().map(|publishers| match publishers {
            Publishers::Members => quoted("members"),
            Publishers::Admins => quoted("admins"),
            Publishers::Clients(ids) => array(ids.iter().map(Name::to_string)),
        })
    }

    fn copy(&self, from: &RoomSpec, to: &mut RoomSpec) {
        to.config.publishers = from.config.publishers.clone();
    }
}

fn client_ids(raw: &Raw<'_>) -> Result<Vec<Name>, Vec<Flaw>> {
    let mut ids = Vec::new();
    let mut flaws = Vec::new();
    for (at, text) in strings(raw)? {
        match parse_name(text) {
            Ok(id) => ids.push(id),
            Err(sentence) => flaws.push(Flaw { at, sentence }),
        }
    }
    if ids.is_empty() && flaws.is_empty() {
        flaws.push(Flaw::new("names nobody; give \"admins\" if only admins may publish"));
    }
    if flaws.is_empty() { Ok(ids) } else { Err(flaws) }
}
