//! Whose a client id is: this home's directory says it for the connections of its node, and the storage
//! where several nodes share one; while that is away an id is given by what is known.
//!
//! Whoever returns to a session owns its client id, wherever an earlier connection of it may still be
//! counted: that one is closed, on this node by the directory, on another one by its home, which the
//! storage tells that the session goes on in a later life.
//!
//! *Invariants*: a claim is answered once, and in time; a no that comes later closes the connection;
//! each claim of a session begins a later life of it than any that is known here.

use crate::base::ids::ConnRef;
use crate::base::limits::CLAIM_TIMEOUT_MS;
use crate::base::time::Now;
use crate::broker::home::shared::{Due, Shared};
use crate::broker::home::{Home, Told};
use crate::broker::lane::{Claim, Tell};
use crate::broker::peers::{PeerRecord, Verdict};
use crate::broker::record::Record;
use crate::protocol::names::Name;

impl Home {
    /// A connection wants a client id. If the connection that it is to go on for still has it, that
    /// one is closed first. Who returns to a session owns the id, wherever it is: there Redis decides.
    pub(super) fn claim(&mut self, now: Now, mut claim: Claim, told: &mut Told) {
        if let Some(before) = self.directory.predecessor(&claim) {
            if let Some(Claim { conn, .. }) = self.directory.inherit(claim) {
                refuse(conn, told);
            }
            told.tell(before.shard, Tell::Supersede(before.conn));
            return;
        }
        if self.directory.holder(&claim.client_id) == Some(claim.conn) {
            return self.grant(&claim.client_id, claim.conn, told);
        }
        if let Some(stake) = &mut claim.session {
            // Later than every life before, also on another node whose clock is behind.
            stake.life = now.wall_us.max(stake.life + 1);
        }
        let is_degraded = self.acks.degraded().is_some();
        let is_elsewhere = |shared: &Shared| shared.elsewhere.peer_of(&claim.client_id).is_some();
        let is_elsewhere = self.shared.as_deref().is_some_and(is_elsewhere);
        let may_be_its = !is_elsewhere || (claim.returns && !is_degraded);
        if !may_be_its || !self.directory.claim(&claim) {
            return refuse(claim.conn, told);
        }
        let Claim { client_id, conn, session, .. } = claim;
        if let Some(shared) = &mut self.shared {
            let claim = PeerRecord::Claim(client_id.clone(), conn, session);
            told.records.push(Record::Peer(Box::new(claim)));
            if !is_degraded {
                let due_ms = now.mono_ms() + CLAIM_TIMEOUT_MS;
                shared.note_due(due_ms, Due::Claim(client_id.clone(), conn));
                shared.claims.insert(client_id, conn);
                return;
            }
        }
        self.grant(&client_id, conn, told);
    }

    pub(super) fn grant(
        &self,
        client_id: &Name,
        ConnRef { shard, conn }: ConnRef,
        told: &mut Told,
    ) {
        let life = self.directory.life(client_id);
        told.tell(shard, Tell::Claimed { conn, granted: true, life });
    }

    /// A connection no longer has a client id.
    pub(super) fn release(&mut self, now: Now, client_id: &Name, conn: ConnRef, told: &mut Told) {
        let is_its = self.directory.holder(client_id) == Some(conn);
        let heir = self.directory.release(client_id, conn);
        if let Some(shared) = &mut self.shared
            && is_its
        {
            shared.claims.remove(client_id);
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
        let Some(shared) = &mut self.shared else { return };
        let is_awaited = shared.claims.get(client_id) == Some(&conn);
        if is_awaited {
            shared.claims.remove(client_id);
        }
        match verdict {
            Verdict::Granted if is_awaited => return self.grant(client_id, conn, told),
            Verdict::Granted => return,
            _ if self.directory.holder(client_id) != Some(conn) => return,
            _ if is_awaited => refuse(conn, told),
            Verdict::Superseded => told.tell(conn.shard, Tell::Supersede(conn.conn)),
            Verdict::Taken => {
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
