//! Which connection has which client id, for the ids that hash to this shard.
//!
//! *Invariant*: an id belongs to at most one connection; only its holder can give it back.

use crate::base::hash::Map;
use crate::base::ids::ConnRef;
use crate::protocol::names::Name;
use ahash::RandomState;

/// The client ids at home on one shard.
#[derive(Debug)]
pub struct Directory {
    holders: Map<Name, ConnRef>,
}

impl Directory {
    /// An empty directory.
    pub fn new(hasher: RandomState) -> Directory {
        Directory { holders: Map::with_hasher(hasher) }
    }

    /// Gives the id to the connection; false if another one has it.
    pub fn claim(&mut self, client_id: Name, conn: ConnRef) -> bool {
        *self.holders.entry(client_id).or_insert(conn) == conn
    }

    /// Takes the id back, if the connection has it.
    pub fn release(&mut self, client_id: &str, conn: ConnRef) {
        if self.holders.get(client_id) == Some(&conn) {
            self.holders.remove(client_id);
        }
    }

    /// Who has the id.
    pub fn holder(&self, client_id: &str) -> Option<ConnRef> {
        self.holders.get(client_id).copied()
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

    #[test]
    fn an_id_has_one_holder_and_only_it_can_release() {
        let conn = |slot| ConnRef { shard: ShardId(0), conn: ConnId { slot, generation: 0 } };
        let mut directory = Directory::new(seeded(1));
        assert!(directory.claim(Name::fixed("ann"), conn(1)));
        assert!(directory.claim(Name::fixed("ann"), conn(1)), "claiming twice is no harm");
        assert!(!directory.claim(Name::fixed("ann"), conn(2)));
        directory.release("ann", conn(2));
        assert_eq!(directory.holder("ann"), Some(conn(1)));
        directory.release("ann", conn(1));
        assert!(directory.is_empty() && directory.claim(Name::fixed("ann"), conn(2)));
    }
}
