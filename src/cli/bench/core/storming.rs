//! Everybody but the publishers loses the connection at once, comes back under the same name and
//! recovers what it missed from {epoch, sequence}, while the publishers go on.
//!
//! Connections are reset, not closed: that is how they are lost, and it leaves no port behind in
//! `TIME_WAIT`.

use super::Core;
use super::conn::Stage;
use crate::cli::bench::stencil::{CHANNEL, push_masked_header};
use crate::cli::words::{self, Refused, Reply};
use crate::protocol::command::Address;
use crate::protocol::names::Name;
use rustix::net::sockopt::set_socket_linger;
use serde::Deserialize;
use serde_json::json;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// What the ids of recovering joins begin with; the seat follows.
pub(super) const RECOVERY_ID: &str = "arq_r";
/// The pause before a name is asked for again that its last connection still holds.
const RETRY_NS: u64 = 10_000_000;

/// What became of those who fell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::cli::bench) struct StormFacts {
    /// How many fell.
    pub(in crate::cli::bench) fell: u64,
    /// From their fall until the last was connected again.
    pub(in crate::cli::bench) back_ns: u64,
    /// From their fall until the last had everything.
    pub(in crate::cli::bench) caught_up_ns: u64,
    /// How many have everything.
    pub(in crate::cli::bench) caught_up: u64,
    /// How many rooms could not be recovered, by reason.
    pub(in crate::cli::bench) unrecovered: BTreeMap<String, u64>,
    /// Messages that came from history.
    pub(in crate::cli::bench) replayed: u64,
    /// Handshakes that were refused because the name was still taken.
    pub(in crate::cli::bench) retries: u64,
}

/// The storm as one core sees it.
#[derive(Debug, Default)]
pub(super) struct Storming {
    /// When everybody fell.
    fell_ns: Option<u64>,
    /// The epoch of each seat's channel.
    epochs: Vec<String>,
    /// The sequence that each seat must reach, if it is behind; `MAX` until the bus has said it.
    targets: Vec<Option<u64>>,
    /// How many seats have not reached it.
    behind: usize,
    /// Who tries again when.
    later: VecDeque<(u64, u32)>,
    facts: StormFacts,
}

#[derive(Deserialize)]
struct JoinBody {
    sequence: u64,
    #[serde(default)]
    recovered: bool,
    reason: Option<String>,
}

impl Core<'_> {
    /// Whether a connection comes back, and must recover.
    pub(super) fn is_returning(&self, local: usize) -> bool {
        self.storming.fell_ns.is_some() && !self.is_publisher(local)
    }

    fn is_publisher(&self, local: usize) -> bool {
        self.shared.layout.publishes[self.global(local) as usize]
    }

    /// Keeps the epochs that the welcome told.
    pub(super) fn note_epochs(
        &mut self,
        local: usize,
        epochs: impl Iterator<Item = (usize, String)>,
    ) {
        self.storming.epochs.resize(self.seat_sequence.len(), String::new());
        for (seat, epoch) in epochs {
            self.storming.epochs[self.seat_base[local] as usize + seat] = epoch;
        }
    }

    /// Everybody falls when it is time, and those who were sent away try again.
    pub(super) fn mind_storm(&mut self, now_ns: u64, event_ns: u64) {
        if self.storming.fell_ns.is_none() && now_ns >= event_ns {
            self.fall(now_ns);
        }
        while let Some(&(at_ns, local)) = self.storming.later.front() {
            if at_ns > now_ns {
                return;
            }
            self.storming.later.pop_front();
            self.opening.push(local);
        }
    }

    fn fall(&mut self, now_ns: u64) {
        self.storming.targets = vec![None; self.seat_sequence.len()];
        for local in 0..self.conns.len() {
            if self.is_publisher(local) {
                continue;
            }
            let conn = &mut self.conns[local];
            if let Some(socket) = conn.socket.take() {
                // If it can't be reset it is closed, which is a fall, too.
                let _ = set_socket_linger(&socket, Some(Duration::ZERO));
            }
            conn.close();
            conn.stage = Stage::Unopened;
            self.opening.push(local as u32);
            let seats = self.shared.layout.seats[self.global(local) as usize].len();
            let base = self.seat_base[local] as usize;
            self.storming.targets[base..base + seats].fill(Some(u64::MAX));
            self.storming.behind += seats;
            self.storming.facts.fell += 1;
        }
        self.storming.fell_ns = Some(now_ns);
    }

    /// The name is still taken: it is asked for again a little later.
    pub(super) fn try_again(&mut self, local: usize) {
        self.conns[local].close();
        self.conns[local].stage = Stage::Unopened;
        self.storming.facts.retries += 1;
        self.opening.give_up();
        let at_ns = self.shared.clock.now_ns() + RETRY_NS;
        self.storming.later.push_back((at_ns, local as u32));
    }

    /// A connection is back: it joins its rooms where it left them.
    pub(super) fn recover(&mut self, local: usize) {
        let now_ns = self.shared.clock.now_ns();
        self.storming.facts.back_ns = now_ns - self.storming.fell_ns.unwrap_or(now_ns);
        let shared = self.shared;
        let conn = self.global(local);
        let client = shared.naming.client(conn);
        let mut out = Vec::new();
        for (place, &group) in shared.layout.seats[conn as usize].iter().enumerate() {
            let seat = self.seat_base[local] as usize + place;
            let names = (Name::parse(&shared.naming.room(group)), Name::parse(CHANNEL));
            let (Ok(room), Ok(channel)) = names else {
                continue;
            };
            let recover = json!({"recover": {
                "epoch": self.storming.epochs.get(seat), "sequence": self.seat_sequence[seat]
            }});
            let (id, address) = (format!("{RECOVERY_ID}{seat}"), Address { room, channel });
            let text = words::command(&id, &client, Some(&address), "join_channel", recover);
            push_masked_header(&mut out, 0x81, text.len(), 0);
            out.extend_from_slice(text.as_bytes());
        }
        self.write(local, &out);
    }

    /// The bus says what follows, or why nothing does.
    pub(super) fn on_recovery(&mut self, seat: &str, reply: &Reply<'_>) {
        let Some(seat) = seat.parse().ok().filter(|&seat: &usize| seat < self.seat_sequence.len())
        else {
            return;
        };
        let body = match reply.outcome() {
            Ok(result) => serde_json::from_str(result).ok(),
            Err(Refused { error, .. }) => {
                Some(JoinBody { sequence: 0, recovered: false, reason: Some(error) })
            }
        };
        let Some(JoinBody { sequence, recovered: true, .. }) = body else {
            let reason = body.and_then(|body| body.reason).unwrap_or_else(|| "no reason".into());
            *self.storming.facts.unrecovered.entry(reason).or_default() += 1;
            self.storming.behind -= 1;
            self.storming.targets[seat] = None;
            return;
        };
        self.storming.targets[seat] = Some(sequence);
        self.look_whether_caught_up(seat);
    }

    /// A message came to a seat while some are behind.
    #[inline]
    pub(super) fn on_storm_message(&mut self, seat: usize, is_replayed: bool) {
        self.storming.facts.replayed += u64::from(is_replayed);
        if self.storming.behind > 0 {
            self.look_whether_caught_up(seat);
        }
    }

    fn look_whether_caught_up(&mut self, seat: usize) {
        let target = &mut self.storming.targets[seat];
        if target.is_none_or(|target| target > self.seat_sequence[seat]) {
            return;
        }
        *target = None;
        self.storming.behind -= 1;
        self.storming.facts.caught_up += 1;
        let now_ns = self.shared.clock.now_ns();
        self.storming.facts.caught_up_ns = now_ns - self.storming.fell_ns.unwrap_or(now_ns);
    }

    /// What became of all.
    pub(super) fn storm_facts(&mut self) -> StormFacts {
        std::mem::take(&mut self.storming.facts)
    }
}
