//! How rooms, channels and events stand in Redis, and how they are read back.
//!
//! *Invariants*: what is written here is read here as the same; what was changed by another hand
//! and can't be read is told in a sentence, never a panic.
//!
//! *Not here*: the names of the keys.

use crate::base::time::Now;
use crate::broker::record::{ChannelRecord, EventRecord, RoomRecord};
use crate::broker::room::RoomType;
use crate::protocol::command::{Address, ChannelType, RoomConfig, read_config};
use crate::protocol::frame::Frame;
use crate::protocol::names::{Name, split_address};
use redis::Cmd;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::sync::Arc;

/// The highest sequence that is believed: beyond it numbers of the scripts and of JSON are not exact.
const SEQUENCE_MAX: u64 = 1 << 53;

/// The longest that an event may still be delivered, in milliseconds, as the scripts add it to a time.
const LEFT_MS_MAX: u64 = 1 << 52;
/// The longest epoch that is believed, as in `scripts/checks.lua`.
const EPOCH_BYTES_MAX: usize = 256;

/// A room as JSON.
#[derive(Serialize)]
struct RoomText<'a> {
    #[serde(rename = "type")]
    room_type: &'static str,
    paused: bool,
    created_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<&'a str>,
    config: &'a RoomConfig,
}

/// The same, read back.
#[derive(Deserialize)]
struct RoomFields {
    #[serde(rename = "type")]
    room_type: String,
    paused: bool,
    created_us: u64,
    created_by: Option<String>,
    config: Box<RawValue>,
}

/// A room as the JSON it is kept as.
pub(super) fn room_text(room: &RoomRecord) -> Result<String, serde_json::Error> {
    serde_json::to_string(&RoomText {
        room_type: room.room_type.as_str(),
        paused: room.paused,
        created_us: room.created_us,
        created_by: room.created_by.as_deref(),
        config: &room.config,
    })
}

/// The room that was kept under a name.
pub(super) fn read_room(name: &str, text: &str) -> Result<RoomRecord, String> {
    let fields: RoomFields = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let room_type = match fields.room_type.as_str() {
        "system" => RoomType::System,
        "user" => RoomType::User,
        "dynamic" => RoomType::Dynamic,
        other => return Err(format!("there is no type {other:?} of rooms")),
    };
    Ok(RoomRecord {
        name: read_name(name)?,
        room_type,
        paused: fields.paused,
        created_us: fields.created_us,
        created_by: fields.created_by.as_deref().map(read_name).transpose()?,
        config: read_config(fields.config.get()).map_err(|refusal| refusal.message.to_string())?,
    })
}

/// The fields of a channel and their values, but for its epoch and the end of its order.
fn channel_fields(channel: &ChannelRecord) -> [(&'static str, String); 8] {
    let guests: Vec<&str> = channel.guests.iter().map(Name::as_str).collect();
    let metadata = channel.metadata.as_ref().map_or("", |metadata| metadata.get());
    let past = serde_json::Value::from_iter(
        channel.past.iter().map(|&(term, last)| vec![u64::from(term), last]),
    );
    [
        ("term", channel.term.to_string()),
        ("past", past.to_string()),
        ("type", type_text(channel.channel_type).to_owned()),
        ("created_us", channel.created_us.to_string()),
        ("created_by", channel.created_by.as_deref().unwrap_or_default().to_owned()),
        ("metadata", metadata.to_owned()),
        ("guests", serde_json::Value::from(guests).to_string()),
        ("auto_created", u8::from(channel.auto_created).to_string()),
    ]
}

/// Appends the fields of a channel and their values, but for its epoch and the end of its order.
pub(super) fn put_channel(channel: &ChannelRecord, call: &mut Cmd) {
    for (name, value) in channel_fields(channel) {
        call.arg(name).arg(value);
    }
}

/// A channel as one text, as other nodes are told of it.
pub(super) fn channel_text(channel: &ChannelRecord) -> String {
    let mut fields: HashMap<&str, String> = channel_fields(channel).into();
    fields.insert("epoch", channel.epoch.to_string());
    for name in ["last", "last_us"] {
        fields.insert(name, "0".to_owned());
    }
    serde_json::json!(fields).to_string()
}

/// The channel of such a text.
pub(super) fn read_channel_text(
    address: &Arc<Address>,
    text: &str,
) -> Result<ChannelRecord, String> {
    let fields = serde_json::from_str(text).map_err(|error| error.to_string())?;
    Ok(read_channel(address, &fields)?.record)
}

/// A channel as its hash tells it, with the end of its order.
#[derive(Clone, Debug)]
pub(super) struct ChannelEnd {
    pub(super) record: ChannelRecord,
    pub(super) last: u64,
    pub(super) last_us: u64,
}

/// The channel that a hash tells of.
pub(super) fn read_channel(
    address: &Arc<Address>,
    fields: &HashMap<String, String>,
) -> Result<ChannelEnd, String> {
    let field = |name: &str| {
        fields.get(name).map(String::as_str).ok_or_else(|| format!("the field {name} is missing"))
    };
    let number = |name: &str| {
        field(name)?.parse::<u64>().map_err(|_| format!("the field {name} is no number"))
    };
    let unless_empty =
        |name: &str| field(name).map(|text| Some(text).filter(|text| !text.is_empty()));
    let metadata = unless_empty("metadata")?.map(|text| RawValue::from_string(text.to_owned()));
    let metadata =
        metadata.transpose().map_err(|error| format!("the metadata is no JSON: {error}"))?;
    let guests: Vec<String> = serde_json::from_str(field("guests")?)
        .map_err(|error| format!("the guests are no list of names: {error}"))?;
    let past: Vec<(u32, u64)> = serde_json::from_str(field("past")?)
        .map_err(|error| format!("the past is no list of terms: {error}"))?;
    let epoch = field("epoch")?;
    // It stands in messages that are cut at spaces.
    if !(1..=EPOCH_BYTES_MAX).contains(&epoch.len()) || !epoch.bytes().all(|b| b.is_ascii_graphic())
    {
        return Err("the field epoch is no epoch".to_owned());
    }
    let record = ChannelRecord {
        address: Arc::clone(address),
        epoch: epoch.into(),
        term: number("term")?.try_into().map_err(|_| "the field term is too large")?,
        past,
        channel_type: read_type(field("type")?)?,
        created_us: number("created_us")?,
        created_by: unless_empty("created_by")?
            .map(read_name)
            .transpose()
            .map_err(|why| format!("the field created_by: {why}"))?,
        metadata: metadata.map(Arc::from),
        guests: guests.iter().map(|name| read_name(name)).collect::<Result<_, _>>()?,
        auto_created: field("auto_created")? == "1",
    };
    let (last, last_us) = (number("last")?, number("last_us")?);
    if last > SEQUENCE_MAX {
        return Err(format!("the field last is {last}, more than was ever given"));
    }
    if last_us > SEQUENCE_MAX {
        return Err(format!("the field last_us is {last_us}, which is no time"));
    }
    // What only the scripts work with is not believed either.
    if fields.get("top").is_some_and(|top| !is_entry_id(top)) {
        return Err("the field top is no id of an entry".to_owned());
    }
    for name in ["bytes", "bytes_before"] {
        let is_sound = |text: &String| text.parse().is_ok_and(|bytes: u64| bytes <= SEQUENCE_MAX);
        if fields.get(name).is_some_and(|text| !is_sound(text)) {
            return Err(format!("the field {name} is no number of bytes"));
        }
    }
    Ok(ChannelEnd { record, last, last_us })
}

/// Whether this is the id of an entry with numbers that scripts can count on.
fn is_entry_id(text: &str) -> bool {
    let is_number = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_digit())
            && text.parse::<u64>().is_ok_and(|number| number <= SEQUENCE_MAX)
    };
    text.split_once('-').is_some_and(|(ms, sequence)| is_number(ms) && is_number(sequence))
}

/// Appends an event's time and fields, as the script that appends takes them.
pub(super) fn put_event(event: &EventRecord, now: Now, call: &mut Cmd) {
    let frame = &event.frame;
    call.arg(frame.timestamp_us).arg(frame.sequence);
    call.arg(frame.id()).arg(frame.from()).arg(frame.text());
    put_left(frame.left_ms(now), call);
}

/// Appends for how long an event may still be delivered, in milliseconds; nothing, if for ever.
pub(super) fn put_left(left_ms: Option<u64>, call: &mut Cmd) {
    match left_ms {
        // Beyond that numbers of the scripts are not exact.
        Some(left_ms) => call.arg(left_ms.min(LEFT_MS_MAX)),
        None => call.arg(""),
    };
}

/// An entry of a stream, as far as it is ours.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) epoch: String,
    pub(super) sequence: u64,
    pub(super) message: String,
    /// What asked for its place, if several nodes share the stream.
    pub(super) origin: Option<String>,
    /// Until when it may be delivered, on the clock of Redis in milliseconds, if it is kept so.
    until_ms: Option<u64>,
}

impl Entry {
    /// For how long it may still be delivered, in milliseconds, when Redis's clock showed this.
    pub(super) fn left_ms(&self, clock_ms: u64) -> Option<u64> {
        Some(self.until_ms?.saturating_sub(clock_ms))
    }
}

/// What the clock of Redis shows, in milliseconds, as `TIME` tells it: seconds and microseconds.
pub(super) fn clock_ms((seconds, microseconds): (u64, u64)) -> u64 {
    seconds.saturating_mul(1_000).saturating_add(microseconds / 1_000)
}

/// The entry that these fields are.
pub(super) fn read_entry(fields: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Entry, String> {
    let mut fields: HashMap<Vec<u8>, Vec<u8>> = fields.into_iter().collect();
    let mut take = |name: &str| {
        let value =
            fields.remove(name.as_bytes()).ok_or_else(|| format!("the field {name} is missing"))?;
        String::from_utf8(value).map_err(|_| format!("the field {name} is not UTF-8"))
    };
    let (epoch, message) = (take("epoch")?, take("message")?);
    let origin = take("origin").ok();
    let until_ms = take("until").ok().and_then(|until| until.parse().ok());
    let sequence = take("sequence")?.parse().map_err(|_| "the field sequence is no number")?;
    Ok(Entry { epoch, sequence, message, origin, until_ms })
}

/// The message of an entry that was read when Redis's clock showed this, ready for the wire.
pub(super) fn read_frame(entry: &Entry, now: Now, clock_ms: u64) -> Result<Arc<Frame>, String> {
    let frame = Frame::restore(&entry.message, now, entry.left_ms(clock_ms))
        .map_err(|why| format!("the message {why}"))?;
    match frame.sequence == entry.sequence {
        true => Ok(frame),
        false => Err(format!(
            "the message has the sequence {}, the entry {}",
            frame.sequence, entry.sequence
        )),
    }
}

/// The address of `room:channel`.
pub(super) fn read_address(text: &str) -> Result<Address, String> {
    let (room, channel) = split_address(text).ok_or("it is not room:channel")?;
    let channel = Name::parse_channel(channel).map_err(|why| format!("the channel {why}"))?;
    Ok(Address { room: read_name(room)?, channel })
}

pub(super) fn read_name(text: &str) -> Result<Name, String> {
    Name::parse(text).map_err(|why| format!("the name {text:?} {why}"))
}

fn type_text(channel_type: ChannelType) -> &'static str {
    match channel_type {
        ChannelType::General => "general",
        ChannelType::Private => "private",
        ChannelType::System => "system",
        ChannelType::Pm => "pm",
    }
}

fn read_type(text: &str) -> Result<ChannelType, String> {
    [ChannelType::General, ChannelType::Private, ChannelType::System, ChannelType::Pm]
        .into_iter()
        .find(|&channel_type| type_text(channel_type) == text)
        .ok_or_else(|| format!("there is no type {text:?} of channels"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::command::{AckWhen, Persist, Publishers};

    #[test]
    fn rooms_are_read_as_they_were_written() {
        let everything = RoomConfig {
            history_size: Some(7),
            member_limit: Some(3),
            create_on_join: Some(false),
            publishers: Some(Publishers::Clients(vec![Name::fixed("ann")])),
            persist: Some(Persist::All),
            ack_when: Some(AckWhen::Accepted),
        };
        for config in [everything, RoomConfig::default()] {
            let room = RoomRecord {
                name: Name::fixed("r"),
                room_type: RoomType::User,
                paused: true,
                created_us: 12,
                created_by: config.history_size.map(|_| Name::fixed("ann")),
                config,
            };
            let back = read_room("r", &room_text(&room).unwrap()).unwrap();
            assert_eq!(format!("{back:?}"), format!("{room:?}"));
        }
        let good = r#"{"type":"user","paused":false,"created_us":1,"config":{}}"#;
        for bad in ["", "{}", &good.replace("user", "x"), &good.replace("{}", r#"{"x":1}"#)] {
            assert!(read_room("r", bad).is_err(), "{bad}");
        }
        assert!(read_room("a b", good).is_err());
    }

    #[test]
    fn channels_are_read_as_they_were_written() {
        let address = Arc::new(read_address("r:c").unwrap());
        for metadata in [None, Some(r#"{"x": "ü"}"#)] {
            let record = ChannelRecord {
                address: Arc::clone(&address),
                epoch: "e".into(),
                term: u32::from(metadata.is_some()),
                past: metadata.iter().map(|_| (0, u64::MAX)).collect(),
                channel_type: ChannelType::Private,
                created_us: 5,
                created_by: metadata.map(|_| Name::fixed("ann")),
                metadata: metadata.map(|text| RawValue::from_string(text.into()).unwrap().into()),
                guests: metadata.iter().map(|_| Name::fixed("bob")).collect(),
                auto_created: metadata.is_none(),
            };
            let mut call = redis::cmd("HSET");
            put_channel(&record, &mut call);
            let words: Vec<String> = call
                .args_iter()
                .skip(1)
                .map(|arg| match arg {
                    redis::Arg::Simple(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
                    _ => panic!("a cursor"),
                })
                .collect();
            let mut fields: HashMap<String, String> =
                words.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
            for (name, value) in [("epoch", "e"), ("last", "3"), ("last_us", "9")] {
                fields.insert(name.into(), value.into());
            }
            let told = read_channel_text(&address, &channel_text(&record)).unwrap();
            assert_eq!(format!("{told:?}"), format!("{record:?}"));
            let back = read_channel(&address, &fields).unwrap();
            assert_eq!(format!("{:?}", back.record), format!("{record:?}"));
            assert_eq!((back.last, back.last_us), (3, 9));
            let mut foreign = fields.clone();
            foreign.insert("last".into(), u64::MAX.to_string());
            assert!(read_channel(&address, &foreign).unwrap_err().contains("last"));
            for name in fields.keys() {
                let mut fewer = fields.clone();
                fewer.remove(name);
                assert!(read_channel(&address, &fewer).unwrap_err().contains(name));
            }
        }
    }

    #[test]
    fn addresses_are_read_strictly() {
        assert_eq!(read_address("r:*").unwrap().to_string(), "r:*");
        for bad in ["", "r", "*:c", "r:c:d", "r: c", ":"] {
            assert!(read_address(bad).is_err(), "{bad}");
        }
    }
}
