//! What was sent, and what is so: by these what clients hear is judged.
//!
//! The played Redis forgets nothing, so the order of a channel is what it has. An event that a client
//! hears at another place was said in a fork: of a node that could not reach Redis, or waited for it in
//! vain.

use crate::shared::{Entry, Order, Shared};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Sender and id of an event.
pub type Identity = (String, String);
/// Room and channel.
pub type Address = (String, String);

/// All that was sent.
#[derive(Default)]
pub struct Sent {
    pub events: Vec<Event>,
    pub privates: Vec<Private>,
}

/// An event that was sent.
pub struct Event {
    pub identity: Identity,
    pub address: Address,
    /// The connection that sent it, as its number among all that there were.
    pub link: usize,
    pub payload: String,
    pub has_ttl: bool,
}

/// A private message that was sent.
pub struct Private {
    pub target: String,
    /// On which process the sender was.
    pub hub: usize,
    /// The connection that had the target's id then on the same node, if that was welcomed before.
    pub link: Option<usize>,
    pub is_acked: bool,
    pub heard_by: Vec<usize>,
}

/// What an epoch says of where its sequences are from.
pub struct Epoch<'a> {
    pub life: &'a str,
    /// Its term; of a fork the one that it left.
    pub term: u32,
    /// Of a fork, the last sequence that it has of that term.
    pub fork_at: Option<u64>,
}

/// Reads an epoch: its life; a term, if that is not the first; of a fork the term that it left, where, and
/// its own.
pub fn parts(epoch: &str) -> Epoch<'_> {
    let mut words = epoch.split('-');
    let life = words.next().unwrap_or_default();
    let term = words.next().map_or(0, |term| u32::from_str_radix(term, 16).unwrap_or(u32::MAX));
    let fork_at = words.next().and_then(|at| u64::from_str_radix(at, 16).ok());
    Epoch { life, term, fork_at }
}

/// The orders that a channel had and has, the last first.
pub fn orders<'a>(shared: &'a Shared, address: &Address) -> impl Iterator<Item = &'a Order> {
    let key = format!("{}:{}", address.0, address.1);
    let of_it = {
        let key = key.clone();
        move |order: &&Order| order.record.address.to_string() == key
    };
    let ended = shared.redis.ended.iter().rev().filter(of_it);
    shared.redis.orders.get(&key).into_iter().chain(ended)
}

/// The orders of a life: more than one if it was deleted while a node that was away went on with it.
pub fn orders_of<'a>(
    shared: &'a Shared,
    address: &Address,
    epoch: &str,
) -> impl Iterator<Item = &'a Order> {
    let life = parts(epoch).life.to_owned();
    orders(shared, address).filter(move |order| *order.record.epoch == *life)
}

/// Whether an epoch is one of the order that all share: of a life of the channel, in a term that it is or
/// was in.
pub fn is_common(shared: &Shared, address: &Address, epoch: &str) -> bool {
    let Epoch { term, fork_at, .. } = parts(epoch);
    let is_known = orders_of(shared, address, epoch).any(|order| {
        let past = order.record.past.iter().map(|(term, _)| *term);
        past.chain([order.record.term]).any(|known| known == term)
    });
    fork_at.is_none() && is_known
}

/// The event that is there. If the life was ended and gone on with, it is looked for where the term of the
/// epoch comes that far.
pub fn entry<'a>(
    shared: &'a Shared,
    address: &Address,
    epoch: &str,
    sequence: u64,
) -> Option<&'a Arc<Entry>> {
    let term = parts(epoch).term;
    let is_alone = orders_of(shared, address, epoch).nth(1).is_none();
    let comes_so_far = |order: &&Order| holds(order, term).is_some_and(|last| sequence <= last);
    let mut orders =
        orders_of(shared, address, epoch).filter(|order| is_alone || comes_so_far(order));
    orders.find_map(|order| order.at(sequence))
}

/// Up to which sequence a term of an order is that of the order now.
fn holds(order: &Order, term: u32) -> Option<u64> {
    let past = order.record.past.iter().find(|(known, _)| *known == term);
    let current = (order.record.term == term).then(|| order.last());
    past.map(|(_, sure)| *sure).or(current)
}

/// Whether an event is at a place.
pub fn is_at(
    shared: &Shared,
    address: &Address,
    epoch: &str,
    sequence: u64,
    (from, id): &Identity,
) -> bool {
    let is_it = |entry: &Arc<Entry>| entry.from == *from && entry.id == *id;
    orders_of(shared, address, epoch).any(|order| order.at(sequence).is_some_and(is_it))
}

/// Whether what a client heard of an order is so.
pub fn is_so(
    shared: &Shared,
    address: &Address,
    epoch: &str,
    heard: &BTreeMap<u64, Identity>,
    up_to: u64,
) -> bool {
    let mut heard = heard.range(..=up_to);
    heard.all(|(&sequence, identity)| is_at(shared, address, epoch, sequence, identity))
}

/// Up to which sequence an epoch holds in the order that all share; nothing if nobody knows it, or if the
/// channel was deleted while a node that was away went on with it.
pub fn holds_up_to(shared: &Shared, address: &Address, epoch: &str) -> Option<u64> {
    let Epoch { term, fork_at, .. } = parts(epoch);
    let mut orders = orders_of(shared, address, epoch);
    let (order, None) = (orders.next()?, orders.next()) else { return None };
    let last = holds(order, term)?;
    Some(fork_at.map_or(last, |at| at.min(last)))
}
