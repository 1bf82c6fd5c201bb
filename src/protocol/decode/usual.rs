//! The usual form of a message, read in one pass: the protocol's own keys, each once, and nothing
//! that needs an escape beside the payload and the metadata. Fields come in any order and with any
//! space behind colons and around commas, but the order of the protocol's table costs least.
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
    let mut members = KnownMembers::of(text)?;
    let (mut id, mut kind, mut room, mut channel, mut from) = ("", None, "", "", "");
    let (mut payload, mut metadata) = ("", Metadata::default());
    loop {
        match members.key(&KEYS)? {
            0 => members.take(br#""1.0""#).then_some(())?,
            1 => id = members.string(is_no_id_byte).filter(|id| is_id_head(id))?,
            2 if members.take(br#""event""#) => kind = Some(MessageType::Event),
            2 => kind = Some(read_kind(members.string(is_special)?).ok()?),
            3 => room = name_or_every(&mut members)?,
            4 => channel = name_or_every(&mut members)?,
            5 => from = name(&mut members)?,
            6 => timestamp::check(members.string(is_special)?).ok()?,
            7 => payload = members.object(|_, _| ())?,
            _ => metadata = read_metadata(&mut members)?,
        }
        if !members.goes_on()? {
            break;
        }
    }
    // The last, `metadata`, may be left out.
    let kind = kind.filter(|_| members.were_first(ALL) || members.were_first(ALL - 1))?;
    let is_addressed = (room != EVERY_CHANNEL || kind == MessageType::Command)
        && (channel != EVERY_CHANNEL || matches!(kind, MessageType::Command | MessageType::Event));
    if !is_addressed || kind == MessageType::Telemetry && check_telemetry(payload).is_err() {
        return None;
    }
    let (id, room, channel, from) = (id.into(), room.into(), channel.into(), from.into());
    Some(Envelope { id, kind, room, channel, from, payload, metadata })
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
    name(members).or_else(|| members.string(is_special).filter(|name| *name == EVERY_CHANNEL))
}

#[inline(always)]
fn read_metadata<'a>(members: &mut KnownMembers<'a>) -> Option<Metadata<'a>> {
    let (mut metadata, mut count, mut is_good) = (Metadata::default(), 0, true);
    let object = members.object(|key, value| {
        count += 1;
        is_good = is_good && metadata.put(&key.get(), value).is_ok();
    })?;
    metadata.members = trimmed_members(object);
    (is_good && count <= METADATA_KEYS_MAX).then_some(metadata)
}
