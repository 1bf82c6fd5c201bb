//! A home of one of several nodes, as the storage that they share sees it.

use crate::desk::{SHARDS, SOON, now};
use arqonbus::base::ids::{ChannelId, ShardId};
use arqonbus::broker::peers::{Attach, PeerNews, PeerRecord, Place, Submission, To, Verdict};
use arqonbus::broker::record::{ChannelRecord, Keep, Record, Snapshot, StorageNews};
use arqonbus::protocol::command::{Address, ChannelType};
use arqonbus::protocol::envelope::MessageType;
use arqonbus::protocol::frame::{Draft, Origin};
use arqonbus::protocol::names::Name;
use arqonbus::storage::{self, LoadError, NewsLoad, RecordSender, Settings, Storage};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A node's storage, and its home.
pub(crate) struct Node {
    pub(crate) name: &'static str,
    storage: Storage,
    records: RecordSender,
    heard: Arc<Mutex<Heard>>,
}

/// What was told, put together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    pub(crate) channels: BTreeMap<ChannelId, Order>,
    pub(crate) catalogue: Vec<String>,
    pub(crate) degraded: Vec<String>,
    /// The causes told after that.
    pub(crate) causes: Vec<String>,
    pub(crate) restored: usize,
    pub(crate) claims: Vec<(String, Verdict)>,
    /// What was to be deleted, and whether it is gone.
    pub(crate) deleted: Vec<(String, bool)>,
}

/// What was told of a channel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Order {
    /// How often it was attached, and as which record the last time.
    pub(crate) attached: usize,
    pub(crate) was_new: bool,
    pub(crate) epoch: String,
    pub(crate) term: u32,
    pub(crate) past: Vec<(u32, u64)>,
    /// How often the term was told to be another.
    pub(crate) terms: usize,
    /// The messages, by sequence; the first that is known is after `start`.
    pub(crate) start: u64,
    pub(crate) messages: Vec<String>,
    /// When each of them expires, on the clock of the node.
    pub(crate) expires_ms: Vec<Option<u64>>,
    /// The tickets of this node's own, by sequence.
    pub(crate) own: BTreeMap<u64, u64>,
    pub(crate) placed: BTreeMap<u64, Place>,
    pub(crate) lost: Vec<(u64, u64)>,
    /// How many times something arrived.
    pub(crate) batches: usize,
}

/// A channel as one node's home knows it.
#[derive(Clone)]
pub(crate) struct Post {
    pub(crate) id: ChannelId,
    pub(crate) address: Arc<Address>,
    pub(crate) life: Arc<str>,
    pub(crate) keep: Keep,
    pub(crate) ticket: u64,
}

impl Order {
    pub(crate) fn last(&self) -> u64 {
        self.start + self.messages.len() as u64
    }
}

impl Heard {
    fn note(&mut self, to: To, news: StorageNews) {
        match news {
            StorageNews::Degraded(reason) => self.degraded.push(reason.to_string()),
            StorageNews::Cause(reason) => self.causes.push(reason.to_string()),
            StorageNews::Restored => self.restored += 1,
            StorageNews::Lost { channel, first, last } => {
                self.channels.entry(channel).or_default().lost.push((first, last));
            }
            StorageNews::Peer(news) => self.note_peer(to, news),
            StorageNews::Session(..) => panic!("nobody asks for a session"),
            other => panic!("{other:?} is not for who shares"),
        }
    }

    fn note_peer(&mut self, to: To, news: PeerNews) {
        let is_home = |channel: ChannelId| assert_eq!(to, To::Shard(channel.home()));
        match news {
            PeerNews::Attached { channel, kept, is_new } => {
                is_home(channel);
                let order = self.channels.entry(channel).or_default();
                order.attached += 1;
                order.was_new = is_new;
                order.epoch = kept.record.epoch.to_string();
                (order.term, order.past) = (kept.record.term, kept.record.past.clone());
                let texts = kept.messages.iter();
                order.messages =
                    texts.map(|f| String::from_utf8(f.text().to_vec()).unwrap()).collect();
                order.expires_ms = kept.messages.iter().map(|frame| frame.expires_ms).collect();
                order.start = kept.last - order.messages.len() as u64;
                order.own.retain(|sequence, _| *sequence <= kept.last);
            }
            PeerNews::Arrived { channel, events } => {
                is_home(channel);
                let order = self.channels.get_mut(&channel).expect("it is attached");
                order.batches += 1;
                assert!(!events.is_empty());
                for event in events {
                    assert_eq!(event.frame.sequence, order.last() + 1, "the next comes");
                    if let Some(ticket) = event.ticket {
                        order.own.insert(event.frame.sequence, ticket);
                    }
                    order.expires_ms.push(event.frame.expires_ms);
                    order.messages.push(String::from_utf8(event.frame.text().to_vec()).unwrap());
                }
            }
            PeerNews::Placed { channel, places } => {
                is_home(channel);
                let order = self.channels.entry(channel).or_default();
                for place in places {
                    let before = order.placed.insert(place.ticket, place);
                    assert_eq!(before, None, "each ticket is told once");
                }
            }
            PeerNews::Term { channel, term, past } => {
                is_home(channel);
                let order = self.channels.get_mut(&channel).expect("it is attached");
                assert_ne!(order.term, term);
                (order.term, order.past) = (term, past);
                order.terms += 1;
            }
            PeerNews::Room(room) => self.note_room(&to, room.name.clone(), "room"),
            PeerNews::RoomGone(name) => self.note_room(&to, name, "no room"),
            PeerNews::Channel(channel) => {
                let what = format!("channel {} {}", channel.address, channel.epoch);
                self.note_room(&to, channel.address.room.clone(), &what);
            }
            PeerNews::ChannelGone(address) => {
                let what = format!("no channel {address}");
                self.note_room(&to, address.room.clone(), &what);
            }
            PeerNews::Claimed { client_id, verdict, .. } => {
                assert_eq!(to, To::Client(client_id.clone()));
                self.claims.push((client_id.to_string(), verdict));
            }
            PeerNews::Deleted { address, is_gone } => {
                assert_eq!(to, To::Room(address.room.clone()));
                self.deleted.push((address.to_string(), is_gone));
            }
            // Who is there is not told of here.
            PeerNews::Peers(_) | PeerNews::PeerGone(_) | PeerNews::Client { .. } => {}
            other => panic!("nobody said {other:?}"),
        }
    }

    fn note_room(&mut self, to: &To, room: Name, what: &str) {
        assert_eq!(*to, To::Room(room.clone()));
        match what.contains(':') {
            true => self.catalogue.push(what.to_owned()),
            false => self.catalogue.push(format!("{what} {room}")),
        }
    }

    /// What was told of a channel; nothing, if nothing was.
    pub(crate) fn of(&self, post: &Post) -> Order {
        self.channels.get(&post.id).cloned().unwrap_or_default()
    }
}

impl Node {
    pub(crate) fn open(name: &'static str, settings: Settings) -> Node {
        let settings = Settings { is_shared: true, node: name.into(), ..settings };
        let heard = Arc::new(Mutex::new(Heard::default()));
        let told = Arc::clone(&heard);
        let tell = move |to: To, news: StorageNews| told.lock().unwrap().note(to, news);
        let (storage, records) = storage::start(settings, Box::new(tell)).unwrap();
        Node { name, storage, records, heard }
    }

    /// A node whose homes may be slow to take what they are told.
    pub(crate) fn with_load(name: &'static str, url: &str, load: &Arc<NewsLoad>) -> Node {
        let settings =
            Settings { is_shared: true, node: name.into(), ..crate::desk::settings(url) };
        let heard = Arc::new(Mutex::new(Heard::default()));
        let told = Arc::clone(&heard);
        let tell = move |to: To, news: StorageNews| told.lock().unwrap().note(to, news);
        let tell = Box::new(tell);
        let (storage, records) = storage::start_bounded(settings, tell, Arc::clone(load)).unwrap();
        let node = Node { name, storage, records, heard };
        node.load().unwrap_or_else(|error| panic!("{error}"));
        node
    }

    /// A node at a Redis that is there.
    pub(crate) fn at(name: &'static str, url: &str) -> Node {
        let node = Node::open(name, crate::desk::settings(url));
        node.load().unwrap_or_else(|error| panic!("{error}"));
        node
    }

    pub(crate) fn load(&self) -> Result<Snapshot, LoadError> {
        self.storage.load(now(), Duration::from_millis(500))
    }

    pub(crate) fn offer(&self, record: Record) {
        let end = Instant::now() + SOON;
        let mut record = record;
        while let Err(refused) = self.records.offer(record) {
            assert!(Instant::now() < end, "the lane stays full");
            record = refused;
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn ask(&self, record: PeerRecord) {
        self.offer(Record::Peer(Box::new(record)));
    }

    pub(crate) fn attach(&self, post: &Post) {
        self.ask(PeerRecord::Attach(Box::new(Attach {
            channel: post.id,
            record: post.record(),
            keep: post.keep,
            messages: post.keep.messages,
            bytes: if post.keep.bytes == 0 { 1 << 30 } else { post.keep.bytes },
        })));
    }

    /// Attaches a channel, and gives it as it is known then.
    pub(crate) fn follow(&self, number: u64, room: &'static str, channel: &'static str) -> Post {
        let mut post = Post::new(self.name, number, room, channel);
        let before = self.order(&post).attached;
        self.attach(&post);
        let heard = self.wait("attached", |heard| heard.of(&post).attached > before);
        post.life = heard.of(&post).epoch.into();
        post
    }

    /// Submits the next event of a channel.
    pub(crate) fn say(&self, post: &mut Post, id: &str) {
        post.ticket += 1;
        let seen = self.order_last(post);
        self.submit(post, id, post.ticket, seen);
    }

    pub(crate) fn submit(&self, post: &Post, id: &str, ticket: u64, seen: u64) {
        self.submit_of(post, (id, ""), ticket, seen);
    }

    /// Submits the next event of a channel, with so many bytes of payload.
    pub(crate) fn say_much(&self, post: &mut Post, id: &str, bytes: usize) {
        post.ticket += 1;
        let seen = self.order_last(post);
        self.submit_of(post, (id, &"x".repeat(bytes)), post.ticket, seen);
    }

    fn submit_of(&self, post: &Post, (id, filling): (&str, &str), ticket: u64, seen: u64) {
        let address = (&*post.address.room, &*post.address.channel);
        let origin = Origin { received_ns: 0, ttl_ms: None };
        let payload = format!(r#"{{"of":"{}","x":"{filling}"}}"#, self.name);
        let draft = Draft::of_server(id, MessageType::Event, address, &payload, origin);
        self.ask(PeerRecord::Submit(Box::new(Submission {
            channel: post.id,
            address: Arc::clone(&post.address),
            life: Arc::clone(&post.life),
            ticket,
            seen,
            draft: Arc::new(draft),
            at_us: now().wall_us,
            keep: post.keep,
        })));
    }

    pub(crate) fn heard(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }

    /// What is heard, for who looks at it while the node is busy elsewhere.
    pub(crate) fn witness(&self) -> Arc<Mutex<Heard>> {
        Arc::clone(&self.heard)
    }

    pub(crate) fn order(&self, post: &Post) -> Order {
        self.heard.lock().unwrap().of(post)
    }

    pub(crate) fn order_last(&self, post: &Post) -> u64 {
        self.heard.lock().unwrap().channels.get(&post.id).map_or(0, Order::last)
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Waits until what was heard is so.
    pub(crate) fn wait(&self, what: &str, is_so: impl Fn(&Heard) -> bool) -> Heard {
        let end = Instant::now() + SOON;
        loop {
            let heard = self.heard.lock().unwrap();
            if is_so(&heard) {
                return heard.clone();
            }
            if Instant::now() >= end {
                let orders: Vec<String> = heard
                    .channels
                    .values()
                    .map(|order| {
                        format!(
                            "last {} placed {} lost {:?} attached {} terms {}",
                            order.last(),
                            order.placed.len(),
                            order.lost,
                            order.attached,
                            order.terms
                        )
                    })
                    .collect();
                panic!(
                    "{}: {what} does not come: {orders:?} {:?} {:?} {}",
                    self.name, heard.catalogue, heard.degraded, heard.restored
                );
            }
            drop(heard);
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Waits until so many submissions of a channel are placed.
    pub(crate) fn wait_placed(&self, post: &Post) -> Order {
        let heard = self.wait("placed", |heard| {
            heard.channels.get(&post.id).is_some_and(|it| it.placed.len() as u64 == post.ticket)
        });
        heard.of(post)
    }

    /// Waits until a channel has come so far.
    pub(crate) fn wait_last(&self, post: &Post, last: u64) -> Order {
        let heard = self.wait(&format!("the event {last}"), |heard| {
            heard.channels.get(&post.id).is_some_and(|it| it.last() >= last)
        });
        heard.of(post)
    }

    pub(crate) fn stop(self) {
        assert_eq!(self.storage.stop(SOON).events, 0);
    }

    pub(crate) fn abandon(self) {
        let _ = self.storage.stop(Duration::ZERO);
    }
}

impl Post {
    pub(crate) fn new(node: &str, number: u64, room: &'static str, channel: &'static str) -> Post {
        let shard = ShardId((number % u64::from(SHARDS)) as u16);
        Post {
            id: ChannelId::new(shard, number),
            address: Arc::new(Address { room: Name::fixed(room), channel: Name::fixed(channel) }),
            life: format!("life-of-{node}-{number}").into(),
            keep: Keep { messages: 1_000_000, age_ms: 0, bytes: 0 },
            ticket: 0,
        }
    }

    pub(crate) fn record(&self) -> ChannelRecord {
        ChannelRecord {
            address: Arc::clone(&self.address),
            epoch: Arc::clone(&self.life),
            term: 0,
            past: Vec::new(),
            channel_type: ChannelType::General,
            created_us: 7,
            created_by: Some(Name::fixed("ann")),
            metadata: None,
            guests: Vec::new(),
            auto_created: true,
        }
    }

    pub(crate) fn key(&self, what: &str) -> String {
        format!("arqonbus:{{{}}}:{what}", self.address)
    }
}
