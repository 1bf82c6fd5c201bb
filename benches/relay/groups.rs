//! The groups of the relay: who is in them, and what was said in them in this turn.

use super::{Connection, Counts, MESSAGE_BYTES_MAX, REQUEST_BYTES_MAX};
use std::collections::HashMap;
use tungstenite::handshake::derive_accept_key;

/// The opcode of a close frame.
const CLOSE: u8 = 8;

/// Where a connection sits in a group.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) group: u32,
    pub(super) seat: u32,
}

#[derive(Default)]
pub(super) struct Groups {
    by_name: HashMap<Box<str>, u32>,
    pub(super) list: Vec<Group>,
    free: Vec<u32>,
    /// Batches that no group uses now.
    pub(super) batches: Vec<Vec<u8>>,
}

#[derive(Default)]
pub(super) struct Group {
    name: Box<str>,
    pub(super) seats: Vec<Seat>,
    /// What was said in this turn, as the frames that go out.
    pub(super) batch: Vec<u8>,
    pub(super) frames: u32,
}

#[derive(Clone, Copy)]
pub(super) struct Seat {
    pub(super) connection: u32,
    /// Which of the connection's places it is.
    pub(super) place: u32,
    pub(super) own: Run,
    pub(super) own_frames: u32,
}

/// A run of bytes in a batch.
#[derive(Clone, Copy, Default)]
pub(super) struct Run {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Groups {
    /// Answers a request and gives the connection its seats; how long the request was, or `None`
    /// if it is not one that upgrades.
    pub(super) fn admit(
        &mut self,
        slot: u32,
        connection: &mut Connection,
        bytes: &[u8],
        counts: &mut Counts,
    ) -> Option<usize> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut headers);
        let length = match request.parse(bytes).ok()? {
            httparse::Status::Complete(length) => length,
            httparse::Status::Partial => return (bytes.len() <= REQUEST_BYTES_MAX).then_some(0),
        };
        let path = request.path?.strip_prefix('/')?;
        let list = path.split(['/', '?']).next()?;
        let names: Vec<&str> = list.split(',').filter(|name| !name.is_empty()).collect();
        if names.iter().enumerate().any(|(at, name)| names[..at].contains(name)) {
            return None;
        }
        let is_key = |name: &str| name.eq_ignore_ascii_case("sec-websocket-key");
        let key = request.headers.iter().find(|header| is_key(header.name))?.value;
        let seat = |(place, name): (usize, &&str)| self.join(name, slot, place as u32);
        connection.places = Some(names.iter().enumerate().map(seat).collect());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            derive_accept_key(key)
        );
        connection.write(&[answer.as_bytes()], &mut Vec::new(), counts).then_some(length)
    }

    fn join(&mut self, name: &str, connection: u32, place: u32) -> Place {
        let group = match self.by_name.get(name) {
            Some(&group) => group,
            None => {
                let group = self.free.pop().unwrap_or_else(|| {
                    self.list.push(Group::default());
                    self.list.len() as u32 - 1
                });
                self.list[group as usize].name = name.into();
                self.by_name.insert(name.into(), group);
                group
            }
        };
        let seats = &mut self.list[group as usize].seats;
        seats.push(Seat { connection, place, own: Run::default(), own_frames: 0 });
        Place { group, seat: seats.len() as u32 - 1 }
    }

    /// Takes a seat away; the one that moved to where it was, if one did.
    pub(super) fn leave(&mut self, place: Place) -> Option<Seat> {
        let group = &mut self.list[place.group as usize];
        group.seats.swap_remove(place.seat as usize);
        if group.seats.is_empty() {
            self.by_name.remove(&std::mem::take(&mut group.name));
            self.free.push(place.group);
        }
        group.seats.get(place.seat as usize).copied()
    }

    /// Appends each whole frame to the batch of its group; how many bytes those frames are, or
    /// `None` at the end of the conversation.
    pub(super) fn take_frames(
        &mut self,
        places: &[Place],
        bytes: &[u8],
        loud: &mut Vec<u32>,
        counts: &mut Counts,
    ) -> Option<usize> {
        let mut used = 0;
        while let Some(frame) = Incoming::parse(&bytes[used..])? {
            let place = places.get(frame.target as usize)?;
            let group = &mut self.list[place.group as usize];
            if group.frames == 0 {
                loud.push(place.group);
                group.batch = self.batches.pop().unwrap_or_default();
            }
            let start = group.batch.len() as u32;
            group.batch.extend_from_slice(&[0x81, frame.header[1] & 0x7f]);
            group.batch.extend_from_slice(&frame.header[2..]);
            group.batch.extend_from_slice(frame.payload);
            group.frames += 1;
            let seat = &mut group.seats[place.seat as usize];
            if seat.own_frames == 0 {
                seat.own.start = start;
            }
            seat.own.end = group.batch.len() as u32;
            seat.own_frames += 1;
            counts.frames_in += 1;
            used += frame.header.len() + 4 + frame.payload.len();
        }
        Some(used)
    }
}

/// A frame of a client.
struct Incoming<'a> {
    /// The header without the mask.
    header: &'a [u8],
    target: u32,
    payload: &'a [u8],
}

impl Incoming<'_> {
    /// The frame that `bytes` begin with, if it is whole; the outer `None` says that the
    /// conversation is at its end.
    fn parse(bytes: &[u8]) -> Option<Option<Incoming<'_>>> {
        let [first, second, rest @ ..] = bytes else { return Some(None) };
        if first & 0x0f == CLOSE || second & 0x80 == 0 {
            return None;
        }
        let (length, header) = match (second & 0x7f, rest) {
            (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 4),
            (127, [a, b, c, d, e, f, g, h, ..]) => {
                (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 10)
            }
            (126 | 127, _) => return Some(None),
            (length, _) => (u64::from(length), 2),
        };
        if length > MESSAGE_BYTES_MAX as u64 {
            return None;
        }
        let (header, rest) = bytes.split_at(header);
        let Some((target, rest)) = rest.split_first_chunk() else { return Some(None) };
        let target = u32::from_be_bytes(*target);
        let payload = rest.get(..length as usize);
        Some(payload.map(|payload| Incoming { header, target, payload }))
    }
}
