//! What a shard counts. The engine counts into a plain [`Tally`]; once a turn the driver publishes
//! it into [`Meters`], which the control plane reads. No message ever pays for an atomic.
//!
//! *Invariants*: a meter has one writer, its own shard; counters never go down.
//!
//! *Panics*: there is a cell for every value of each enum, and no index is anything else.

use crate::protocol::close::CloseReason;
use crate::protocol::fault::Fault;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! meter {
    ($(#[$outer:meta])* $enum:ident: $($(#[$doc:meta])* $name:ident = $label:literal $help:literal,)+) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $enum { $($(#[$doc])* $name,)+ }

        impl $enum {
            /// All of them, in the order of the table.
            pub const ALL: &'static [$enum] = &[$($enum::$name,)+];

            /// The name in metrics, without a prefix.
            pub fn label(self) -> &'static str {
                match self { $($enum::$name => $label,)+ }
            }

            /// What it counts, as a sentence without its full stop.
            pub fn help(self) -> &'static str {
                match self { $($enum::$name => $help,)+ }
            }
        }
    };
}

meter! {
    /// What only grows.
    Counter:
    /// Messages from clients that decoded.
    MessagesReceived = "messages_received" "Well-formed messages received from clients",
    /// Frames put into outboxes: deliveries, replies and notices.
    MessagesSent = "messages_sent" "Messages put on their way to clients",
    /// Events that got a sequence.
    EventsAccepted = "events_accepted" "Events that were given a sequence",
    /// Events recognised as repeats.
    EventsDuplicate = "events_duplicate" "Events recognised as repeats by their id",
    /// Events put on their way to members.
    Deliveries = "deliveries" "Events put on their way to a member, those dropped there included",
    /// Messages that histories gave up before their time.
    HistoryShed = "history_shed" "Messages given up because all histories together held too many bytes",
    /// Connections closed because memory was short.
    ClientsShed = "clients_shed" "Connections closed because they held much memory while it was short",
    /// How often the watchers of a channel were told who came and went.
    PresenceTold = "presence_told" "Times that the watchers of a channel were told who joined and left",
    /// How often they have to wait for some of it.
    PresenceDeferred = "presence_deferred" "Times that some of who joined and left a channel had to wait",
    /// Bytes read from sockets.
    BytesReceived = "bytes_received" "Bytes read from client sockets",
    /// Bytes written to sockets.
    BytesSent = "bytes_sent" "Bytes written to client sockets",
    /// Connections handed to the shard.
    ConnectionsOpened = "connections_opened" "Connections handed to the shard",
    /// Reads from sockets.
    SocketReads = "socket_reads" "Calls that read from a client socket",
    /// Writes to sockets.
    SocketWrites = "socket_writes" "Calls that wrote to a client socket",
    /// Turns of the loop.
    Turns = "turns" "Turns of the poll loop",
    /// Nanoseconds a turn worked, sleep left out.
    BusyNanoseconds = "busy_nanoseconds" "Nanoseconds the poll loop worked, sleep left out",
    /// Polls that did not wait, by a shard that had run out of work.
    Spins = "spins" "Polls that did not wait, made by a shard that had run out of work (busy_poll_us)",
    /// Wake-ups sent to sleeping shards.
    Wakeups = "wakeups" "Wake-ups sent to sleeping shards",
    /// Asks handled.
    Asks = "asks" "Asks handled as a home",
    /// Tells handled.
    Tells = "tells" "Tells handled as an edge",
    /// Messages recovered by returning clients.
    Replayed = "replayed" "Messages replayed from history",
    /// Records made for the storage.
    Records = "records" "Records made for the storage: events, channels, rooms",
    /// Records that found no place.
    RecordsLost = "records_lost" "Records given up because too many waited for the storage",
    /// Events that are stored.
    EventsStored = "events_stored" "Events of which the storage said that they are stored",
    /// Events that will never be stored.
    EventsLost = "events_lost" "Events that will never be stored",
    /// Acks that waited.
    AckWaits = "ack_waits" "Acks that had to wait until their events were stored",
    /// Channels whose members were told another epoch.
    EpochsChanged = "epochs_changed" "Times that the members of a channel were told another epoch of it",
    /// Channels that were read anew as what came of them was not what follows.
    OrdersTorn = "orders_torn" "Times that a channel was read anew because events of it had not come",
    /// Clients that went on with a session.
    SessionsResumed = "sessions_resumed" "Clients that came back to their session",
    /// Clients that no session is kept of.
    SessionsUnknown = "sessions_unknown" "Clients that came with the token of no session that is kept",
    /// Gap notices sent.
    Gaps = "gaps" "Gap notices sent to clients that missed messages",
}

meter! {
    /// What goes up and down.
    Gauge:
    /// Open sockets, handshaking ones included.
    Connections = "connections" "Open client sockets, handshaking ones included",
    /// Clients that were welcomed.
    Clients = "clients" "Clients that are connected",
    /// Rooms at home here.
    Rooms = "rooms" "Rooms that have their home on the shard",
    /// Channels at home here.
    Channels = "channels" "Channels that have their home on the shard",
    /// Messages in history here.
    HistoryMessages = "history_messages" "Messages kept in history",
    /// Bytes in history here.
    HistoryBytes = "history_bytes" "Memory taken by the messages kept in history, in bytes",
    /// Asks waiting in the shard's lane.
    AskLane = "ask_lane_depth" "Asks waiting in the lane of the shard",
    /// Tells waiting in the shard's lane.
    TellLane = "tell_lane_depth" "Tells waiting in the lane of the shard",
    /// Bytes waiting in outboxes that a socket did not take at once.
    OutboxBytes = "outbox_bytes" "Bytes that wait for slow client sockets",
    /// Events that are not stored yet.
    EventsPending = "events_pending" "Events that are to be stored and are not stored yet",
    /// Acks that wait for the storage.
    AcksWaiting = "acks_waiting" "Acks that wait until their events are stored",
    /// Bytes of records that the storage has not taken.
    RecordsBytes = "records_bytes" "Bytes of records that the storage has not taken yet",
    /// Clients whose reading is paused.
    Paused = "paused_connections" "Connections whose reading is paused",
}

meter! {
    /// Why a connection was not read for a while.
    Pause:
    /// The lane to a home is full.
    AskLaneFull = "ask_lane_full" "the lane to a room's home was full",
    /// The client does not read its answers.
    OutboxFull = "outbox_full" "the client did not read what it was sent",
    /// The shard's directory has not answered yet.
    Identifying = "identifying" "the client's identity was being decided",
    /// An answer the next message has to come after had not come yet.
    Answer = "answer" "the answer to a join or to a question was awaited before the next message",
    /// The home part waited for the lane to an edge.
    TellLaneFull = "tell_lane_full" "the lane to an edge was full",
    /// The client will send no more, and is still owed answers.
    Ended = "ended" "the client closed its half of the connection and was still owed answers",
    /// The bytes of one turn were used up.
    ReadBudget = "read_budget" "the connection had its share of the turn",
    /// Too much waits to be written to the members of large channels.
    FanOut = "fan_out" "the client publishes to many members, and what it published before was still being written",
    /// The work of a turn was spent.
    TurnSpent = "turn_spent" "the input or the shard had done its share of work in the turn, and the rest waited for the next",
}

meter! {
    /// Why a message did not reach someone who would have got it.
    Drop:
    /// The member's outbox was full.
    OutboxFull = "outbox_full" "the member's outbox was full",
    /// Its time to live was over.
    Expired = "expired" "the message's time to live was over",
    /// The control plane did not keep up with telemetry.
    TelemetryFull = "telemetry_full" "the control plane did not keep up",
    /// The report of a trace found its lane full.
    TraceReport = "trace_report" "the report of a trace found its lane full",
    /// The receiver's handshake was not answered.
    NotOpen = "not_open" "the receiver's handshake was not answered yet",
    /// The member's connection closed with messages still waiting.
    Closed = "closed" "the connection closed before they were written",
}

/// The upper bounds of the latency buckets, in nanoseconds; a last bucket has no bound.
pub const LATENCY_BOUNDS_NS: [u64; 18] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
];

const BUCKETS: usize = LATENCY_BOUNDS_NS.len() + 1;

/// How many cells a [`Tally`] has, and where each table begins in it.
const COUNTERS: usize = 0;
const GAUGES: usize = COUNTERS + Counter::ALL.len();
const PAUSES: usize = GAUGES + Gauge::ALL.len();
const DROPS: usize = PAUSES + Pause::ALL.len();
const FAULTS: usize = DROPS + Drop::ALL.len();
const CLOSES: usize = FAULTS + Fault::ALL.len();
const DELIVERY: usize = CLOSES + CloseReason::ALL.len();
const LOOP: usize = DELIVERY + BUCKETS + 1;
const CELLS: usize = LOOP + BUCKETS + 1;

/// A histogram as read: the count of each bucket and the sum of all values in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latency {
    /// One count for each bound of [`LATENCY_BOUNDS_NS`] and one for what lies beyond.
    pub buckets: [u64; BUCKETS],
    /// The sum of the values, in nanoseconds.
    pub sum_ns: u64,
}

/// A shard's own counts.
#[derive(Clone, Debug)]
pub struct Tally {
    cells: Box<[u64; CELLS]>,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally { cells: Box::new([0; CELLS]) }
    }
}

impl Tally {
    /// Counts `n` more.
    pub fn add(&mut self, counter: Counter, n: u64) {
        self.cells[COUNTERS + counter as usize] += n;
    }

    /// Sets a gauge.
    pub fn set(&mut self, gauge: Gauge, value: u64) {
        self.cells[GAUGES + gauge as usize] = value;
    }

    /// Counts a pause.
    pub fn pause(&mut self, pause: Pause) {
        self.cells[PAUSES + pause as usize] += 1;
    }

    /// Counts `n` dropped messages.
    pub fn dropped(&mut self, reason: Drop, n: u64) {
        self.cells[DROPS + reason as usize] += n;
    }

    /// Counts a refusal.
    pub fn fault(&mut self, fault: Fault) {
        self.cells[FAULTS + fault as usize] += 1;
    }

    /// Counts a closed connection.
    pub fn close(&mut self, reason: CloseReason) {
        self.cells[CLOSES + reason as usize] += 1;
    }

    /// Counts `n` deliveries that took `ns` from the socket they came from to the one they went to.
    pub fn delivery(&mut self, ns: u64, n: u64) {
        self.record(DELIVERY, ns, n);
    }

    /// Counts a turn that worked for `ns`.
    pub fn turn(&mut self, ns: u64) {
        self.record(LOOP, ns, 1);
    }

    /// What was counted so far.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.cells[COUNTERS + counter as usize]
    }

    /// What a gauge shows.
    pub fn gauge(&self, gauge: Gauge) -> u64 {
        self.cells[GAUGES + gauge as usize]
    }

    /// How many messages were dropped for a reason.
    pub fn drops(&self, reason: Drop) -> u64 {
        self.cells[DROPS + reason as usize]
    }

    /// How many pauses there were for a reason.
    pub fn pauses(&self, reason: Pause) -> u64 {
        self.cells[PAUSES + reason as usize]
    }

    fn record(&mut self, table: usize, ns: u64, n: u64) {
        let bucket = LATENCY_BOUNDS_NS.partition_point(|&bound| bound < ns);
        self.cells[table + bucket] += n;
        self.cells[table + BUCKETS] += ns * n;
    }
}

/// A shard's counts as other threads read them.
#[derive(Debug)]
pub struct Meters {
    cells: [AtomicU64; CELLS],
}

impl Default for Meters {
    fn default() -> Meters {
        Meters { cells: [const { AtomicU64::new(0) }; CELLS] }
    }
}

impl Meters {
    /// Makes the tally visible. Only the owning shard calls this.
    pub fn publish(&self, tally: &Tally) {
        for (cell, value) in self.cells.iter().zip(tally.cells.iter()) {
            cell.store(*value, Relaxed);
        }
    }

    /// The value of a counter.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.read(COUNTERS + counter as usize)
    }

    /// The value of a gauge.
    pub fn gauge(&self, gauge: Gauge) -> u64 {
        self.read(GAUGES + gauge as usize)
    }

    /// How often connections were paused for a reason.
    pub fn pause(&self, pause: Pause) -> u64 {
        self.read(PAUSES + pause as usize)
    }

    /// How many messages were dropped for a reason.
    pub fn dropped(&self, reason: Drop) -> u64 {
        self.read(DROPS + reason as usize)
    }

    /// How often a fault was answered.
    pub fn fault(&self, fault: Fault) -> u64 {
        self.read(FAULTS + fault as usize)
    }

    /// How many connections were closed for a reason.
    pub fn close(&self, reason: CloseReason) -> u64 {
        self.read(CLOSES + reason as usize)
    }

    /// How long deliveries took from socket to socket.
    pub fn delivery(&self) -> Latency {
        self.latency(DELIVERY)
    }

    /// How long turns worked.
    pub fn turns(&self) -> Latency {
        self.latency(LOOP)
    }

    fn latency(&self, table: usize) -> Latency {
        Latency {
            buckets: std::array::from_fn(|bucket| self.read(table + bucket)),
            sum_ns: self.read(table + BUCKETS),
        }
    }

    fn read(&self, cell: usize) -> u64 {
        self.cells[cell].load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tallied_is_what_is_read() {
        let mut tally = Tally::default();
        tally.add(Counter::Gaps, 3);
        tally.set(Gauge::Paused, 7);
        tally.fault(Fault::Draining);
        tally.close(CloseReason::HandshakeRefused);
        tally.delivery(60_000, 2);
        tally.delivery(u64::MAX / 4, 1);
        tally.turn(1);
        let meters = Meters::default();
        meters.publish(&tally);
        assert_eq!(meters.counter(Counter::Gaps), 3);
        assert_eq!(meters.gauge(Gauge::Paused), 7);
        assert_eq!(meters.fault(Fault::Draining), 1);
        assert_eq!(meters.close(CloseReason::HandshakeRefused), 1);
        assert_eq!(meters.delivery().buckets[3], 2);
        assert_eq!(meters.delivery().buckets[BUCKETS - 1], 1);
        assert_eq!(meters.turns().buckets[0], 1);
        assert_eq!(meters.turns().sum_ns, 1);
    }
}
