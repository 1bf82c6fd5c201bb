//! Which connection has which client id, for the ids that hash to this shard.
//!
//! An id that a client returns for may still belong to the connection that it lost: then the new one
//! waits until the old one has been closed. Each claim of a session has a later life than the one before.
//!
//! *Invariants*: an id belongs to at most one connection; only its holder can give it back; who waits
//! for an id waits for the end of a connection of its own session.

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
    /// Who gets an id next.
    heirs: Map<Name, Claim>,
}

/// A connection that has an id.
#[derive(Clone, Copy, Debug)]
struct Holder {
    conn: ConnRef,
    /// By which the connections of one session are told from others, and the life of it.
    session: Option<(NonZeroU64, u64)>,
}

impl Directory {
    /// An empty directory.
    pub fn new(hasher: RandomState) -> Directory {
        Directory { holders: Map::with_hasher(hasher.clone()), heirs: Map::with_hasher(hasher) }
    }

    /// Gives the id to the connection; false if another one has it.
    pub fn claim(&mut self, claim: &Claim) -> bool {
        let session = claim.session.and_then(|stake| Some((stake.key.mark()?, stake.life)));
        let holder = Holder { conn: claim.conn, session };
        self.holders.entry(claim.client_id.clone()).or_insert(holder).conn == claim.conn
    }

    /// The connection that has the id for the same session.
    pub fn predecessor(&self, claim: &Claim) -> Option<ConnRef> {
        let holder = self.holders.get(&claim.client_id)?;
        let (mark, _) = holder.session?;
        let is_same = claim.session.and_then(|stake| stake.key.mark()) == Some(mark);
        (is_same && holder.conn != claim.conn).then_some(holder.conn)
    }

    /// Notes who gets the id next, in a later life; gives who would have got it.
    pub fn inherit(&mut self, mut claim: Claim) -> Option<Claim> {
        if let Some(stake) = &mut claim.session {
            stake.life = stake.life.max(self.life(&claim.client_id));
        }
        self.heirs.insert(claim.client_id.clone(), claim)
    }

    /// Takes the id back, if the connection has it, or is to get it; gives who is to get it now.
    pub fn release(&mut self, client_id: &str, conn: ConnRef) -> Option<Claim> {
        if self.heirs.get(client_id).is_some_and(|claim| claim.conn == conn) {
            self.heirs.remove(client_id);
        }
        if self.holder(client_id) == Some(conn) {
            self.holders.remove(client_id);
            return self.heirs.remove(client_id);
        }
        None
    }

    /// Who has the id.
    pub fn holder(&self, client_id: &str) -> Option<ConnRef> {
        self.holders.get(client_id).map(|holder| holder.conn)
    }

    /// The life of the session that has the id; 0 if none has.
    pub fn life(&self, client_id: &str) -> u64 {
        let session = self.holders.get(client_id).and_then(|holder| holder.session);
        session.map_or(0, |(_, life)| life)
    }

    /// How many ids are taken.
    pub fn len(&self) -> usize {
        self.holders.len()
    }

    /// Whether no id is taken.
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }
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
        assert!(directory.claim(&claim(1, 0)));
        assert!(directory.claim(&claim(1, 0)), "claiming twice is no harm");
        assert!(!directory.claim(&claim(2, 0)));
        assert!(directory.release("ann", conn(2)).is_none());
        assert_eq!(directory.holder("ann"), Some(conn(1)));
        assert!(directory.release("ann", conn(1)).is_none());
        assert!(directory.is_empty() && directory.claim(&claim(2, 0)));
    }

    #[test]
    fn only_who_is_of_the_same_session_inherits_and_the_last_of_them() {
        let mut directory = Directory::new(seeded(1));
        assert!(directory.claim(&claim(1, 7)));
        assert_eq!(directory.predecessor(&claim(1, 7)), None);
        assert_eq!(directory.predecessor(&claim(2, 8)), None);
        assert_eq!(directory.predecessor(&claim(2, 0)), None);
        assert_eq!(directory.predecessor(&claim(2, 7)), Some(conn(1)));
        assert!(directory.inherit(claim(2, 7)).is_none());
        assert_eq!(directory.inherit(claim(3, 7)).unwrap().conn, conn(2));
        assert!(directory.release("ann", conn(2)).is_none(), "it has and gets nothing");
        assert_eq!(directory.release("ann", conn(1)).unwrap().conn, conn(3));
        let mut later = claim(1, 7);
        later.session.as_mut().unwrap().life = 12;
        assert!(directory.claim(&later) && directory.life("ann") == 12);
        assert!(directory.inherit(claim(4, 7)).is_none());
        let heir = directory.heirs["ann"].session.unwrap();
        assert_eq!(heir.life, 12, "it knows of the life before");
        assert!(directory.release("ann", conn(4)).is_none());
        assert!(directory.release("ann", conn(1)).is_none(), "who waited has gone");
    }
}
