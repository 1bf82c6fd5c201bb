//! Every limit of the program, in one file. A limit that an operator may set has a field in
//! [`Limits`] (zero means none where the field says so); one that nobody should set is a constant.

use serde::Serialize;

/// The longest name of a room, channel or client, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// The longest message id, its `arq_` included, in bytes.
pub const MESSAGE_ID_BYTES_MAX: usize = 128;
/// The most keys a client may put into `metadata`.
pub const METADATA_KEYS_MAX: usize = 64;
/// How deep JSON may nest, the envelope itself being the first level.
pub const JSON_DEPTH_MAX: usize = 64;
/// The most clients one private message may name.
pub const PRIVATE_TARGETS_MAX: usize = 64;
/// The longest screen name, avatar and personality, in bytes.
pub const PROFILE_FIELD_BYTES_MAX: usize = 512;
/// The longest HTTP request head a handshake may take, in bytes.
pub const HANDSHAKE_BYTES_MAX: usize = 16 * 1024;
/// The most headers a handshake may hold.
pub const HANDSHAKE_HEADERS_MAX: usize = 64;
/// The most fragments without a byte in them that one WebSocket message may be cut into.
pub const EMPTY_FRAGMENTS_MAX: u32 = 64;
/// The most `room:channel` pairs one `join` list in a query string may hold.
pub const JOIN_LIST_MAX: usize = 64;
/// The most messages one `history` answer holds.
pub const HISTORY_LIMIT_MAX: usize = 1_000;
/// The most messages one `history` answer holds when the command names no limit.
pub const HISTORY_LIMIT_DEFAULT: usize = 50;
/// The most rows that one page of a list holds, and how many it holds if the command names no limit.
pub const PAGE_ROWS_MAX: usize = 1_000;
/// The bytes that are gathered for one write to a socket.
pub const WRITE_BYTES: usize = 128 * 1024;
/// What part of `outbox_bytes` one page may take; it then ends before its limit.
pub const PAGE_OUTBOX_SHARE: u32 = 4;
/// How many tokens of `rate_commands` a command takes whose answer may be long, or that many hear.
pub const COSTLY_COMMAND: u32 = 5;
/// How many seconds' worth of `rate_commands` a client may give at once.
pub const COMMAND_BURST_S: u32 = 2;
/// The longest text of an announcement, in bytes.
pub const ANNOUNCEMENT_BYTES_MAX: usize = 4 * 1024;
/// The longest reason a WebSocket close frame can carry (RFC 6455, section 5.5), in bytes.
pub const CLOSE_REASON_BYTES_MAX: usize = 123;
/// The longest time to live a message may ask for: one year.
pub const TTL_MS_MAX: u64 = 365 * 24 * 3_600 * 1_000;
/// The clocks of two machines that differ by more are told of, and messages then get the time of Redis.
pub const CLOCKS_APART_MS: u64 = 500;
/// The most metadata one `create_channel` or `create_room` may carry, as JSON, in bytes.
pub const ENTITY_METADATA_BYTES_MAX: usize = 16 * 1024;
/// The most shards a node runs.
pub const SHARDS_MAX: u16 = 256;
/// The most messages that may be kept for one channel.
pub const HISTORY_SIZE_MAX: u32 = 1_000_000;

/// The connections that may wait to be accepted, as far as the kernel lets them.
pub const ACCEPT_BACKLOG: u16 = 4_096;
/// The asks or tells that one receiving shard's lane holds.
pub const LANE_SLOTS: usize = 4_096;
/// The staged asks for one shard above which an edge pauses the clients that feed it.
pub const LANE_STAGED_MAX: usize = 1_024;
/// The bytes of staged asks for one shard, or of staged tells, above which no more are made.
pub const LANE_STAGED_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The bytes that one receiving shard's lane of asks, or of tells, holds.
pub const LANE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The bytes of records that may wait at a shard for the storage to take them; of what comes on top,
/// events are given up at once, and what is said about rooms and channels at twice as much.
pub const RECORDS_STAGED_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The bytes of sessions that one shard may stage for the storage; the rest waits where it is, and is
/// recorded as it is when its turn comes.
pub const SESSIONS_STAGED_BYTES_MAX: usize = 1024 * 1024;
/// How often a session that changes again and again is recorded, in milliseconds.
pub const SESSION_EVERY_MS: u64 = 1_000;
/// The bytes that updates and renewals of sessions may take of the storage in a second, so that they leave
/// room for events; new sessions, and the ends of sessions, are not slowed down by them.
pub const SESSION_UPDATES_BYTES_A_SECOND: u64 = 8 * 1024 * 1024;
/// What sessions may weigh whose clients have gone and that Redis, which is away, has not heard of; twice
/// that with those that ended by order.
pub const SESSIONS_GONE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How many news of the storage may wait for a shard before it is told no more of what can be read again.
pub const NEWS_COUNT_MAX: u64 = 16_384;
/// Their bytes.
pub const NEWS_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// The acks of one home that may wait for the storage; later ones are refused at once.
pub const ACKS_WAITING_MAX: usize = 16_384;
/// The earlier terms of a channel that are remembered; who was last there before is not recovered.
pub const PAST_TERMS_MAX: usize = 16;
/// The grain of the time that an ack may wait.
pub const ACK_GRAIN_MS: u64 = 64;
/// The separate losses that are remembered of one history; more are remembered as fewer and longer.
pub const HOLES_MAX: usize = 16;
/// How long a channel without members is still followed on a bus of several nodes.
pub const FOLLOW_IDLE_MS: u64 = 30_000;
/// How long a node waits to hear of what a client knows of: what it has seen on another node, or what was
/// acknowledged to it.
pub const AHEAD_MS: u64 = 2_000;
/// How often it is tried to delete what other nodes follow, and when it is tried again: by then they may
/// have let go.
pub const DELETE_TRIES_MAX: u32 = 4;
/// See [`DELETE_TRIES_MAX`].
pub const DELETE_RETRY_MS: u64 = 100;
/// The asks that may wait for it to be known how a channel stands.
pub const PARKED_MAX: usize = 1_024;
/// How long a shared storage is waited for to say whether a client id is free.
pub const CLAIM_TIMEOUT_MS: u64 = 3_000;
/// Rooms and channels that are gone and whose records were lost, remembered by a home to be told again.
pub const GONE_UNSAID_MAX: usize = 16_384;
/// The telemetry events that may wait for the control plane; later ones are dropped and counted.
pub const TELEMETRY_SLOTS: usize = 16_384;
/// The bytes of clients' own telemetry that may wait for the control plane.
pub const TELEMETRY_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// What a shard asks of itself is handled before it goes on with what its sockets gave once it is so much:
/// the messages are in the processor's caches then.
pub const OWN_ASKS_AT_A_TIME: usize = 64;
/// How much of `history_bytes_total` a shard borrows at a time, beyond what is its own.
pub const HISTORY_LOAN_BYTES: u64 = 256 * 1024;
/// How often the memory of the process is looked at.
pub const MEMORY_SAMPLE_MS: u64 = 100;
/// The bytes of stored messages that a shard gives up at a time while memory is short.
pub const SHED_HISTORY_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// The stored messages that a shard gives up at a time while memory is short.
pub const SHED_MESSAGES_MAX: usize = 20_000;
/// The connections that a shard closes at a time while memory is short.
pub const SHED_CLIENTS_MAX: usize = 64;
/// A connection that holds less is never closed because memory is short.
pub const SHED_CLIENT_BYTES_MIN: usize = 32 * 1024;
/// How long the parts of an answer that shards tell of themselves are waited for: of a question to
/// all of them from when it was asked, of a trace from when its event was accepted.
pub const GATHER_DEADLINE_MS: u64 = 80;
/// How long the answers of all other nodes to one question for clients may be together.
pub const LIST_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// How long a connection that is being closed may take to read its last bytes.
pub const CLOSE_LINGER_MS: u64 = 1_000;
/// The same for a client that is closed for being slow: it must first read what its kernel holds.
pub const SLOW_LINGER_MS: u64 = 10_000;
/// How many bytes a connection that is being closed may still send before it ends at once.
pub const LINGER_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The separate gaps that are remembered of one connection; what else it misses is told without a channel.
pub const GAPS_MAX: usize = 4_096;
/// The gap notices that a shard sends in one turn; clients that are owed more get them in the next ones.
pub const GAP_NOTICES_PER_TURN: usize = 256;
/// The channels that were empty for too long and go in one turn; the rest go in the next ones.
pub const EXPIRIES_AT_A_TIME: usize = 512;
/// The channels that connections which are gone leave in one turn, about; the rest they leave later.
pub const LEAVES_AT_A_TIME: usize = 4_096;
/// What one watcher that is told of presence costs in nanoseconds, a write of its socket above all.
pub const PRESENCE_WATCHER_NS: u64 = 5_000;
/// What each change adds to that, for each watcher.
pub const PRESENCE_LETTER_NS: u64 = 250;
/// The changes of one channel that its watchers are told at once.
pub const PRESENCE_CHANGES_MAX: usize = 64;
/// How many times as long as it took to tell a channel's watchers they are not told again.
pub const PRESENCE_CHANNEL_SHARE: u64 = 20;
/// How many times as long as it took to tell watchers a home tells no others; a burst is free.
pub const PRESENCE_HOME_SHARE: u64 = 5;
/// The burst of [`PRESENCE_HOME_SHARE`], in nanoseconds.
pub const PRESENCE_BURST_NS: u64 = 50_000_000;
/// The longest that the watchers of one channel wait for the next changes, for its sake, in nanoseconds.
pub const PRESENCE_WAIT_NS_MAX: u64 = 10_000_000_000;
/// How long nobody is told that a client has left whose connection was superseded: it comes back at
/// once by another.
pub const HAND_OVER_MS: u64 = 2_000;
/// How often the watchers of one channel are told of one client in [`PRESENCE_RATE_MS`].
pub const PRESENCE_PER_CLIENT: u32 = 4;
/// See [`PRESENCE_PER_CLIENT`].
pub const PRESENCE_RATE_MS: u64 = 1_000;
/// The window in which `max_violations` counts.
pub const VIOLATION_WINDOW_MS: u64 = 60_000;
/// The most that `max_violations` may be: of a client that misbehaves, so many times are kept.
pub const MAX_VIOLATIONS_MAX: u32 = 1_000;

/// The most TCP connections the control plane's HTTP port holds at once, slow ones included.
pub const HTTP_CONNECTIONS_MAX: usize = 4_096;
/// The most TCP connections the telemetry port holds at once, those still in a handshake included.
pub const TELEMETRY_SOCKETS_MAX: usize = 2_048;
/// The most telemetry readers at once.
pub const TELEMETRY_READERS_MAX: usize = 1_000;
/// The longest head of an HTTP request to the control plane, in bytes.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long an HTTP connection may wait for the end of a request's head, idle time included.
pub const HTTP_HEAD_TIMEOUT_MS: u64 = 10_000;
/// How long an HTTP connection lives; a client that wants more opens another.
pub const HTTP_CONNECTION_MS_MAX: u64 = 60_000;
/// The bytes that the kernel may hold for one socket of the control plane.
pub const CONTROL_SEND_BUFFER_BYTES: usize = 256 * 1024;
/// The envelopes that wait for the slowest telemetry reader; it misses what is older.
pub const TELEMETRY_BACKLOG: usize = 65_536;
/// The bytes of the envelopes that wait for the slowest telemetry reader.
pub const TELEMETRY_BACKLOG_BYTES: usize = 16 * 1024 * 1024;
/// The envelopes given to one telemetry reader before others have their turn.
pub const TELEMETRY_BATCH: usize = 64;
/// How long telemetry events are gathered before they are spread together.
pub const TELEMETRY_GATHER_MS: u64 = 5;
/// How long a telemetry reader may take for one batch before it is closed with 4008.
pub const TELEMETRY_SEND_TIMEOUT_MS: u64 = 10_000;
/// The messages a telemetry reader may send within `VIOLATION_WINDOW_MS`; it has nothing to say.
pub const TELEMETRY_MESSAGES_MAX: u32 = 120;
/// The longest message a telemetry reader may send, in bytes.
pub const TELEMETRY_MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// The bytes of log lines that may wait for standard error; later lines are dropped and counted.
pub const LOG_QUEUE_BYTES: usize = 1024 * 1024;
/// The log lines that may wait for standard error.
pub const LOG_QUEUE_LINES: usize = 8_192;
/// How long the end of the process waits for the last lines of the log.
pub const LOG_FLUSH_MS: u64 = 1_000;
/// How many times in a row, a second apart, a shard may be seen without having ended a turn before the
/// node says that it is stuck.
pub const STUCK_SAMPLES: u32 = 5;
/// How full, in percent, a lane may be before the node calls itself overloaded.
pub const LANE_FULL_PERCENT: u64 = 90;

const _: () = assert!(TELEMETRY_READERS_MAX < TELEMETRY_SOCKETS_MAX, "readers must find a socket");
const _: () = assert!(HISTORY_LIMIT_DEFAULT <= HISTORY_LIMIT_MAX);

/// What one turn of a shard may take, and how a turn that found nothing ends. Set when the daemon
/// starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TurnLimits {
    /// How long a shard that ran out of work looks for more before it sleeps; 0 sleeps at once.
    pub busy_poll_us: u32,
    /// The bytes read from one socket in one turn.
    pub read_budget_bytes: u32,
    /// The asks and the tells a shard takes from its lanes in one turn, each; no more than a lane
    /// holds.
    pub lane_budget: u32,
}

impl Default for TurnLimits {
    fn default() -> TurnLimits {
        TurnLimits { busy_poll_us: 0, read_budget_bytes: 128 * 1024, lane_budget: 1_024 }
    }
}

/// The limits an operator sets. All of them can change while the daemon runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Limits {
    /// Connections on this node.
    pub max_connections: u32,
    /// Connections from one address; 0 is no limit.
    pub max_connections_per_address: u32,
    /// Rooms on this node.
    pub max_rooms: u32,
    /// Channels on this node.
    pub max_channels: u32,
    /// Channels in one room.
    pub max_channels_per_room: u32,
    /// Members of one channel.
    pub max_members_per_channel: u32,
    /// Channels one client is joined to.
    pub max_joins_per_client: u32,
    /// Memberships of clients in channels on this node; a join of `*` is one.
    pub max_memberships: u32,
    /// The longest message, in bytes.
    pub max_message_bytes: u32,
    /// Messages kept for a channel.
    pub history_size: u32,
    /// Bytes kept for a channel; 0 is no limit.
    pub history_bytes: u32,
    /// Bytes kept for all channels of this node together; 0 is no limit.
    pub history_bytes_total: u64,
    /// Memory of the process, in bytes, that it does not come near without giving something up; 0 is no
    /// limit.
    pub memory_limit_bytes: u64,
    /// Bytes that may wait for one client before messages to it are dropped.
    pub outbox_bytes: u32,
    /// How long a client may stay over `outbox_bytes` before it is closed with 4008.
    pub slow_grace_ms: u32,
    /// Silence after which the server pings; twice this closes.
    pub heartbeat_ms: u32,
    /// How long a connection may take from its first byte to its handshake.
    pub handshake_timeout_ms: u32,
    /// Malformed messages within a minute that close a connection; 0 is no limit.
    pub max_violations: u32,
    /// Messages a second from one client; 0 is no limit.
    pub rate_messages: u32,
    /// Commands a second from one client; 0 is no limit.
    pub rate_commands: u32,
    /// Pings and pongs a second from one client; 0 is no limit.
    pub rate_control_frames: u32,
    /// Bytes that the kernel takes for one client before they can go out; 0 leaves it to the kernel.
    pub socket_unsent_bytes: u32,
    /// How long an auto-created channel may stay empty.
    pub empty_channel_ttl_ms: u32,
    /// Whether joining a channel that is not there makes it.
    pub create_on_join: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_connections: 100_000,
            max_connections_per_address: 0,
            max_rooms: 100_000,
            max_channels: 200_000,
            max_channels_per_room: 1_000,
            max_members_per_channel: 100_000,
            max_joins_per_client: 1_000,
            max_memberships: 4_000_000,
            max_message_bytes: 1024 * 1024,
            history_size: 500,
            history_bytes: 16 * 1024 * 1024,
            history_bytes_total: 512 * 1024 * 1024,
            memory_limit_bytes: 0,
            outbox_bytes: 4 * 1024 * 1024,
            slow_grace_ms: 5_000,
            heartbeat_ms: 25_000,
            handshake_timeout_ms: 10_000,
            max_violations: 10,
            rate_messages: 0,
            rate_commands: 100,
            rate_control_frames: 1_000,
            socket_unsent_bytes: 128 * 1024,
            empty_channel_ttl_ms: 60_000,
            create_on_join: true,
        }
    }
}
