//! Connecting, and connecting again: the pauses of `session`, made.

use crate::cli::console::Console;
use crate::cli::failure::Failure;
use crate::cli::handshake;
use crate::cli::session::{Backoff, ends_session, is_for_storage, judge_denial, judge_loss};
use crate::cli::target::Target;
use crate::cli::wire::{Halt, Link, Lost, Welcome};
use crate::protocol::names::Name;
use std::time::{Duration, Instant};

/// A bus to connect to as often as it takes.
pub(super) struct Dial {
    target: Target,
    backoff: Backoff,
    may_reconnect: bool,
    /// When the connection that is or was last came to be.
    connected_at: Option<Instant>,
}

impl Dial {
    /// Connects to `target`; after a loss again only if it may.
    pub(super) fn new(target: Target, may_reconnect: bool) -> Dial {
        let backoff = Backoff::new(fastrand::u64(..));
        Dial { target, backoff, may_reconnect, connected_at: None }
    }

    /// How long an answer may take.
    pub(super) fn timeout(&self) -> Duration {
        self.target.timeout
    }

    /// Opens a connection, and goes on with the session of the last one if the bus keeps it. The
    /// first attempt's failure is the command's; later ones are told, and tried again.
    pub(super) fn open(&mut self, console: &mut Console) -> Result<(Link, Welcome), Failure> {
        let mut storage_denials = 0;
        loop {
            let was_connected = self.connected_at.is_some();
            let denied = match handshake::open(&self.target, &mut console.reactor) {
                Ok((link, welcome)) => {
                    if was_connected {
                        console.note("connected again");
                    }
                    self.connected_at = Some(Instant::now());
                    self.target = self.target.clone().with_session(welcome.session.clone());
                    return Ok((link, welcome));
                }
                Err(denied) => denied,
            };
            storage_denials += u32::from(is_for_storage(&denied));
            if self.target.has_session() && ends_session(&denied, storage_denials) {
                // What was missed is caught up with all the same.
                self.target = self.target.clone().with_session(None);
                continue;
            }
            let why = judge_denial(denied, &self.target.name(), was_connected)?;
            self.pause(console, &why)?;
        }
    }

    /// A connection was lost: waits until it is time for the next one, or says that there is to be
    /// none.
    pub(super) fn on_lost(
        &mut self,
        console: &mut Console,
        lost: &Lost,
        has_progressed: bool,
    ) -> Result<(), Failure> {
        judge_loss(lost)?;
        if !self.may_reconnect {
            return Err(Failure::Refused(lost.to_string()));
        }
        let lasted = self.connected_at.map_or(Duration::ZERO, |since| since.elapsed());
        self.backoff.on_lost(lasted, has_progressed);
        self.pause(console, &lost.to_string())
    }

    /// The bus asked to be left alone for so long before the next connection.
    pub(super) fn on_retry_after(&mut self, pause_ms: u64) {
        self.backoff.on_retry_after(pause_ms);
    }

    /// Every later connection is to be the same client.
    pub(super) fn keep_client_id(&mut self, client_id: Name) {
        self.target = self.target.clone().with_client_id(client_id);
    }

    fn pause(&mut self, console: &mut Console, why: &str) -> Result<(), Failure> {
        let pause = self.backoff.next_pause();
        console.note(format!("{why}; trying again in {:.1} s", pause.as_secs_f32()));
        console.reactor.sleep(Instant::now() + pause)
    }
}

/// Ends the work on a connection: a connection that still stands is closed in good order.
pub(super) fn hang_up(
    link: Link,
    console: &mut Console,
    ended: Result<(), Halt>,
) -> Result<Option<Lost>, Failure> {
    let outcome = match ended {
        Err(Halt::Lost(lost)) => return Ok(Some(lost)),
        Err(Halt::Failed(failure)) => Err(failure),
        Ok(()) => Ok(None),
    };
    link.leave(&mut console.reactor);
    outcome
}
