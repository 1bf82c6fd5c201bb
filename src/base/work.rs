//! How much work one turn of a shard does, counted in one number.
//!
//! A turn that only bounds how many messages it takes has no bound: one message can cost a microsecond
//! or ten milliseconds. So every kind of work has a price in *units*, about a nanosecond each on one core
//! of a commodity server, and a turn that has spent its units takes no further input, asks or tells. What
//! is left is taken by the next turn, in order. Prices are estimates on purpose: they cost an addition
//! where a clock would cost a system call, and the same input costs the same in every run.
//!
//! A turn is divided into parts ([`Part`]), and each part may spend at least a
//! quarter of them, whatever the parts before it have spent: none of them can starve another.
//!
//! How the prices were found: instructions of the engine as in `benches/perf.txt`, three per
//! nanosecond, and system calls of a loopback socket as measured by `benches/relay.rs`.
//!
//! *Invariant*: work only grows within a turn; only the engine begins a turn or a part.

/// The units that one turn may spend, about a millisecond.
pub const TURN_UNITS: u64 = 1_000_000;

/// One frame of a client: it is unmasked, decoded and checked (2,000 instructions), bytes apart.
pub const FRAME: u64 = 700;
/// One ask at its home, its rows and members apart (1,500 instructions).
pub const ASK: u64 = 500;
/// One tell at its edge, its letters apart.
pub const TELL: u64 = 200;
/// One frame in the outbox of one connection, its bytes apart (60 instructions and two cache misses).
pub const LETTER: u64 = 100;
/// One connection that is written to in this turn: a system call and the engine's part in it.
pub const WRITE: u64 = 2_000;
/// One member, channel or connection that is looked at in a walk: a cache miss.
pub const MEMBER: u64 = 50;
/// One row of a list that is built: some small allocations, and its text.
pub const ROW: u64 = 500;
/// A message whose writes to the local members of its channel cost more is written after all others, over
/// several turns if need be: that is a small one to some 240 members, or one of 1 MiB to any.
pub const FAN_OUT_UNITS_MAX: u64 = TURN_UNITS / 2;
/// The units of fan-outs to many members that may wait to be written before their publishers wait,
/// some eight milliseconds: enough to spread the cost of a write over many messages.
pub const LATE_UNITS_MAX: u64 = 8 * TURN_UNITS;
/// How many bytes are copied for one unit, the kernel's copy included.
pub const BYTES_PER_UNIT: u64 = 2;

/// What `count` copied bytes cost.
pub const fn bytes(count: usize) -> u64 {
    count as u64 / BYTES_PER_UNIT
}

/// A part of a turn that may spend some of its units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What homes tell this shard.
    Tells,
    /// What edges ask of this shard.
    Asks,
    /// Connections whose input was not handled to its end.
    Resumed,
    /// Sockets that have bytes.
    Sockets,
    /// Timers that are due, and sessions that end.
    Timers,
    /// What this shard asks and tells itself.
    Own,
}

impl Part {
    /// Up to where a part may spend the units of the whole turn, in quarters.
    const fn quarters(self) -> u64 {
        match self {
            Part::Tells => 2,
            Part::Asks => 3,
            Part::Resumed => 3,
            Part::Sockets => 4,
            Part::Timers => 4,
            Part::Own => 4,
        }
    }
}

/// The work of one turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    spent: u64,
    /// The part that goes on ends when so much is spent.
    until: u64,
    /// The units that a turn may spend.
    turn_units: u64,
}

/// Work without a bound, for who measures or tests something else.
impl Default for Work {
    fn default() -> Work {
        Work { spent: 0, until: u64::MAX, turn_units: u64::MAX }
    }
}

impl Work {
    /// Turns of that many units.
    pub fn new(turn_units: u64) -> Work {
        Work { spent: 0, until: turn_units, turn_units }
    }

    /// Charges some units.
    pub fn charge(&mut self, units: u64) {
        self.spent += units;
    }

    /// The units spent in this turn.
    pub fn spent(&self) -> u64 {
        self.spent
    }

    /// The units that the part that goes on may still spend.
    pub fn left(&self) -> u64 {
        self.until.saturating_sub(self.spent)
    }

    /// Whether the part that goes on has to end.
    pub fn is_spent(&self) -> bool {
        self.spent >= self.until
    }

    /// Begins a turn: nothing is spent.
    pub fn begin_turn(&mut self) {
        (self.spent, self.until) = (0, self.turn_units);
    }

    /// Begins a part of a turn.
    pub fn begin_part(&mut self, part: Part) {
        let quarter = self.turn_units / 4;
        let at_least = self.spent.saturating_add(quarter);
        self.until = at_least.max(quarter.saturating_mul(part.quarters()));
    }

    /// The units that writes to connections with frames of this turn may spend before all others are
    /// late.
    pub fn dirty_units(&self) -> u64 {
        self.turn_units
    }

    /// The units that the writes to channels with many members may spend in one turn.
    pub fn late_units(&self) -> u64 {
        self.turn_units / 2
    }

    /// The units that writes to connections that catch up may spend per turn.
    pub fn catch_up_units(&self) -> u64 {
        self.turn_units / 4
    }

    /// The units that the input of one connection may spend before other connections go on.
    pub fn connection_units(&self) -> u64 {
        self.turn_units / 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_may_spend_a_quarter_and_the_first_leave_room_for_the_last() {
        let mut work = Work::new(TURN_UNITS);
        let parts =
            [Part::Tells, Part::Asks, Part::Resumed, Part::Sockets, Part::Timers, Part::Own];
        for part in parts {
            work.begin_part(part);
            assert!(work.left() >= TURN_UNITS / 4, "{part:?} has {} units", work.left());
            work.charge(work.left());
            assert!(work.is_spent());
        }
        assert!(work.spent() <= 7 * TURN_UNITS / 4, "a turn is bounded: {}", work.spent());
        work.begin_turn();
        assert_eq!((work.spent(), work.left()), (0, TURN_UNITS));
    }

    #[test]
    fn who_sets_no_bound_has_none() {
        let mut work = Work::default();
        work.charge(u64::MAX / 2);
        work.begin_part(Part::Tells);
        assert!(!work.is_spent());
    }
}
