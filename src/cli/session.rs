//! What outlives a connection: whether to come back after it was lost, and when.
//!
//! A client that comes back at once and for ever is an attack on a bus that is in trouble, and one
//! that comes back in step with all the others is the same attack. So the pauses grow, each is
//! drawn at random, and what the bus itself asks for goes first.
//!
//! *Not here*: sockets and clocks; the pauses are only named here (`dial` makes them).

use crate::cli::failure::Failure;
use crate::cli::handshake::Denied;
use crate::cli::wire::Lost;
use crate::protocol::close::CloseReason;
use crate::protocol::fault::Fault;
use std::time::Duration;

/// The middle of the first pause.
const PAUSE_FIRST: Duration = Duration::from_millis(150);
/// The longest pause of our own choosing.
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// The longest pause the bus can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);
/// How often in a row a session that can't be read for want of a storage is asked for. Then a new client
/// comes instead of one that waits for ever: about a quarter of a minute later.
const STORAGE_DENIALS_MAX: u32 = 6;
/// A connection that lasted this long was a good one, whatever it was used for.
const GOOD_CONNECTION: Duration = Duration::from_secs(5);

/// Pauses that grow: each drawn at random from the half to the whole of a span that doubles.
#[derive(Debug)]
pub(super) struct Backoff {
    failures: u32,
    asked: Option<Duration>,
    rng: fastrand::Rng,
}

impl Backoff {
    /// The pauses of one program, from its seed.
    pub(super) fn new(seed: u64) -> Backoff {
        Backoff { failures: 0, asked: None, rng: fastrand::Rng::with_seed(seed) }
    }

    /// The bus asked to be left alone for so long.
    pub(super) fn on_retry_after(&mut self, pause_ms: u64) {
        self.asked = Some(Duration::from_millis(pause_ms).min(RETRY_AFTER_MAX));
    }

    /// A connection ended after `lasted`. One that lasted, or moved messages, was no failure.
    pub(super) fn on_lost(&mut self, lasted: Duration, has_progressed: bool) {
        if has_progressed || lasted >= GOOD_CONNECTION {
            self.failures = 0;
        }
    }

    /// The pause before the next attempt.
    pub(super) fn next_pause(&mut self) -> Duration {
        let span = PAUSE_FIRST.saturating_mul(2 << self.failures.min(16)).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        let drawn = span.mul_f64(0.5 + 0.5 * self.rng.f64());
        // What the bus asks for is already spread over its clients, each got a pause of its own.
        self.asked.take().unwrap_or(drawn)
    }
}

/// Whether a lost connection is worth another one: the failure to end with if it is not.
pub(super) fn judge_loss(lost: &Lost) -> Result<(), Failure> {
    // The others pass: going away, full, too slow, silent.
    const FINAL: [CloseReason; 7] = [
        CloseReason::Protocol,
        CloseReason::Binary,
        CloseReason::NotUtf8,
        CloseReason::Violations,
        CloseReason::TooBig,
        CloseReason::Unauthorized,
        CloseReason::Disconnected,
    ];
    match lost {
        Lost::Closed { code, .. } if FINAL.iter().any(|reason| reason.code() == *code) => {
            Err(Failure::Refused(lost.to_string()))
        }
        _ => Ok(()),
    }
}

/// Whether a denied connection is worth another attempt: the failure to end with if it is not.
/// Somebody who never was connected is told at once; somebody who was waits for the bus to come
/// back, and for it to notice that the old connection with the same client id is dead.
pub(super) fn judge_denial(
    denied: Denied,
    place: &str,
    was_connected: bool,
) -> Result<String, Failure> {
    let (failure, may_pass) = match denied {
        Denied::Failed(failure) => (failure, false),
        Denied::Unreachable(text) => (Failure::Unreachable(text), true),
        Denied::NotABus(why) => {
            let advice = "clients connect to the bus's own port, 9100 if it was not configured, and \
                          neither to that of telemetry (9101) nor to that of HTTP (9102)";
            let text = format!("what answers at {place} is no ArqonBus: {why}; {advice}");
            (Failure::Unreachable(text), true)
        }
        Denied::Http { status, message, .. } => {
            let may_pass = matches!(status, 409 | 429 | 500..);
            (Failure::Refused(format!("{message} (HTTP {status})")), may_pass)
        }
        Denied::Closed(lost) => (Failure::Refused(lost.to_string()), judge_loss(&lost).is_ok()),
    };
    match failure.sentence() {
        Some(sentence) if may_pass && was_connected => Ok(sentence.to_owned()),
        _ => Err(failure),
    }
}

/// Whether a denied connection ends the session that it was to go on with, and a new client may come
/// instead: the session is not known any more; or the bus that is there now takes none, or none beside
/// what the URL says, and takes all else as it did before; or for `denials` times by now the storage
/// was away, without which no session can be read.
pub(super) fn ends_session(denied: &Denied, denials: u32) -> bool {
    let Denied::Http { error, .. } = denied else { return false };
    [Fault::SessionUnknown, Fault::BadIdentity].iter().any(|fault| fault.word() == error)
        || is_for_storage(denied) && denials >= STORAGE_DENIALS_MAX
}

/// Whether a connection is denied because no session can be read now.
pub(super) fn is_for_storage(denied: &Denied) -> bool {
    matches!(denied, Denied::Http { error, .. } if error == Fault::StorageUnavailable.word())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_are_drawn_at_random() {
        let mut backoff = Backoff::new(1);
        let mut spans = Vec::new();
        for failures in 0..200 {
            let pause = backoff.next_pause();
            let whole = Duration::from_millis(300 << failures.min(10)).min(PAUSE_MAX);
            assert!(pause >= whole / 2 && pause <= whole, "{failures}: {pause:?}");
            spans.push(pause);
        }
        assert_ne!(spans[100], spans[101]);
        let others: Vec<_> = {
            let mut backoff = Backoff::new(2);
            (0..200).map(|_| backoff.next_pause()).collect()
        };
        assert_ne!(spans, others, "two clients come back at different times");
    }

    #[test]
    fn what_the_bus_asks_for_goes_first_and_once() {
        let mut backoff = Backoff::new(1);
        backoff.on_retry_after(4_321);
        assert_eq!(backoff.next_pause(), Duration::from_millis(4_321));
        assert!(backoff.next_pause() < Duration::from_secs(1));
        backoff.on_retry_after(u64::MAX);
        assert_eq!(backoff.next_pause(), RETRY_AFTER_MAX);
    }

    #[test]
    fn a_good_connection_starts_the_pauses_anew() {
        for (lasted, has_progressed, is_good) in [
            (Duration::from_secs(60), false, true),
            (Duration::from_millis(1), true, true),
            (Duration::from_millis(1), false, false),
        ] {
            let mut backoff = Backoff::new(1);
            for _ in 0..10 {
                backoff.next_pause();
            }
            backoff.on_lost(lasted, has_progressed);
            assert_eq!(backoff.next_pause() < Duration::from_secs(1), is_good);
        }
    }

    #[test]
    fn losses_that_pass_are_told_from_those_that_stay() {
        for code in [1000, 1001, 1005, 1011, 1012, 1013, 4008, 4010] {
            let lost = Lost::Closed { code, reason: "why".into() };
            assert!(judge_loss(&lost).is_ok(), "{code}");
        }
        for code in [1002, 1003, 1007, 1008, 1009, 4001, 4013] {
            let lost = Lost::Closed { code, reason: "why".into() };
            assert_eq!(judge_loss(&lost).unwrap_err().exit_code(), 1, "{code}");
        }
        assert!(judge_loss(&Lost::Broken("cut".into())).is_ok());
    }

    #[test]
    fn denials_end_the_first_attempt_and_few_end_a_later_one() {
        let http = |status| Denied::Http { status, error: "NO".into(), message: "no".into() };
        let closed = |code| Denied::Closed(Lost::Closed { code, reason: String::new() });
        let judge = |denied, was_connected| judge_denial(denied, "h:1", was_connected);
        for make in [Denied::Unreachable, Denied::NotABus] {
            assert_eq!(judge(make("x".into()), false).unwrap_err().exit_code(), 3);
            assert!(judge(make("x".into()), true).is_ok());
        }
        for (status, may_pass) in
            [(400, false), (401, false), (403, false), (409, true), (429, true), (503, true)]
        {
            assert_eq!(judge(http(status), false).unwrap_err().exit_code(), 1);
            assert_eq!(judge(http(status), true).is_ok(), may_pass, "{status}");
        }
        assert!(judge(closed(1013), true).is_ok());
        assert!(judge(closed(4001), true).is_err());
        let stopped = judge(Denied::Failed(Failure::Stopped(2)), true);
        assert_eq!(stopped, Err(Failure::Stopped(2)));
    }

    #[test]
    fn a_session_ends_when_it_is_not_known_and_not_at_once_when_it_can_not_be_read() {
        let ends = |status, error: &str, denials| {
            let (error, message) = (error.into(), "no".into());
            ends_session(&Denied::Http { status, error, message }, denials)
        };
        assert!(ends(404, "SESSION_UNKNOWN", 0) && ends(400, "BAD_IDENTITY", 0));
        for (status, error) in
            [(400, "BAD_HANDSHAKE"), (400, ""), (404, ""), (409, "CLIENT_ID_IN_USE")]
        {
            assert!(!ends(status, error, 1_000), "{error}");
        }
        let away = |denials| ends(503, "STORAGE_UNAVAILABLE", denials);
        assert!(!away(1) && !away(STORAGE_DENIALS_MAX - 1) && away(STORAGE_DENIALS_MAX));
        assert!(!ends(503, "DRAINING", 1_000));
        for other in [
            Denied::Unreachable("x".into()),
            Denied::Closed(Lost::Closed { code: 1013, reason: String::new() }),
        ] {
            assert!(!ends_session(&other, 1_000) && !is_for_storage(&other));
        }
    }
}
