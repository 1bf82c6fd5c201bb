//! What the histories of one home hold together, bounded in bytes, and which of them hold the most.
//!
//! Half of a node's `history_bytes_total` is divided evenly among its homes; the other half is lent
//! to whoever needs it, in steps, so that no message pays for a counter that shards share. A home
//! that has used up its own half and finds nothing to borrow gives up the oldest messages of the
//! history that holds the most: who fills the memory loses first, and a quiet channel keeps what it
//! has. (Longest queue drop, as in shared-buffer switches: Suter et al., *Design considerations for
//! supporting TCP with per-flow queueing*, INFOCOM 1998.)
//!
//! Histories are ranked by the power of two of their bytes. A rank is left downwards only at half
//! of its lower end, so a history at a boundary does not move with every message, and the one that
//! is found is smaller than the largest by a factor of four at most.
//!
//! *Invariants*: the totals are the sums over all histories; a history that holds anything stands
//! in exactly one rank, the one it names.
//!
//! *Panics*: a rank is the number of bits of a `u64`, at most 64; a history that is replaced hands
//! its rank on.

use crate::base::hash::Map;
use crate::base::ids::ChannelId;
use crate::base::limits::{HISTORY_LOAN_BYTES, Limits};
use crate::base::quota::Quota;
use crate::broker::history::{Held, History};
use ahash::RandomState;

/// The ranks: 0 for what holds nothing, then one for each power of two.
const RANKS: usize = 65;

/// What the histories of one home hold.
#[derive(Debug)]
pub struct Retention {
    total: Held,
    /// What is this home's own, in bytes.
    own_bytes: u64,
    /// The loans that may be out on the node.
    loans_max: u64,
    /// The loans this home has.
    loans: u64,
    on_node: Quota,
    ranks: Vec<Vec<ChannelId>>,
    /// Where a history stands in its rank.
    places: Map<ChannelId, u32>,
    /// The ranks in which histories stand, one bit each.
    occupied: u128,
}

impl Retention {
    /// Nothing yet, on a node of so many homes.
    pub fn new(limits: &Limits, homes: u16, on_node: Quota, hasher: RandomState) -> Retention {
        let mut retention = Retention {
            total: Held::default(),
            own_bytes: 0,
            loans_max: 0,
            loans: 0,
            on_node,
            ranks: vec![Vec::new(); RANKS],
            places: Map::with_hasher(hasher),
            occupied: 0,
        };
        retention.set_limits(limits, homes);
        retention
    }

    /// Applies new limits. What is over them is given up by the next [`Retention::is_over`].
    pub fn set_limits(&mut self, limits: &Limits, homes: u16) {
        while self.loans > 0 {
            self.give_back();
        }
        let half = limits.history_bytes_total / 2;
        self.own_bytes = match limits.history_bytes_total {
            0 => u64::MAX,
            _ => half / u64::from(homes),
        };
        self.loans_max = half / HISTORY_LOAN_BYTES;
    }

    /// All that the histories hold.
    pub fn total(&self) -> Held {
        self.total
    }

    /// A history that held `before` has changed.
    pub fn account(&mut self, id: ChannelId, before: Held, history: &mut History) {
        let now = history.held();
        self.total.messages = self.total.messages + now.messages - before.messages;
        self.total.bytes = self.total.bytes + now.bytes - before.bytes;
        if !is_within(history.rank, now.bytes) {
            self.leave(history.rank, id);
            history.rank = rank_of(now.bytes);
            self.enter(history.rank, id);
        }
    }

    /// A history goes.
    pub fn forget(&mut self, id: ChannelId, history: &History) {
        let held = history.held();
        self.total.messages -= held.messages;
        self.total.bytes -= held.bytes;
        self.leave(history.rank, id);
        self.repay();
    }

    /// Whether more is held than may be, after borrowing what there is to borrow.
    pub fn is_over(&mut self) -> bool {
        while self.total.bytes as u64 > self.may_hold() {
            if !self.on_node.take(self.loans_max) {
                return true;
            }
            self.loans += 1;
        }
        self.repay();
        false
    }

    /// A history that holds about the most.
    pub fn largest(&self) -> Option<ChannelId> {
        let rank = 127_u32.checked_sub(self.occupied.leading_zeros())?;
        self.ranks[rank as usize].last().copied()
    }

    /// Asserts that a history stands where it says; for tests and the simulator.
    pub fn check(&self, id: ChannelId, history: &History) {
        assert!(is_within(history.rank, history.held().bytes), "a history has its rank");
        match self.places.get(&id) {
            Some(&place) => {
                assert_eq!(self.ranks[usize::from(history.rank)][place as usize], id);
            }
            None => assert_eq!(history.rank, 0, "who holds something has a place"),
        }
    }

    fn may_hold(&self) -> u64 {
        self.own_bytes.saturating_add(self.loans * HISTORY_LOAN_BYTES)
    }

    /// Gives back what is not needed, but for one loan, so as not to borrow it again at once.
    fn repay(&mut self) {
        while self.loans > 0 && self.total.bytes as u64 + 2 * HISTORY_LOAN_BYTES <= self.may_hold()
        {
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        self.loans -= 1;
        self.on_node.give_back();
    }

    fn enter(&mut self, rank: u8, id: ChannelId) {
        if rank == 0 {
            return;
        }
        let of_rank = &mut self.ranks[usize::from(rank)];
        self.places.insert(id, of_rank.len() as u32);
        of_rank.push(id);
        self.occupied |= 1 << rank;
    }

    fn leave(&mut self, rank: u8, id: ChannelId) {
        let Some(place) = self.places.remove(&id) else { return };
        let of_rank = &mut self.ranks[usize::from(rank)];
        of_rank.swap_remove(place as usize);
        if let Some(&moved) = of_rank.get(place as usize) {
            self.places.insert(moved, place);
        }
        if of_rank.is_empty() {
            self.occupied &= !(1 << rank);
        }
    }
}

/// The rank of so many bytes.
fn rank_of(bytes: usize) -> u8 {
    bytes.checked_ilog2().map_or(0, |log| log as u8 + 1)
}

/// Whether a history of so many bytes may stay in a rank.
fn is_within(rank: u8, bytes: usize) -> bool {
    match rank_of(bytes) {
        0 => rank == 0,
        nominal => rank == nominal || rank == nominal + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::hash::seeded;
    use crate::base::ids::ShardId;
    use crate::protocol::envelope::MessageType;
    use crate::protocol::frame::{Draft, Origin};
    use crate::protocol::timestamp::Writer;

    const LOAN: usize = HISTORY_LOAN_BYTES as usize;

    fn limits(total: u64) -> Limits {
        Limits { history_bytes_total: total, ..Limits::default() }
    }

    fn history() -> History {
        History::new("e".into(), 1_000, usize::MAX, seeded(1))
    }

    fn id(number: u64) -> ChannelId {
        ChannelId::new(ShardId(0), number)
    }

    /// Appends one message of about so many bytes.
    fn append(retention: &mut Retention, number: u64, history: &mut History, bytes: usize) {
        let payload = format!(r#"{{"t":"{}"}}"#, "x".repeat(bytes));
        let origin = Origin { received_ns: 0, ttl_ms: None };
        let message_id = format!("arq_{}", history.last());
        let address = ("r", "c");
        let draft = Draft::of_server(&message_id, MessageType::Event, address, &payload, origin);
        let before = history.held();
        history.append(draft, 0, &mut Writer::default());
        retention.account(id(number), before, history);
        retention.check(id(number), history);
    }

    #[test]
    fn the_largest_is_found_and_ranks_are_left_late() {
        let mut retention = Retention::new(&limits(0), 1, Quota::default(), seeded(1));
        assert_eq!(retention.largest(), None);
        let (mut small, mut large) = (history(), history());
        append(&mut retention, 1, &mut small, 1_000);
        append(&mut retention, 2, &mut large, 10_000);
        assert_eq!(retention.largest(), Some(id(2)));
        assert_eq!(retention.total().bytes, small.held().bytes + large.held().bytes);
        for _ in 0..50 {
            append(&mut retention, 1, &mut small, 1_000);
        }
        assert_eq!(retention.largest(), Some(id(1)));
        while small.held().messages > 0 {
            let before = small.held();
            small.evict();
            retention.account(id(1), before, &mut small);
            retention.check(id(1), &small);
        }
        assert_eq!(retention.largest(), Some(id(2)));
        retention.forget(id(2), &large);
        assert_eq!((retention.largest(), retention.total()), (None, Held::default()));
    }

    #[test]
    fn homes_have_their_own_half_and_share_the_other() {
        // Two loans to share, one loan's worth for each of the two homes.
        let (limits, pool) = (limits(4 * HISTORY_LOAN_BYTES), Quota::default());
        let mut one = Retention::new(&limits, 2, pool.clone(), seeded(1));
        let mut two = Retention::new(&limits, 2, pool.clone(), seeded(2));
        let (mut busy, mut quiet) = (history(), history());
        while !one.is_over() {
            append(&mut one, 1, &mut busy, 1_000);
        }
        assert!(busy.held().bytes > 3 * LOAN && busy.held().bytes < 3 * LOAN + 2_000);
        while !two.is_over() {
            append(&mut two, 2, &mut quiet, 1_000);
        }
        assert!(quiet.held().bytes > LOAN, "what is its own nobody else can take");
        one.forget(id(1), &busy);
        assert!(!two.is_over(), "what one has given back the other can borrow");
    }

    #[test]
    fn new_limits_count_at_once_and_zero_is_none() {
        let mut retention =
            Retention::new(&limits(8 * HISTORY_LOAN_BYTES), 1, Quota::default(), seeded(1));
        let mut history = history();
        append(&mut retention, 1, &mut history, 6 * LOAN);
        assert!(!retention.is_over());
        retention.set_limits(&limits(2 * HISTORY_LOAN_BYTES), 1);
        assert!(retention.is_over());
        retention.set_limits(&limits(0), 1);
        assert!(!retention.is_over());
    }
}
