//! Who has a client id: of all nodes of a bus, one at a time.
//!
//! A hash in Redis names for each id the token of the node that has it, and each node that lives has
//! a key that says so, for a lease. An id whose node has none is free, whether anybody has noticed
//! or not. Beside the token stands for which session the id was claimed, and in which life of it: who
//! shows the token of the session owns the id, so a later life takes it over, also from a node that
//! lives.
//!
//! *Invariants*: Redis gives an id to one node, as long as that one renews its lease, Redis does not
//! forget, and no later life of the session is claimed elsewhere; an earlier life never wins an id back
//! from a later one. A node without a lease is given none, and only a node itself
//! gives back what it has; what a crash has left is swept by the nodes that are there
//! (`hub/sweep`), whether they knew the dead one or not. One that was away takes its ids anew before it
//! goes on, and learns which went to others ([`Claims::retake`]).
//!
//! *Not here*: when a lease is renewed, what clients are told.

use crate::broker::peers::Verdict;
use crate::broker::returning::Stake;
use crate::protocol::names::Name;
use crate::storage::holder::foreign;
use crate::storage::keys::Keys;
use crate::storage::link::{FREE_IDS, Link, SWEEP_IDS, Script, TAKE_IDS};
use crate::storage::settings::LEASE_MS;
use crate::storage::trouble::Trouble;
use redis::{Cmd, FromRedisValue, Value, cmd};

/// The ids that one call takes or gives back, and about the ids that it looks at.
const STEP: usize = 1_000;
/// How often all ids are taken anew before something else must be wrong.
const RETAKES_MAX: usize = 3;

/// A client id, and for which session it is claimed.
pub(super) type Claim = (Name, Option<Stake>);

/// The client ids of this node.
#[derive(Debug)]
pub(super) struct Claims {
    /// The hash of all ids.
    clients: String,
    /// What the keys of leases begin with.
    leases: String,
    token: String,
    node: String,
}

impl Claims {
    /// Those of the node of this token and name.
    pub(super) fn new(keys: &Keys, token: String, node: String) -> Claims {
        Claims { clients: keys.clients.clone(), leases: keys.leases.clone(), token, node }
    }

    /// Says that this node lives. False if it had no lease any more, or none yet: then others may
    /// have its ids, which must be taken anew.
    pub(super) async fn renew(&self, link: &Link) -> Result<bool, Trouble> {
        let lease = self.lease(&self.token);
        let mut call = cmd("SET");
        call.arg(&lease).arg(&self.node).arg("PX").arg(LEASE_MS).arg("GET");
        let before: Value =
            link.ask(&call).await.map_err(|trouble| foreign(trouble, &lease, "string"))?;
        Ok(before != Value::Nil)
    }

    /// Says that this node has ended well: all its ids are free.
    pub(super) async fn end(&self, link: &Link) -> Result<(), Trouble> {
        // It fails if what stands there is not a lease.
        link.ask::<Value>(cmd("GETDEL").arg(self.lease(&self.token))).await.map(|_| ())
    }

    /// Takes ids for clients that have just come; says what is decided of each. `None` if this node has
    /// no lease.
    pub(super) async fn take(
        &self,
        link: &Link,
        claims: &[Claim],
    ) -> Result<Option<Vec<Verdict>>, Trouble> {
        self.take_as(link, claims, false).await
    }

    /// The same for clients that are connected already: it says of which that is still right.
    pub(super) async fn take_again(
        &self,
        link: &Link,
        claims: &[Claim],
    ) -> Result<Option<Vec<Verdict>>, Trouble> {
        self.take_as(link, claims, true).await
    }

    /// Takes the ids of all clients of this node anew, after it was away or Redis has forgotten
    /// something; says what is decided of each.
    pub(super) async fn retake(
        &self,
        link: &Link,
        claims: &[Claim],
    ) -> Result<Vec<Verdict>, Trouble> {
        for _ in 0..RETAKES_MAX {
            self.renew(link).await?;
            // The lease may run out while they are taken, if that takes so long.
            if let Some(verdicts) = self.take_again(link, claims).await? {
                return Ok(verdicts);
            }
        }
        Err(Trouble::Outage("Redis does not keep the lease of this node".to_owned()))
    }

    /// Gives ids back; those that others have stay theirs.
    pub(super) async fn free(&self, link: &Link, ids: &[Name]) -> Result<(), Trouble> {
        for step in ids.chunks(STEP) {
            let mut call = FREE_IDS.call(&[&self.clients]);
            call.arg(&self.token);
            step.iter().for_each(|id| _ = call.arg(id.as_str()));
            let _: u64 = self.run(link, &FREE_IDS, &call).await?;
        }
        Ok(())
    }

    /// Removes ids of nodes that have no lease, one step of all ids from where `cursor` says. Gives
    /// where the next step begins, `0` after the last one, and how many were removed. Nobody waits for
    /// this, as such an id is free already.
    pub(super) async fn sweep(&self, link: &Link, cursor: &str) -> Result<(String, u64), Trouble> {
        let mut call = SWEEP_IDS.call(&[&self.clients]);
        call.arg(&self.leases).arg(cursor).arg(STEP);
        self.run(link, &SWEEP_IDS, &call).await
    }

    async fn take_as(
        &self,
        link: &Link,
        claims: &[Claim],
        is_again: bool,
    ) -> Result<Option<Vec<Verdict>>, Trouble> {
        let mut verdicts = Vec::with_capacity(claims.len());
        for step in claims.chunks(STEP) {
            let mut call = self.call(&TAKE_IDS, &self.token);
            call.arg(u8::from(is_again));
            for (client_id, stake) in step {
                call.arg(client_id.as_str());
                match stake {
                    Some(Stake { key, life }) => call.arg(key.to_string()).arg(life),
                    None => call.arg("").arg(0),
                };
            }
            let (word, answers): (String, Vec<u8>) = self.run(link, &TAKE_IDS, &call).await?;
            if word != "done" {
                return Ok(None);
            }
            // Of an answer that is not as long as the question nothing is believed that is not there.
            let answers = answers.into_iter().chain(std::iter::repeat(0)).take(step.len());
            verdicts.extend(answers.map(|answer| match answer {
                1 => Verdict::Granted,
                2 => Verdict::Superseded,
                _ => Verdict::Taken,
            }));
        }
        Ok(Some(verdicts))
    }

    /// A call of a script that looks at leases; they are in the slot of the hash.
    fn call(&self, script: &Script, token: &str) -> Cmd {
        let mut call = script.call(&[&self.clients]);
        call.arg(&self.leases).arg(token);
        call
    }

    async fn run<T: FromRedisValue>(
        &self,
        link: &Link,
        script: &Script,
        call: &Cmd,
    ) -> Result<T, Trouble> {
        let answer = link.run(script, call).await;
        answer.map_err(|trouble| foreign(trouble, &self.clients, "hash"))
    }

    fn lease(&self, token: &str) -> String {
        format!("{}{token}", self.leases)
    }
}
