//! Clients that return to their sessions: what is recorded of them, who goes on and who does not.

use super::{Bus, Client};
use crate::base::ids::ShardId;
use crate::base::limits::Limits;
use crate::broker::delivery::Deliveries;
use crate::broker::policy::PublishAnywhere;
use crate::broker::record::{Record, StorageNews};
use crate::broker::returning::{KeptSession, Recalled, SessionPlan, SessionRecord};
use crate::protocol::close::CloseReason;
use crate::protocol::command::{Address, ClientType, Identity};
use crate::protocol::names::Name;
use crate::protocol::session::{SessionKey, SessionToken, TOKEN_BYTES};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const ANSWER_TIMEOUT_MS: u64 = 5_000;

fn random() -> Option<[u8; TOKEN_BYTES]> {
    Some(std::array::from_fn(|_| fastrand::u8(..)))
}

/// A storage of sessions, as the edges see it.
#[derive(Default)]
struct Store {
    kept: BTreeMap<SessionKey, KeptSession>,
    /// The sessions without a connection.
    left: Vec<SessionKey>,
    /// Whether it answers nothing.
    is_silent: bool,
    written: u32,
}

struct World {
    bus: Bus,
    store: Store,
}

impl World {
    fn new() -> World {
        let mut bus = Bus::new(Limits::default(), PublishAnywhere::default());
        let (ttl_ms, answer_timeout_ms) = (60_000, ANSWER_TIMEOUT_MS);
        for edge in &mut bus.edges {
            edge.keep_sessions(SessionPlan { ttl_ms, answer_timeout_ms, random });
        }
        World { bus, store: Store::default() }
    }

    /// A turn: what is to be recorded is, and what was asked is answered.
    fn turn(&mut self) {
        for at in 0..self.bus.edges.len() {
            let now = self.bus.now;
            while let Some(record) = self.bus.edges[at].take_session_record(now, true) {
                let Record::Session(record) = record else { panic!("{record:?}") };
                self.take(record);
            }
            assert!(!self.bus.edges[at].has_session_records());
        }
        self.bus.settle();
    }

    fn take(&mut self, record: SessionRecord) {
        let is_later = |store: &Store, key, life| {
            store.kept.get(key).is_none_or(|known: &KeptSession| known.life <= life)
        };
        match record {
            SessionRecord::Here(key, kept) | SessionRecord::Left(key, kept)
                if !is_later(&self.store, &key, kept.life) => {}
            SessionRecord::Here(key, kept) => {
                self.store.written += 1;
                self.store.left.retain(|left| *left != key);
                self.store.kept.insert(key, *kept);
            }
            SessionRecord::Left(key, kept) => {
                self.store.kept.insert(key, *kept);
                self.store.left.push(key);
            }
            SessionRecord::Over(key, life) => {
                if is_later(&self.store, &key, life) {
                    self.store.kept.remove(&key);
                }
            }
            SessionRecord::Recall(key, conn) if !self.store.is_silent => {
                let kept = self.store.kept.get(&key).cloned();
                let recalled = kept.map_or(Recalled::Unknown, |kept| Recalled::Found(kept.into()));
                self.news(conn.shard, &StorageNews::Session(conn.conn, recalled));
            }
            SessionRecord::Recall(..) => {}
        }
    }

    fn news(&mut self, shard: ShardId, news: &StorageNews) {
        let mut out = Deliveries::default();
        self.bus.edges[shard.index()].on_storage(self.bus.now, news, &mut out);
        self.bus.deliver(shard, out);
    }

    /// A new client; it and its token.
    fn connect(&mut self, shard: u16, id: &'static str) -> (Client, String) {
        let identity = Identity { client_id: Some(Name::fixed(id)), ..Identity::default() };
        let client = self.bus.knock(shard, id, identity);
        let welcome = self.welcome(&client);
        assert_eq!(welcome["session"]["resumed"], false);
        assert_eq!(welcome["session"]["ttl_ms"], 60_000);
        let token = welcome["session"]["token"].as_str().unwrap().to_owned();
        assert_eq!(token.len(), 2 * TOKEN_BYTES);
        (client, token)
    }

    /// Somebody returns; what they heard first.
    fn come_back(&mut self, shard: u16, id: &'static str, token: &str) -> (Client, Value) {
        self.come_back_to(shard, id, token, Vec::new())
    }

    fn come_back_to(
        &mut self,
        shard: u16,
        id: &'static str,
        token: &str,
        join: Vec<Address>,
    ) -> (Client, Value) {
        let session = Some(SessionToken::given(token));
        let client = self.bus.knock(shard, id, Identity { session, join, ..Identity::default() });
        self.turn();
        let first = self.bus.heard(&client).into_iter().next().unwrap_or_default();
        self.turn();
        let payload = first.get("payload").cloned();
        (client, payload.unwrap_or(first))
    }

    fn welcome(&mut self, client: &Client) -> Value {
        let welcome = self.bus.heard(client)[0]["payload"].clone();
        assert_eq!(welcome["event"], "welcome");
        self.turn();
        welcome
    }

    fn end(&mut self, client: &Client, reason: CloseReason) {
        self.bus.end(client, reason);
        self.turn();
    }
}

fn address(text: &str) -> Address {
    let (room, channel) = text.split_once(':').unwrap();
    let room = Name::parse(room).unwrap();
    Address { room, channel: Name::parse_channel(channel).unwrap() }
}

#[test]
fn a_client_gets_back_who_it_was_and_what_it_had_joined() {
    let mut world = World::new();
    let identity = Identity {
        client_id: Some(Name::fixed("ann")),
        client_type: Some(ClientType::AiAgent),
        screen_name: Some("Ann".to_owned()),
        avatar: Some("a.png".to_owned()),
        personality: Some("calm".to_owned()),
        join: vec![address("lab:query")],
        ..Identity::default()
    };
    let ann = world.bus.knock(0, "ann", identity);
    let welcome = world.welcome(&ann);
    let token = welcome["session"]["token"].as_str().unwrap().to_owned();
    for (name, parameters) in [
        ("lab:plain", json!({})),
        ("lab:echo", json!({"echo": true})),
        ("lab:left", json!({})),
        ("hall:*", json!({"presence": true})),
    ] {
        world.bus.done(&ann, "join_channel", name, parameters);
    }
    world.bus.done(&ann, "leave_channel", "lab:left", json!({}));
    let before = world.store.written;
    world.turn();
    assert_eq!(world.store.written, before + 1, "many changes of a turn are one record");
    world.turn();
    assert_eq!(world.store.written, before + 1);
    world.end(&ann, CloseReason::Lost);
    assert_eq!(world.store.left.len(), 1);

    // The server has died: another one has the store, and nothing else.
    let store = std::mem::take(&mut world.store);
    let mut world = World { store, ..World::new() };
    let (ann, welcome) = world.come_back_to(2, "ann", &token, vec![address("lab:new")]);
    assert_eq!(welcome["client_id"], "ann", "{welcome}");
    assert_eq!((&welcome["client_type"], &welcome["role"]), (&json!("ai-agent"), &json!("user")));
    assert_eq!(welcome["session"], json!({"token": token, "ttl_ms": 60_000, "resumed": true}));
    let session = world.bus.edges[2].session(ann.conn).unwrap();
    assert_eq!(session.card.screen_name.as_deref(), Some("Ann"));
    let profile = session.profile.as_ref().unwrap();
    assert_eq!(profile.avatar.as_deref(), Some("a.png"));
    assert_eq!(profile.personality.as_deref(), Some("calm"));
    let joined: Vec<String> = session
        .kept_subscriptions()
        .iter()
        .map(|kept| format!("{} {} {}", kept.address, kept.options.echo, kept.options.presence))
        .collect();
    let expected = [
        "hall:* false true",
        "lab:echo true false",
        "lab:new false false",
        "lab:plain false false",
        "lab:query false false",
    ];
    assert_eq!(joined, expected);
    assert_eq!(welcome["joined"].as_array().unwrap().len(), 5);
    assert!(welcome["joined"][0]["epoch"].is_string() && welcome["joined"][0]["sequence"] == 0);
    assert!(world.store.left.is_empty(), "it is here again");
    assert_eq!(world.bus.edges[2].take_return_counts().resumed, 1);
}

#[test]
fn who_has_returned_recovers_what_it_missed_without_leaving() {
    let mut world = World::new();
    let ((ann, token), (bob, _)) = (world.connect(0, "ann"), world.connect(1, "bob"));
    world.bus.join(&ann, "lab:bench");
    world.bus.join(&bob, "lab:bench");
    world.turn();
    let joined = world.bus.done(&bob, "join_channel", "lab:bench", json!({}));
    world.end(&ann, CloseReason::Lost);
    for _ in 0..3 {
        world.bus.publish(&bob, "lab:bench");
    }
    let (ann, welcome) = world.come_back(0, "ann", &token);
    assert_eq!(welcome["joined"][0]["sequence"], 3, "{welcome}");
    let place = json!({"recover": {"epoch": joined["epoch"], "sequence": 1}});
    world.bus.publish(&bob, "lab:bench");
    let recovered = world.bus.done(&ann, "join_channel", "lab:bench", place.clone());
    assert_eq!((&recovered["recovered"], &recovered["missed"]), (&json!(true), &json!(3)));
    let sequences: Vec<Value> = world
        .bus
        .heard(&ann)
        .iter()
        .map(|message| json!([message["metadata"]["sequence"], message["metadata"]["replayed"]]))
        .collect();
    let expected = json!([[4, null], [2, true], [3, true], [4, true]]);
    assert_eq!(Value::from(sequences), expected);
    // Who did not return has missed nothing.
    let refused = world.bus.command(&bob, "join_channel", "lab:bench", place);
    assert_eq!(refused["error"], "ALREADY_JOINED");
}

#[test]
fn channels_that_refuse_are_told_and_passed_over() {
    let mut world = World::new();
    let ((ann, token), (owner, _)) = (world.connect(1, "ann"), world.connect(0, "owner"));
    world.bus.join(&ann, "lab:secret");
    world.bus.join(&ann, "lab:open");
    world.end(&ann, CloseReason::ByClient);
    world.bus.done(&owner, "delete_channel", "lab:secret", json!({}));
    world.bus.done(&owner, "create_channel", "lab:secret", json!({"type": "private"}));
    let (_, welcome) = world.come_back(1, "ann", &token);
    let names = |list: &Value| -> Vec<Value> {
        list.as_array().unwrap().iter().map(|one| one["channel"].clone()).collect()
    };
    assert_eq!(names(&welcome["joined"]), ["open"]);
    assert_eq!(names(&welcome["refused"]), ["secret"]);
    assert_eq!(welcome["refused"][0]["error"], "CHANNEL_PRIVATE");
}

#[test]
fn a_token_that_nothing_is_kept_under_is_refused() {
    let mut world = World::new();
    let (ann, token) = world.connect(0, "ann");
    let key = SessionToken::given(&token).key().to_string();
    world.end(&ann, CloseReason::ByClient);
    for wrong in ["x", &key, &token[1..], &token.to_uppercase()] {
        let (_, first) = world.come_back(0, "ann", wrong);
        assert_eq!(first["rejected"], "SESSION_UNKNOWN", "{wrong}");
    }
    assert_eq!(world.bus.edges[0].take_return_counts().unknown, 4);
    // Who was sent away does not come back.
    for (reason, may_return) in [
        (CloseReason::GoingAway, true),
        (CloseReason::Silent, true),
        (CloseReason::Superseded, true),
        (CloseReason::Violations, false),
    ] {
        let (ann, welcome) = world.come_back(0, "ann", &token);
        assert_eq!(welcome["session"]["resumed"], true, "{welcome}");
        world.end(&ann, reason);
        assert_eq!(world.store.kept.is_empty(), !may_return);
    }
    assert_eq!(world.come_back(0, "ann", &token).1["rejected"], "SESSION_UNKNOWN");
    assert_eq!(world.bus.edges[0].session_count(), 0);
}

#[test]
fn a_new_connection_takes_over_from_the_one_before() {
    for shard in [0, 2] {
        let mut world = World::new();
        let (old, token) = world.connect(0, "ann");
        world.bus.join(&old, "lab:bench");
        world.turn();
        let (new, first) = world.come_back(shard, "ann", &token);
        assert_eq!(first, Value::Null, "it waits for the end of the other");
        assert_eq!(world.bus.heard(&old).pop().unwrap()["closed"], 4013);
        world.end(&old, CloseReason::Superseded);
        let welcome = world.welcome(&new);
        assert_eq!(
            (&welcome["client_id"], &welcome["joined"][0]["channel"]),
            (&json!("ann"), &json!("bench"))
        );
        world.turn();
        assert!(world.store.left.len() <= 1, "what the old one says comes too late");
        let kept = world.store.kept.values().next().unwrap();
        let stay = world.bus.edges[new.shard.index()].session(new.conn).unwrap().stay.as_ref();
        assert_eq!(kept.life, stay.unwrap().life);
    }
}

#[test]
fn who_watches_hears_nothing_of_a_session_that_is_taken_over() {
    for address in ["lab:bench", "lab:*"] {
        let mut world = World::new();
        let (old, token) = world.connect(0, "ann");
        let (bob, _) = world.connect(1, "bob");
        world.bus.join(&old, address);
        world.bus.done(&bob, "join_channel", address, json!({"presence": true}));
        world.turn();
        world.bus.heard(&bob);
        let (new, _) = world.come_back(2, "ann", &token);
        world.end(&old, CloseReason::Superseded);
        world.welcome(&new);
        world.bus.pass(5_000);
        assert_eq!(world.bus.heard(&bob), [Value::Null; 0], "{address}");
        world.end(&new, CloseReason::Lost);
        world.bus.pass(1_000);
        let left = world.bus.heard(&bob);
        assert_eq!((left.len(), &left[0]["payload"]["event"]), (1, &json!("left")), "{address}");
    }
}

#[test]
fn of_many_that_return_at_once_the_last_goes_on() {
    let mut world = World::new();
    let (old, token) = world.connect(0, "ann");
    let (second, _) = world.come_back(1, "ann", &token);
    let (third, _) = world.come_back(2, "ann", &token);
    assert_eq!(world.bus.heard(&second)[0]["rejected"], "CLIENT_ID_IN_USE");
    world.end(&old, CloseReason::Superseded);
    assert_eq!(world.welcome(&third)["session"]["resumed"], true);
    // One that gives up while it waits is not waited for.
    let (fourth, _) = world.come_back(1, "ann", &token);
    world.end(&fourth, CloseReason::Lost);
    world.end(&third, CloseReason::Superseded);
    let (ann, _) = world.connect(0, "ann");
    // Another session has the id: nobody is closed for the first one.
    let (_, first) = world.come_back(1, "ann", &token);
    assert_eq!(first["rejected"], "CLIENT_ID_IN_USE");
    assert!(world.bus.heard(&ann).is_empty());
}

#[test]
fn nobody_waits_for_a_storage_that_does_not_answer() {
    let mut world = World::new();
    let (ann, token) = world.connect(0, "ann");
    world.end(&ann, CloseReason::ByClient);
    world.store.is_silent = true;
    let (late, first) = world.come_back(0, "ann", &token);
    assert_eq!(first, Value::Null);
    assert!(world.bus.edges[0].next_deadline_ms().is_some());
    world.bus.pass(ANSWER_TIMEOUT_MS + 1);
    assert_eq!(world.bus.heard(&late)[0]["rejected"], "STORAGE_UNAVAILABLE");
    // An answer that comes later finds nobody.
    let found = Recalled::Found(Box::new(world.store.kept.values().next().unwrap().clone()));
    world.news(ShardId(0), &StorageNews::Session(late.conn, found));
    assert_eq!(world.bus.edges[0].session_count(), 0);
    // Nor while it is away.
    let (waiting, _) = world.come_back(0, "ann", &token);
    world.news(ShardId(0), &StorageNews::Degraded("gone".into()));
    assert_eq!(world.bus.heard(&waiting)[0]["rejected"], "STORAGE_UNAVAILABLE");
    let session = Some(SessionToken::given(&token));
    let identity = Identity { session, ..Identity::default() };
    let refusal = world.bus.edges[0].refuses_return(&identity).unwrap();
    assert_eq!(refusal.fault.word(), "STORAGE_UNAVAILABLE");
    world.news(ShardId(0), &StorageNews::Restored);
    assert!(world.bus.edges[0].refuses_return(&identity).is_none());
    world.store.is_silent = false;
    assert_eq!(world.come_back(0, "ann", &token).1["client_id"], "ann");
}

#[test]
fn without_sessions_there_are_no_tokens() {
    let mut bus = Bus::usual();
    let ann = bus.knock(0, "ann", Identity::default());
    assert_eq!(bus.heard(&ann)[0]["payload"].get("session"), None);
    let session = Some(SessionToken::given("x"));
    let refusal = bus.edges[0].refuses_return(&Identity { session, ..Identity::default() });
    assert_eq!(refusal.unwrap().fault.word(), "SESSION_UNKNOWN");
    assert!(bus.edges[0].refuses_return(&Identity::default()).is_none());
}

#[test]
fn a_session_that_changes_again_and_again_is_recorded_once_a_second() {
    let mut world = World::new();
    let (client, _) = world.connect(0, "ann");
    let mut records = 0;
    for turn in 0..300 {
        // A turn every 10 ms, in each of which the client joins or leaves.
        let verb = if turn % 2 == 0 { "join_channel" } else { "leave_channel" };
        world.bus.done(&client, verb, "lab:bench", json!({}));
        let now = world.bus.now;
        while let Some(record) = world.bus.edges[0].take_session_record(now, false) {
            let Record::Session(record) = record else { panic!("{record:?}") };
            records += 1;
            world.take(record);
        }
        if let Some(due_ms) = world.bus.edges[0].next_session_ms() {
            assert!((1..=1_000).contains(&(due_ms - now.mono_ms())), "it is recorded in time");
        }
        world.bus.now = now.after(std::time::Duration::from_millis(10));
    }
    assert!((2..=4).contains(&records), "{records} records in three seconds");
    // The end of the connection says all of it at once.
    world.bus.join(&client, "lab:last");
    world.end(&client, CloseReason::ByClient);
    let kept = world.store.kept.values().next().unwrap();
    let last = kept.subscriptions.iter().any(|one| one.address.channel.as_str() == "last");
    assert!(last, "{kept:?}");
}
