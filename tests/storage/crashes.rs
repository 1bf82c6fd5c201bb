//! What a crash leaves is swept by whoever comes, by lease: after a thousand crashes every family of keys is
//! as large as what lives.
//!
//! A node crashes here by losing its user in Redis: all its connections are closed at once, none can be
//! made again, and so it can say nothing any more, as if it had been killed.

use crate::desk::{Desk, Line, SOON, settings};
use crate::node::{Node, Post};
use crate::redis::Redis;
use arqonbus::base::ids::{ConnId, ConnRef, ShardId};
use arqonbus::broker::peers::{PeerRecord, Verdict};
use arqonbus::broker::record::Record;
use arqonbus::broker::returning::{KeptSession, SessionRecord};
use arqonbus::protocol::command::ClientType;
use arqonbus::protocol::names::Name;
use arqonbus::protocol::session::SessionToken;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// The crashes of one writer after another, and those of nodes, so many of which crash at a time.
const CRASHES: u64 = 1_000;
const AT_A_TIME: u64 = 25;

/// How many keys each family has, and how much is in them.
type Families = BTreeMap<String, (u64, u64)>;

fn families(redis: &Redis) -> Families {
    let script = "local out = {} for _, key in ipairs(redis.call('KEYS', '*')) do \
        local kind, size = redis.call('TYPE', key).ok, 1 \
        if kind == 'hash' then size = redis.call('HLEN', key) \
        elseif kind == 'set' then size = redis.call('SCARD', key) end \
        out[#out + 1] = key .. ' ' .. size end return out";
    let mut families = Families::new();
    for line in redis.cli(&["EVAL", script, "0"]).lines().filter(|line| !line.is_empty()) {
        let (key, size) = line.rsplit_once(' ').unwrap();
        let (place, rest) = key.split_once('}').unwrap();
        let kind = rest.split(':').nth(1).unwrap();
        let place = if place.ends_with("{bus") { "bus" } else { "channel" };
        let (keys, all) = families.entry(format!("{place} {kind}")).or_default();
        (*keys, *all) = (*keys + 1, *all + size.parse::<u64>().unwrap());
    }
    families
}

/// Where one connects who will crash.
fn doomed(redis: &Redis) -> String {
    let rule = ["ACL", "SETUSER", "doomed", "on", ">pw", "allkeys", "allchannels", "allcommands"];
    assert_eq!(redis.cli(&rule), "OK");
    redis.url().replace("redis://", "redis://doomed:pw@")
}

/// All that connected there crash.
fn crash(redis: &Redis) {
    assert_eq!(redis.cli(&["ACL", "DELUSER", "doomed"]), "1");
}

fn session(number: u64) -> Record {
    let token = SessionToken::given(&format!("token {number}"));
    let kept = KeptSession {
        life: 1,
        client_id: Name::parse(&format!("c-{number}")).unwrap(),
        client_type: ClientType::Human,
        screen_name: None,
        avatar: None,
        personality: None,
        subscriptions: Vec::new(),
    };
    Record::Session(SessionRecord::Here(token.key(), Box::new(kept)))
}

/// Waits until the families are these.
fn await_families(redis: &Redis, expected: &Families) {
    let end = Instant::now() + SOON;
    loop {
        let found = families(redis);
        if found == *expected {
            return;
        }
        assert!(Instant::now() < end, "it stays {found:#?} instead of {expected:#?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until the leases of all but one node are over.
fn await_living(redis: &Redis) {
    let end = Instant::now() + SOON;
    while redis.cli(&["HLEN", "arqonbus:{bus}:nodes"]) != "1" {
        assert!(Instant::now() < end, "the dead keep their leases");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn after_a_thousand_crashes_of_one_writer_there_is_what_lives() {
    let redis = Redis::start();
    let mut first = None;
    for number in 0..CRASHES {
        let url = doomed(&redis);
        let settings = arqonbus::storage::Settings { session_ttl_ms: 500, ..settings(&url) };
        let desk = Desk::open(settings);
        desk.load().unwrap_or_else(|error| panic!("{number}: {error}"));
        let mut line = Line::new(1, "r", "c");
        line.last = number;
        desk.offer(session(number));
        desk.create(&line);
        desk.say(&mut line, 1);
        desk.wait_stored(&line);
        first.get_or_insert_with(|| families(&redis));
        // One dies between the index and the channel, another between the channel and the index.
        redis.cli(&["SADD", "arqonbus:{bus}:channels", &format!("ghost:{number}")]);
        crash(&redis);
        desk.abandon();
        // Its lease is over.
        redis.cli(&["HSET", "arqonbus:{bus}:writer", "until_ms", "0"]);
    }
    // What nodes left that shared it before is nobody's, either.
    redis.cli(&["HSET", "arqonbus:{bus}:clients", "ann", "dead", "bob", "dead"]);
    redis.cli(&["HSET", "arqonbus:{bus}:nodes", "dead", "1"]);
    redis.cli(&["HSET", "arqonbus:{r:c}:nodes", "dead", "1"]);
    std::thread::sleep(Duration::from_millis(1_000));
    let (desk, snapshot) = Desk::at(&redis.url());
    assert_eq!(snapshot.channels.len(), 1);
    let mut expected = first.unwrap();
    expected.remove("bus session");
    assert_eq!(families(&redis), expected);
    assert_eq!(
        desk.storage().meters().swept.load(Relaxed),
        1,
        "each sweeps what the last one left"
    );
    assert_eq!(redis.cli(&["DBSIZE"]), "4", "writer, channels, a stream and its channel");
    desk.stop();
}

/// What every node of the test does.
fn live(node: &Node, number: u64) -> Post {
    for n in 0..4 {
        let id = Name::parse(&format!("id-{number}-{n}")).unwrap();
        let conn = ConnRef { shard: ShardId(0), conn: ConnId { slot: n, generation: 0 } };
        node.ask(PeerRecord::Claim(id, conn, None));
    }
    node.offer(session(number));
    let post = node.follow(1, "r", "c");
    let is_granted = |(_, verdict): &(String, Verdict)| *verdict == Verdict::Granted;
    node.wait("the ids", |heard| heard.claims.iter().filter(|it| is_granted(it)).count() == 4);
    post
}

#[test]
fn after_a_thousand_crashes_of_nodes_there_is_what_lives() {
    let redis = Redis::start();
    let settings = |url: &str| arqonbus::storage::Settings {
        session_ttl_ms: 500,
        commit_timeout_ms: 10_000,
        ..settings(url)
    };
    let node = |url: &str| {
        let node = Node::open("n", settings(url));
        node.load().unwrap_or_else(|error| panic!("{error}"));
        node
    };
    let survivor = node(&redis.url());
    live(&survivor, 0);
    let expected = families(&redis);
    for batch in 0..CRASHES / AT_A_TIME {
        let url = doomed(&redis);
        let nodes: Vec<Node> = (0..AT_A_TIME).map(|_| node(&url)).collect();
        for (at, node) in nodes.iter().enumerate() {
            live(node, 1 + batch * AT_A_TIME + at as u64);
        }
        redis.cli(&["SADD", "arqonbus:{bus}:channels", &format!("ghost:{batch}")]);
        crash(&redis);
        nodes.into_iter().for_each(Node::abandon);
    }
    // Whoever follows a channel sweeps who followed it and has no lease any more.
    await_living(&redis);
    survivor.follow(1, "r", "c");
    await_families(&redis, &expected);
    // And if all die, whoever comes.
    survivor.abandon();
    let url = doomed(&redis);
    let dead = node(&url);
    live(&dead, CRASHES + 1);
    crash(&redis);
    dead.abandon();
    let last = node(&redis.url());
    await_living(&redis);
    live(&last, CRASHES + 2);
    await_families(&redis, &expected);
    assert!(last.storage().meters().swept.load(Relaxed) >= 4);
    last.stop();
}
