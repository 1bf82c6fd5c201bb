//! Every way to misbehave that a client has, as a table.
//!
//! *Invariants*: an attack ends within a second of being told so, whatever the bus does; it never waits
//! for an answer that need not come; a bus that refuses, pauses or closes it is as it should be, and one
//! that ends is for its runner to notice.

mod arriving;
mod bytes;
mod commands;
mod control;
mod joining;
mod messages;
mod reading;

pub(crate) use bytes::broken;

use crate::pace::Pace;
use std::net::SocketAddr;

/// Whom an attack attacks, and how many connections it has for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub bus: SocketAddr,
    pub telemetry: SocketAddr,
    pub http: SocketAddr,
    /// The connections of an attack that needs many.
    pub crowd: usize,
}

/// One way to misbehave.
pub(crate) struct Attack {
    pub name: &'static str,
    /// Flags of the daemon that bring a limit within reach of a short attack.
    pub flags: &'static [&'static str],
    /// What the process may grow by with a crowd of [`CROWD`], in MiB: what its limits allow, and some
    /// for the allocator.
    pub growth_mib_max: u64,
    /// Counters of which at least one must tell of the attack: a metric and what its labels hold. Empty
    /// for an attack that breaks no rule.
    pub tells: &'static [(&'static str, &'static str)],
    pub run: fn(&Target, &Pace),
}

/// The crowd that [`Attack::growth_mib_max`] is for.
pub(crate) const CROWD: usize = 24;

const CLOSES: &str = "arqonbus_shard_closes_total";
const ERRORS: &str = "arqonbus_errors_total";
const DROPS: &str = "arqonbus_shard_drops_total";
const PAUSES: &str = "arqonbus_shard_pauses_total";

/// What any daemon with some connections may grow by.
const LITTLE: u64 = 24;

/// All of them.
pub(crate) const ALL: &[Attack] = &[
    // Before and during the handshake.
    Attack {
        name: "unfinished_handshakes",
        flags: &["--handshake-timeout-ms", "500"],
        growth_mib_max: LITTLE,
        tells: &[(CLOSES, "reason=\"handshake_timeout\"")],
        run: arriving::unfinished_handshakes,
    },
    Attack {
        name: "huge_heads",
        flags: &[],
        growth_mib_max: LITTLE,
        tells: &[(CLOSES, "reason=\"handshake_refused\"")],
        run: arriving::huge_heads,
    },
    Attack {
        name: "bad_requests",
        flags: &[],
        growth_mib_max: LITTLE,
        tells: &[(CLOSES, "reason=\"handshake_refused\"")],
        run: arriving::bad_requests,
    },
    Attack {
        name: "opened_and_dropped",
        flags: &[],
        growth_mib_max: LITTLE,
        tells: &[(CLOSES, "reason=\"lost\"")],
        run: arriving::opened_and_dropped,
    },
    Attack {
        name: "one_id_for_all",
        flags: &[],
        growth_mib_max: LITTLE,
        tells: &[(CLOSES, "reason=\"handshake_refused\"")],
        run: arriving::one_id_for_all,
    },
    Attack {
        name: "messages_before_the_answer",
        flags: &[],
        growth_mib_max: 48,
        tells: &[],
        run: arriving::messages_before_the_answer,
    },
    Attack {
        name: "more_than_may_connect",
        flags: &["--max-connections", "10"],
        growth_mib_max: LITTLE,
        tells: &[("arqonbus_connections_turned_away_total", "")],
        run: arriving::more_than_may_connect,
    },
    // Frames.
    Attack {
        name: "broken_frames",
        flags: &[],
        growth_mib_max: LITTLE,
        tells: &[(CLOSES, "reason=\"protocol_error\"")],
        run: bytes::broken_frames,
    },
    Attack {
        name: "pings_unread",
        flags: &[],
        growth_mib_max: 16,
        tells: &[],
        run: bytes::pings_unread,
    },
    Attack {
        name: "pings_of_many_at_once",
        flags: &[],
        growth_mib_max: 48,
        tells: &[],
        run: bytes::pings_of_many_at_once,
    },
    Attack { name: "pongs", flags: &[], growth_mib_max: LITTLE, tells: &[], run: bytes::pongs },
    Attack {
        name: "closes",
        flags: &[],
        growth_mib_max: LITTLE,
        tells: &[(CLOSES, "reason=\"by_client\"")],
        run: bytes::closes,
    },
    Attack {
        name: "unfinished_messages",
        flags: &[],
        // Each of the crowd may hold a message of 1 MiB, in a buffer that grows by doubling.
        growth_mib_max: 72,
        tells: &[],
        run: bytes::unfinished_messages,
    },
    Attack {
        name: "tiny_fragments",
        flags: &[],
        growth_mib_max: 72,
        tells: &[(CLOSES, "reason=\"too_big\"")],
        run: bytes::tiny_fragments,
    },
    Attack { name: "drip", flags: &[], growth_mib_max: LITTLE, tells: &[], run: bytes::drip },
    Attack {
        name: "urgent_bytes",
        flags: &[],
        growth_mib_max: LITTLE,
        tells: &[],
        run: bytes::urgent_bytes,
    },
    Attack {
        name: "half_closed",
        flags: &[],
        growth_mib_max: LITTLE,
        tells: &[(CLOSES, "reason=\"lost\"")],
        run: bytes::half_closed,
    },
    // Messages.
    Attack {
        name: "malformed_messages",
        flags: &[],
        growth_mib_max: LITTLE,
        tells: &[(CLOSES, "reason=\"violations\"")],
        run: messages::malformed,
    },
    Attack {
        name: "malformed_messages_unread",
        flags: &["--max-violations", "0", "--slow-grace-ms", "500"],
        growth_mib_max: 128,
        tells: &[(PAUSES, "reason=\"outbox_full\"")],
        run: messages::malformed_unread,
    },
    Attack {
        name: "one_id_again_and_again",
        flags: &[],
        growth_mib_max: 48,
        tells: &[("arqonbus_shard_events_duplicate_total", "")],
        run: messages::one_id_again_and_again,
    },
    Attack {
        name: "short_lives",
        flags: &["--outbox-bytes", "66560", "--max-message-bytes", "1024"],
        growth_mib_max: 48,
        tells: &[(DROPS, "reason=\"expired\"")],
        run: messages::short_lives,
    },
    Attack {
        name: "private_to_all_and_nobody",
        flags: &[],
        growth_mib_max: 96,
        tells: &[(ERRORS, "error=\"TARGET_NOT_FOUND\"")],
        run: messages::private_to_all_and_nobody,
    },
    Attack {
        name: "private_to_one_that_does_not_read",
        flags: &["--slow-grace-ms", "500"],
        growth_mib_max: 64,
        tells: &[(DROPS, "reason=\"outbox_full\"")],
        run: messages::private_to_one_that_does_not_read,
    },
    Attack {
        name: "telemetry_of_clients",
        flags: &[],
        growth_mib_max: 128,
        tells: &[],
        run: messages::telemetry_of_clients,
    },
    Attack {
        name: "everything_traced",
        flags: &[],
        growth_mib_max: 64,
        tells: &[],
        run: messages::everything_traced,
    },
    Attack {
        name: "large_messages",
        flags: &["--history-bytes-total", "16777216"],
        growth_mib_max: 160,
        tells: &[],
        run: messages::large_messages,
    },
    // Commands.
    Attack {
        name: "each_command_unread",
        flags: &["--slow-grace-ms", "500"],
        growth_mib_max: 192,
        tells: &[(PAUSES, "reason=\"outbox_full\""), (ERRORS, "error=\"RATE_LIMITED\"")],
        run: commands::each_unread,
    },
    Attack {
        name: "each_command_read",
        flags: &[],
        growth_mib_max: 96,
        tells: &[],
        run: commands::each_read,
    },
    Attack {
        name: "listings_of_many_rooms",
        flags: &[],
        growth_mib_max: 128,
        tells: &[],
        run: commands::listings_of_many_rooms,
    },
    Attack {
        name: "history_of_large_messages",
        flags: &["--history-bytes-total", "33554432", "--slow-grace-ms", "500"],
        growth_mib_max: 192,
        tells: &[],
        run: commands::history_of_large_messages,
    },
    Attack {
        name: "recovered_again_and_again",
        flags: &["--slow-grace-ms", "500"],
        growth_mib_max: 128,
        tells: &[],
        run: commands::recovered_again_and_again,
    },
    Attack {
        name: "identified_again_and_again",
        flags: &[],
        growth_mib_max: 32,
        tells: &[(ERRORS, "error=\"CLIENT_ID_IN_USE\"")],
        run: commands::identified_again_and_again,
    },
    // Joining and leaving.
    Attack {
        name: "flapping_before_watchers",
        flags: &[],
        growth_mib_max: 64,
        tells: &[],
        run: joining::flapping_before_watchers,
    },
    Attack {
        name: "whole_rooms",
        flags: &[],
        growth_mib_max: 160,
        tells: &[],
        run: joining::whole_rooms,
    },
    Attack {
        name: "channels_without_end",
        flags: &["--max-channels", "2000", "--max-rooms", "500"],
        growth_mib_max: 48,
        tells: &[(ERRORS, "error=\"JOIN_LIMIT\""), (ERRORS, "_LIMIT\"")],
        run: joining::channels_without_end,
    },
    // Reading slowly, or not at all.
    Attack {
        name: "never_read",
        flags: &["--outbox-bytes", "1114112", "--slow-grace-ms", "500"],
        growth_mib_max: 96,
        tells: &[(CLOSES, "reason=\"too_slow\""), (DROPS, "reason=\"outbox_full\"")],
        run: reading::never_read,
    },
    Attack {
        name: "one_byte_at_a_time",
        flags: &["--outbox-bytes", "1114112", "--slow-grace-ms", "500"],
        growth_mib_max: 96,
        tells: &[(CLOSES, "reason=\"too_slow\""), (DROPS, "reason=\"outbox_full\"")],
        run: reading::one_byte_at_a_time,
    },
    Attack {
        name: "behind_in_many_channels",
        // It is about what waits for clients: 300 whole histories would hide it.
        flags: &["--outbox-bytes", "66560", "--max-message-bytes", "1024", "--history-size", "10"],
        growth_mib_max: 96,
        tells: &[(DROPS, "reason=\"outbox_full\"")],
        run: reading::behind_in_many_channels,
    },
    // The other two ports.
    Attack {
        name: "telemetry_readers_stuck",
        flags: &[],
        growth_mib_max: 96,
        tells: &[],
        run: control::telemetry_readers_stuck,
    },
    Attack {
        name: "telemetry_readers_that_talk",
        flags: &[],
        growth_mib_max: LITTLE,
        tells: &[("arqonbus_telemetry_closes_total", "reason=\"violations\"")],
        run: control::telemetry_readers_that_talk,
    },
    Attack {
        name: "http_never_finished",
        flags: &[],
        growth_mib_max: LITTLE,
        tells: &[],
        run: control::http_never_finished,
    },
    Attack {
        name: "http_unread",
        flags: &[],
        growth_mib_max: 64,
        tells: &[("arqonbus_http_requests_total", "")],
        run: control::http_unread,
    },
    Attack {
        name: "http_nonsense",
        flags: &[],
        growth_mib_max: LITTLE,
        tells: &[("arqonbus_http_requests_total", "")],
        run: control::http_nonsense,
    },
];

/// The attack of that name.
#[track_caller]
pub(crate) fn named(name: &str) -> &'static Attack {
    let found = ALL.iter().find(|attack| attack.name == name);
    found.unwrap_or_else(|| panic!("there is no attack {name}"))
}
