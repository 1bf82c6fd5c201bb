//! The clients of one node, and the channels that they are in.
//!
//! A client has one card, which all its channels see: when a membership comes with another one, the
//! client is another than it was in each of its channels. Who knows the table of a node is told of
//! it by [`Row`]s, which say what is, not what changed: to be told twice does no harm.
//!
//! *Invariants*: a client is there as long as it is connected or a member; it has a card as long as
//! it is a member; its channels are sorted; both counts are right ([`Table::check`]).
//!
//! *Panics*: an index is a place that was just found in the same sorted list.

use crate::base::hash::{Set, seeded};
use crate::broker::policy::ClientCard;
use crate::protocol::command::Address;
use crate::protocol::names::Name;
use crate::storage::census::wire::{Card, Joined, ROW_CHANNELS_MAX, Row};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Table {
    clients: BTreeMap<Name, Client>,
    connected: u64,
    members: u64,
}

#[derive(Debug, Default)]
struct Client {
    is_connected: bool,
    card: Option<Arc<ClientCard>>,
    channels: Vec<Arc<Address>>,
}

/// What is not any more as it was.
#[derive(Debug)]
pub(super) enum Change {
    Client { client_id: Name, is_connected: bool },
    Member { address: Arc<Address>, client: Arc<ClientCard>, is_member: bool },
}

/// How far a table has been read: the client, and the last of its channels that was.
#[derive(Debug)]
pub(super) struct Cursor {
    client_id: Name,
    after: Option<Arc<Address>>,
}

/// Addresses, so that all who are in a channel share one.
#[derive(Debug)]
pub(super) struct Addresses {
    shared: Set<Arc<Address>>,
    prune_at: usize,
}

/// The addresses below which nobody looks whether they are still needed.
const PRUNE_MIN: usize = 1_024;

impl Table {
    /// How many clients are connected, and how many memberships there are.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.connected, self.members)
    }

    /// A client is connected or is not. Whether it was not so before.
    pub(super) fn set_connected(&mut self, client_id: &Name, is_connected: bool) -> bool {
        if self.clients.get(client_id).is_some_and(|client| client.is_connected) == is_connected {
            return false;
        }
        let client = self.clients.entry(client_id.clone()).or_default();
        client.is_connected = is_connected;
        match is_connected {
            true => self.connected += 1,
            false => self.connected -= 1,
        }
        self.tidy(client_id);
        true
    }

    /// A client is a member.
    pub(super) fn join(
        &mut self,
        address: &Arc<Address>,
        card: &Arc<ClientCard>,
        tell: &mut dyn FnMut(Change),
    ) {
        let client = self.clients.entry(card.client_id.clone()).or_default();
        let place = client.channels.binary_search(address);
        if client.card.as_ref().is_none_or(|known| known != card) {
            client.card = Some(Arc::clone(card));
            client.channels.iter().for_each(|channel| tell(member(channel, card, true)));
        }
        if let (Err(place), Some(card)) = (place, &client.card) {
            client.channels.insert(place, Arc::clone(address));
            self.members += 1;
            tell(member(address, card, true));
        }
    }

    /// A client is no member.
    pub(super) fn leave(
        &mut self,
        address: &Address,
        client_id: &Name,
        tell: &mut dyn FnMut(Change),
    ) {
        let Some(client) = self.clients.get_mut(client_id) else { return };
        let Ok(place) = client.channels.binary_search_by(|at| (**at).cmp(address)) else { return };
        let address = client.channels.remove(place);
        self.members -= 1;
        client.card.iter().for_each(|card| tell(member(&address, card, false)));
        self.tidy(client_id);
    }

    /// Takes over what a row says.
    pub(super) fn apply(
        &mut self,
        row: Row,
        addresses: &mut Addresses,
        tell: &mut dyn FnMut(Change),
    ) {
        let Row { id, here, joined, left } = row;
        if let Some(is_connected) = here
            && self.set_connected(&id, is_connected)
        {
            tell(Change::Client { client_id: id.clone(), is_connected });
        }
        left.iter().for_each(|address| self.leave(address, &id, tell));
        if let Some(Joined { card, channels }) = joined {
            // The name that is there already is shared, and so is the card.
            let id = self.clients.get_key_value(&id).map_or(id, |(known, _)| known.clone());
            let card = Arc::new(card.of(id));
            channels.into_iter().for_each(|at| self.join(&addresses.share(at), &card, tell));
        }
    }

    /// What is so of a client: of being connected if that is asked, and of these channels.
    pub(super) fn row(&self, id: &Name, is_here_asked: bool, channels: Vec<Arc<Address>>) -> Row {
        let client = self.clients.get(id);
        let here = is_here_asked.then(|| client.is_some_and(|client| client.is_connected));
        let is_in = |address: &Arc<Address>| {
            client.is_some_and(|client| client.channels.binary_search(address).is_ok())
        };
        let (channels, left): (Vec<_>, Vec<_>) = channels.into_iter().partition(is_in);
        let card = client.and_then(|client| client.card.as_ref()).filter(|_| !channels.is_empty());
        let joined = card.map(|card| Joined { card: Card::new(card), channels });
        Row { id: id.clone(), here, joined, left }
    }

    /// The next rows of all that there are, until they have so many bytes, and how far they reach;
    /// `None` if that is the end.
    pub(super) fn rows(
        &self,
        from: Option<&Cursor>,
        bytes_max: usize,
    ) -> (Vec<Row>, Option<Cursor>) {
        let start = from.map_or(Bound::Unbounded, |from| Bound::Included(&from.client_id));
        let (mut rows, mut bytes) = (Vec::new(), 0);
        for (id, client) in self.clients.range::<Name, _>((start, Bound::Unbounded)) {
            let read =
                from.filter(|from| from.client_id == *id).and_then(|from| from.after.as_ref());
            let mut at = read.map_or(0, |read| client.channels.partition_point(|at| at <= read));
            loop {
                if bytes >= bytes_max {
                    let after = at.checked_sub(1).map(|last| Arc::clone(&client.channels[last]));
                    return (rows, Some(Cursor { client_id: id.clone(), after }));
                }
                let to = client.channels.len().min(at + ROW_CHANNELS_MAX);
                let row = self.row(id, true, client.channels[at..to].to_vec());
                bytes += row.bytes();
                rows.push(row);
                at = to;
                if at == client.channels.len() {
                    break;
                }
            }
        }
        (rows, None)
    }

    /// Tells what is different in a later table.
    pub(super) fn compare(&self, later: &Table, tell: &mut dyn FnMut(Change)) {
        let none = Client::default();
        for (id, client) in &self.clients {
            let after = later.clients.get(id).unwrap_or(&none);
            for (address, card) in client.seats() {
                if after.channels.binary_search(address).is_err() {
                    tell(member(address, card, false));
                }
            }
            if client.is_connected && !after.is_connected {
                tell(Change::Client { client_id: id.clone(), is_connected: false });
            }
        }
        for (id, client) in &later.clients {
            let before = self.clients.get(id).unwrap_or(&none);
            if client.is_connected && !before.is_connected {
                tell(Change::Client { client_id: id.clone(), is_connected: true });
            }
            for (address, card) in client.seats() {
                let is_known = before.card.as_ref() == Some(card)
                    && before.channels.binary_search(address).is_ok();
                if !is_known {
                    tell(member(address, card, true));
                }
            }
        }
    }

    /// Puts a client right that has lost something.
    fn tidy(&mut self, client_id: &Name) {
        let Some(client) = self.clients.get_mut(client_id) else { return };
        if client.channels.is_empty() {
            client.card = None;
            if !client.is_connected {
                self.clients.remove(client_id);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        let clients = || self.clients.values();
        assert_eq!(self.connected, clients().filter(|client| client.is_connected).count() as u64);
        assert_eq!(self.members, clients().map(|client| client.channels.len() as u64).sum::<u64>());
        for (id, client) in &self.clients {
            assert!(client.is_connected || !client.channels.is_empty(), "{id}");
            assert!(client.card.is_some() != client.channels.is_empty(), "{id}");
            assert!(client.channels.is_sorted(), "{id}");
            assert!(client.card.iter().all(|card| card.client_id == *id), "{id}");
        }
    }

    /// Everything, as changes of an empty table.
    #[cfg(test)]
    pub(super) fn all(&self) -> Vec<Change> {
        let mut all = Vec::new();
        Table::default().compare(self, &mut |change| all.push(change));
        all
    }
}

impl Client {
    fn seats(&self) -> impl Iterator<Item = (&Arc<Address>, &Arc<ClientCard>)> {
        self.card.iter().flat_map(|card| self.channels.iter().map(move |address| (address, card)))
    }
}

fn member(address: &Arc<Address>, client: &Arc<ClientCard>, is_member: bool) -> Change {
    Change::Member { address: Arc::clone(address), client: Arc::clone(client), is_member }
}

impl Addresses {
    pub(super) fn new(seed: u64) -> Addresses {
        Addresses { shared: Set::with_hasher(seeded(seed)), prune_at: PRUNE_MIN }
    }

    /// The one that all share.
    pub(super) fn share(&mut self, address: Arc<Address>) -> Arc<Address> {
        if let Some(known) = self.shared.get(&address) {
            return Arc::clone(known);
        }
        self.shared.insert(Arc::clone(&address));
        address
    }

    /// Forgets those that nobody needs, if there may be many.
    pub(super) fn prune(&mut self) {
        if self.shared.len() >= self.prune_at {
            self.shared.retain(|address| Arc::strong_count(address) > 1);
            self.prune_at = PRUNE_MIN.max(2 * self.shared.len());
        }
    }
}
