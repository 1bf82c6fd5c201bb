//! The connections: one to ask, one to hear; how they are made, kept, lost and made again.
//!
//! They live and die together: whenever one fails both are made anew, and all that is followed is
//! looked through, as nobody knows what was missed.

use super::Hub;
use super::call::{self, Caller, Job, ROUND_READ_BYTES};
use super::catalogue::{Listing, Seen};
use super::follow::Task;
use crate::broker::peers::To;
use crate::protocol::command::Address;
use crate::storage::backlog::Step;
use crate::storage::clock;
use crate::storage::holder::{SHARED, host, is_dead, other_writer};
use crate::storage::keeper::{RENEW, no_answer};
use crate::storage::link::{self, Link, REPAIR, SHARE};
use crate::storage::load::Reader;
use crate::storage::meters::add;
use crate::storage::settings::LEASE_MS;
use crate::storage::trouble::Trouble;
use redis::aio::PubSubSink;
use redis::{Cmd, Value, cmd};
use std::cell::Cell;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// The names that are subscribed to with one command.
const SUBSCRIBE_AT_A_TIME: usize = 512;
/// How long this node may hear nothing; it tells itself something each time that it renews its lease.
const SILENCE: Duration = Duration::from_millis(LEASE_MS);
/// How often all that is followed is looked through, though nothing is known to be missing: in a
/// cluster a push may be lost between two servers.
const CHECK: Duration = Duration::from_secs(30);
/// How long the catalogue may take between two answers.
const ANSWER: Duration = Duration::from_secs(10);

/// The connections, and what was agreed upon over them.
#[derive(Clone)]
pub(super) struct Bond {
    pub(super) link: Link,
    pub(super) ears: PubSubSink,
    pub(super) generation: u64,
    pub(super) renew_at: Instant,
    /// When they were made, in microseconds since 1970.
    pub(super) since_us: u64,
}

/// What was agreed upon.
struct Agreed {
    generation: u64,
    /// How far the catalogue has come.
    seen: Seen,
    /// Whether the others have thought that this node was dead, or have never known it.
    is_new: bool,
}

impl Hub {
    /// Connects, subscribes to all that is followed, and looks what there is.
    pub(super) async fn bind(&mut self) -> Result<(), Trouble> {
        self.fall_silent();
        let (settings, keys) = (Arc::clone(&self.settings), Arc::clone(&self.keys));
        let limit = self.commit_timeout();
        let link = self.attend(limit, Link::connect(&settings)).await;
        let link = link.unwrap_or_else(|| Err(no_answer(limit)))?;
        if self.meters.connections.load(Relaxed) == 0 {
            let tried = self.attend(4 * limit, link.probe(&settings, &keys)).await;
            tried.unwrap_or_else(|| Err(no_answer(limit)))?;
            self.attend(limit, link.warn_of_its_settings()).await;
        }
        add(&self.meters.connections, 1);
        let ears = self.attend(limit, link::ears(&settings)).await;
        let (mut ears, heard) = ears.unwrap_or_else(|| Err(no_answer(limit)))?.split();
        self.state.ears = Some(heard);
        self.state.heard_at = Some(Instant::now());
        let mut names = vec![keys.catalogue(), keys.census(), keys.node(&self.token)];
        names.extend(self.by_push.keys().cloned());
        for names in names.chunks(SUBSCRIBE_AT_A_TIME) {
            let answer = self.attend(limit, ears.subscribe(names)).await;
            answer.ok_or_else(|| no_answer(limit))??;
        }
        if self.meters.connections.load(Relaxed) == 1 {
            // It is needed later, and tried now.
            let answer = self.attend(limit, async {
                ears.subscribe(keys.probe_channel()).await?;
                ears.unsubscribe(keys.probe_channel()).await
            });
            answer.await.ok_or_else(|| no_answer(limit))??;
        }
        // What is heard after Redis was asked may be newer than the answer.
        let known = self.catalogue.seen.clone();
        let agreed = self.agree(&link).await?;
        self.look_at_clock(&link).await?;
        self.await_peers(&link).await?;
        let clients = self.attend(limit, link.require(&[&keys.clients], "hash")).await;
        clients.unwrap_or_else(|| Err(no_answer(limit)))?;
        let listing = self.look(&link, agreed.generation).await?;
        if self.state.ears.is_none() {
            return Err(Trouble::Outage("the connection was lost at once".into()));
        }
        let repair = self.claim_repair(&link, &known, &agreed).await?;
        let is_ours = repair.is_some();
        self.sweep.plan(Instant::now());
        self.note_unmade(&listing);
        self.on_listing(listing, &known, repair.unwrap_or(agreed.seen), is_ours);
        self.look_through();
        self.sessions.write_again();
        self.rejoin(&link).await?;
        let generation = agreed.generation;
        let renew_at = Instant::now() + RENEW;
        let since_us = self.now().wall_us;
        self.state.bond = Some(Bond { link, ears, generation, renew_at, since_us });
        Ok(())
    }

    /// Measures how far this machine's clock is apart from that of Redis.
    async fn look_at_clock(&mut self, link: &Link) -> Result<(), Trouble> {
        let (keys, limit) = (Arc::clone(&self.keys), self.commit_timeout());
        let reading = self.attend(limit, clock::measure(link, &keys)).await;
        self.meters.note_clock(reading.unwrap_or_else(|| Err(no_answer(limit)))?);
        Ok(())
    }

    /// Notes the names in the index of which no channel is known or was found.
    fn note_unmade(&mut self, listing: &Listing) {
        let found: HashSet<_> = listing.ends.iter().map(|end| &*end.record.address).collect();
        let is_unmade =
            |address: &&Address| !found.contains(*address) && !self.catalogue.has(address);
        let unmade = listing.channels.iter().filter(is_unmade).cloned().collect();
        self.sweep.note_unmade(unmade, Instant::now());
    }

    /// Looks whether something was missed of what is followed.
    fn look_through(&mut self) {
        self.state.check_at = Some(Instant::now() + CHECK);
        for (address, following) in &mut self.followed {
            following.follower.fall_behind();
            if following.follower.is_behind() && !following.is_syncing {
                match self.meters.news.is_full(following.attach.channel.home()) {
                    true => self.state.is_crowded = true,
                    false => {
                        following.is_syncing = true;
                        self.backlog.push_ahead(address, Step::Task(Task::Sync));
                    }
                }
            }
        }
    }

    /// Says that this node lives, and hears who else does.
    async fn agree(&mut self, link: &Link) -> Result<Agreed, Trouble> {
        let (settings, keys) = (Arc::clone(&self.settings), Arc::clone(&self.keys));
        let limit = self.commit_timeout();
        let mut dead = String::new();
        loop {
            let call = self.agreement(LEASE_MS, &dead);
            let answer = self.attend(limit, async {
                let answer = link.run(&SHARE, &call).await;
                if let Err(Trouble::Foreign) = answer {
                    link.require(&[&keys.writer, &keys.nodes], "hash").await?;
                }
                answer
            });
            let (word, node, number, text, repair, gone): (
                String,
                String,
                u64,
                String,
                String,
                u64,
            ) = answer.await.unwrap_or_else(|| Err(no_answer(limit)))?;
            if gone > 0 {
                self.sweep.plan(Instant::now());
            }
            if word == SHARED {
                let seen = Seen { changes: text.parse().unwrap_or(0), repair };
                return Ok(Agreed { generation: number, seen, is_new: node == "new" });
            }
            if dead != text && is_dead(&text) {
                dead = text;
                continue;
            }
            // A lease that is longer than it was is being renewed.
            self.state.other_lives = self.state.other_left_ms.is_some_and(|was| number > was);
            self.state.other_left_ms = Some(number);
            return Err(Trouble::Wrong(other_writer(&node, &text, &settings.prefix)));
        }
    }

    /// If Redis has forgotten something of the catalogue and nobody has repaired it yet, this node
    /// does. What there is has been read by then, so what another changes from now on is seen.
    async fn claim_repair(
        &mut self,
        link: &Link,
        known: &Seen,
        agreed: &Agreed,
    ) -> Result<Option<Seen>, Trouble> {
        if !known.is_forgotten_in(&agreed.seen) {
            return Ok(None);
        }
        let mut call = REPAIR.call(&[&self.keys.writer]);
        call.arg(agreed.generation).arg(&agreed.seen.repair).arg(known.changes).arg(&*self.token);
        let limit = self.commit_timeout();
        let answer = self.attend(limit, link.change(&REPAIR, &call)).await;
        let changes = answer.unwrap_or_else(|| Err(no_answer(limit)))?;
        let repair = format!("{changes} {}", self.token);
        Ok((changes > 0).then_some(Seen { changes, repair }))
    }

    /// Reads which rooms and channels there are.
    async fn look(&mut self, link: &Link, generation: u64) -> Result<Listing, Trouble> {
        let (settings, keys) = (Arc::clone(&self.settings), Arc::clone(&self.keys));
        let (meters, now) = (Arc::clone(&self.meters), self.now());
        let answered = Cell::new(Instant::now());
        let (settings, keys, meters) = (&*settings, &*keys, &*meters);
        let (page, answered) = (Arc::clone(&self.state.page), &answered);
        let page = &*page;
        let reader = Reader { link, keys, settings, meters, generation, now, answered, page };
        self.catalogue.begin_look();
        let known = self.catalogue.addresses();
        let listing = self.attend_while(ANSWER, answered, async {
            let rooms = reader.rooms().await?;
            let channels = reader.addresses().await?;
            let unknown = channels.iter().filter(|address| !known.contains(*address));
            let ends = reader.ends(unknown.cloned().collect()).await?;
            Ok(Listing { rooms, channels, ends })
        });
        listing.await.unwrap_or_else(|| Err(no_answer(ANSWER)))
    }

    /// Says that this node lives, and whether it hears.
    pub(super) async fn renew(&mut self, bond: &Bond) {
        let known = self.catalogue.seen.clone();
        let agreed = match self.agree(&bond.link).await {
            Ok(agreed) => agreed,
            Err(trouble) => return self.fail(trouble),
        };
        if self.state.heard_at.is_none_or(|at| at.elapsed() > SILENCE) {
            return self.fail(Trouble::Outage("nothing that Redis tells is heard".into()));
        }
        if let Err(trouble) = self.renew_ids(&bond.link).await {
            return self.fail(trouble);
        }
        if let Err(trouble) = self.look_at_clock(&bond.link).await {
            return self.fail(trouble);
        }
        let Some(bond) = &mut self.state.bond else { return };
        bond.renew_at = Instant::now() + RENEW;
        let is_other = agreed.generation != bond.generation;
        if is_other || agreed.is_new || !known.goes_on_in(&agreed.seen) {
            // Somebody wrote alone meanwhile, or Redis or the others have forgotten this node, or Redis
            // has forgotten more than that: all is looked through.
            self.state.bond = None;
        } else if self.state.check_at.is_none_or(|at| Instant::now() >= at) {
            self.look_through();
        }
    }

    /// Says that this node has ended well.
    pub(super) async fn leave(&self, link: &Link) {
        // The lease ends by itself if this fails.
        let _ = link.run::<Value>(&SHARE, &self.agreement(0, "")).await;
    }

    /// The call by which nodes agree; `dead` is the token of a process that is.
    fn agreement(&self, lease_ms: u64, dead: &str) -> Cmd {
        let mut call = SHARE.call(&[&self.keys.writer, &self.keys.nodes]);
        call.arg(&*self.token).arg(&self.settings.node).arg(lease_ms).arg(self.state.floor);
        call.arg(dead).arg(self.keys.node(&self.token)).arg(host());
        call
    }

    /// Publishes what nodes tell each other.
    pub(super) async fn publish(&mut self, bond: &Bond) {
        let outbox = std::mem::take(&mut self.state.outbox);
        let link = bond.link.clone();
        let limit = self.commit_timeout();
        let calls = outbox.iter().map(|(name, message)| {
            let (link, mut call) = (&link, cmd("PUBLISH"));
            call.arg(name).arg(&message[..]);
            async move { link.ask::<u64>(&call).await }
        });
        let answers = self.attend(limit, futures_util::future::try_join_all(calls)).await;
        if let Err(trouble) = answers.unwrap_or_else(|| Err(no_answer(limit))) {
            // What has not gone out is missed, and asked for.
            self.fail(trouble);
        }
    }

    /// Carries out the first step of every channel that has one.
    pub(super) async fn round(&mut self, bond: &Bond) {
        let started = Instant::now();
        let (batches, is_all) = self.backlog.take_round(started);
        let jobs: Vec<Job> = batches.into_iter().map(|batch| self.prepare(batch)).collect();
        let (settings, keys) = (Arc::clone(&self.settings), Arc::clone(&self.keys));
        let (meters, token) = (Arc::clone(&self.meters), Arc::clone(&self.token));
        let replicas = settings.replicas_timeout_ms * u64::from(settings.replicas > 0);
        let limit = self.commit_timeout() + Duration::from_millis(replicas);
        let answered = Cell::new(started);
        let page = Arc::clone(&self.state.page);
        let read_left = Cell::new(ROUND_READ_BYTES);
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
            clock_ahead_us: meters.clock().filter(|it| it.is_apart()).map_or(0, |it| it.ahead_us),
            answered: &answered,
        };
        let answers = self.attend_while(limit, &answered, caller.round(&jobs)).await;
        let answers = answers.unwrap_or_else(|| {
            // What was too much to be read in time is not asked for once more.
            page.halve();
            jobs.iter().map(|_| Err(no_answer(limit))).collect()
        });
        match self.on_round(jobs, answers) {
            // Who was there, the next connection will see.
            Some(Trouble::Fenced(_)) if self.health.tries == 0 => {
                self.state.bond = None;
                self.health.tries = 1;
            }
            Some(trouble) => self.fail(trouble),
            None => {
                self.meters.count_commit(started.elapsed());
                self.health.tries = 0;
                // Who says more than can be stored keeps nobody else from having it stored.
                let is_done = is_all && !self.backlog.has_due();
                if is_done || self.is_restored(bond.since_us) {
                    self.recover();
                }
            }
        }
    }

    /// Whether all that had waited for these connections is stored, though more has come since.
    fn is_restored(&self, since_us: u64) -> bool {
        self.health.is_degraded() && !self.backlog.has_waited_since(since_us)
    }

    /// Gives the connections up; says that nothing can be stored until others are there, if that may
    /// take a while.
    pub(super) fn fail(&mut self, trouble: Trouble) {
        self.fail_after(trouble, Duration::from_millis(self.settings.grace_ms));
    }

    /// The same, where a lost connection has had so long to come back.
    pub(super) fn fail_after(&mut self, trouble: Trouble, grace: Duration) {
        (self.state.bond, self.state.ears) = (None, None);
        self.fall_silent();
        if let Some(news) = self.health.fail(&trouble, grace, &self.meters) {
            (self.tell)(To::All, news);
        }
        if self.health.is_degraded() {
            self.sessions.give_up(&self.tell);
        }
    }

    /// All that had waited is done.
    pub(super) fn recover(&mut self) {
        if let Some(news) = self.health.recover(&self.meters) {
            (self.tell)(To::All, news);
        }
    }
}
