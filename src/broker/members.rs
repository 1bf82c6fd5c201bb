//! The listed members of one channel, in the order of their connections.
//!
//! Most channels have a few members and are a short sorted list, which takes less memory than a map
//! and no hashing. A page of members begins behind any connection, however many there are.
//!
//! *Invariant*: the list is sorted and at most [`FEW_MEMBERS`] long.
//!
//! *Panics*: an index is the place at which a search in the same list just found the connection.

use crate::base::ids::ConnRef;
use crate::broker::channel::Member;
use std::collections::BTreeMap;
use std::ops::Bound;

/// The longest list; more members are a tree.
const FEW_MEMBERS: usize = 32;

/// The listed members of one channel.
#[derive(Debug)]
pub enum Members {
    /// A few.
    Few(Vec<(ConnRef, Member)>),
    /// Many.
    Many(BTreeMap<ConnRef, Member>),
}

impl Default for Members {
    fn default() -> Members {
        Members::Few(Vec::new())
    }
}

impl Members {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Members::Few(list) => list.len(),
            Members::Many(tree) => tree.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The member of that connection.
    pub fn get(&self, conn: ConnRef) -> Option<&Member> {
        match self {
            Members::Few(list) => place(list, conn).ok().map(|at| &list[at].1),
            Members::Many(tree) => tree.get(&conn),
        }
    }

    /// Adds a member, or replaces it.
    pub fn insert(&mut self, conn: ConnRef, member: Member) {
        if let Members::Few(list) = self {
            match place(list, conn) {
                Ok(at) => return list[at].1 = member,
                Err(at) if list.len() < FEW_MEMBERS => {
                    if list.len() < 4 {
                        list.reserve_exact(1);
                    }
                    return list.insert(at, (conn, member));
                }
                Err(_) => *self = Members::Many(std::mem::take(list).into_iter().collect()),
            }
        }
        if let Members::Many(tree) = self {
            tree.insert(conn, member);
        }
    }

    /// Removes a member.
    pub fn remove(&mut self, conn: ConnRef) -> Option<Member> {
        match self {
            Members::Few(list) => {
                let member = list.remove(place(list, conn).ok()?).1;
                if list.is_empty() {
                    *list = Vec::new();
                }
                Some(member)
            }
            Members::Many(tree) => {
                let member = tree.remove(&conn);
                // Not at the bound itself, around which a channel may stay for long.
                if tree.len() <= FEW_MEMBERS / 2 {
                    *self = Members::Few(std::mem::take(tree).into_iter().collect());
                }
                member
            }
        }
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&ConnRef, &Member)> {
        self.after(None)
    }

    /// Those behind a connection, in order.
    pub fn after(&self, conn: Option<ConnRef>) -> impl Iterator<Item = (&ConnRef, &Member)> {
        let (list, tree) = match self {
            Members::Few(list) => {
                let from = conn.map_or(0, |conn| match place(list, conn) {
                    Ok(at) => at + 1,
                    Err(at) => at,
                });
                (&list[from..], None)
            }
            Members::Many(tree) => {
                let from = conn.map_or(Bound::Unbounded, Bound::Excluded);
                (&[][..], Some(tree.range((from, Bound::Unbounded))))
            }
        };
        list.iter().map(|(conn, member)| (conn, member)).chain(tree.into_iter().flatten())
    }
}

fn place(list: &[(ConnRef, Member)], conn: ConnRef) -> Result<usize, usize> {
    list.binary_search_by(|(known, _)| known.cmp(&conn))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{ConnId, ShardId};
    use crate::broker::channel::Ties;
    use crate::broker::policy::{ClientCard, Role};
    use crate::protocol::command::ClientType;
    use crate::protocol::names::Name;
    use std::sync::Arc;

    #[test]
    fn few_and_many_are_the_same_to_whoever_looks() {
        let (client_id, client_type) = (Name::fixed("ann"), ClientType::Human);
        let (screen_name, role) = (None, Role::User);
        let client = Arc::new(ClientCard { client_id, client_type, screen_name, role });
        let member = || Member { client: client.clone(), ties: Ties::default() };
        let at = |number: u32| ConnRef {
            shard: ShardId((number % 3) as u16),
            conn: ConnId { slot: number, generation: 0 },
        };
        let (mut members, mut model) = (Members::default(), BTreeMap::new());
        let mut rng = fastrand::Rng::with_seed(3);
        for step in 0..6_000 {
            // It grows and shrinks through both bounds.
            let conn = at(rng.u32(0..3 * FEW_MEMBERS as u32));
            match rng.u32(0..100) < if step / 500 % 2 == 0 { 70 } else { 20 } {
                true => {
                    members.insert(conn, member());
                    model.insert(conn, ());
                }
                false => assert_eq!(members.remove(conn).is_some(), model.remove(&conn).is_some()),
            }
            assert_eq!((members.len(), members.is_empty()), (model.len(), model.is_empty()));
            let from = rng.bool().then_some(at(rng.u32(0..3 * FEW_MEMBERS as u32)));
            let bounds = (from.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
            let listed = members.after(from).map(|(conn, _)| *conn);
            assert!(listed.eq(model.range(bounds).map(|(conn, ())| *conn)));
            assert_eq!(members.get(conn).is_some(), model.contains_key(&conn));
        }
    }
}
