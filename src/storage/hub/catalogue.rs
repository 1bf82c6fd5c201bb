//! The rooms and channels that there are: what Redis has of them, as far as it was told.
//!
//! Every change is counted in Redis. Where the count is lower than it was, Redis has forgotten some,
//! and the first node that sees it **repairs** it: it notes that in Redis, and tells again what it
//! knows. A node that comes later finds that note. It tells again only what is not there at all, since
//! what is there may be newer than what it knows. Otherwise what is not there any more another node has
//! deleted.
//!
//! *Invariants*: what was forgotten is repaired by one node; a repair replaces a room only as long as
//! it is as it was found, and never what was changed since.

use super::Hub;
use super::call::anew;
use crate::broker::peers::{PeerNews, To};
use crate::broker::record::{ChannelRecord, KeptChannel, Record, RoomRecord, Snapshot};
use crate::broker::room::RoomType;
use crate::protocol::command::Address;
use crate::protocol::names::Name;
use crate::storage::backlog::Step;
use crate::storage::codec::{
    ChannelEnd, read_address, read_channel_text, read_name, read_room, room_text,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What was found.
pub(super) struct Listing {
    pub(super) rooms: Vec<RoomRecord>,
    pub(super) channels: Vec<Address>,
    /// Of those channels that were not known.
    pub(super) ends: Vec<ChannelEnd>,
}

/// How far what there is has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// How often it was changed.
    pub(super) changes: u64,
    /// Its last repair: which of the changes it is, and the token of the node.
    pub(super) repair: String,
}

impl Seen {
    /// Whether `later` has all of it, and nobody had to repair it meanwhile.
    pub(super) fn goes_on_in(&self, later: &Seen) -> bool {
        self.repair == later.repair && self.changes <= later.changes
    }

    /// Whether `later` lacks something of it that nobody has repaired.
    pub(super) fn is_forgotten_in(&self, later: &Seen) -> bool {
        match self.repair == later.repair {
            true => later.changes < self.changes,
            false => later.repaired_at() < self.repaired_at(),
        }
    }

    fn repaired_at(&self) -> u64 {
        let (changes, _) = self.repair.split_once(' ').unwrap_or_default();
        changes.parse().unwrap_or(0)
    }
}

/// What there is, as far as is known.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    rooms: BTreeMap<Name, RoomRecord>,
    /// By room and channel.
    channels: BTreeMap<(Name, Name), ChannelEnd>,
    pub(super) seen: Seen,
    /// The rooms that Redis has as they once were, while they are repaired: how they were found, and
    /// how they should be.
    outdated: BTreeMap<Name, (String, String)>,
    /// What was changed while it is being looked what there is; a room as its channel `*`.
    changed_meanwhile: Option<BTreeSet<(Name, Name)>>,
}

impl Catalogue {
    /// Whether a channel is known to be there.
    pub(super) fn has(&self, address: &Address) -> bool {
        self.channels.contains_key(&key(address))
    }

    /// The channels that are known.
    pub(super) fn addresses(&self) -> std::collections::HashSet<Address> {
        self.channels.values().map(|end| (*end.record.address).clone()).collect()
    }

    /// It is going to be looked what there is. What changes from now on is newer than what is found.
    pub(super) fn begin_look(&mut self) {
        self.changed_meanwhile = Some(BTreeSet::new());
    }

    fn note_change(&mut self, key: (Name, Name)) {
        if let Some(changed) = &mut self.changed_meanwhile {
            changed.insert(key);
        }
    }

    pub(super) fn note_room(&mut self, room: &RoomRecord) {
        self.note_change((room.name.clone(), Name::every()));
        self.rooms.insert(room.name.clone(), room.clone());
    }

    pub(super) fn note_channel(&mut self, channel: &ChannelRecord) {
        self.note_change(key(&channel.address));
        let end = ChannelEnd { record: channel.clone(), last: 0, last_us: 0 };
        self.channels.insert(key(&channel.address), end);
    }

    /// The order of a channel goes on in another term.
    pub(super) fn note_term(&mut self, address: &Address, term: u32, past: &[(u32, u64)]) {
        if let Some(ChannelEnd { record, .. }) = self.channels.get_mut(&key(address)) {
            (record.term, record.past) = (term, past.to_vec());
        }
    }

    /// What may be replaced by a room of what is kept under its name: only this, nothing if it is
    /// empty, or anything if it is `*`, as it is known here. What a join makes is nothing that one
    /// would know better than who made a room on purpose.
    pub(super) fn replaceable(&self, room: &RoomRecord) -> &str {
        if let Some((found, wanted)) = self.outdated.get(&room.name)
            && text(room).as_ref() == Some(wanted)
        {
            return found;
        }
        let is_dynamic = |room: &RoomRecord| room.room_type == RoomType::Dynamic;
        let known = self.rooms.get(&room.name);
        match known.is_some_and(|known| is_dynamic(known) || !is_dynamic(room)) {
            true => "*",
            false => "",
        }
    }

    /// Redis has been told of a room.
    pub(super) fn end_repair(&mut self, name: &Name) {
        self.outdated.remove(name);
    }

    pub(super) fn drop_room(&mut self, name: &Name) {
        self.note_change((name.clone(), Name::every()));
        self.rooms.remove(name);
        self.channels.remove(&(name.clone(), Name::every()));
    }

    pub(super) fn drop_channel(&mut self, address: &Address) {
        self.note_change(key(address));
        self.channels.remove(&key(address));
    }

    /// Notes what was found, and whether this node repairs it; what of it is news, or what Redis has
    /// forgotten. `known` is how far the catalogue was known before Redis said how far it is (`seen`):
    /// what was heard since then may be more than that.
    fn compare(
        &mut self,
        listing: Listing,
        known: &Seen,
        seen: Seen,
        is_ours: bool,
    ) -> (Vec<PeerNews>, Vec<Record>) {
        let is_forgotten = is_ours || !known.goes_on_in(&seen);
        let heard = if is_forgotten { 0 } else { self.seen.changes };
        self.seen = Seen { changes: seen.changes.max(heard), ..seen };
        let (mut news, mut forgotten) = (Vec::new(), Vec::new());
        let mut rooms: BTreeSet<Name> =
            listing.rooms.iter().map(|room| room.name.clone()).collect();
        let mut channels: BTreeSet<_> = listing.channels.iter().map(key).collect();
        let changed = self.changed_meanwhile.take().unwrap_or_default();
        for (room, channel) in &changed {
            match channel.is_every() {
                true => rooms.insert(room.clone()),
                false => channels.insert((room.clone(), channel.clone())),
            };
        }
        let is_newer = |room: &Name, channel: Name| changed.contains(&(room.clone(), channel));
        for room in self.rooms.values().filter(|room| !rooms.contains(&room.name)) {
            match is_forgotten {
                true => forgotten.push(Record::Room(Box::new(room.clone()))),
                false => news.push(PeerNews::RoomGone(room.name.clone())),
            }
        }
        for (at, ChannelEnd { record: channel, .. }) in &self.channels {
            match (channels.contains(at), is_forgotten) {
                (true, _) => {}
                (false, true) => forgotten.push(Record::Channel(Box::new(anew(channel)))),
                (false, false) => news.push(PeerNews::ChannelGone(Arc::clone(&channel.address))),
            }
        }
        self.rooms.retain(|name, _| rooms.contains(name));
        self.channels.retain(|at, _| channels.contains(at));
        for room in listing.rooms {
            if is_newer(&room.name, Name::every()) {
                continue;
            }
            let known = self.rooms.get(&room.name);
            let texts = text(&room).zip(known.and_then(text));
            match (known, texts) {
                (_, Some((found, wanted))) if found == wanted => {}
                // It is as it once was.
                (Some(known), Some(texts)) if is_ours => {
                    forgotten.push(Record::Room(Box::new(known.clone())));
                    self.outdated.insert(room.name, texts);
                }
                _ => {
                    self.note_room(&room);
                    news.push(PeerNews::Room(Box::new(room)));
                }
            }
        }
        for end in listing.ends {
            let Address { room, channel } = &*end.record.address;
            if is_newer(room, channel.clone()) {
                continue;
            }
            news.push(PeerNews::Channel(Box::new(end.record.clone())));
            self.channels.insert(key(&end.record.address), end);
        }
        (news, forgotten)
    }
}

impl Hub {
    /// It was looked which rooms and channels there are.
    pub(super) fn on_listing(&mut self, listing: Listing, known: &Seen, seen: Seen, is_ours: bool) {
        self.take_in();
        if !std::mem::replace(&mut self.state.is_listed, true) {
            self.give_way(&listing);
        }
        self.look_at_all(listing.channels.iter().cloned().map(Arc::new), false);
        let (news, forgotten) = self.catalogue.compare(listing, known, seen, is_ours);
        if !forgotten.is_empty() {
            tracing::warn!("Redis has forgotten what was kept; rooms and channels are told again");
        }
        // What waits of them comes after it.
        for record in forgotten.into_iter().rev() {
            self.backlog.push_first(record);
        }
        if self.state.is_loaded {
            news.into_iter().for_each(|news| self.tell_room(news));
        }
    }

    /// It is seen for the first time what there is: nobody here knew it who has wished meanwhile
    /// that it be deleted or another, so it stays, and is told.
    fn give_way(&mut self, listing: &Listing) {
        let rooms: BTreeSet<&Name> = listing.rooms.iter().map(|room| &room.name).collect();
        let channels: BTreeSet<_> = listing.channels.iter().map(key).collect();
        self.backlog.drop_steps(|address, step| match step {
            Step::Room(room) => rooms.contains(&room.name),
            Step::RoomGone(name) => rooms.contains(name) || channels.contains(&key(address)),
            Step::ChannelGone => channels.contains(&key(address)),
            Step::Channel(_) | Step::Task(_) | Step::Events(_) => false,
        });
    }

    /// Everything that there is; what was heard before is in it.
    pub(super) fn snapshot(&self) -> Snapshot {
        let kept = |end: &ChannelEnd| KeptChannel {
            record: end.record.clone(),
            last: end.last,
            last_us: end.last_us,
            messages: Vec::new(),
        };
        Snapshot {
            rooms: self.catalogue.rooms.values().cloned().collect(),
            channels: self.catalogue.channels.values().map(kept).collect(),
            is_unread: false,
        }
    }

    /// A node has changed the catalogue.
    pub(super) fn on_catalogue(&mut self, message: &[u8]) {
        let told = String::from_utf8_lossy(message);
        let mut words = told.splitn(3, ' ');
        let (changes, token, what) = (words.next(), words.next(), words.next().unwrap_or(""));
        let changes = changes.and_then(|changes| changes.parse().ok()).unwrap_or(0);
        self.catalogue.seen.changes = self.catalogue.seen.changes.max(changes);
        if token == Some(&*self.token) {
            return;
        }
        match read(what) {
            Ok(news) => {
                match &news {
                    PeerNews::Room(room) => self.catalogue.note_room(room),
                    PeerNews::RoomGone(name) => self.catalogue.drop_room(name),
                    PeerNews::Channel(channel) => self.catalogue.note_channel(channel),
                    PeerNews::ChannelGone(address) => self.catalogue.drop_channel(address),
                    _ => {}
                }
                if self.state.is_loaded {
                    self.tell_room(news);
                }
            }
            Err(why) => tracing::warn!(why, "what was told of a room or a channel can't be read"),
        }
    }

    fn tell_room(&self, news: PeerNews) {
        let room = match &news {
            PeerNews::Room(room) => room.name.clone(),
            PeerNews::RoomGone(name) => name.clone(),
            PeerNews::Channel(channel) => channel.address.room.clone(),
            PeerNews::ChannelGone(address) => address.room.clone(),
            _ => return,
        };
        self.tell(To::Room(room), news);
    }
}

/// What a node has changed.
pub(super) fn read(what: &str) -> Result<PeerNews, String> {
    let mut words = what.splitn(3, ' ');
    let (kind, name) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let rest = words.next().unwrap_or("");
    Ok(match kind {
        "room" => PeerNews::Room(Box::new(read_room(name, rest)?)),
        "room_gone" => PeerNews::RoomGone(read_name(name)?),
        "channel" => {
            let address = Arc::new(read_address(name)?);
            PeerNews::Channel(Box::new(read_channel_text(&address, rest)?))
        }
        "channel_gone" => PeerNews::ChannelGone(Arc::new(read_address(name)?)),
        other => return Err(format!("there is no change {other:?}")),
    })
}

fn key(address: &Address) -> (Name, Name) {
    (address.room.clone(), address.channel.clone())
}

fn text(room: &RoomRecord) -> Option<String> {
    room_text(room).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::command::RoomConfig;

    fn seen(changes: u64, repair: &str) -> Seen {
        Seen { changes, repair: repair.into() }
    }

    fn room(name: &'static str, paused: bool) -> RoomRecord {
        RoomRecord {
            name: Name::fixed(name),
            room_type: RoomType::User,
            paused,
            created_us: 5,
            created_by: None,
            config: RoomConfig::default(),
        }
    }

    /// What is known of an unpaused room, and one that Redis lacks; what follows if it is paused
    /// there.
    fn compared(is_ours: bool) -> (Catalogue, usize, Vec<String>) {
        let mut catalogue = Catalogue { seen: seen(100, ""), ..Catalogue::default() };
        catalogue.note_room(&room("r", false));
        catalogue.note_room(&room("gone", false));
        let rooms = vec![room("r", true)];
        let listing = Listing { rooms, channels: Vec::new(), ends: Vec::new() };
        let known = catalogue.seen.clone();
        let (news, again) = catalogue.compare(listing, &known, seen(101, "101 a"), is_ours);
        let again = again.into_iter().map(|record| match record {
            Record::Room(room) => room.name.to_string(),
            other => panic!("{other:?}"),
        });
        (catalogue, news.len(), again.collect())
    }

    /// Nothing is forgotten because more is heard while Redis says how far it is, and what is heard
    /// meanwhile is not undone by what was found before.
    #[test]
    fn what_changes_while_it_is_looked_is_newer_than_what_is_found() {
        let mut catalogue = Catalogue { seen: seen(100, ""), ..Catalogue::default() };
        catalogue.note_room(&room("deleted", false));
        catalogue.note_room(&room("deleted_before", false));
        let known = catalogue.seen.clone();
        catalogue.begin_look();
        let listing = Listing {
            rooms: vec![room("deleted", false), room("paused", false)],
            channels: Vec::new(),
            ends: Vec::new(),
        };
        catalogue.seen.changes = 105;
        catalogue.note_room(&room("made", false));
        catalogue.note_room(&room("paused", true));
        catalogue.drop_room(&Name::fixed("deleted"));
        let (news, again) = catalogue.compare(listing, &known, seen(101, ""), false);
        assert!(again.is_empty(), "nothing is forgotten: {again:?}");
        let gone = PeerNews::RoomGone(Name::fixed("deleted_before"));
        assert_eq!(format!("{news:?}"), format!("{:?}", [gone]));
        let names: Vec<&str> = catalogue.rooms.keys().map(|name| &**name).collect();
        assert_eq!(names, ["made", "paused"]);
        assert!(catalogue.rooms[&Name::fixed("paused")].paused);
        assert_eq!(catalogue.seen.changes, 105);
    }

    #[test]
    fn what_is_forgotten_is_seen_until_somebody_repairs_it() {
        let known = seen(100, "90 a");
        for (later, goes_on, is_forgotten) in [
            (seen(100, "90 a"), true, false),
            (seen(99, "90 a"), false, true),
            // Somebody knew less than is known here, or as much.
            (seen(95, "91 b"), false, false),
            (seen(200, "101 b"), false, false),
            (seen(95, "90 b"), false, false),
            // The repair itself is forgotten, however much was changed since.
            (seen(200, "60 b"), false, true),
            (seen(200, ""), false, true),
        ] {
            let found = (known.goes_on_in(&later), known.is_forgotten_in(&later));
            assert_eq!(found, (goes_on, is_forgotten), "{later:?}");
        }
    }

    #[test]
    fn who_repairs_replaces_a_room_only_as_it_was_found() {
        let (mut catalogue, news, again) = compared(true);
        assert_eq!((news, again), (0, vec!["gone".to_owned(), "r".to_owned()]));
        let found = text(&room("r", true)).unwrap();
        assert_eq!(catalogue.replaceable(&room("r", false)), found);
        assert_eq!(catalogue.replaceable(&room("gone", false)), "", "only if it is not there");
        // Even if it is heard meanwhile that another has changed it.
        catalogue.note_room(&room("r", true));
        assert_eq!(catalogue.replaceable(&room("r", false)), found);
        catalogue.end_repair(&Name::fixed("r"));
        assert_eq!(catalogue.replaceable(&room("r", false)), "*");
    }

    #[test]
    fn who_comes_after_a_repair_takes_what_is_there_and_tells_what_is_not() {
        let (catalogue, news, again) = compared(false);
        assert_eq!((news, again), (1, vec!["gone".to_owned()]));
        assert!(catalogue.rooms[&Name::fixed("r")].paused);
    }
}
