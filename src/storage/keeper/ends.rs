//! The start, when everything is read back, and the end, when everything is written.

use super::late::Late;
use super::{Keeper, Load, PAUSE, RENEW, Stop};
use crate::base::time::Now;
use crate::broker::record::Snapshot;
use crate::storage::link::INDEX;
use crate::storage::load::{Reader, Unusable};
use crate::storage::meters::add;
use crate::storage::settings::LEASE_MS;
use crate::storage::trouble::{Trouble, Wrong};
use crate::storage::{LoadError, Unsaved};
use redis::cmd;
use std::cell::Cell;
use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::{sleep_until, timeout_at};

impl Keeper {
    /// Reads everything back. False if nothing must be written, as a person must do something.
    pub(super) async fn obey(&mut self, Load { now, timeout, reply }: Load) -> bool {
        self.state.began = Some((Instant::now(), now));
        let answer = self.load(now, timeout).await;
        let may_write = !matches!(answer, Err(LoadError::Wrong(_)));
        if answer.is_err() {
            self.state.late = Late::Unread;
        }
        // Nobody waits any more if the process gave up.
        let _ = reply.send(answer);
        may_write
    }

    /// Connects within `timeout`, gets the right to write, and reads everything.
    async fn load(&mut self, now: Now, timeout: Duration) -> Result<Snapshot, LoadError> {
        let started = Instant::now();
        // A node that died holds the right for a lease.
        let lease_over = started + timeout.max(Duration::from_millis(LEASE_MS + LEASE_MS / 5));
        loop {
            let trouble = match self.read(now).await {
                Ok((snapshot, unusable)) => {
                    self.quarantine_all(unusable);
                    self.look_at_all(snapshot.channels.iter().map(|kept| &kept.record.address));
                    self.known.note_all(&snapshot);
                    self.recover();
                    return Ok(snapshot);
                }
                Err(trouble) => trouble,
            };
            let until = match &trouble {
                Trouble::Wrong(Wrong::AnotherWriter { .. } | Wrong::Shared { .. })
                    if !self.state.other_lives =>
                {
                    lease_over
                }
                Trouble::Wrong(wrong) => return Err(LoadError::Wrong(wrong.clone())),
                // It will come, and what it reads is what is asked for.
                loading if loading.is_loading() => Instant::now() + timeout,
                _ => started + timeout,
            };
            if let Trouble::Fenced(generation) = trouble {
                self.holder.saw(generation);
            }
            self.state.bond = None;
            let pause = Instant::now() + PAUSE;
            if self.state.stopping.is_some() || pause >= until {
                self.fail_after(trouble.clone(), Duration::ZERO);
                return Err(match trouble {
                    Trouble::Wrong(wrong) => LoadError::Wrong(wrong),
                    other => LoadError::Unreachable(other.to_string()),
                });
            }
            self.attend(PAUSE, std::future::pending::<()>()).await;
        }
    }

    /// Reads everything, on the connection that is there or a new one.
    pub(super) async fn read(&mut self, now: Now) -> Result<(Snapshot, Vec<Unusable>), Trouble> {
        if self.state.bond.is_none() {
            self.bind().await?;
        }
        let Some(bond) = self.state.bond.clone() else {
            return Err(Trouble::Outage("no connection".into()));
        };
        let (settings, keys) = (Arc::clone(&self.settings), Arc::clone(&self.keys));
        let (meters, holder) = (Arc::clone(&self.meters), Arc::clone(&self.holder));
        let generation = bond.generation;
        let link = &bond.link;
        let answered = &Cell::new(Instant::now());
        let (keys, settings, meters) = (&*keys, &*settings, &*meters);
        let page = Arc::clone(&self.state.page);
        let page = &*page;
        let reader = Reader { link, keys, settings, meters, generation, now, answered, page };
        let work = async {
            let (snapshot, unusable) = reader.all().await?;
            holder.sweep(link, keys).await?;
            let swept = sweep_names(&reader, &snapshot).await?;
            Ok::<_, Trouble>(((snapshot, unusable), swept))
        };
        let mut all = pin!(work);
        // Every answer has its own limit, and there may be many of them: the whole has none.
        loop {
            if let Some(answer) = self.attend(RENEW, all.as_mut()).await {
                let (snapshot, changes) = answer?;
                self.state.changes = self.state.changes.max(changes.unwrap_or(0));
                return Ok(snapshot);
            }
            if self.state.stopping.is_some() {
                return Err(Trouble::Outage("the storage was stopped".into()));
            }
            self.renew(&bond).await;
        }
    }

    /// Writes what is pending until the deadline, and gives the right to write back.
    pub(super) async fn end(mut self) {
        let Some(Stop { deadline, .. }) = self.state.stopping else { return };
        self.take_in();
        // What is kept is not known to the homes, which have ended: what waits has no place in it.
        let is_known = matches!(self.state.late, Late::Known);
        let has_due = |keeper: &Keeper| {
            is_known && (keeper.backlog.has_due() || keeper.sessions.has_unwritten())
        };
        while has_due(&self) && Instant::now() < deadline && !self.state.is_overtaken {
            match self.health.retry_at.filter(|&at| at > Instant::now()) {
                Some(at) => sleep_until(at.min(deadline).into()).await,
                None => self.work().await,
            }
            self.take_in();
        }
        if let Some(bond) = &self.state.bond {
            // The lease ends by itself if this fails.
            let release = self.holder.release(&bond.link, &self.keys);
            let grace = deadline.max(Instant::now() + PAUSE);
            let _ = timeout_at(grace.into(), release).await;
        }
        if let Some(stop) = self.state.stopping {
            let unsaved = Unsaved { events: self.backlog.events() };
            // Nobody waits any more if the process gave up.
            let _ = stop.reply.send(unsaved);
        }
    }
}

/// Takes names from the index for which there is no channel: whoever made or deleted it died halfway.
/// Nobody else writes, so nobody is about to make it. Gives how often the index was changed by then.
async fn sweep_names(reader: &Reader<'_>, snapshot: &Snapshot) -> Result<Option<u64>, Trouble> {
    let found: HashSet<_> = snapshot.channels.iter().map(|kept| &*kept.record.address).collect();
    let mut changes = None;
    for address in reader.addresses().await? {
        if found.contains(&address) {
            continue;
        }
        let meta = reader.keys.meta(&address);
        if reader.link.ask::<u64>(cmd("EXISTS").arg(&meta)).await? > 0 {
            continue;
        }
        let mut call = INDEX.call(&[&reader.keys.writer, &reader.keys.channels]);
        call.arg(reader.generation).arg("SREM").arg(address.to_string());
        changes = Some(reader.link.change(&INDEX, &call).await?);
        reader.answered.set(Instant::now());
        add(&reader.meters.swept, 1);
    }
    Ok(changes)
}
