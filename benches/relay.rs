//! The measuring stick: the least that a bus has to do for a message on this kernel.
//!
//! A relay without a protocol of its own: one thread, one epoll, no JSON, no rooms beyond a list of
//! groups. It checks a frame's length, copies its payload once into the batch of its group, and
//! once a turn, after all readable sockets were read, writes to every connection that has output.
//! What a bus takes longer than this it takes for its promises; nothing can be much faster.
//!
//! `relay --listen 127.0.0.1:0` prints `listening 127.0.0.1:PORT`. A client upgrades with a path
//! whose first segment lists its groups (`GET /room1,room7 HTTP/1.1`), and may then send WebSocket
//! frames with the mask bit, in which the four bytes of the mask are none, but the place of the
//! target in that list, big-endian; so the relay has nothing to unmask and nothing to look up.
//! Every other member of the group gets the payload as one text frame. A close frame or the end of
//! the stream ends a connection. SIGTERM ends the relay, which then prints its counts.
//!
//! Sockets are registered once, edge-triggered: a read that gives less than it was offered has
//! emptied its socket. `TCP_NODELAY` comes from the listening socket. A connection owns a buffer
//! only while it has half a frame or does not take its output, which is bounded.
//!
//! *Invariants*: a connection is read and written at most once a turn, so what it sent itself is one
//! run of bytes in each batch, and what it gets is the batch without that run; a group has a batch
//! only during a turn.

#[path = "relay/groups.rs"]
mod groups;

use groups::{Group, Groups, Place, Run};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags};
use rustix::process::{Resource, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::error::Error;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;

/// The longest payload.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// What is read at once: half a frame of the longest kind, and some.
const SCRATCH_BYTES: usize = MESSAGE_BYTES_MAX + (64 << 10);
/// The longest request that upgrades a connection.
const REQUEST_BYTES_MAX: usize = 8 << 10;
/// What waits for a socket at most.
const BACKLOG_BYTES_MAX: usize = 4 << 20;
/// Up to here several pieces are copied together, which costs less than to describe them.
const GATHER_BYTES_MAX: usize = 8 << 10;
/// New connections taken in one turn.
const ACCEPTS_PER_TURN: usize = 256;
/// What is asked of every connection's socket.
const EDGES: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);
const LISTENER: u64 = u64::MAX;
const STOP: u64 = u64::MAX - 1;
const NONE: u32 = u32::MAX;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut listen: SocketAddr = "127.0.0.1:0".parse()?;
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), arguments.next()) {
            ("--listen", Some(address)) => listen = address.parse()?,
            _ => return Err(format!("usage: relay --listen ADDRESS, not {argument}").into()),
        }
    }
    raise_descriptor_limit();
    let (stop, stopped) = UnixStream::pair()?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, stop.try_clone()?)?;
    }
    let mut relay = Relay::bind(listen)?;
    println!("listening {}", relay.listener.local_addr()?);
    let counts = relay.run(&stopped)?;
    println!("{}", counts.json());
    Ok(())
}

fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Who may not raise it has fewer connections, and says so when they don't suffice.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// The relay.
struct Relay {
    poll: OwnedFd,
    listener: TcpListener,
    connections: Vec<Option<Connection>>,
    free: Vec<u32>,
    groups: Groups,
    turn: Turn,
    counts: Counts,
    scratch: Vec<u8>,
}

/// What one turn leads to; empty between turns, but for `ready`.
#[derive(Default)]
struct Turn {
    events: Vec<epoll::Event>,
    /// Connections with bytes that were not read.
    ready: Vec<u32>,
    reading: Vec<u32>,
    /// Groups in which something was said.
    loud: Vec<u32>,
    dues: Vec<Due>,
    /// Connections to be written to.
    dirty: Vec<u32>,
    /// Connections that have ended.
    doomed: Vec<u32>,
    gathered: Vec<u8>,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    reads: u64,
    writes: u64,
    polls: u64,
    accepts: u64,
    frames_in: u64,
    frames_out: u64,
}

/// What one connection gets of one group: its batch without what the connection said itself.
#[derive(Clone, Copy)]
struct Due {
    group: u32,
    own: Run,
    frames: u32,
    /// The next due of the same connection.
    next: u32,
}

struct Connection {
    socket: OwnedFd,
    /// Its groups, in its own order; none before it has upgraded.
    places: Option<Box<[Place]>>,
    /// Half a frame, or half a request.
    rest: Vec<u8>,
    /// What its socket did not take.
    backlog: VecDeque<u8>,
    /// The first of what it gets in this turn.
    due: u32,
    is_listed: bool,
    is_dirty: bool,
    is_blocked: bool,
    /// Whether the peer will send no more, so that a short read does not mean empty.
    is_ending: bool,
    is_doomed: bool,
}

impl Relay {
    fn bind(address: SocketAddr) -> io::Result<Relay> {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM,
            None,
        )?;
        socket.set_reuse_address(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(4_096)?;
        let listener = TcpListener::from(socket);
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&poll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        Ok(Relay {
            poll,
            listener,
            connections: Vec::new(),
            free: Vec::new(),
            groups: Groups::default(),
            turn: Turn { events: Vec::with_capacity(1_024), ..Turn::default() },
            counts: Counts::default(),
            scratch: vec![0; SCRATCH_BYTES],
        })
    }

    /// Runs turns until `stop` becomes readable.
    fn run(&mut self, stop: &UnixStream) -> io::Result<Counts> {
        epoll::add(&self.poll, stop, EventData::new_u64(STOP), EventFlags::IN)?;
        while self.wait()? {
            self.read_sockets();
            self.share();
            self.write_sockets();
            self.end_turn();
        }
        Ok(self.counts)
    }

    /// Sleeps until a socket has something; false if the relay is to end.
    fn wait(&mut self) -> io::Result<bool> {
        let mut events = std::mem::take(&mut self.turn.events);
        events.clear();
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let timeout = (!self.turn.ready.is_empty()).then_some(&at_once);
        self.counts.polls += 1;
        match epoll::wait(&self.poll, spare_capacity(&mut events), timeout) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut goes_on = true;
        for event in &events {
            match event.data.u64() {
                STOP => goes_on = false,
                LISTENER => self.accept()?,
                slot => self.note(slot as u32, event.flags),
            }
        }
        self.turn.events = events;
        Ok(goes_on)
    }

    fn accept(&mut self) -> io::Result<()> {
        for _ in 0..ACCEPTS_PER_TURN {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = match net::accept_with(&self.listener, flags) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(error) => return Err(error.into()),
            };
            self.counts.accepts += 1;
            let slot = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() as u32 - 1
            });
            let token = EventData::new_u64(u64::from(slot));
            epoll::add(&self.poll, &socket, token, EDGES)?;
            self.connections[slot as usize] = Some(Connection::new(socket));
        }
        Ok(())
    }

    /// Notes what an event says of a connection.
    fn note(&mut self, slot: u32, flags: EventFlags) {
        let Some(Some(connection)) = self.connections.get_mut(slot as usize) else { return };
        let endings = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        if flags.intersects(EventFlags::IN | endings) {
            connection.is_ending |= flags.intersects(endings);
            if !std::mem::replace(&mut connection.is_listed, true) {
                self.turn.ready.push(slot);
            }
        }
        if flags.contains(EventFlags::OUT) && connection.is_blocked {
            connection.is_blocked = false;
            self.turn.mark_dirty(slot, connection);
        }
    }

    fn read_sockets(&mut self) {
        std::mem::swap(&mut self.turn.ready, &mut self.turn.reading);
        let mut reading = std::mem::take(&mut self.turn.reading);
        for slot in reading.drain(..) {
            self.read_socket(slot);
        }
        self.turn.reading = reading;
    }

    /// Reads a socket once, and takes the whole frames.
    fn read_socket(&mut self, slot: u32) {
        let Some(connection) = &mut self.connections[slot as usize] else { return };
        connection.is_listed = false;
        let rest = std::mem::take(&mut connection.rest);
        self.scratch[..rest.len()].copy_from_slice(&rest);
        let offered = &mut self.scratch[rest.len()..];
        let asked = offered.len();
        self.counts.reads += 1;
        let has_more = match net::recv(&connection.socket, offered, RecvFlags::empty()) {
            Ok((_, 0)) => return self.turn.doom(slot, connection),
            Ok((_, count)) => {
                let end = rest.len() + count;
                let is_ending = connection.is_ending;
                self.take_bytes(slot, end);
                count == asked || is_ending
            }
            Err(Errno::AGAIN) => false,
            Err(Errno::INTR) => true,
            Err(_) => return self.turn.doom(slot, connection),
        };
        if has_more && let Some(connection) = &mut self.connections[slot as usize] {
            connection.is_listed = true;
            self.turn.ready.push(slot);
        }
    }

    /// Takes what is whole of the first `end` bytes of the scratch buffer, and keeps the rest.
    fn take_bytes(&mut self, slot: u32, end: usize) {
        let scratch = std::mem::take(&mut self.scratch);
        let bytes = &scratch[..end];
        let Some(connection) = &mut self.connections[slot as usize] else { return };
        let mut used = Some(0);
        if connection.places.is_none() {
            used = self.groups.admit(slot, connection, bytes, &mut self.counts);
        }
        if let (Some(from), Some(places)) = (used, &connection.places) {
            let Relay { groups, turn, counts, .. } = self;
            let took = groups.take_frames(places, &bytes[from..], &mut turn.loud, counts);
            used = took.map(|count| from + count);
        }
        match used {
            Some(used) => connection.rest = bytes[used..].to_vec(),
            None => self.turn.doom(slot, connection),
        }
        self.scratch = scratch;
    }

    /// Tells every connection that hears a loud group what it gets of it.
    fn share(&mut self) {
        let Relay { connections, groups, turn, .. } = self;
        let mut loud = std::mem::take(&mut turn.loud);
        for &group in &loud {
            let Group { seats, frames, .. } = &mut groups.list[group as usize];
            for seat in seats {
                let own = std::mem::take(&mut seat.own);
                let frames = *frames - std::mem::take(&mut seat.own_frames);
                let Some(connection) = &mut connections[seat.connection as usize] else { continue };
                if frames > 0 {
                    let next = std::mem::replace(&mut connection.due, turn.dues.len() as u32);
                    turn.dues.push(Due { group, own, frames, next });
                    turn.mark_dirty(seat.connection, connection);
                }
            }
        }
        std::mem::swap(&mut turn.loud, &mut loud);
    }

    fn write_sockets(&mut self) {
        let mut dirty = std::mem::take(&mut self.turn.dirty);
        for slot in dirty.drain(..) {
            self.write_socket(slot);
        }
        self.turn.dirty = dirty;
    }

    /// Writes once what a connection gets in this turn.
    fn write_socket(&mut self, slot: u32) {
        let Relay { connections, groups, turn, counts, .. } = self;
        let Some(connection) = &mut connections[slot as usize] else { return };
        connection.is_dirty = false;
        let mut pieces: SmallVec<[&[u8]; 16]> = SmallVec::new();
        let mut next = std::mem::replace(&mut connection.due, NONE);
        while let Some(due) = turn.dues.get(next as usize) {
            let batch = &groups.list[due.group as usize].batch;
            let (before, after) =
                (&batch[..due.own.start as usize], &batch[due.own.end as usize..]);
            pieces.extend([before, after].into_iter().filter(|piece| !piece.is_empty()));
            counts.frames_out += u64::from(due.frames);
            next = due.next;
        }
        let is_well = match connection.backlog.is_empty() {
            true => connection.write(&pieces, &mut turn.gathered, counts),
            false => connection.write_behind(&pieces, counts),
        };
        if !is_well {
            turn.doom(slot, connection);
        }
    }

    /// Forgets the turn, and the connections that ended in it.
    fn end_turn(&mut self) {
        self.turn.dues.clear();
        for group in self.turn.loud.drain(..) {
            let group = &mut self.groups.list[group as usize];
            group.frames = 0;
            group.batch.clear();
            self.groups.batches.push(std::mem::take(&mut group.batch));
        }
        for slot in self.turn.doomed.drain(..) {
            let Some(connection) = self.connections[slot as usize].take() else { continue };
            for place in connection.places.iter().flatten() {
                let Some(moved) = self.groups.leave(*place) else { continue };
                let heir = self.connections[moved.connection as usize].as_mut();
                if let Some(places) = heir.and_then(|heir| heir.places.as_mut()) {
                    places[moved.place as usize].seat = place.seat;
                }
            }
            self.free.push(slot);
        }
    }
}

impl Turn {
    fn mark_dirty(&mut self, slot: u32, connection: &mut Connection) {
        if !std::mem::replace(&mut connection.is_dirty, true) {
            self.dirty.push(slot);
        }
    }

    fn doom(&mut self, slot: u32, connection: &mut Connection) {
        if !std::mem::replace(&mut connection.is_doomed, true) {
            self.doomed.push(slot);
        }
    }
}

impl Counts {
    fn json(&self) -> String {
        let Counts { reads, writes, polls, accepts, frames_in, frames_out } = self;
        format!(
            r#"{{"reads":{reads},"writes":{writes},"polls":{polls},"accepts":{accepts},"frames_in":{frames_in},"frames_out":{frames_out}}}"#
        )
    }
}

impl Connection {
    fn new(socket: OwnedFd) -> Connection {
        Connection {
            socket,
            places: None,
            rest: Vec::new(),
            backlog: VecDeque::new(),
            due: NONE,
            is_listed: false,
            is_dirty: false,
            is_blocked: false,
            is_ending: false,
            is_doomed: false,
        }
    }

    /// Writes, and keeps what the socket does not take; false if the connection is lost.
    fn write(&mut self, pieces: &[&[u8]], gathered: &mut Vec<u8>, counts: &mut Counts) -> bool {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        counts.writes += u64::from(length > 0);
        let sent = match pieces {
            [] => return true,
            [piece] => net::send(&self.socket, piece, SendFlags::NOSIGNAL),
            pieces if length <= GATHER_BYTES_MAX => {
                gathered.clear();
                pieces.iter().for_each(|piece| gathered.extend_from_slice(piece));
                net::send(&self.socket, gathered, SendFlags::NOSIGNAL)
            }
            pieces => {
                let pieces: SmallVec<[IoSlice; 16]> =
                    pieces.iter().map(|piece| IoSlice::new(piece)).collect();
                let mut control = SendAncillaryBuffer::default();
                net::sendmsg(&self.socket, &pieces, &mut control, SendFlags::NOSIGNAL)
            }
        };
        let mut sent = match sent {
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => return false,
        };
        self.is_blocked = sent < length;
        for piece in pieces {
            let taken = sent.min(piece.len());
            self.backlog.extend(&piece[taken..]);
            sent -= taken;
        }
        self.backlog.len() <= BACKLOG_BYTES_MAX
    }

    /// Writes what waited, and behind it what comes now; false if the connection is lost.
    fn write_behind(&mut self, pieces: &[&[u8]], counts: &mut Counts) -> bool {
        pieces.iter().for_each(|piece| self.backlog.extend(*piece));
        while !self.is_blocked && !self.backlog.is_empty() {
            let (first, _) = self.backlog.as_slices();
            let length = first.len();
            counts.writes += 1;
            let count = match net::send(&self.socket, first, SendFlags::NOSIGNAL) {
                Ok(count) => count,
                Err(Errno::AGAIN) => 0,
                Err(Errno::INTR) => continue,
                Err(_) => return false,
            };
            self.backlog.drain(..count);
            self.is_blocked = count < length;
        }
        if self.backlog.is_empty() {
            self.backlog = VecDeque::new();
        }
        self.backlog.len() <= BACKLOG_BYTES_MAX
    }
}

#[cfg(test)]
#[path = "relay/tests.rs"]
mod tests;
