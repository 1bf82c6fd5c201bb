//! Accepts connections and gives each to the shard with the fewest.
//!
//! Kernel balancing between several listening sockets is uneven, and a shard is fixed for a
//! connection's life; so one thread accepts for all and looks at how many each shard has.
//!
//! Who comes when the node is full is still let in as far as the handshake, so that a browser can
//! be told why (close code 1013); a bounded number of such guests are there at once, and beyond
//! that a socket is closed without a word.
//!
//! The thread never ends by a failure: it says that it can't accept ([`Health`]), and tries again.
//!
//! *Invariants*: a socket is counted when it is given to a shard and uncounted when the shard says
//! that it is gone; the addresses of one IPv6 network of 64 bits, which is what one customer has,
//! count as one.
//!
//! *Panics*: a berth is that of a shard of this node, which the acceptor chose itself.

use crate::base::hash::{Map, seeded};
use crate::base::ids::ShardId;
use crate::daemon::control::Facts;
use crate::daemon::control::health::Component;
use crate::protocol::close::CloseReason;
use crate::shard::driver::{Arrival, Clock};
use crate::shard::lanes::Lanes;
use crossbeam_channel::{Receiver, Sender};
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::SockRef;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Connections beyond the limit that may be told why they are turned away.
const GUESTS_MAX: u32 = 256;
/// How long accepting pauses when it has failed, as it does when no file descriptor is left.
const FAILED_PAUSE: Duration = Duration::from_millis(100);
/// The bits of an IPv6 address that tell one customer's network from another's.
const NETWORK_BITS: u32 = 64;

/// The connections given to a shard and not taken by it, above which another shard is preferred.
const UNTAKEN_MAX: usize = 32;

const LISTENER: Token = Token(0);
const STOP: Token = Token(1);

/// How many may come in; changes while the daemon runs.
#[derive(Debug)]
pub struct Admission {
    /// Connections on this node.
    pub connections_max: AtomicU32,
    /// Connections from one IPv4 address or one IPv6 network of another machine; 0 is no limit.
    pub per_address_max: AtomicU32,
    /// Whether memory is short, so that nobody may come in.
    pub is_short_of_memory: AtomicBool,
    /// The bytes that the kernel takes for a connection before they can go out; 0 is no limit. For
    /// connections that come from now on.
    pub unsent_bytes: AtomicU32,
}

/// What the acceptor counts.
#[derive(Debug, Default)]
pub struct AcceptCounts {
    /// Connections turned away after their handshake because the node or their address was full.
    pub turned_away: AtomicU64,
    /// Connections closed without a word because too many were being turned away.
    pub dropped: AtomicU64,
    /// Failures of `accept`, such as a lack of file descriptors.
    pub failures: AtomicU64,
}

/// Where the acceptor gives its sockets.
#[derive(Debug)]
pub struct Berth {
    /// To the shard.
    pub arrivals: Sender<Arrival>,
    /// How many connections it has.
    pub load: Arc<AtomicU32>,
}

/// What an acceptor is made of.
pub struct AcceptParts {
    /// The listening socket, bound.
    pub listener: TcpListener,
    /// A berth for each shard.
    pub berths: Vec<Berth>,
    /// Whose connections have ended.
    pub departures: Receiver<IpAddr>,
    /// To wake the shards.
    pub lanes: Lanes,
    /// How many may come in.
    pub admission: Arc<Admission>,
    /// What is counted.
    pub counts: Arc<AcceptCounts>,
    /// Where it says whether it can accept.
    pub facts: Arc<Facts>,
    /// The clock of the node.
    pub clock: Clock,
}

/// The accepting thread.
#[derive(Debug)]
pub struct Acceptor {
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: JoinHandle<()>,
}

impl Acceptor {
    /// Starts to accept.
    ///
    /// # Errors
    /// If the listening socket can't be watched, or no thread started.
    pub fn start(parts: AcceptParts) -> io::Result<Acceptor> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), STOP)?;
        parts.listener.set_nonblocking(true)?;
        let mut listener = mio::net::TcpListener::from_std(parts.listener.try_clone()?);
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let doorman = Doorman::new(poll, parts);
        let stop = doorman.stop.clone();
        let thread = thread::Builder::new().name("accept".to_owned()).spawn(|| doorman.run())?;
        Ok(Acceptor { stop, waker, thread })
    }

    /// Stops to accept and closes the listening socket.
    pub fn stop(self) {
        self.stop.store(true, Relaxed);
        if let Err(error) = self.waker.wake() {
            tracing::error!(%error, "the accepting thread could not be woken");
        }
        if self.thread.join().is_err() {
            tracing::error!("the accepting thread panicked");
        }
    }
}

struct Doorman {
    poll: Poll,
    parts: AcceptParts,
    stop: Arc<AtomicBool>,
    per_address: PerAddress,
    /// Whether the poll tells when somebody has come.
    is_told: bool,
}

impl Doorman {
    fn new(poll: Poll, parts: AcceptParts) -> Doorman {
        let per_address = PerAddress(Map::with_hasher(seeded(fastrand::u64(..))));
        Doorman { poll, parts, stop: Arc::default(), per_address, is_told: true }
    }

    fn run(mut self) {
        let mut events = Events::with_capacity(16);
        while !self.stop.load(Relaxed) {
            let polled = self.poll.poll(&mut events, None);
            self.look(polled);
        }
    }

    /// Accepts the waiting connections after a poll.
    fn look(&mut self, polled: io::Result<()>) {
        match polled {
            Ok(()) => {
                self.is_told = true;
                self.accept_all();
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Without a working poll, the listener is tried at each failure.
            Err(error) => {
                self.is_told = false;
                self.accept_all();
                self.fail(&error);
            }
        }
    }

    /// Says that it can't accept, and waits before it is tried again.
    fn fail(&self, error: &io::Error) {
        self.parts.counts.failures.fetch_add(1, Relaxed);
        let now = (self.parts.clock)();
        self.parts.facts.health().fail(Component::Accept, now, &error.to_string());
        thread::sleep(FAILED_PAUSE);
    }

    fn succeed(&self) {
        if !self.is_told {
            return;
        }
        self.parts.facts.health().succeed(Component::Accept, (self.parts.clock)());
    }

    fn accept_all(&mut self) {
        while !self.stop.load(Relaxed) {
            match self.parts.listener.accept() {
                Ok((stream, address)) => {
                    self.succeed();
                    self.admit(stream, address);
                }
                // The kernel finds a descriptor before it looks whether somebody waits.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.succeed(),
                // The peer was gone before it was accepted.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.fail(&error),
            }
        }
    }

    fn admit(&mut self, stream: TcpStream, address: SocketAddr) {
        self.count_departures();
        let peer = address.ip().to_canonical();
        let open: u32 = self.parts.berths.iter().map(|berth| berth.load.load(Relaxed)).sum();
        let max = self.parts.admission.connections_max.load(Relaxed);
        if open >= max.saturating_add(GUESTS_MAX) {
            self.parts.counts.dropped.fetch_add(1, Relaxed);
            return;
        }
        let per_address_max = self.parts.admission.per_address_max.load(Relaxed);
        let is_address_full = self.per_address.enter(peer, per_address_max);
        let turned_away = if open >= max {
            Some(CloseReason::Full)
        } else if self.parts.admission.is_short_of_memory.load(Relaxed) {
            Some(CloseReason::Memory)
        } else if is_address_full {
            Some(CloseReason::AddressFull)
        } else {
            None
        };
        if turned_away.is_some() {
            self.parts.counts.turned_away.fetch_add(1, Relaxed);
        }
        // A socket that fails here is already dead, and its shard will find out.
        let _ = stream.set_nonblocking(true);
        let _ = stream.set_nodelay(true);
        let unsent_bytes = self.parts.admission.unsent_bytes.load(Relaxed);
        if unsent_bytes > 0 {
            // The kernel knows the option since Linux 3.12.
            let _ = SockRef::from(&stream).set_tcp_notsent_lowat(unsent_bytes);
        }
        let shard = emptiest(&self.parts.berths);
        let berth = &self.parts.berths[shard.index()];
        berth.load.fetch_add(1, Relaxed);
        if berth.arrivals.send(Arrival { stream, peer, turned_away }).is_ok() {
            self.parts.lanes.ring(shard);
        }
    }

    fn count_departures(&mut self) {
        for peer in self.parts.departures.try_iter() {
            self.per_address.leave(peer);
        }
    }
}

/// How many connections there are from each address. This machine's own addresses are not counted: a proxy
/// on it connects for many clients.
#[derive(Debug)]
struct PerAddress(Map<IpAddr, u32>);

impl PerAddress {
    /// A connection comes; whether there are as many from its address already as may be, of which 0 is no
    /// limit. It is counted in any case, as it stays until it has been told.
    fn enter(&mut self, peer: IpAddr, max: u32) -> bool {
        if peer.is_loopback() {
            return false;
        }
        let count = self.0.entry(network(peer)).or_insert(0);
        *count += 1;
        max > 0 && *count > max
    }

    fn leave(&mut self, peer: IpAddr) {
        let peer = network(peer);
        if let Some(count) = self.0.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&peer);
            }
        }
    }
}

/// The shard for a new connection: the one with the fewest. One that does not take those it was given
/// gets no more of them while another one does: a shard that is stuck has few for ever.
fn emptiest(berths: &[Berth]) -> ShardId {
    let key = |berth: &Berth| (berth.arrivals.len() > UNTAKEN_MAX, berth.load.load(Relaxed));
    let shard = berths.iter().enumerate().min_by_key(|(_, berth)| key(berth));
    ShardId(shard.map_or(0, |(shard, _)| shard as u16))
}

/// What counts as one address: of IPv6, the whole network, for its owner has 2^64 addresses to choose
/// from.
fn network(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(address) => {
            let bits = address.to_bits() >> (Ipv6Addr::BITS - NETWORK_BITS);
            Ipv6Addr::from_bits(bits << (Ipv6Addr::BITS - NETWORK_BITS)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Now;
    use crate::shard::driver::poll_with_bell;

    fn now() -> Now {
        Now { mono_ns: 7_000_000_000, wall_us: 1_764_000_000_000_000 }
    }

    #[test]
    fn a_shard_that_takes_nothing_gets_little() {
        let (berths, taken): (Vec<_>, Vec<_>) = (0..2)
            .map(|_| {
                let (arrivals, taken) = crossbeam_channel::unbounded();
                (Berth { arrivals, load: Arc::default() }, taken)
            })
            .unzip();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let arrival = || {
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (stream, peer) = listener.accept().unwrap();
            Arrival { stream, peer: peer.ip(), turned_away: None }
        };
        let mut given = [0; 2];
        for _ in 0..200 {
            let shard = emptiest(&berths).index();
            given[shard] += 1;
            berths[shard].arrivals.send(arrival()).unwrap();
            berths[shard].load.fetch_add(1, Relaxed);
            // Shard 1 is stuck.
            drop(taken[0].try_recv());
        }
        assert_eq!(given, [200 - UNTAKEN_MAX - 1, UNTAKEN_MAX + 1]);
        // Where none takes anything, the fewest decide as ever.
        for _ in 0..=UNTAKEN_MAX {
            berths[0].arrivals.send(arrival()).unwrap();
        }
        assert_eq!(emptiest(&berths), ShardId(1));
    }

    #[test]
    fn while_the_poll_fails_it_says_so_and_still_lets_in_who_comes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (arrivals, came) = crossbeam_channel::unbounded();
        let (_departures, departures) = crossbeam_channel::unbounded();
        let facts = Arc::new(Facts::of_a_test(now()));
        let (_poll, bell) = poll_with_bell().unwrap();
        let mut doorman = Doorman::new(
            Poll::new().unwrap(),
            AcceptParts {
                listener,
                berths: vec![Berth { arrivals, load: Arc::default() }],
                departures,
                lanes: Lanes::new(vec![bell]).0,
                admission: Arc::new(Admission {
                    connections_max: AtomicU32::new(10),
                    per_address_max: AtomicU32::new(0),
                    is_short_of_memory: AtomicBool::new(false),
                    unsent_bytes: AtomicU32::new(0),
                }),
                counts: Arc::default(),
                facts: Arc::clone(&facts),
                clock: Arc::new(now),
            },
        );
        let failing =
            || facts.health().degradations().into_iter().map(|(part, _)| part).collect::<Vec<_>>();
        let mut clients = Vec::new();
        for tried in 1..=2 {
            clients.push(TcpStream::connect(address).unwrap());
            doorman.look(Err(io::Error::other("no poll")));
            assert_eq!(came.len(), clients.len());
            assert_eq!(doorman.parts.counts.failures.load(Relaxed), tried);
            assert_eq!(failing(), [Component::Accept]);
        }
        doorman.look(Ok(()));
        assert_eq!(failing(), []);
    }

    #[test]
    fn connections_count_by_their_address_and_those_of_this_machine_do_not() {
        let mut counts = PerAddress(Map::with_hasher(seeded(1)));
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        for own in ["127.0.0.1", "127.9.9.9", "::1"] {
            assert!(!counts.enter(at(own), 1) && !counts.enter(at(own), 1), "{own}");
            counts.leave(at(own));
        }
        for (peer, max, is_full) in [
            ("192.0.2.1", 1, false),
            ("192.0.2.1", 1, true),
            ("192.0.2.1", 3, false),
            ("192.0.2.1", 0, false),
            ("192.0.2.2", 1, false),
            ("2001:db8::1", 1, false),
            ("2001:db8::2", 1, true),
        ] {
            assert_eq!(counts.enter(at(peer), max), is_full, "{peer}, at most {max}");
        }
        counts.leave(at("2001:db8::7"));
        counts.leave(at("2001:db8::8"));
        assert!(!counts.enter(at("2001:db8::1"), 1), "there is a place again");
        for gone in ["192.0.2.1"; 4].into_iter().chain(["192.0.2.2", "2001:db8::1"]) {
            counts.leave(at(gone));
        }
        assert!(counts.0.is_empty());
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one() {
        let same = |one: &str, other: &str| {
            let [one, other] = [one, other].map(|text| network(text.parse().unwrap()));
            one == other
        };
        for (one, other, expected) in [
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
            ("2001:db8:1:2::1", "2001:db8:1:2::1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "192.0.2.1", true),
        ] {
            assert_eq!(same(one, other), expected, "{one} {other}");
        }
    }
}
