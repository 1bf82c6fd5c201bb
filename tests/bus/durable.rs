//! What outlives the server: with a Redis, what was acknowledged survives the death of either, and a
//! member that comes back gets exactly what it missed, or is told that this can't be said.

use crate::common::daemon::{program, serve_flags};
use crate::common::{Client, Daemon, EndOnDrop, TelemetryReader, eventually};
use crate::redis::Redis;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

/// How often each of them is killed; `DURABLE_KILLS` says otherwise.
const KILLS: u32 = 5;
pub(crate) const ADDRESS: &str = "ledger:entries";
/// A Redis that has on its disk what it has answered.
pub(crate) const DURABLE: [&str; 6] =
    ["--save", "", "--appendonly", "yes", "--appendfsync", "always"];

pub(crate) fn kills() -> u32 {
    std::env::var("DURABLE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS)
}

pub(crate) fn start(redis: &Redis, more: &[&str]) -> Daemon {
    start_at(&redis.url(), more)
}

pub(crate) fn start_at(url: &str, more: &[&str]) -> Daemon {
    let mut flags = vec!["--storage", "redis", "--redis-url", url, "--shards", "2"];
    // A whole history is read in many commands.
    flags.extend(["--history-size", "1000000", "--history-bytes", "0", "--rate-commands", "0"]);
    flags.extend(more);
    Daemon::start(&flags)
}

/// Everything that the channel's history holds: sequence and id.
pub(crate) fn history(client: &mut Client) -> Vec<(u64, String)> {
    let (mut all, mut after) = (Vec::new(), 0);
    loop {
        let parameters = json!({"channel": ADDRESS, "after": after, "limit": 1000});
        let page = client.command("history", parameters);
        for message in page["messages"].as_array().unwrap() {
            after = message["metadata"]["sequence"].as_u64().unwrap();
            all.push((after, message["id"].as_str().unwrap().to_owned()));
        }
        if page["more"] != true {
            return all;
        }
    }
}

/// Where the nodes of the bus are now: each moves with each life of its daemon.
pub(crate) struct Whereabouts(pub(crate) Mutex<Vec<SocketAddr>>);

impl Whereabouts {
    /// One of them.
    fn get(&self) -> SocketAddr {
        let nodes = self.0.lock().unwrap();
        nodes[fastrand::usize(..nodes.len())]
    }
}

/// Connects as soon as a node is there; nothing if the test is over.
fn connect(bus: &Whereabouts, id: &str, is_over: &AtomicBool) -> Option<Client> {
    while !is_over.load(SeqCst) {
        let client = Client::try_connect(bus.get(), &format!("client_id={id}"));
        if client.is_some() {
            return client;
        }
        thread::sleep(Duration::from_millis(5));
    }
    None
}

/// What the publisher was promised: the sequence of each id that was acknowledged.
pub(crate) type Ledger = BTreeMap<String, u64>;

/// How far a test is.
#[derive(Default)]
struct Phase {
    /// Nothing new is published.
    is_over: AtomicBool,
    /// All is done, or the test has failed.
    has_ended: AtomicBool,
}

/// Publishes, each id again and again until it is acknowledged.
#[derive(Default)]
struct Publisher {
    ledger: Ledger,
    /// Ids that were sent and not acknowledged.
    waiting: Vec<String>,
    ids_given: u64,
}

impl Publisher {
    /// Goes on over all lives of the bus until the test is over and everything is acknowledged, or until
    /// the test has failed: then nobody may be there to acknowledge anything.
    fn run(mut self, bus: &Whereabouts, phase: &Phase) -> Ledger {
        while let Some(mut client) = connect(bus, "publisher", &phase.has_ended) {
            if self.in_one_life(&mut client, phase).is_some() {
                break;
            }
        }
        self.ledger
    }

    /// Nothing if the bus died before all was done.
    fn in_one_life(&mut self, client: &mut Client, phase: &Phase) -> Option<()> {
        let joined = try_ask(client, "join_channel", json!({"channel": ADDRESS}))?;
        assert_eq!(joined["status"], "success", "{joined}");
        loop {
            while self.waiting.len() < 20 && !phase.is_over.load(SeqCst) {
                self.ids_given += 1;
                self.waiting.push(format!("arq_entry-{}", self.ids_given));
            }
            if self.waiting.is_empty() || phase.has_ended.load(SeqCst) {
                return Some(());
            }
            for id in &self.waiting {
                let mut event = client.envelope("event", ADDRESS, json!({}));
                event["id"] = id.as_str().into();
                event["metadata"] = json!({"ack": true});
                client.try_send_text(event.to_string()).ok()?;
            }
            for _ in 0..self.waiting.len() {
                self.take_ack(client)?;
            }
        }
    }

    fn take_ack(&mut self, client: &mut Client) -> Option<()> {
        let reply = loop {
            let message = client.try_next().ok()?;
            if message["type"] == "command_response" {
                break message["payload"].clone();
            }
        };
        match reply["status"] == "success" {
            true => {
                let id = reply["request_id"].as_str().unwrap().to_owned();
                self.waiting.retain(|waiting| *waiting != id);
                self.ledger.insert(id, reply["result"]["sequence"].as_u64().unwrap());
            }
            false => assert_eq!(reply["error"], "STORAGE_UNAVAILABLE", "{reply}"),
        }
        Some(())
    }
}

/// Asks something of a bus that may die meanwhile.
fn try_ask(client: &mut Client, command: &str, parameters: Value) -> Option<Value> {
    let mut envelope = client.envelope("command", ADDRESS, json!({}));
    envelope["payload"] = json!({"command": command, "parameters": parameters});
    let id = envelope["id"].as_str().unwrap().to_owned();
    client.try_send_text(envelope.to_string()).ok()?;
    loop {
        let message = client.try_next().ok()?;
        if message["payload"]["request_id"] == id {
            return Some(message["payload"].clone());
        }
    }
}

/// What a member was given: runs without a gap, each with the epoch it belongs to, and how often it
/// was told that what it missed can't be said.
#[derive(Default)]
pub(crate) struct Seen {
    /// The events since it last began anew, by sequence.
    run: BTreeMap<u64, String>,
    pub(crate) recovered: u32,
    pub(crate) began_anew: u32,
}

/// Follows the channel over all lives of the bus, and asserts on the way that nothing is doubled,
/// missing or out of order.
fn follow(bus: &Whereabouts, is_over: &AtomicBool) -> Seen {
    let (mut seen, mut known) = (Seen::default(), None::<(String, u64)>);
    while let Some(mut client) = connect(bus, "member", is_over) {
        let recover =
            known.as_ref().map(|(epoch, sequence)| json!({"epoch": epoch, "sequence": sequence}));
        let mut parameters = json!({"channel": ADDRESS});
        if let Some(recover) = recover {
            parameters["recover"] = recover;
        }
        let Some(joined) = try_ask(&mut client, "join_channel", parameters) else { continue };
        assert_eq!(joined["status"], "success", "{joined}");
        let joined = &joined["result"];
        let mut epoch = joined["epoch"].as_str().unwrap().to_owned();
        let mut last = match (joined["recovered"] == true, &known) {
            (true, Some((_, sequence))) => {
                seen.recovered += 1;
                *sequence
            }
            (_, known) => {
                if known.is_some() {
                    println!("a member began anew after {known:?}: {joined}");
                    seen.began_anew += 1;
                }
                seen.run.clear();
                joined["sequence"].as_u64().unwrap()
            }
        };
        known = Some((epoch.clone(), last));
        // Whether the order is another one from here on, as a notice said.
        let mut is_other = false;
        while let Ok(message) = client.try_next() {
            if message["type"] != "event" {
                let payload = &message["payload"];
                if payload["event"] == "gap" {
                    assert_eq!(payload["reason"], "order_changed", "it keeps up: {payload}");
                }
                if payload["event"] == "epoch_changed" {
                    (seen.began_anew, is_other) = (seen.began_anew + 1, true);
                    epoch = payload["epoch"].as_str().unwrap().to_owned();
                    seen.run.clear();
                }
                continue;
            }
            match is_other {
                // What it has seen under other sequences does not come again.
                true => assert!(message.sequence() > seen.run.keys().last().copied().unwrap_or(0)),
                false => {
                    assert_eq!(message.sequence(), last + 1, "no gap, nothing twice, in order")
                }
            }
            last = message.sequence();
            seen.run.insert(last, message["id"].as_str().unwrap().to_owned());
            known = Some((epoch.clone(), last));
            if message["payload"]["n"] == "the end" {
                return seen;
            }
        }
    }
    seen
}

/// What came of a load: what was promised, what the bus says is there, what a member saw.
pub(crate) struct Outcome {
    ledger: Ledger,
    history: Vec<(u64, String)>,
    pub(crate) seen: Seen,
}

impl Outcome {
    /// Compares all of it with what a bus that starts now has from its storage alone.
    pub(crate) fn check(&self, what: &str, daemon: Daemon) {
        let mut auditor = daemon.client("auditor");
        auditor.join(ADDRESS);
        let kept = history(&mut auditor);
        let by_id: BTreeMap<&str, u64> =
            kept.iter().map(|(sequence, id)| (&**id, *sequence)).collect();
        let lost = self.ledger.keys().filter(|id| !by_id.contains_key(id.as_str())).count();
        let doubled = kept.len() - by_id.len();
        let is_elsewhere = |(id, sequence): &(&String, &u64)| {
            by_id.get(id.as_str()).is_some_and(|at| at != *sequence)
        };
        let in_order =
            kept.iter().zip(1..).filter(|(entry, expected)| entry.0 == *expected).count();
        let moved = self.ledger.iter().filter(is_elsewhere).count();
        let reordered = moved + kept.len() - in_order;
        println!(
            "{what}: {} acknowledged, {} kept: {lost} lost, {doubled} doubled, {reordered} \
             reordered; a member recovered {} times and began anew {} times",
            self.ledger.len(),
            kept.len(),
            self.seen.recovered,
            self.seen.began_anew
        );
        assert_eq!((lost, doubled, reordered), (0, 0, 0));
        assert_eq!(kept, self.history, "what it told while it lived is what it kept");
        for (sequence, id) in &self.seen.run {
            assert_eq!(by_id.get(id.as_str()), Some(sequence), "{id} was delivered and kept");
        }
        assert!(self.ledger.len() > 20, "there was a load");
        daemon.stop();
    }
}

/// Runs a publisher and a member while `disturb` does what it does to the bus and its storage, and
/// gives the bus that is there at the end.
pub(crate) fn under_load(
    bus: Vec<SocketAddr>,
    disturb: impl FnOnce(&Whereabouts) -> Daemon,
) -> Outcome {
    let bus = Whereabouts(Mutex::new(bus));
    let phase = Phase::default();
    thread::scope(|scope| {
        let (_over, _ended) = (EndOnDrop(&phase.is_over), EndOnDrop(&phase.has_ended));
        let publisher = scope.spawn(|| Publisher::default().run(&bus, &phase));
        let member = scope.spawn(|| follow(&bus, &phase.has_ended));
        let daemon = disturb(&bus);
        phase.is_over.store(true, SeqCst);
        let ledger = publisher.join().unwrap();
        let mut reader = daemon.client("reader");
        reader.join(ADDRESS);
        reader.publish_acked(ADDRESS, json!({"n": "the end"}));
        let seen = member.join().unwrap();
        let history = history(&mut reader);
        daemon.stop();
        Outcome { ledger, history, seen }
    })
}

#[test]
fn what_was_acknowledged_survives_the_death_of_the_server() {
    let redis = Redis::start();
    let mut daemon = start(&redis, &[]);
    let outcome = under_load(vec![daemon.bus], |bus| {
        let mut rng = fastrand::Rng::new();
        for _ in 0..kills() {
            thread::sleep(Duration::from_millis(rng.u64(50..400)));
            daemon.kill();
            daemon = start(&redis, &[]);
            *bus.0.lock().unwrap() = vec![daemon.bus];
        }
        thread::sleep(Duration::from_millis(100));
        daemon
    });
    outcome.check(&format!("{} kills of the bus", kills()), start(&redis, &[]));
}

#[test]
fn what_was_acknowledged_survives_the_death_of_redis() {
    let mut redis = Redis::with(&DURABLE);
    let daemon = start(&redis, &[]);
    let outcome = under_load(vec![daemon.bus], |_| {
        let mut rng = fastrand::Rng::new();
        for _ in 0..kills() {
            thread::sleep(Duration::from_millis(rng.u64(50..300)));
            redis.kill();
            thread::sleep(Duration::from_millis(rng.u64(0..150)));
            redis.restart();
        }
        eventually("all is well again", || {
            (daemon.get("/status").json()["storage_state"]["state"] == "ok").then_some(())
        });
        daemon
    });
    outcome.check(&format!("{} kills of Redis", kills()), start(&redis, &[]));
}

#[test]
fn while_redis_is_away_the_bus_says_so_and_keeps_what_is_said() {
    let mut redis = Redis::with(&DURABLE);
    let daemon = start(&redis, &["--ack-timeout-ms", "20000"]);
    let mut telemetry = TelemetryReader::connect(&daemon);
    let (mut ann, mut bob) = (daemon.client("ann"), daemon.client("bob"));
    ann.join(ADDRESS);
    bob.join(ADDRESS);
    assert_eq!(ann.publish_acked(ADDRESS, json!({"n": 1})), 1);
    assert_eq!(daemon.get("/ready").json(), json!({"status": "ready"}));
    redis.kill();
    // Nothing is written to it until somebody says something.
    let id = ann.publish_with(ADDRESS, json!({"n": 2}), json!({"ack": true}));
    let refused = ann.reply(&id);
    assert_eq!((&refused["code"], &refused["error"]), (&json!(503), &json!("STORAGE_UNAVAILABLE")));
    telemetry.find("storage_degraded", |payload| payload["reason"].is_string());
    let ready = daemon.get("/ready");
    assert_eq!((ready.status, &ready.json()["storage"]), (200, &json!("degraded")));
    assert_eq!(ann.command("status", json!({}))["storage_state"]["state"], "degraded");
    assert!(daemon.metric("arqonbus_storage_degraded", "") > 0.0);
    assert_eq!(bob.events(2)[1].sequence(), 2, "members get it at once");
    redis.restart();
    telemetry.find("storage_restored", |payload| payload["lost"] == 0);
    let mut again = ann.envelope("event", ADDRESS, json!({"n": 2}));
    again["id"] = id.as_str().into();
    again["metadata"] = json!({"ack": true});
    // Its home may hear of it a moment later.
    eventually("the first is known to be stored", || {
        ann.send(&again);
        let reply = ann.reply(&id);
        (reply["result"] == json!({"sequence": 2, "duplicate": true})).then_some(())
    });
    let kept = redis.cli(&["XLEN", "arqonbus:{ledger:entries}:stream"]);
    assert_eq!(kept, "2");
    daemon.stop();
}

#[test]
fn a_bus_that_starts_without_its_redis_takes_it_up_later() {
    let mut redis = Redis::start();
    redis.kill();
    let daemon = start(&redis, &[]);
    let mut ann = daemon.client("ann");
    ann.join(ADDRESS);
    let id = ann.publish_with(ADDRESS, json!({}), json!({"ack": true}));
    assert_eq!(ann.reply(&id)["error"], "STORAGE_UNAVAILABLE");
    redis.restart();
    eventually("what was said is stored", || {
        (redis.cli(&["XLEN", "arqonbus:{ledger:entries}:stream"]) == "1").then_some(())
    });
    assert_eq!(ann.publish_acked(ADDRESS, json!({})), 2);
    daemon.stop();
}

#[test]
fn rooms_channels_and_their_state_come_back() {
    let redis = Redis::start();
    let daemon = start(&redis, &[]);
    let mut ann = daemon.client("ann");
    ann.command("create_room", json!({"room": "lab", "config": {"member_limit": 7}}));
    let metadata = json!({"members": ["bob"], "topic": "\u{e4}"});
    let channel = json!({"channel": "lab:secret", "type": "private", "metadata": metadata});
    ann.command("create_channel", channel);
    ann.command("pause_room", json!({"room": "lab"}));
    ann.join("none:left");
    let before = ann.command("channel_info", json!({"channel": "lab:secret"}));
    daemon.stop();

    let daemon = start(&redis, &[]);
    let mut ann = daemon.client("ann");
    let rooms = ann.command("list_rooms", json!({}));
    let lab = rooms["rooms"].as_array().unwrap().iter().find(|room| room["name"] == "lab").unwrap();
    assert_eq!((&lab["state"], &lab["config"]["member_limit"]), (&json!("paused"), &json!(7)));
    let after = ann.command("channel_info", json!({"channel": "lab:secret"}));
    for key in ["type", "metadata", "created_at", "created_by", "auto_created"] {
        assert_eq!(after[key], before[key], "{key}");
    }
    ann.join("lab:secret");
    assert_eq!(ann.publish_refused("lab:secret", json!({})).what(), (409, "ROOM_PAUSED"));
    ann.command("resume_room", json!({"room": "lab"}));
    ann.publish_acked("lab:secret", json!({}));
    daemon.stop();
}

#[test]
fn what_will_not_mend_itself_is_said_and_nothing_starts() {
    let redis = Redis::with(&["--save", "", "--requirepass", "right"]);
    let refuse = |url: &str, words: &[&str]| {
        let mut command = program();
        command.args(serve_flags()).args(["--storage", "redis", "--redis-url", url]);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(!said.contains("s3cret") && !said.contains("right@"), "{said}");
        words.iter().for_each(|word| assert!(said.contains(word), "{word}: {said}"));
    };
    refuse(&format!("redis://:s3cret@127.0.0.1:{}", redis.port()), &["password"]);
    refuse(&format!("redis://:right@127.0.0.1:{}/99", redis.port()), &["database"]);
    let url = format!("redis://:right@127.0.0.1:{}", redis.port());
    let first = Daemon::start(&["--storage", "redis", "--redis-url", &url]);
    refuse(&url, &["writes under the prefix arqonbus already", "choose another prefix"]);
    let second = Daemon::start(&["--storage", "redis", "--redis-url", &url, "--key-prefix", "two"]);
    second.stop();
    first.stop();
}
