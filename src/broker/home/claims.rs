//! Whose a client id is: this home's directory says it for the connections of its node, and the storage
//! where several nodes share one; while that is away an id is given by what is known.
//!
//! Whoever returns to a session owns its client id, wherever an earlier connection of it may still be
//! counted: that one is closed, on this node by the directory, on another one by its home, which the
//! storage tells that the session goes on in a later life.
//!
//! *Invariants*: a claim is answered once, and in time; until then its connection is sent nothing; a no
//! that comes later closes the connection; each claim of a session begins a later life of it than any that is known here.

use crate::base::ids::ConnRef;
use crate::base::limits::CLAIM_TIMEOUT_MS;
use crate::base::time::Now;
use crate::broker::directory::{Predecessor, Standing};
use crate::broker::home::shared::{Due, Shared};
use crate::broker::home::{Home, Told};
use crate::broker::lane::{Claim, Tell};
use crate::broker::peers::{PeerRecord, Verdict};
use crate::broker::record::Record;
use crate::protocol::names::Name;

/// The latest life of a session, as the scripts compare lives as doubles: some year beyond 2200.
const LIFE_MAX: u64 = 1 << 53;

impl Home {
    /// A connection wants a client id. If the connection that it is to go on for still has it, that
    /// one is closed first; if that one only claims it as well, it is refused. Who returns to a session
    /// owns the id, wherever it is: there Redis decides, and the claim is pending until it has.
    pub(super) fn claim(&mut self, now: Now, mut claim: Claim, told: &mut Told) {
        match self.directory.predecessor(&claim) {
            Some(Predecessor::Holds(before)) => {
                if let Some(Claim { conn, .. }) = self.directory.inherit(claim) {
                    refuse(conn, told);
                }
                return told.tell(before.shard, Tell::Supersede(before.conn));
            }
            Some(Predecessor::Claims(before)) => {
                if let Some(stake) = &mut claim.session {
                    stake.life = stake.life.max(self.directory.life(&claim.client_id));
                }
                self.directory.release(&claim.client_id, before);
                refuse(before, told);
            }
            None => {}
        }
        if self.directory.holder(&claim.client_id) == Some(claim.conn) {
            return self.grant(&claim.client_id, claim.conn, told);
        }
        if let Some(stake) = &mut claim.session {
            // Later than every life before, also on another node whose clock is behind.
            stake.life = now.wall_us.max(stake.life.saturating_add(1)).min(LIFE_MAX);
        }
        let is_degraded = self.acks.degraded().is_some();
        let is_elsewhere = |shared: &Shared| shared.elsewhere.peer_of(&claim.client_id).is_some();
        let is_elsewhere = self.shared.as_deref().is_some_and(is_elsewhere);
        if is_elsewhere && (!claim.returns || is_degraded) {
            return refuse(claim.conn, told);
        }
        let is_decided_here = self.shared.is_none() || is_degraded;
        let may_have_it = match is_decided_here {
            true => self.directory.hold(&claim),
            false => self.directory.reserve(&claim),
        };
        if !may_have_it {
            return refuse(claim.conn, told);
        }
        let Claim { client_id, conn, session, .. } = claim;
        if let Some(shared) = &mut self.shared {
            let claim = PeerRecord::Claim(client_id.clone(), conn, session);
            told.records.push(Record::Peer(Box::new(claim)));
            if !is_decided_here {
                let due_ms = now.mono_ms() + CLAIM_TIMEOUT_MS;
                return shared.note_due(due_ms, Due::Claim(client_id, conn));
            }
        }
        self.grant(&client_id, conn, told);
    }

    /// Grants a claim that is pending; of one that is decided it changes nothing.
    pub(super) fn confirm(&mut self, client_id: &Name, conn: ConnRef, told: &mut Told) {
        if self.directory.confirm(client_id, conn) {
            self.grant(client_id, conn, told);
        }
    }

    fn grant(&self, client_id: &Name, ConnRef { shard, conn }: ConnRef, told: &mut Told) {
        let life = self.directory.life(client_id);
        told.tell(shard, Tell::Claimed { conn, granted: true, life });
    }

    /// A connection no longer has a client id.
    pub(super) fn release(&mut self, now: Now, client_id: &Name, conn: ConnRef, told: &mut Told) {
        let is_its = self.directory.standing(client_id, conn) != Standing::Gone;
        let heir = self.directory.release(client_id, conn);
        if self.shared.is_some() && is_its {
            let release = PeerRecord::Release(client_id.clone());
            told.records.push(Record::Peer(Box::new(release)));
        }
        if let Some(heir) = heir {
            self.claim(now, heir, told);
        }
    }

    /// What is decided of a claim; of one that was granted it may be another thing later.
    pub(super) fn on_claimed(
        &mut self,
        now: Now,
        client_id: &Name,
        conn: ConnRef,
        verdict: Verdict,
        told: &mut Told,
    ) {
        match (self.directory.standing(client_id, conn), verdict) {
            (Standing::Gone, _) | (Standing::Held, Verdict::Granted) => return,
            (Standing::Pending, Verdict::Granted) => return self.confirm(client_id, conn, told),
            (Standing::Pending, _) => refuse(conn, told),
            (Standing::Held, Verdict::Superseded) => {
                told.tell(conn.shard, Tell::Supersede(conn.conn));
            }
            (Standing::Held, Verdict::Taken) => {
                let reason = Some("your client id is connected to another node".to_owned());
                told.tell(conn.shard, Tell::Disconnect(conn.conn, reason));
            }
        }
        // What is for the client goes where it is from now on.
        if let Some(heir) = self.directory.release(client_id, conn) {
            self.claim(now, heir, told);
        }
    }
}

/// Says that a client id is another's.
fn refuse(ConnRef { shard, conn }: ConnRef, told: &mut Told) {
    told.tell(shard, Tell::Claimed { conn, granted: false, life: 0 });
}
