//! Which connection has which client id, for the ids that hash to this shard.
//!
//! A claim may have to wait for the storage that several nodes share. Until that has decided, the
//! claim is **pending**: it keeps the id from other connections of this node, and nothing else. Only
//! a connection that **holds** the id is sent what is addressed to it, closed by an admin, or counted.
//! The two are different types, in different maps, so that no reader can take one for the other.
//!
//! An id that a client returns for may still belong to the connection that it lost: then the new one
//! waits until the old one has been closed. Each claim of a session has a later life than the one before.
//!
//! *Invariants*: an id is pending for at most one connection or held by at most one, never both; only
//! the connection that has it can give it back; an heir waits for the end of a connection of its own
//! session that holds the id.

use crate::base::hash::Map;
use crate::base::ids::ConnRef;
use crate::broker::lane::Claim;
use crate::protocol::names::Name;
use ahash::RandomState;
use std::num::NonZeroU64;

/// The client ids at home on one shard.
#[derive(Debug)]
pub struct Directory {
    holders: Map<Name, Holder>,
    pending: Map<Name, Pending>,
    /// The claims that wait for the end of the connection that holds their id.
    heirs: Map<Name, Claim>,
}

/// What a connection claimed an id for: the mark of its session, and the life of that session.
type Session = Option<(NonZeroU64, u64)>;

/// A connection that has an id.
#[derive(Clone, Copy, Debug)]
struct Holder {
    conn: ConnRef,
    session: Session,
}

/// A connection whose claim is not decided. It has no client yet: nothing may be sent to it.
#[derive(Clone, Copy, Debug)]
struct Pending {
    conn: ConnRef,
    session: Session,
}

/// The connection of the same session that a claim replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predecessor {
    /// It holds the id, and has to be closed first.
    Holds(ConnRef),
    /// Its own claim is pending, and has to be refused.
    Claims(ConnRef),
}

/// What an answer to a claim finds of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is pending.
    Pending,
    /// It was granted before.
    Held,
    /// The connection neither claims the id nor holds it any more.
    Gone,
}

impl Directory {
    /// An empty directory.
    pub fn new(hasher: RandomState) -> Directory {
        Directory {
            holders: Map::with_hasher(hasher.clone()),
            pending: Map::with_hasher(hasher.clone()),
            heirs: Map::with_hasher(hasher),
        }
    }

    /// Gives a free id to the connection at once; false if another connection has it or claims it.
    pub fn hold(&mut self, claim: &Claim) -> bool {
        let is_free = !self.is_taken(claim);
        if is_free {
            let holder = Holder { conn: claim.conn, session: session_of(claim) };
            self.holders.entry(claim.client_id.clone()).or_insert(holder);
        }
        is_free
    }

    /// Keeps a free id for the connection until its claim is decided; false if another connection has
    /// it or claims it.
    pub fn reserve(&mut self, claim: &Claim) -> bool {
        let is_free = !self.is_taken(claim);
        if is_free && !self.holders.contains_key(&claim.client_id) {
            let pending = Pending { conn: claim.conn, session: session_of(claim) };
            self.pending.insert(claim.client_id.clone(), pending);
        }
        is_free
    }

    /// Makes the connection whose claim is pending the holder; false if it claims nothing.
    pub fn confirm(&mut self, client_id: &Name, conn: ConnRef) -> bool {
        if self.standing(client_id, conn) != Standing::Pending {
            return false;
        }
        if let Some(Pending { conn, session }) = self.pending.remove(client_id) {
            self.holders.insert(client_id.clone(), Holder { conn, session });
        }
        true
    }

    /// What a connection has of an id.
    pub fn standing(&self, client_id: &str, conn: ConnRef) -> Standing {
        if self.holder(client_id) == Some(conn) {
            return Standing::Held;
        }
        match self.pending.get(client_id) {
            Some(pending) if pending.conn == conn => Standing::Pending,
            _ => Standing::Gone,
        }
    }

    /// The claims that are not decided, in the order of their ids.
    pub fn undecided(&self) -> Vec<(Name, ConnRef)> {
        let claims = self.pending.iter().map(|(client_id, of)| (client_id.clone(), of.conn));
        let mut claims: Vec<(Name, ConnRef)> = claims.collect();
        claims.sort_unstable();
        claims
    }

    /// The connection of the same session that has the id, or claims it.
    pub fn predecessor(&self, claim: &Claim) -> Option<Predecessor> {
        let (mark, _) = session_of(claim)?;
        let is_same = |conn: ConnRef, session: Session| {
            conn != claim.conn && session.is_some_and(|(of, _)| of == mark)
        };
        if let Some(holder) = self.holders.get(&claim.client_id) {
            let holds = Predecessor::Holds(holder.conn);
            return is_same(holder.conn, holder.session).then_some(holds);
        }
        let pending = self.pending.get(&claim.client_id)?;
        is_same(pending.conn, pending.session).then_some(Predecessor::Claims(pending.conn))
    }

    /// Notes who gets the id next, in a later life; gives who would have got it.
    pub fn inherit(&mut self, mut claim: Claim) -> Option<Claim> {
        if let Some(stake) = &mut claim.session {
            stake.life = stake.life.max(self.life(&claim.client_id));
        }
        self.heirs.insert(claim.client_id.clone(), claim)
    }

    /// Takes the id back, if the connection has it, claims it, or is to get it; gives who is to get it
    /// now.
    pub fn release(&mut self, client_id: &str, conn: ConnRef) -> Option<Claim> {
        if self.heirs.get(client_id).is_some_and(|claim| claim.conn == conn) {
            self.heirs.remove(client_id);
        }
        match self.standing(client_id, conn) {
            Standing::Held => _ = self.holders.remove(client_id),
            Standing::Pending => _ = self.pending.remove(client_id),
            Standing::Gone => return None,
        }
        self.heirs.remove(client_id)
    }

    /// The connection that has the id; one whose claim is pending has not.
    pub fn holder(&self, client_id: &str) -> Option<ConnRef> {
        self.holders.get(client_id).map(|holder| holder.conn)
    }

    /// The life of the session that has the id, or claims it; 0 if none does.
    pub fn life(&self, client_id: &str) -> u64 {
        let held = self.holders.get(client_id).and_then(|holder| holder.session);
        let claimed = || self.pending.get(client_id).and_then(|pending| pending.session);
        held.or_else(claimed).map_or(0, |(_, life)| life)
    }

    /// How many ids connections have.
    pub fn held_count(&self) -> usize {
        self.holders.len()
    }

    /// How many claims are not decided.
    pub fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// Asserts the invariants; for tests and the simulator.
    pub fn check(&self) {
        assert!(
            self.pending.keys().all(|id| !self.holders.contains_key(id)),
            "an id is pending or held"
        );
        assert!(
            self.heirs.keys().all(|id| self.holders.contains_key(id)),
            "who waits for an id waits for one that is held"
        );
    }

    fn is_taken(&self, claim: &Claim) -> bool {
        let holder = self.holders.get(&claim.client_id).map(|holder| holder.conn);
        let pending = || self.pending.get(&claim.client_id).map(|pending| pending.conn);
        holder.or_else(pending).is_some_and(|conn| conn != claim.conn)
    }
}

fn session_of(claim: &Claim) -> Session {
    claim.session.and_then(|stake| Some((stake.key.mark()?, stake.life)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::hash::seeded;
    use crate::base::ids::{ConnId, ShardId};
    use crate::broker::returning::Stake;
    use crate::protocol::session::SessionToken;

    fn conn(slot: u32) -> ConnRef {
        ConnRef { shard: ShardId(0), conn: ConnId { slot, generation: 0 } }
    }

    fn claim(slot: u32, session: u64) -> Claim {
        let key = SessionToken::given(&session.to_string()).key();
        let session = (session > 0).then_some(Stake { key, life: session });
        Claim { client_id: Name::fixed("ann"), conn: conn(slot), session, returns: false }
    }

    #[test]
    fn an_id_has_one_holder_and_only_it_can_release() {
        let mut directory = Directory::new(seeded(1));
        assert!(directory.hold(&claim(1, 0)));
        assert!(directory.hold(&claim(1, 0)), "claiming twice is no harm");
        assert!(!directory.hold(&claim(2, 0)) && !directory.reserve(&claim(2, 0)));
        assert!(directory.release("ann", conn(2)).is_none());
        assert_eq!(directory.holder("ann"), Some(conn(1)));
        assert!(directory.release("ann", conn(1)).is_none());
        assert!(directory.held_count() == 0 && directory.hold(&claim(2, 0)));
    }

    #[test]
    fn a_pending_claim_keeps_the_id_and_is_nobody_until_it_is_confirmed() {
        let mut directory = Directory::new(seeded(1));
        assert!(directory.reserve(&claim(1, 7)));
        assert!(!directory.hold(&claim(2, 0)) && !directory.reserve(&claim(2, 0)));
        assert_eq!((directory.holder("ann"), directory.held_count()), (None, 0));
        assert_eq!(directory.standing("ann", conn(1)), Standing::Pending);
        assert_eq!(directory.predecessor(&claim(2, 7)), Some(Predecessor::Claims(conn(1))));
        assert_eq!(directory.undecided(), [(Name::fixed("ann"), conn(1))]);
        assert!(!directory.confirm(&Name::fixed("ann"), conn(2)));
        assert!(directory.confirm(&Name::fixed("ann"), conn(1)));
        assert!(!directory.confirm(&Name::fixed("ann"), conn(1)), "it is decided once");
        assert_eq!((directory.holder("ann"), directory.life("ann")), (Some(conn(1)), 7));
        directory.check();
        assert!(directory.release("ann", conn(1)).is_none());
        assert!(directory.reserve(&claim(3, 0)) && directory.release("ann", conn(3)).is_none());
        assert_eq!(directory.standing("ann", conn(3)), Standing::Gone);
        assert_eq!(directory.pending_count(), 0);
        directory.check();
    }

    #[test]
    fn only_who_is_of_the_same_session_inherits_and_the_last_of_them() {
        let mut directory = Directory::new(seeded(1));
        assert!(directory.hold(&claim(1, 7)));
        assert_eq!(directory.predecessor(&claim(1, 7)), None);
        assert_eq!(directory.predecessor(&claim(2, 8)), None);
        assert_eq!(directory.predecessor(&claim(2, 0)), None);
        assert_eq!(directory.predecessor(&claim(2, 7)), Some(Predecessor::Holds(conn(1))));
        assert!(directory.inherit(claim(2, 7)).is_none());
        assert_eq!(directory.inherit(claim(3, 7)).unwrap().conn, conn(2));
        assert!(directory.release("ann", conn(2)).is_none(), "it has and gets nothing");
        assert_eq!(directory.release("ann", conn(1)).unwrap().conn, conn(3));
        let mut later = claim(1, 7);
        later.session.as_mut().unwrap().life = 12;
        assert!(directory.hold(&later) && directory.life("ann") == 12);
        assert!(directory.inherit(claim(4, 7)).is_none());
        let heir = directory.heirs["ann"].session.unwrap();
        assert_eq!(heir.life, 12, "it knows of the life before");
        assert!(directory.release("ann", conn(4)).is_none());
        assert!(directory.release("ann", conn(1)).is_none(), "who waited has gone");
    }
}
