//! What the cores of a round and its conductor share.
//!
//! Cores own their connections; they tell each other only that a token of the closed model has come
//! to one of them. With a single core nothing here is touched for a message.

use crate::cli::bench::layout::Layout;
use crate::cli::bench::plan::{Act, Load, Plan};
use crate::cli::bench::shape::Shape;
use crate::cli::bench::site::Site;
use crate::cli::bench::stencil::{Filling, Naming};
use crate::cli::bench::timeline::{Clock, Piece, Timeline};
use crate::cli::failure::Failure;
use crossbeam_channel::{Receiver, Sender, unbounded};
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// Why a round ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Nothing answers at the address.
    Unreachable(String),
    /// What answers refuses the load, or is no bus.
    Refused(String),
    /// It went away in the middle.
    Died(String),
}

impl Trouble {
    /// Its sentence.
    pub(super) fn sentence(&self) -> &str {
        match self {
            Trouble::Unreachable(why) | Trouble::Refused(why) | Trouble::Died(why) => why,
        }
    }

    /// What the command fails with.
    pub(super) fn into_failure(self) -> Failure {
        match self {
            Trouble::Unreachable(why) => Failure::Unreachable(why),
            Trouble::Refused(why) | Trouble::Died(why) => Failure::Refused(why),
        }
    }
}

/// One message in flight.
#[derive(Debug, Default)]
pub(super) struct Token {
    /// The cores that have not yet got it for all of their members.
    pub(super) parts_left: AtomicU32,
    /// Where on its track it is.
    pub(super) step: AtomicU32,
}

/// How a core hears of another's news.
#[derive(Debug)]
pub(super) struct Mailbox {
    /// Tokens that have come to this core.
    pub(super) tokens: (Sender<u32>, Receiver<u32>),
    /// Ends its sleep.
    pub(super) bell: OwnedFd,
}

/// What a core has done so far, for those who watch.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// Connections that are welcomed.
    pub(super) opened: AtomicU64,
    /// Messages sent.
    pub(super) sent: AtomicU64,
    /// Deliveries that these must make.
    pub(super) expected: AtomicU64,
    /// Deliveries that came, for the first time each.
    pub(super) received: AtomicU64,
    /// Messages that are due and not sent, because a socket takes no more.
    pub(super) held: AtomicU64,
    /// Requests that are not answered yet.
    pub(super) asked: AtomicU64,
    /// Frames that came to slow members.
    pub(super) slow: AtomicU64,
    /// When the last connection was welcomed.
    pub(super) opened_ns: AtomicU64,
}

/// The sums of all cores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sums {
    /// Connections that are welcomed.
    pub(super) opened: u64,
    /// Messages sent.
    pub(super) sent: u64,
    /// Deliveries that these must make.
    pub(super) expected: u64,
    /// Deliveries that came.
    pub(super) received: u64,
    /// Messages that wait for a socket.
    pub(super) held: u64,
    /// Requests that wait for an answer.
    pub(super) asked: u64,
    /// Frames that came to slow members.
    pub(super) slow: u64,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Shared {
    /// The round's clock.
    pub(super) clock: Clock,
    /// Who is where.
    pub(super) layout: Layout,
    /// What they are called.
    pub(super) naming: Naming,
    /// What fills their payloads.
    pub(super) filling: Filling,
    /// What their messages look like.
    pub(super) shape: Shape,
    /// What is measured.
    pub(super) site: Site,
    /// How messages are made.
    pub(super) load: Load,
    /// What befalls the clients.
    pub(super) act: Act,
    /// The streams in the order of the open model.
    pub(super) order: Vec<u32>,
    /// The tracks of the closed model's tokens.
    pub(super) tracks: Vec<Vec<u32>>,
    /// The tokens.
    pub(super) tokens: Vec<Token>,
    /// How many members of each group each core holds, at `group * threads + core`.
    pub(super) parts: Vec<u32>,
    /// How many cores there are.
    pub(super) threads: usize,
    /// How long a connection may take.
    pub(super) timeout: Duration,
    /// Set when everybody is connected.
    pub(super) timeline: OnceLock<Timeline>,
    /// Set when the cores are to end.
    pub(super) is_over: AtomicBool,
    /// One for each core.
    pub(super) mailboxes: Vec<Mailbox>,
    /// One for each core.
    pub(super) totals: Vec<Totals>,
    /// The pieces of the measured time, and what came after it.
    pub(super) pieces: Mutex<Vec<Piece>>,
    /// The first thing that went wrong.
    trouble: Mutex<Option<Trouble>>,
}

impl Shared {
    /// Everything is made before the first core starts.
    pub(super) fn new(
        plan: &Plan,
        layout: &Layout,
        site: Site,
        timeout: Duration,
        naming: Naming,
        rng: &mut fastrand::Rng,
    ) -> io::Result<Shared> {
        let (layout, load, act) = (layout.clone(), plan.load, plan.act);
        let threads = plan.client_threads as usize;
        let filling = Filling::new(plan.payload);
        let mut order: Vec<u32> = (0..layout.streams.len() as u32).collect();
        rng.shuffle(&mut order);
        let tracks = match load {
            Load::Closed { in_flight } => layout.tracks(in_flight),
            _ => Vec::new(),
        };
        let mut parts = vec![0; layout.groups.len() * threads];
        for (number, group) in layout.groups.iter().enumerate() {
            for &member in group.members.iter().filter(|&&member| layout.listens(member)) {
                parts[number * threads + member as usize % threads] += 1;
            }
        }
        let mailbox = |_| {
            let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
            Ok(Mailbox { tokens: unbounded(), bell })
        };
        Ok(Shared {
            clock: Clock::start(),
            shape: Shape::new(&layout, naming.clone(), filling.clone()),
            tokens: tracks.iter().map(|_| Token::default()).collect(),
            mailboxes: (0..threads).map(mailbox).collect::<io::Result<_>>()?,
            totals: (0..threads).map(|_| Totals::default()).collect(),
            timeline: OnceLock::new(),
            is_over: AtomicBool::new(false),
            pieces: Mutex::default(),
            trouble: Mutex::default(),
            layout,
            naming,
            filling,
            site,
            load,
            act,
            order,
            tracks,
            parts,
            threads,
            timeout,
        })
    }

    /// What these words of a command line make, at a server that is nowhere.
    #[cfg(test)]
    pub(super) fn of_words(words: &str) -> Shared {
        use crate::cli::bench::site::Dialect;
        let what = crate::cli::bench::args::What::of_words(words).unwrap();
        let common = what.common().unwrap();
        let (plan, layout) = Plan::of(&what, common).unwrap();
        let site = Site::local(Dialect::Bus, "127.0.0.1:9".parse().unwrap());
        let mut rng = fastrand::Rng::with_seed(plan.seed);
        let naming = Naming::new(&mut rng);
        Shared::new(&plan, &layout, site, common.timeout, naming, &mut rng).unwrap()
    }

    /// The sums of what all cores have done.
    pub(super) fn sums(&self) -> Sums {
        let sum = |of: fn(&Totals) -> &AtomicU64| {
            self.totals.iter().map(|totals| of(totals).load(Relaxed)).sum()
        };
        Sums {
            opened: sum(|totals| &totals.opened),
            sent: sum(|totals| &totals.sent),
            // What was received is read first, or a message could seem to have come too often.
            received: sum(|totals| &totals.received),
            expected: sum(|totals| &totals.expected),
            held: sum(|totals| &totals.held),
            asked: sum(|totals| &totals.asked),
            slow: sum(|totals| &totals.slow),
        }
    }

    /// When the last connection was welcomed.
    pub(super) fn last_opened_ns(&self) -> u64 {
        self.totals.iter().map(|totals| totals.opened_ns.load(Relaxed)).max().unwrap_or(0)
    }

    /// Ends the sleep of a core.
    pub(super) fn ring(&self, core: usize) {
        // A bell that can't be rung has been rung often enough.
        let _ = rustix::io::write(&self.mailboxes[core].bell, &1u64.to_ne_bytes());
    }

    /// Something went wrong; the round ends. Only the first trouble is told.
    pub(super) fn raise(&self, trouble: Trouble) {
        lock(&self.trouble).get_or_insert(trouble);
        self.is_over.store(true, Relaxed);
    }

    /// What went wrong first.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        lock(&self.trouble).clone()
    }
}

/// A lock whose holder panicked holds counts that are still counts.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
