//! A client core: one thread with an epoll of its own and its share of the connections.
//!
//! A turn: what the poll said, what is still unread, other cores' tokens, what is due, writes. All
//! sockets share one scratch buffer; a connection owns bytes only while half a frame of it is left,
//! or while its socket takes no more. Each connection is written to once a turn, and a read that
//! fills less than it was offered has drained the socket (readiness is edge-triggered, so whatever
//! comes later is told).
//!
//! epoll is used directly, and not through mio, for its timeouts: those of the open model are much
//! shorter than a millisecond.
//!
//! | file | what |
//! |---|---|
//! | `opening` | connecting, the handshake, the welcome |
//! | `reading` | frames in: checks, latency, tokens |
//! | `sending` | what is due, and frames out |
//! | `conn` | what is known of a connection |
//! | `stalling` `storming` `chores` | members who stop reading, who fall and return, who ask |
//!
//! *Invariant*: a core touches its own connections only, and no lock but at the end of a piece.

mod chores;
mod conn;
mod opening;
mod reading;
mod sending;
mod stalling;
mod storming;

pub(super) use chores::{ChoreFacts, KINDS};
pub(super) use stalling::SlowFacts;
pub(super) use storming::StormFacts;

use crate::cli::bench::ledger::Ledger;
use crate::cli::bench::pace::Pace;
use crate::cli::bench::plan::{Act, Load};
use crate::cli::bench::shared::{Shared, Trouble, lock};
use crate::cli::bench::stencil::Stencil;
use crate::cli::bench::timeline::{Latencies, Piece, Timeline, latencies};
use crate::cli::bench::vitals::{Schedule, of_this_thread};
use conn::Conn;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use sending::Due;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;

/// Bytes read from a socket at once.
const SCRATCH_BYTES: usize = 256 * 1024;
/// Events taken from the poll at once.
const EVENTS: usize = 1_024;
/// The longest sleep: how late the end of a round is noticed.
const SLEEP_NS_MAX: u64 = 20_000_000;
/// What the bell is called in the poll.
const BELL: u64 = u64::MAX;

/// What a core found.
#[derive(Debug)]
pub(super) struct CoreReport {
    /// Which core.
    pub(super) core: usize,
    /// The first wrong text, in words.
    pub(super) first_wrong: Option<String>,
    /// The account of its members, still open.
    pub(super) ledger: Ledger,
    /// The cursors of the account: a stream for each, in order.
    pub(super) cursors: Vec<u32>,
    /// The messages it sent of each stream.
    pub(super) numbers: Vec<u32>,
    /// How late messages left that were due while measured.
    pub(super) lateness: Latencies,
    /// The core's own time on the processor while measured.
    pub(super) schedule: Option<Schedule>,
    /// Gap notices that came.
    pub(super) gaps: u64,
    /// What slow members found.
    pub(super) slow: SlowFacts,
    /// What became of those who fell.
    pub(super) storm: StormFacts,
    /// What became of the requests.
    pub(super) chores: Option<ChoreFacts>,
}

/// A token on this core.
#[derive(Debug, Clone, Copy)]
struct Mark {
    /// The message that holds it: stream and number.
    message: u64,
    /// How many members here lack it.
    left: u32,
}

/// One core.
struct Core<'a> {
    shared: &'a Shared,
    number: usize,
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    conns: Vec<Conn>,
    /// Where each connection's seats begin in `seat_cursor` and `seat_sequence`.
    seat_base: Vec<u32>,
    /// Where each seat's cursors begin in the ledger.
    seat_cursor: Vec<u32>,
    /// The last sequence that each seat has got.
    seat_sequence: Vec<u64>,
    cursors: Vec<u32>,
    ledger: Ledger,
    first_wrong: Option<String>,
    /// The frames of the streams that publish from here; those of others are empty.
    stencils: Vec<Option<Stencil>>,
    numbers: Vec<u32>,
    marks: Vec<Mark>,
    pace: Option<Pace>,
    timeline: Option<Timeline>,
    /// Read from, and written from.
    scratch: Vec<u8>,
    out: Vec<u8>,
    due: Vec<Due>,
    unread: Vec<u32>,
    opening: opening::Opening,
    piece: Piece,
    piece_number: usize,
    lateness: Latencies,
    schedule: [Option<Schedule>; 2],
    gaps: u64,
    stalling: stalling::Stalling,
    storming: storming::Storming,
    chores: Option<chores::Chores>,
    sent: u64,
    expected: u64,
    received: u64,
    held: u64,
}

/// Runs one core until the round is over.
pub(super) fn play(shared: &Shared, number: usize) -> io::Result<CoreReport> {
    // The kernel may delay a timer of an ordinary thread by 50 µs.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    let mut core = Core::new(shared, number)?;
    while !shared.is_over.load(Relaxed) {
        core.turn()?;
    }
    Ok(core.finish())
}

impl<'a> Core<'a> {
    fn new(shared: &'a Shared, number: usize) -> io::Result<Core<'a>> {
        let layout = &shared.layout;
        let own = (number..layout.seats.len()).step_by(shared.threads);
        let (mut seat_base, mut seat_cursor, mut cursors) = (Vec::new(), Vec::new(), Vec::new());
        for conn in own.clone() {
            seat_base.push(seat_cursor.len() as u32);
            for &group in &layout.seats[conn] {
                seat_cursor.push(cursors.len() as u32);
                cursors.extend_from_slice(&layout.groups[group as usize].streams);
            }
        }
        let stencil = |stream: u32| {
            let is_own = layout.streams[stream as usize].conn as usize % shared.threads == number;
            is_own.then(|| shared.site.stencil(layout, &shared.naming, &shared.filling, stream))
        };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bell = epoll::EventData::new_u64(BELL);
        epoll::add(
            &epoll,
            &shared.mailboxes[number].bell,
            bell,
            epoll::EventFlags::IN | epoll::EventFlags::ET,
        )?;
        Ok(Core {
            conns: own.clone().map(|_| Conn::default()).collect(),
            ledger: Ledger::new(cursors.len()),
            seat_sequence: vec![0; seat_cursor.len()],
            stencils: (0..layout.streams.len() as u32).map(stencil).collect(),
            numbers: vec![0; layout.streams.len()],
            marks: vec![Mark { message: u64::MAX, left: 0 }; shared.tokens.len()],
            events: Vec::with_capacity(EVENTS),
            scratch: vec![0; SCRATCH_BYTES],
            opening: opening::Opening::new(shared, own.len()),
            out: Vec::new(),
            due: Vec::new(),
            unread: Vec::new(),
            pace: None,
            timeline: None,
            piece: Piece::default(),
            piece_number: 0,
            lateness: latencies(),
            schedule: [None, None],
            first_wrong: None,
            gaps: 0,
            stalling: stalling::Stalling::default(),
            storming: storming::Storming::default(),
            chores: chores::Chores::new(shared, number, own.len()),
            sent: 0,
            expected: 0,
            received: 0,
            held: 0,
            shared,
            number,
            epoll,
            seat_base,
            seat_cursor,
            cursors,
        })
    }

    fn turn(&mut self) -> io::Result<()> {
        self.begin();
        self.open_more();
        self.wait()?;
        self.handle_events();
        self.read_unread();
        self.take_mail();
        self.take_due();
        self.send_due();
        self.take_chores();
        self.mind_time();
        self.publish();
        Ok(())
    }

    /// Begins to send when everybody is there.
    fn begin(&mut self) {
        if self.timeline.is_some() {
            return;
        }
        let Some(&timeline) = self.shared.timeline.get() else {
            return;
        };
        self.timeline = Some(timeline);
        match self.shared.load {
            Load::Open { messages_per_s, .. } => {
                let (shared, number) = (self.shared, self.number);
                let is_own = |stream: u32| {
                    shared.layout.streams[stream as usize].conn as usize % shared.threads == number
                };
                let start_ns = timeline.start_ns;
                self.pace = Some(Pace::new(start_ns, messages_per_s, &shared.order, is_own));
            }
            Load::Closed { .. } => {
                for token in 0..self.shared.tracks.len() as u32 {
                    let stream = self.shared.tracks[token as usize][0];
                    if self.owner(stream) == self.number {
                        self.push_due(stream, token);
                    }
                }
            }
            Load::None => {}
        }
    }

    /// Waits for the first of: bytes, the bell, the next message, 20 ms.
    fn wait(&mut self) -> io::Result<()> {
        let mut sleep_ns = SLEEP_NS_MAX;
        if !self.due.is_empty() || !self.unread.is_empty() {
            sleep_ns = 0;
        } else if let Some(next_ns) = self.next_ns() {
            sleep_ns = next_ns.saturating_sub(self.shared.clock.now_ns()).min(SLEEP_NS_MAX);
        }
        let timeout = Timespec { tv_sec: 0, tv_nsec: sleep_ns as i64 };
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => Ok(()),
            answer => answer.map(|_| ()).map_err(io::Error::from),
        }
    }

    /// When the next message or request is due.
    fn next_ns(&self) -> Option<u64> {
        let message_ns = self.pace.as_ref().and_then(Pace::next_ns);
        let (Some(chores), Some(timeline)) = (&self.chores, self.timeline) else {
            return message_ns;
        };
        let chore_ns = chores.next_ns(timeline.start_ns);
        // Who could ask may all be busy: then the answer ends the sleep, and not the clock.
        let chore_ns = (chore_ns > self.shared.clock.now_ns()).then_some(chore_ns);
        message_ns.into_iter().chain(chore_ns.filter(|&at_ns| at_ns < timeline.to_ns)).min()
    }

    fn handle_events(&mut self) {
        let events = std::mem::take(&mut self.events);
        for event in &events {
            let (flags, data) = (event.flags, event.data.u64());
            if data == BELL {
                let mut count = [0; 8];
                // Whoever rings has put a token into the mailbox, which is looked into each turn.
                let _ = rustix::io::read(&self.shared.mailboxes[self.number].bell, &mut count);
                continue;
            }
            let local = data as usize;
            if flags.contains(epoll::EventFlags::OUT) {
                self.on_writable(local);
            }
            if flags.intersects(!epoll::EventFlags::OUT) {
                self.read_socket(local);
            }
        }
        self.events = events;
    }

    fn read_unread(&mut self) {
        for local in std::mem::take(&mut self.unread) {
            self.read_socket(local as usize);
        }
    }

    fn take_mail(&mut self) {
        if self.shared.threads == 1 {
            return;
        }
        while let Ok(token) = self.shared.mailboxes[self.number].tokens.1.try_recv() {
            self.go_on(token);
        }
    }

    /// Moves what came in a piece of time to where all cores' pieces meet, and looks at the clock
    /// of the scheduler when measuring begins and ends.
    fn mind_time(&mut self) {
        let Some(timeline) = self.timeline else {
            return;
        };
        let now_ns = self.shared.clock.now_ns();
        if self.schedule[0].is_none() && now_ns >= timeline.from_ns {
            self.schedule[0] = of_this_thread();
        }
        if self.schedule[1].is_none() && now_ns >= timeline.to_ns {
            self.schedule[1] = of_this_thread();
        }
        match self.shared.act {
            Act::Stall => {
                self.mind_stalling((timeline.event_ns..timeline.to_ns).contains(&now_ns));
            }
            Act::Storm => self.mind_storm(now_ns, timeline.event_ns),
            Act::Steady | Act::Idle | Act::Mix { .. } => {}
        }
        let piece = timeline.piece(now_ns).unwrap_or(match now_ns < timeline.to_ns {
            true => 0,
            false => usize::MAX,
        });
        if piece != self.piece_number {
            self.store_piece(timeline);
            self.piece_number = piece;
        }
    }

    fn store_piece(&mut self, timeline: Timeline) {
        // What comes after the end belongs to the last piece, whose messages they are.
        let last = timeline.piece(timeline.to_ns - 1).unwrap_or_default();
        let number = self.piece_number.min(last);
        let mut pieces = lock(&self.shared.pieces);
        if pieces.len() <= number {
            pieces.resize_with(number + 1, Piece::default);
        }
        pieces[number].take(&mut self.piece);
    }

    /// Lets those who watch see the counts.
    fn publish(&self) {
        let totals = &self.shared.totals[self.number];
        totals.opened.store(self.opening.opened, Relaxed);
        totals.opened_ns.store(self.opening.progressed_ns, Relaxed);
        totals.sent.store(self.sent, Relaxed);
        totals.expected.store(self.expected, Relaxed);
        totals.received.store(self.received, Relaxed);
        totals.held.store(self.held, Relaxed);
        totals.asked.store(self.chores_out(), Relaxed);
        totals.slow.store(self.slow_progress(), Relaxed);
    }

    fn finish(mut self) -> CoreReport {
        if let Some(timeline) = self.timeline {
            self.store_piece(timeline);
        }
        self.publish();
        let [first, last] = self.schedule;
        CoreReport {
            core: self.number,
            slow: self.slow_facts(),
            storm: self.storm_facts(),
            chores: self.chore_facts(),
            first_wrong: self.first_wrong,
            ledger: self.ledger,
            cursors: self.cursors,
            numbers: self.numbers,
            lateness: self.lateness,
            schedule: first.zip(last.or_else(of_this_thread)).map(|(from, to)| to.since(&from)),
            gaps: self.gaps,
        }
    }

    /// Which core publishes a stream.
    fn owner(&self, stream: u32) -> usize {
        self.shared.layout.streams[stream as usize].conn as usize % self.shared.threads
    }

    /// The number of a connection of this core among all.
    fn global(&self, local: usize) -> u32 {
        (local * self.shared.threads + self.number) as u32
    }

    fn died(&mut self, local: usize, why: &str) {
        if self.is_slow(local) {
            return self.on_slow_end(local, Err(why));
        }
        self.conns[local].close();
        let client = self.shared.naming.client(self.global(local));
        self.shared.raise(Trouble::Died(format!("the connection of {client} ended: {why}")));
    }
}
