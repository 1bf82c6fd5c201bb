//! The usual form of a message, read in one pass: the protocol's own keys, each once, and nothing
//! that needs an escape beside the payload and the metadata.
//!
//! *Invariants*: what this takes, [`decode_any`](super::decode_any) takes and reads the same; it
//! says nothing of what it does not take.

use super::{METADATA_KEYS_MAX, check_telemetry, is_id_head, read_kind, trimmed_members};
use crate::base::limits::NAME_BYTES_MAX;
use crate::protocol::envelope::{Envelope, MessageType, Metadata};
use crate::protocol::json::{KnownKey, KnownMembers};
use crate::protocol::names::EVERY_CHANNEL;
use crate::protocol::scan::{is_no_id_byte, is_no_name_byte, is_special};
use crate::protocol::timestamp;

const KEYS: [KnownKey; super::FIELDS.len()] = {
    let mut keys = [const { KnownKey::new("") }; super::FIELDS.len()];
    let mut at = 0;
    while at < keys.len() {
        keys[at] = KnownKey::new(super::FIELDS[at]);
        at += 1;
    }
    keys
};
const ALL: u32 = KEYS.len() as u32;

/// Reads a message, if it has the usual form and is good.
#[inline]
pub(super) fn read(text: &str) -> Option<Envelope<'_>> {
    in_order(text).or_else(|| in_any_order(text))
}

/// Reads a message whose fields are in the order of the table without any space between them, as
/// `JSON.stringify` writes them: keys and what is around them are compared as one.
#[inline]
fn in_order(text: &str) -> Option<Envelope<'_>> {
    let mut members = KnownMembers::of(text)?;
    members.take(br#"{"version":"1.0","id":"#)?;
    let id = id(&mut members)?;
    members.take(br#","type":"#)?;
    let kind = kind(&mut members)?;
    members.take(br#","room":"#)?;
    let room = name_or_every(&mut members)?;
    members.take(br#","channel":"#)?;
    let channel = name_or_every(&mut members)?;
    members.take(br#","from":"#)?;
    let from = name(&mut members)?;
    members.take(br#","timestamp":"#)?;
    time(&mut members)?;
    members.take(br#","payload":"#)?;
    let payload = members.object()?;
    let metadata = match members.take(br#","metadata":"#) {
        Some(()) => metadata(&mut members)?,
        None => Metadata::default(),
    };
    members.take(b"}")?;
    members.end()?;
    envelope(id, kind, (room, channel), from, payload, metadata)
}

/// Reads a message whose fields are in any order, with any space behind colons and around commas.
/// The next field of the table is what it expects first.
fn in_any_order(text: &str) -> Option<Envelope<'_>> {
    let mut members = KnownMembers::of(text)?;
    let (mut id_found, mut kind_found, mut room, mut channel, mut from) = ("", None, "", "", "");
    let (mut payload, mut metadata_found) = ("", Metadata::default());
    members.open()?;
    loop {
        match members.key(&KEYS)? {
            0 => members.take(br#""1.0""#)?,
            1 => id_found = id(&mut members)?,
            2 => kind_found = Some(kind(&mut members)?),
            3 => room = name_or_every(&mut members)?,
            4 => channel = name_or_every(&mut members)?,
            5 => from = name(&mut members)?,
            6 => time(&mut members)?,
            7 => payload = members.object()?,
            _ => metadata_found = metadata(&mut members)?,
        }
        if !members.goes_on()? {
            break;
        }
    }
    members.end()?;
    // The last, `metadata`, may be left out.
    let are_all = members.were_first(ALL) || members.were_first(ALL - 1);
    let kind = kind_found.filter(|_| are_all)?;
    envelope(id_found, kind, (room, channel), from, payload, metadata_found)
}

/// What fields make together, each of which is good by itself.
#[inline(always)]
fn envelope<'a>(
    id: &'a str,
    kind: MessageType,
    (room, channel): (&'a str, &'a str),
    from: &'a str,
    payload: &'a str,
    metadata: Metadata<'a>,
) -> Option<Envelope<'a>> {
    let is_addressed = (room != EVERY_CHANNEL || kind == MessageType::Command)
        && (channel != EVERY_CHANNEL || matches!(kind, MessageType::Command | MessageType::Event));
    if !is_addressed || kind == MessageType::Telemetry && check_telemetry(payload).is_err() {
        return None;
    }
    let (id, room, channel, from) = (id.into(), room.into(), channel.into(), from.into());
    Some(Envelope { id, kind, room, channel, from, payload, metadata })
}

#[inline(always)]
fn id<'a>(members: &mut KnownMembers<'a>) -> Option<&'a str> {
    members.string(is_no_id_byte).filter(|id| is_id_head(id))
}

#[inline(always)]
fn kind(members: &mut KnownMembers<'_>) -> Option<MessageType> {
    match members.take(br#""event""#) {
        Some(()) => Some(MessageType::Event),
        None => read_kind(members.string(is_special)?).ok(),
    }
}

#[inline(always)]
fn name<'a>(members: &mut KnownMembers<'a>) -> Option<&'a str> {
    members.string(is_no_name_byte).filter(|name| {
        let begins_well = !matches!(name.as_bytes().first(), Some(b'.' | b'_' | b'-'));
        (1..=NAME_BYTES_MAX).contains(&name.len()) && begins_well
    })
}

#[inline(always)]
fn name_or_every<'a>(members: &mut KnownMembers<'a>) -> Option<&'a str> {
    match members.take(br#""*""#) {
        Some(()) => Some(EVERY_CHANNEL),
        None => name(members),
    }
}

#[inline(always)]
fn time(members: &mut KnownMembers<'_>) -> Option<()> {
    timestamp::check(members.string(is_special)?).ok()
}

#[inline(always)]
fn metadata<'a>(members: &mut KnownMembers<'a>) -> Option<Metadata<'a>> {
    let (mut metadata, mut count, mut is_good) = (Metadata::default(), 0, true);
    let object = members.object_of(|key, value| {
        count += 1;
        is_good = is_good && metadata.put(&key.get(), value).is_ok();
    })?;
    metadata.members = trimmed_members(object).into();
    (is_good && count <= METADATA_KEYS_MAX).then_some(metadata)
}
