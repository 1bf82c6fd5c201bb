//! What nodes leave that died: their client ids, and names in the index of channels that they were about
//! to make or to delete.
//!
//! It is swept by lease, by whoever is there: a pass looks at all that there is, whoever left it, and a
//! node makes one some seconds after it comes, and after it is known that another one has gone. Nobody waits for it, as all of it counts for nothing already, so it is
//! done in steps, each between other things.
//!
//! *Invariants*: nothing of a node with a lease is removed; a name goes from the index only if there was no
//! such channel for a whole lease, and comes back if one is made meanwhile; each pass that is asked for
//! begins after it was asked for.
//!
//! *Not here*: who follows a channel, which the next one who follows it sweeps (`call`).

use super::Hub;
use super::bond::Bond;
use super::call::{self, Caller};
use crate::protocol::command::Address;
use crate::storage::keeper::no_answer;
use crate::storage::load::Reader;
use crate::storage::meters::add;
use crate::storage::settings::LEASE_MS;
use crate::storage::trouble::Trouble;
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long after a death the leases of the dead are over for sure.
const LEASE_OVER: Duration = Duration::from_millis(LEASE_MS + LEASE_MS / 5);
/// The channels of one step.
const CHANNELS_A_STEP: usize = 64;

/// What is to be swept, and how far that is.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// When the next pass begins.
    due: Option<Instant>,
    /// When one more begins, if that was asked for meanwhile.
    again: Option<Instant>,
    /// Where the next step of a pass begins.
    cursor: Option<String>,
    /// Names in the index without a channel, and when that was seen.
    unmade: Vec<(Address, Instant)>,
}

impl Sweep {
    /// A pass when the lease of whoever died just now is over. Until then those that were only away
    /// have taken their ids anew, and have seen which of them went to others that died since.
    pub(super) fn plan(&mut self, now: Instant) {
        let at = now + LEASE_OVER;
        match self.due {
            None => self.due = Some(at),
            Some(_) => self.again = Some(at),
        }
    }

    /// Notes a name in the index without a channel, which somebody may be about to make.
    pub(super) fn note_unmade(&mut self, addresses: Vec<Address>, now: Instant) {
        for address in addresses {
            if !self.unmade.iter().any(|(known, _)| *known == address) {
                self.unmade.push((address, now));
            }
        }
    }

    /// When there is something to do.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let of_names = self.unmade.first().map(|&(_, at)| at + LEASE_OVER);
        let of_ids = if self.cursor.is_some() { Some(now) } else { self.due };
        [of_names, of_ids].into_iter().flatten().min()
    }

    /// Where the next step of a pass begins, if one is due.
    fn begin_step(&mut self, now: Instant) -> Option<String> {
        if self.cursor.is_none() && self.due.is_some_and(|due| due <= now) {
            self.due = self.again.take();
            self.cursor = Some("0".to_owned());
        }
        self.cursor.clone()
    }

    fn end_step(&mut self, next: String) {
        self.cursor = (next != "0").then_some(next);
    }

    fn take_unmade(&mut self, now: Instant) -> Vec<Address> {
        let is_old = |(_, at): &(Address, Instant)| *at + LEASE_OVER <= now;
        let count = self.unmade.iter().take_while(|it| is_old(it)).take(CHANNELS_A_STEP).count();
        self.unmade.drain(..count).map(|(address, _)| address).collect()
    }
}

impl Hub {
    /// Notes the names in the index of which no channel is known.
    async fn list_unmade(&mut self, bond: &Bond) -> Result<(), Trouble> {
        let (settings, keys) = (Arc::clone(&self.settings), Arc::clone(&self.keys));
        let (meters, answered) = (Arc::clone(&self.meters), Cell::new(Instant::now()));
        let page = Arc::clone(&self.state.page);
        let reader = Reader {
            link: &bond.link,
            keys: &keys,
            settings: &settings,
            meters: &meters,
            generation: bond.generation,
            now: self.now(),
            answered: &answered,
            page: &page,
        };
        let limit = self.commit_timeout();
        let names = self.attend_while(limit, &answered, reader.addresses()).await;
        let mut names = names.unwrap_or_else(|| Err(no_answer(limit)))?;
        names.retain(|address| !self.catalogue.has(address));
        self.sweep.note_unmade(names, Instant::now());
        Ok(())
    }

    /// One step.
    pub(super) async fn sweep(&mut self, bond: &Bond) {
        let limit = self.commit_timeout();
        let (claims, keys) = (Arc::clone(&self.gossip.claims), Arc::clone(&self.keys));
        if let Some(cursor) = self.sweep.begin_step(Instant::now()) {
            let answer = self.attend(limit, claims.sweep(&bond.link, &cursor)).await;
            match answer.unwrap_or_else(|| Err(no_answer(limit))) {
                Ok((next, removed)) => {
                    add(&self.meters.swept, removed);
                    let is_last = next == "0";
                    self.sweep.end_step(next);
                    if is_last && let Err(trouble) = self.list_unmade(bond).await {
                        return self.fail(trouble);
                    }
                }
                Err(trouble) => return self.fail(trouble),
            }
        }
        let unmade = self.sweep.take_unmade(Instant::now());
        let (settings, meters) = (Arc::clone(&self.settings), Arc::clone(&self.meters));
        let (token, answered) = (Arc::clone(&self.token), Cell::new(Instant::now()));
        let page = Arc::clone(&self.state.page);
        let read_left = Cell::new(0);
        let caller = Caller {
            page: &page,
            read_left: &read_left,
            reads: call::reads(),
            link: &bond.link,
            ears: &bond.ears,
            keys: &keys,
            settings: &settings,
            meters: &meters,
            generation: bond.generation,
            token: &token,
            now: self.now(),
            // No time is written.
            clock_ahead_us: 0,
            answered: &answered,
        };
        for address in unmade {
            match self.attend(limit, caller.unlist(&Arc::new(address))).await {
                Some(Ok(is_gone)) => add(&self.meters.swept, u64::from(is_gone)),
                // What stands there is not ours to sweep.
                Some(Err(Trouble::Foreign | Trouble::Broken(_))) => {}
                Some(Err(trouble)) => return self.fail(trouble),
                None => return self.fail(no_answer(limit)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pass_that_is_asked_for_begins_after_it_was_asked_for() {
        let (mut sweep, now) = (Sweep::default(), Instant::now());
        assert_eq!(sweep.next_due(now), None);
        sweep.plan(now);
        assert_eq!(sweep.begin_step(now), None, "who was away may be back by then");
        // However many die before it or while it is made, each is swept by a later one.
        for second in 1..20 {
            sweep.plan(now + Duration::from_secs(second));
        }
        let first = sweep.next_due(now).unwrap();
        assert_eq!(first, now + LEASE_OVER);
        assert_eq!(sweep.begin_step(first).as_deref(), Some("0"));
        sweep.end_step("17".to_owned());
        assert_eq!(sweep.begin_step(first).as_deref(), Some("17"));
        sweep.end_step("0".to_owned());
        let last = now + Duration::from_secs(19) + LEASE_OVER;
        assert_eq!(sweep.next_due(first), Some(last));
        sweep.begin_step(last);
        sweep.end_step("0".to_owned());
        assert_eq!(sweep.next_due(last), None);
    }
}
