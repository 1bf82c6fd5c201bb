//! One client at its edge: who it is, what it joined, how fast it may talk.
//!
//! *Panics*: the places in the index of memberships change with the list, in this file only; a
//! client's names are only looked up.

use crate::base::ids::{ChannelId, ConnId, ShardId};
use crate::base::limits::COMMAND_BURST_S;
use crate::base::prefetch::prefetch;
use crate::base::time::{Moment, Now};
use crate::broker::channel::{Options, Seen, Ties};
use crate::broker::lane::Claim;
use crate::broker::policy::ClientCard;
use crate::broker::returning::{Stake, Stay, Subscription};
use crate::broker::violations::Violations;
use crate::protocol::command::{Address, Identity, Join};
use crate::protocol::fault::Refusal;
use crate::protocol::names::Name;
use crate::protocol::reply::Question;
use crate::protocol::views::{ClientView, JoinView, Time};
use ahash::RandomState;
use hashbrown::HashTable;
use serde::Serialize;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;

/// A client that is connected to this shard.
#[derive(Debug)]
pub struct Session {
    /// Its connection.
    pub conn: ConnId,
    /// Who it is.
    pub card: Arc<ClientCard>,
    /// What only `list_clients` shows, if it said any of it.
    pub profile: Option<Box<Profile>>,
    /// Where it connected from.
    pub address: Option<IpAddr>,
    /// How far it has come.
    pub phase: Phase,
    /// What must be asked when its input is next looked at.
    pub errands: Option<Box<Errands>>,
    /// Its channels.
    pub memberships: Memberships,
    /// Its rooms.
    pub rooms: Vec<RoomTie>,
    /// The homes that may know it as a member.
    pub homes: SmallVec<[ShardId; 2]>,
    /// Joins that have not been answered.
    pub joins_in_flight: u32,
    /// Leaves that have not been answered.
    pub leaves_in_flight: u32,
    /// How many commands it gave whose answers may be long.
    pub long_asked: u32,
    /// Which of them has not been answered; 0 if none.
    pub awaited: u32,
    /// Events whose acks have not come.
    pub acks_in_flight: u32,
    /// Whether a message of its waits for an answer, to a join, a leave or that command.
    pub waits_for_answer: bool,
    /// When it connected, in microseconds since 1970.
    pub connected_us: u64,
    /// When its last message came, in microseconds since 1970.
    pub last_activity_us: u64,
    /// Well-formed messages it sent.
    pub messages: u64,
    /// What it has used up of its rates, where there are any.
    pub rates: Rates,
    /// When agent activity was last told of it.
    pub activity_told: Option<Moment>,
    /// What may return of it, where sessions are kept.
    pub stay: Option<Box<Stay>>,
    violations: Violations,
}

const _: () = assert!(size_of::<Session>() <= 256, "an idle client is what most memory is for");

/// What a client says of itself beyond its card.
#[derive(Debug, Default)]
pub struct Profile {
    /// An avatar's URL or identifier.
    pub avatar: Option<Box<str>>,
    /// How an agent behaves.
    pub personality: Option<Box<str>>,
}

/// How far a client has come.
#[derive(Debug)]
pub enum Phase {
    /// The storage is asked for the session that it returns to.
    Returning(Box<Identity>),
    /// A directory decides on the client id it wants.
    Claiming(Box<Claiming>),
    /// It is being joined to what it wanted to be joined to.
    Joining(Box<Joining>),
    /// It may send and receive.
    Live,
}

/// What waits for a directory's answer.
#[derive(Debug)]
pub struct Claiming {
    /// Who it will be.
    pub identity: Identity,
    /// The id it wants.
    pub client_id: Name,
    /// The `identify` that is answered; `None` while connecting.
    pub identify: Option<Question>,
    /// What it had joined before, if it returns.
    pub subscriptions: Vec<Subscription>,
}

/// What waits for the answers to joins.
#[derive(Debug, Default)]
pub struct Joining {
    /// Answers that have not come.
    pub waiting: usize,
    /// What it is joined to.
    pub joined: Vec<JoinView>,
    /// What it could not be joined to.
    pub refused: Vec<RefusedJoin>,
    /// The `identify` that is answered; `None` while connecting.
    pub identify: Option<Question>,
}

/// A join that was part of connecting and was refused.
#[derive(Debug, Serialize)]
pub struct RefusedJoin {
    /// The room.
    pub room: String,
    /// The channel.
    pub channel: String,
    /// The HTTP-like code.
    pub code: u16,
    /// The stable word.
    pub error: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// What a tell obliges an edge to ask later.
#[derive(Debug, Default)]
pub struct Errands {
    /// A client id to claim.
    pub claim: Option<Name>,
    /// A client id that is not needed any more.
    pub release: Option<Name>,
    /// Channels to join.
    pub joins: VecDeque<Join>,
}

/// A channel that lists a client as a member. Where it joined `*` it is a member of others, too.
#[derive(Debug)]
pub struct Membership {
    /// The channel.
    pub channel: ChannelId,
    /// Its names.
    pub address: Arc<Address>,
    /// Whether it is private.
    pub is_private: bool,
    /// How it became one.
    pub ties: Ties,
    /// Whether it asked to leave it by name and the home has not answered.
    pub leaving: bool,
}

/// A room that a client is in.
#[derive(Debug)]
pub struct RoomTie {
    /// The room's name.
    pub room: Name,
    /// The id under which events to `*` come.
    pub id: ChannelId,
    /// How many of its channels list it.
    pub channels: u32,
    /// What it asked for when it joined `*`, if it did.
    pub whole_room: Option<Options>,
    /// In how many of its channels by a join that asked for echo.
    pub echoing: u32,
    /// Whether it asked to leave `*` and the home has not answered.
    pub leaving: bool,
}

impl RoomTie {
    /// Whether it wants its own events to `*` back: if its join of `*` said so, or, where it did
    /// not join `*`, any join of a channel that it is still in.
    pub fn echoes(&self) -> bool {
        self.whole_room.map_or(self.echoing > 0, |options| options.echo)
    }
}

impl Claiming {
    /// What waits for the answer to this claim.
    pub fn new(identity: Identity, claim: &Claim, identify: Option<Question>) -> Claiming {
        let (client_id, subscriptions) = (claim.client_id.clone(), Vec::new());
        Claiming { identity, client_id, identify, subscriptions }
    }
}

impl RefusedJoin {
    /// A refused join of that channel.
    pub fn new(room: &str, channel: &str, refusal: Refusal) -> RefusedJoin {
        RefusedJoin {
            room: room.to_owned(),
            channel: channel.to_owned(),
            code: refusal.fault.code(),
            error: refusal.fault.word(),
            message: refusal.message.into_owned(),
        }
    }
}

impl Session {
    /// A client that has just come.
    pub fn new(conn: ConnId, card: Arc<ClientCard>, address: Option<IpAddr>, now: Now) -> Session {
        Session {
            conn,
            card,
            profile: None,
            address,
            phase: Phase::Live,
            errands: None,
            memberships: Memberships::default(),
            rooms: Vec::new(),
            homes: SmallVec::new(),
            joins_in_flight: 0,
            leaves_in_flight: 0,
            long_asked: 0,
            awaited: 0,
            acks_in_flight: 0,
            waits_for_answer: false,
            connected_us: now.wall_us,
            last_activity_us: now.wall_us,
            messages: 0,
            rates: Rates::default(),
            activity_told: None,
            stay: None,
            violations: Violations::default(),
        }
    }

    /// For which session it claims a client id.
    pub fn stake(&self) -> Option<Stake> {
        self.stay.as_ref().map(|stay| stay.stake())
    }

    /// Whether it may send and receive.
    pub fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live)
    }

    /// Whether it has its id: the directory has decided, if it may still want another one.
    pub fn is_connected(&self) -> bool {
        match &self.phase {
            Phase::Returning(_) => false,
            Phase::Claiming(claiming) => claiming.identify.is_some(),
            Phase::Joining(_) | Phase::Live => true,
        }
    }

    /// The room it is in.
    pub fn room(&self, room: &str) -> Option<&RoomTie> {
        self.rooms.iter().find(|tie| tie.room.as_str() == room)
    }

    /// Whether it is a member and has not asked to be none: what it sends from here on comes after
    /// the leave, also at the home.
    pub fn stays_in(&self, membership: &Membership) -> bool {
        let Ties { named, whole_room } = membership.ties;
        if self.leaves_in_flight == 0 || named.is_some() && !membership.leaving {
            return true;
        }
        let tie = self.room(&membership.address.room);
        let follows = tie.is_some_and(|tie| tie.whole_room.is_some() && !tie.leaving);
        follows && (whole_room.is_some() || !membership.is_private)
    }

    /// The room, if it is in it and has not asked to leave all of it.
    pub fn room_it_stays_in(&self, room: &str) -> Option<&RoomTie> {
        let tie = self.room(room)?;
        let stays = self.leaves_in_flight == 0
            || tie.whole_room.is_some() && !tie.leaving
            || self
                .memberships
                .iter()
                .any(|membership| membership.address.room == tie.room && self.stays_in(membership));
        stays.then_some(tie)
    }

    /// How many channels list it or are about to; a join of `*` counts as one, and each private channel
    /// that lists it for that as another.
    pub fn join_count(&self) -> u32 {
        let whole_rooms = self.rooms.iter().filter(|tie| tie.whole_room.is_some()).count();
        (self.memberships.len() + whole_rooms) as u32 + self.joins_in_flight
    }

    /// Counts a malformed message; true if there were `max` of them within a minute.
    pub fn count_violation(&mut self, now: Now, max: u32) -> bool {
        self.violations.count(now.mono_ms(), max)
    }

    /// What it joined, as `room:channel`, sorted.
    pub fn subscriptions(&self) -> Vec<String> {
        let whole_rooms = self.rooms.iter().filter(|tie| tie.whole_room.is_some());
        let named = self.memberships.iter().filter(|membership| membership.ties.named.is_some());
        let mut list: Vec<String> = whole_rooms
            .map(|tie| format!("{}:*", tie.room))
            .chain(named.map(|membership| membership.address.to_string()))
            .collect();
        list.sort_unstable();
        list
    }

    /// What it joined, by name and by `*`, as it can be joined again; sorted.
    pub fn kept_subscriptions(&self) -> Vec<Subscription> {
        let whole_rooms = self.rooms.iter().filter_map(|tie| {
            let address = Address { room: tie.room.clone(), channel: Name::every() };
            Some(Subscription { address, options: tie.whole_room? })
        });
        let named = self.memberships.iter().filter_map(|membership| {
            let address = (*membership.address).clone();
            Some(Subscription { address, options: membership.ties.named? })
        });
        let mut list: Vec<Subscription> = whole_rooms.chain(named).collect();
        let names = |kept: &Subscription| (kept.address.room.clone(), kept.address.channel.clone());
        list.sort_unstable_by_key(names);
        list
    }

    /// What `list_clients` shows of it.
    pub fn view(&self, node: &Arc<str>, shard: ShardId) -> ClientView {
        let profile = self.profile.as_deref();
        let own = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
        ClientView {
            client_id: self.card.client_id.clone(),
            client_type: self.card.client_type,
            role: self.card.role.as_str(),
            state: if self.messages == 0 { "connected" } else { "active" },
            screen_name: self.card.screen_name.clone(),
            avatar: profile.and_then(|profile| own(&profile.avatar)),
            personality: profile.and_then(|profile| own(&profile.personality)),
            connected_at: Time(self.connected_us),
            last_activity: Time(self.last_activity_us),
            subscriptions: self.subscriptions(),
            node: Arc::clone(node),
            shard: shard.0,
        }
    }
}

/// The channels of one client, found by their names without making a key.
///
/// To look at a few costs less than to hash, and takes less memory; most clients have a few.
#[derive(Debug, Default)]
pub struct Memberships {
    list: SmallVec<[Membership; 1]>,
    /// The places in `list` by the hash of the names, once there are more than [`FEW_MEMBERSHIPS`].
    index: Option<Box<HashTable<u32>>>,
}

/// How many memberships are fetched before it is known which is needed: where each client was in ten
/// rooms of a thousand it was worth it.
const MEMBERSHIPS_AHEAD: usize = 16;

/// How many memberships are found by looking at all of them.
const FEW_MEMBERSHIPS: usize = 4;

impl Memberships {
    /// The membership of a channel.
    pub fn find(&self, hasher: &RandomState, room: &str, channel: &str) -> Option<&Membership> {
        self.place(hasher, room, channel).map(|place| &self.list[place])
    }

    /// The membership of a channel.
    pub fn find_mut(
        &mut self,
        hasher: &RandomState,
        room: &str,
        channel: &str,
    ) -> Option<&mut Membership> {
        self.place(hasher, room, channel).map(|place| &mut self.list[place])
    }

    #[inline]
    fn place(&self, hasher: &RandomState, room: &str, channel: &str) -> Option<usize> {
        let is_it = |membership: &Membership| {
            membership.address.channel.as_str() == channel
                && membership.address.room.as_str() == room
        };
        match &self.index {
            None => self.list.iter().position(is_it),
            Some(index) => index
                .find(hash(hasher, room, channel), |&place| is_it(&self.list[place as usize]))
                .map(|&place| place as usize),
        }
    }

    /// Looks ahead to [`Memberships::find`]: fetches what it begins with.
    pub fn prefetch(&self) {
        self.list.iter().take(MEMBERSHIPS_AHEAD).for_each(prefetch);
        if let Some(index) = &self.index {
            prefetch(&**index);
        }
    }

    /// Fetches the names of the first memberships, and where the index begins.
    pub fn prefetch_names(&self) {
        let next = self.list.iter().take(MEMBERSHIPS_AHEAD);
        next.for_each(|membership| prefetch(&*membership.address));
        black_box(self.index.as_ref().and_then(|index| index.iter().next()));
    }

    /// Adds ties to a channel; gives all of them, and whether the membership is new.
    pub fn tie(&mut self, hasher: &RandomState, seen: &Seen, ties: Ties) -> (Ties, bool) {
        let Seen { channel, address, is_private } = seen;
        let (channel, is_private) = (*channel, *is_private);
        if let Some(known) = self.find_mut(hasher, &address.room, &address.channel) {
            (known.channel, known.is_private) = (channel, is_private);
            known.ties.named = ties.named.or(known.ties.named);
            known.ties.whole_room = ties.whole_room.or(known.ties.whole_room);
            // A leave that is under way ends what was joined by name before, whenever the answer to
            // that join comes; so only the answer to the leave takes the mark away.
            return (known.ties, false);
        }
        let address = address.clone();
        self.list.push(Membership { channel, address, is_private, ties, leaving: false });
        let Memberships { list, index, .. } = self;
        if list.len() > FEW_MEMBERSHIPS {
            let hash_at = |place: &u32| hash_of(hasher, &list[*place as usize]);
            let is_new = index.is_none();
            let index = index.get_or_insert_default();
            let first = if is_new { 0 } else { list.len() as u32 - 1 };
            for place in first..list.len() as u32 {
                index.insert_unique(hash_at(&place), place, hash_at);
            }
        }
        (ties, true)
    }

    /// Takes one kind of tie from a channel; what is left, or the whole membership if nothing is.
    pub fn untie(
        &mut self,
        hasher: &RandomState,
        room: &str,
        channel: &str,
        whole_room: bool,
    ) -> Option<Result<Ties, Membership>> {
        let place = self.place(hasher, room, channel)?;
        let known = &mut self.list[place];
        known.leaving &= whole_room;
        match whole_room {
            true => known.ties.whole_room = None,
            false => known.ties.named = None,
        }
        let ties = known.ties;
        if ties.options().is_some() {
            return Some(Ok(ties));
        }
        Some(Err(self.remove(hasher, place)))
    }

    /// Takes one out; the last one takes its place.
    fn remove(&mut self, hasher: &RandomState, place: usize) -> Membership {
        let last = self.list.len() - 1;
        if let Some(index) = &mut self.index {
            let hash_of = |place: usize| hash_of(hasher, &self.list[place]);
            if let Ok(entry) = index.find_entry(hash_of(place), |&at| at as usize == place) {
                entry.remove();
            }
            if let Some(moved) = index.find_mut(hash_of(last), |&at| at as usize == last) {
                *moved = place as u32;
            }
        }
        let membership = self.list.swap_remove(place);
        if self.list.len() <= FEW_MEMBERSHIPS {
            self.index = None;
        }
        membership
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Membership> {
        self.list.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

fn hash_of(hasher: &RandomState, membership: &Membership) -> u64 {
    hash(hasher, &membership.address.room, &membership.address.channel)
}

fn hash(hasher: &RandomState, room: &str, channel: &str) -> u64 {
    hasher.hash_one((room, channel))
}

/// What a client has used up of its rates. Most buses have none, so it owns nothing until one is
/// asked for.
#[derive(Debug, Default)]
pub struct Rates {
    buckets: Option<Box<Buckets>>,
}

#[derive(Debug, Default)]
struct Buckets {
    messages: Bucket,
    commands: Bucket,
}

impl Rates {
    /// Takes one of `rate` messages a second, if there is one; a rate of 0 is no limit.
    pub fn take_message(&mut self, now_ms: u64, rate: u32) -> bool {
        rate == 0 || self.buckets.get_or_insert_default().messages.take(now_ms, rate, rate, 1)
    }

    /// Takes a command that counts as `cost` of `rate` a second, if there is so much left; a rate of 0
    /// is no limit. A client that gave none for a while may give those of some seconds at once.
    pub fn take_command(&mut self, now_ms: u64, rate: u32, cost: u32) -> bool {
        let burst = rate.saturating_mul(COMMAND_BURST_S).max(cost);
        let commands = &mut self.buckets.get_or_insert_default().commands;
        rate == 0 || commands.take(now_ms, rate, burst, cost)
    }
}

/// A token bucket.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// Thousandths of a token that were used up.
    used: u64,
    filled_ms: u64,
}

impl Bucket {
    /// Takes `cost` tokens, if there are so many: `rate` come back a second, and it holds `burst`.
    fn take(&mut self, now_ms: u64, rate: u32, burst: u32, cost: u32) -> bool {
        let back = now_ms.saturating_sub(self.filled_ms).saturating_mul(u64::from(rate));
        self.used = self.used.saturating_sub(back);
        self.filled_ms = now_ms;
        let used = self.used + u64::from(cost) * 1_000;
        if used > u64::from(burst) * 1_000 {
            return false;
        }
        self.used = used;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::hash::seeded;

    fn channel() -> Seen {
        let address = Address { room: Name::fixed("r"), channel: Name::fixed("c") };
        let channel = ChannelId::new(ShardId(0), 1);
        Seen { channel, address: Arc::new(address), is_private: false }
    }

    #[test]
    fn a_bucket_holds_one_second_and_refills_evenly() {
        let mut bucket = Bucket::default();
        let take = |bucket: &mut Bucket, ms| bucket.take(ms, 10, 10, 1);
        assert_eq!((0..20).filter(|_| take(&mut bucket, 1_000)).count(), 10);
        assert_eq!((0..20).filter(|_| take(&mut bucket, 1_500)).count(), 5);
        assert_eq!((0..20).filter(|_| take(&mut bucket, 99_000)).count(), 10);
        let mut rates = Rates::default();
        let is_free = |_| rates.take_message(99_000, 0) && rates.take_command(99_000, 0, 5);
        assert!((0..1_000).all(is_free));
        assert!(rates.take_command(99_000, 1, 1) && rates.take_command(99_000, 1, 1));
        assert!(!rates.take_command(99_000, 1, 1), "two seconds' worth is all that it holds");
        let commands = |ms, cost| {
            let mut rates = Rates::default();
            (0..1_000).filter(|_| rates.take_command(ms, 100, cost)).count()
        };
        assert_eq!((commands(99_000, 1), commands(99_000, 5)), (200, 40));
        assert!(Rates::default().take_command(99_000, 1, 5), "it may be given, if seldom");
        assert!(rates.take_message(99_000, 1), "each has its own");
    }

    #[test]
    fn memberships_by_name_and_by_whole_room_add_up() {
        let hasher = seeded(1);
        let seen = channel();
        let options = Some(Options::default());
        let mut memberships = Memberships::default();
        let whole = Ties { named: None, whole_room: options };
        assert!(memberships.tie(&hasher, &seen, whole).1);
        let named = Ties { named: options, whole_room: None };
        assert!(!memberships.tie(&hasher, &seen, named).1);
        assert_eq!(memberships.len(), 1);
        assert!(matches!(memberships.untie(&hasher, "r", "c", false), Some(Ok(_))));
        assert!(matches!(memberships.untie(&hasher, "r", "c", true), Some(Err(_))));
        assert!(memberships.is_empty() && memberships.find(&hasher, "r", "c").is_none());
        assert!(memberships.untie(&hasher, "r", "c", true).is_none());
    }

    #[test]
    fn many_memberships_are_found_by_their_names_whatever_goes_before_them() {
        let hasher = seeded(1);
        let of = |number: u64| {
            let channel = Name::parse(&format!("c{number}")).unwrap();
            let address = Arc::new(Address { room: Name::fixed("r"), channel });
            Seen { channel: ChannelId::new(ShardId(0), number), address, is_private: false }
        };
        let named = Ties { named: Some(Options::default()), whole_room: None };
        let mut memberships = Memberships::default();
        let mut known = std::collections::BTreeSet::new();
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..5_000 {
            let number = rng.u64(1..40);
            // Few at times, many at others, so that the index comes and goes.
            if rng.u32(0..100) < if rng.bool() { 70 } else { 20 } {
                let is_new = memberships.tie(&hasher, &of(number), named).1;
                assert_eq!(is_new, known.insert(number));
            } else {
                let went = memberships.untie(&hasher, "r", &format!("c{number}"), false).is_some();
                assert_eq!(went, known.remove(&number));
            }
            assert_eq!(memberships.len(), known.len());
            assert_eq!(memberships.index.is_some(), known.len() > FEW_MEMBERSHIPS);
            let found = memberships.find(&hasher, "r", &format!("c{number}"));
            assert_eq!(found.is_some(), known.contains(&number));
            assert!(found.is_none_or(|found| found.channel == of(number).channel));
        }
    }

    #[test]
    fn only_the_answer_to_a_leave_by_name_ends_it() {
        let hasher = seeded(1);
        let seen = channel();
        let options = Some(Options::default());
        let both = Ties { named: options, whole_room: options };
        let mut memberships = Memberships::default();
        memberships.tie(&hasher, &seen, both);
        memberships.find_mut(&hasher, "r", "c").unwrap().leaving = true;
        let is_leaving = |memberships: &Memberships| {
            memberships.find(&hasher, "r", "c").is_some_and(|membership| membership.leaving)
        };
        for ties in [
            both,
            Ties { named: options, whole_room: None },
            Ties { named: None, whole_room: options },
        ] {
            memberships.tie(&hasher, &seen, ties);
            assert!(is_leaving(&memberships), "{ties:?}");
        }
        memberships.untie(&hasher, "r", "c", true);
        assert!(is_leaving(&memberships), "leaving the whole room is another leave");
        memberships.tie(&hasher, &seen, both);
        memberships.untie(&hasher, "r", "c", false);
        assert!(!is_leaving(&memberships));
    }
}
