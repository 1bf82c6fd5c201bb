//! Clients that come back to another node with the token of their session: they are who they were at
//! once, and whoever still counts their older connection learns it.

use super::super::Client;
use super::{World, for_each_seed};
use crate::base::ids::ShardId;
use crate::base::limits::HAND_OVER_MS;
use crate::broker::delivery::Deliveries;
use crate::broker::record::{Record, StorageNews};
use crate::broker::returning::{KeptSession, Recalled, SessionPlan, SessionRecord};
use crate::protocol::close::CloseReason;
use crate::protocol::command::Identity;
use crate::protocol::names::Name;
use crate::protocol::session::{SessionKey, SessionToken};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const CLOSED: &str = r#"{"closed":4013}"#;
const IN_USE: &str = r#"{"rejected":"CLIENT_ID_IN_USE"}"#;

/// Some nodes whose sessions are kept.
struct Kept {
    world: World,
    sessions: BTreeMap<SessionKey, KeptSession>,
}

impl Kept {
    fn new(count: usize) -> Kept {
        let mut world = World::new(count);
        let random = || Some(std::array::from_fn(|_| fastrand::u8(..)));
        let plan = SessionPlan { ttl_ms: 60_000, answer_timeout_ms: 5_000, random };
        let edges = world.nodes.iter_mut().flat_map(|bus| &mut bus.edges);
        edges.for_each(|edge| edge.keep_sessions(plan));
        Kept { world, sessions: BTreeMap::new() }
    }

    /// What edges record of sessions is kept, and what they ask is answered.
    fn trade(&mut self) {
        for node in 0..self.world.nodes.len() {
            for at in 0..self.world.nodes[node].edges.len() {
                let now = self.world.nodes[node].now;
                while let Some(record) =
                    self.world.nodes[node].edges[at].take_session_record(now, true)
                {
                    let Record::Session(record) = record else { panic!("{record:?}") };
                    self.take(node, record);
                }
            }
        }
        self.world.settle();
    }

    fn take(&mut self, node: usize, record: SessionRecord) {
        if self.world.store.borrow().nodes[node].is_dead {
            return;
        }
        match record {
            SessionRecord::Here(key, kept) | SessionRecord::Left(key, kept) => {
                if self.sessions.get(&key).is_none_or(|known| known.life <= kept.life) {
                    self.sessions.insert(key, *kept);
                }
            }
            SessionRecord::Over(key, life) => {
                if self.sessions.get(&key).is_some_and(|known| known.life <= life) {
                    self.sessions.remove(&key);
                }
            }
            SessionRecord::Recall(key, conn) => {
                let kept = self.sessions.get(&key).cloned();
                let recalled = kept.map_or(Recalled::Unknown, |kept| Recalled::Found(kept.into()));
                let news = StorageNews::Session(conn.conn, recalled);
                let (bus, mut out) = (&mut self.world.nodes[node], Deliveries::default());
                bus.edges[conn.shard.index()].on_storage(bus.now, &news, &mut out);
                bus.deliver(ShardId(conn.shard.0), out);
            }
        }
    }

    /// A client that is in `r:c`, and its token.
    fn connect(&mut self, node: usize, id: &'static str) -> (Client, String) {
        let identity = Identity { client_id: Some(Name::fixed(id)), ..Identity::default() };
        let client = self.world.nodes[node].knock(0, id, identity);
        self.world.settle();
        let welcome = self.world.nodes[node].heard(&client)[0]["payload"].clone();
        let token = welcome["session"]["token"].as_str().unwrap().to_owned();
        let watch = json!({"presence": true});
        self.world.nodes[node].done(&client, "join_channel", "r:c", watch);
        self.trade();
        (client, token)
    }

    /// It knocks with its token, and Redis says what it knows; nothing else has happened yet.
    fn knock(&mut self, node: usize, id: &'static str, token: &str) -> Client {
        let session = Some(SessionToken::given(token));
        let identity = Identity { session, ..Identity::default() };
        self.world.nodes[node].knock(1, id, identity)
    }

    /// It comes back; the first that it hears, as text.
    fn come_back(&mut self, node: usize, id: &'static str, token: &str) -> (Client, Value) {
        let client = self.knock(node, id, token);
        self.trade();
        self.trade();
        let first = self.world.nodes[node].heard(&client).into_iter().next().unwrap_or_default();
        (client, first)
    }

    fn heard(&mut self, node: usize, client: &Client) -> Vec<String> {
        self.world.nodes[node].heard(client).iter().map(Value::to_string).collect()
    }

    /// A connection has ended.
    fn end(&mut self, node: usize, client: &Client) {
        self.world.nodes[node].end(client, CloseReason::Superseded);
        self.trade();
    }

    fn participants(&mut self, node: usize, client: &Client) -> Vec<String> {
        let info = self.world.nodes[node].done(client, "channel_info", "r:c", json!({}));
        let names = info["participants"].as_array().unwrap().iter();
        let names: Vec<String> =
            names.map(|one| one["client_id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(info["participant_count"], names.len());
        names
    }

    /// Whether a private message to ann arrives at this connection and at no other.
    fn reaches(&mut self, from: (usize, &Client), ann: (usize, &Client)) {
        self.world.nodes[ann.0].heard(ann.1);
        let payload = json!({"target": "ann"});
        self.world.nodes[from.0].say(from.1, "private", "r:pm", payload, json!({}));
        self.world.settle();
        let sender = from.1.id;
        assert_eq!(self.world.events(ann.0, ann.1), [format!("private {sender}")]);
    }
}

fn is_resumed(first: &Value) -> bool {
    first["payload"]["session"]["resumed"] == true
}

#[test]
fn who_returns_from_a_dead_node_has_its_id_before_anybody_has_noticed() {
    let mut kept = Kept::new(3);
    let ((_, token), (bob, _)) = (kept.connect(0, "ann"), kept.connect(1, "bob"));
    let (cat, _) = kept.connect(2, "cat");
    kept.world.store.borrow_mut().nodes[0].is_dead = true;
    // Without the token she is on the dead node as long as that is believed to live.
    let identity = Identity { client_id: Some(Name::fixed("ann")), ..Identity::default() };
    let thief = kept.world.nodes[1].knock(0, "ann", identity);
    assert_eq!(kept.heard(1, &thief), [IN_USE]);
    kept.world.events(1, &bob);
    kept.world.events(2, &cat);
    let (ann, welcome) = kept.come_back(1, "ann", &token);
    assert!(is_resumed(&welcome), "{welcome}");
    assert_eq!(welcome["payload"]["joined"][0]["channel"], "c");
    assert_eq!(welcome["payload"]["joined"][0]["participants"], 3, "each is counted once");
    for (node, of) in [(1, &bob), (2, &cat), (1, &ann)] {
        assert_eq!(kept.participants(node, of), ["ann", "bob", "cat"]);
    }
    kept.reaches((2, &cat), (1, &ann));
    kept.reaches((1, &bob), (1, &ann));
    kept.world.store.borrow_mut().bury(0);
    kept.world.settle();
    for (node, of) in [(1, &bob), (2, &cat)] {
        assert_eq!(kept.participants(node, of), ["ann", "bob", "cat"]);
        assert_eq!(kept.world.events(node, of), Vec::<String>::new(), "she was never gone");
    }
    kept.world.nodes[1].end(&ann, CloseReason::Lost);
    kept.trade();
    assert_eq!(kept.world.events(1, &bob), ["left ann"]);
    assert_eq!(kept.world.events(2, &cat), ["left ann"]);
}

#[test]
fn a_node_that_lives_closes_the_connection_that_a_client_has_left_for_another_node() {
    let mut kept = Kept::new(3);
    let ((old, token), (bob, _)) = (kept.connect(0, "ann"), kept.connect(0, "bob"));
    let (cat, _) = kept.connect(2, "cat");
    for node in [(0, &bob), (2, &cat)] {
        kept.world.events(node.0, node.1);
    }
    kept.heard(0, &old);
    let (new, welcome) = kept.come_back(1, "ann", &token);
    assert!(is_resumed(&welcome), "{welcome}");
    assert_eq!(kept.heard(0, &old).last().unwrap(), CLOSED);
    // What is for her goes to the new connection, though the old one has not ended yet.
    kept.reaches((0, &bob), (1, &new));
    kept.reaches((2, &cat), (1, &new));
    kept.end(0, &old);
    assert_eq!(kept.world.store.borrow().ids[&Name::fixed("ann")].0, 1, "it frees nothing");
    kept.reaches((0, &bob), (1, &new));
    for (node, of) in [(0, &bob), (2, &cat)] {
        assert_eq!(kept.participants(node, of), ["ann", "bob", "cat"]);
        assert_eq!(kept.world.events(node, of), Vec::<String>::new(), "she was never gone");
    }
    // And back, while the second connection lives.
    let (third, welcome) = kept.come_back(0, "ann", &token);
    assert!(is_resumed(&welcome), "{welcome}");
    assert_eq!(kept.heard(1, &new).last().unwrap(), CLOSED);
    kept.end(1, &new);
    kept.reaches((2, &cat), (0, &third));
    assert_eq!(kept.sessions.len(), 3, "nothing is over");
    let life = |kept: &Kept| kept.sessions[&SessionToken::given(&token).key()].life;
    let before = life(&kept);
    let (_, welcome) = kept.come_back(2, "ann", &token);
    assert!(is_resumed(&welcome) && life(&kept) > before);
}

#[test]
fn a_node_that_was_cut_off_does_not_win_back_who_has_gone_on_elsewhere() {
    let mut kept = Kept::new(2);
    let (old, token) = kept.connect(0, "ann");
    kept.world.cut_off(0);
    kept.heard(0, &old);
    let (new, welcome) = kept.come_back(1, "ann", &token);
    assert!(is_resumed(&welcome), "{welcome}");
    assert_eq!(kept.heard(0, &old), [""; 0], "nobody can tell it");
    kept.world.mend(0);
    assert_eq!(kept.heard(0, &old).last().unwrap(), CLOSED);
    kept.end(0, &old);
    assert_eq!(kept.world.store.borrow().ids[&Name::fixed("ann")].0, 1);
    let (bob, _) = kept.connect(0, "bob");
    kept.reaches((0, &bob), (1, &new));
}

#[test]
fn of_two_nodes_that_resume_a_session_at_once_one_has_it_and_the_other_is_told() {
    for is_second_later in [false, true] {
        let mut kept = Kept::new(3);
        let (_, token) = kept.connect(0, "ann");
        kept.world.store.borrow_mut().nodes[0].is_dead = true;
        if is_second_later {
            kept.world.nodes[2].pass(10);
        }
        let (first, second) = (kept.knock(1, "ann", &token), kept.knock(2, "ann", &token));
        kept.trade();
        kept.trade();
        let (of_first, of_second) = (kept.heard(1, &first), kept.heard(2, &second));
        assert!(of_first[0].contains("welcome"), "{of_first:?}");
        match is_second_later {
            false => {
                assert_eq!(of_first.len(), 1);
                assert_eq!(of_second, [IN_USE]);
            }
            true => {
                assert_eq!(of_first.last().unwrap(), CLOSED);
                assert!(of_second[0].contains("welcome"), "{of_second:?}");
            }
        }
        let holder = kept.world.store.borrow().ids[&Name::fixed("ann")].0;
        assert_eq!(holder, 1 + usize::from(is_second_later));
    }
}

#[test]
fn nobody_who_watches_hears_of_a_session_that_is_taken_over_on_its_node() {
    for comes_back in [true, false] {
        let mut kept = Kept::new(2);
        let (old, token) = kept.connect(0, "ann");
        let ((bob, _), (cat, _)) = (kept.connect(0, "bob"), kept.connect(1, "cat"));
        for (node, of) in [(0, &bob), (1, &cat)] {
            kept.world.events(node, of);
        }
        let new = kept.knock(0, "ann", &token);
        kept.trade();
        assert_eq!(kept.heard(0, &old).last().unwrap(), CLOSED);
        if !comes_back {
            kept.world.nodes[0].end(&new, CloseReason::Lost);
        }
        kept.end(0, &old);
        if comes_back {
            assert!(kept.heard(0, &new)[0].contains("welcome"));
            assert_eq!(kept.participants(1, &cat), ["ann", "bob", "cat"]);
        }
        kept.world.pass(HAND_OVER_MS);
        kept.world.pass(1_000);
        let expected: &[&str] = if comes_back { &[] } else { &["left ann"] };
        for (node, of) in [(0, &bob), (1, &cat)] {
            assert_eq!(kept.world.events(node, of), expected, "{comes_back}");
        }
        if comes_back {
            kept.world.nodes[0].end(&new, CloseReason::Lost);
            kept.trade();
            kept.world.pass(1_000);
            for (node, of) in [(0, &bob), (1, &cat)] {
                assert_eq!(kept.world.events(node, of), ["left ann"]);
            }
        }
    }
}

#[test]
fn of_two_claims_of_one_session_the_later_has_the_id_and_the_earlier_is_refused() {
    let mut kept = Kept::new(2);
    let (old, token) = kept.connect(0, "ann");
    kept.heard(0, &old);
    kept.world.set_late(1, true);
    let first = kept.knock(1, "ann", &token);
    kept.trade();
    let second = kept.knock(1, "ann", &token);
    kept.trade();
    assert_eq!(kept.heard(1, &first), [IN_USE], "its handshake is answered, and nothing closed");
    assert_eq!(kept.heard(1, &second), [""; 0]);
    kept.world.set_late(1, false);
    kept.trade();
    assert!(kept.heard(1, &second)[0].contains("welcome"));
    assert_eq!(kept.heard(1, &first), [""; 0]);
    assert_eq!(kept.heard(0, &old).last().unwrap(), CLOSED);
    kept.end(0, &old);
    let (bob, _) = kept.connect(0, "bob");
    kept.reaches((0, &bob), (1, &second));
}

#[test]
fn who_identifies_as_somebody_else_takes_nothing_over() {
    let mut kept = Kept::new(2);
    kept.connect(0, "ann");
    for (wanted, is_free) in [("ann", false), ("bob", true), ("cat", true)] {
        let identity = Identity { client_id: Some(Name::fixed("bob")), ..Identity::default() };
        let bob = kept.world.nodes[1].knock(0, "bob", identity);
        kept.world.nodes[1].heard(&bob);
        let parameters = json!({"client_id": wanted});
        let answer = kept.world.nodes[1].command(&bob, "identify", "r:c", parameters);
        assert_eq!(answer["status"] == "success", is_free, "{answer}");
        if is_free {
            let stake = kept.world.nodes[1].edges[0].session(bob.conn).unwrap().stake();
            let held = kept.world.store.borrow().ids[&Name::fixed(wanted)];
            assert_eq!((held.0, held.2), (1, stake), "the life is the one that was claimed");
        }
        kept.end(1, &bob);
    }
}

/// Whatever nodes hear late or are cut off, and wherever clients come back meanwhile: in the end each
/// client has one connection at most, and it is the one that all take for hers.
#[test]
fn in_the_end_each_client_is_where_it_is_taken_to_be() {
    for_each_seed(run);
}

fn run(seed: u64) {
    const NODES: usize = 3;
    let (mut kept, mut rng) = (Kept::new(NODES), fastrand::Rng::with_seed(seed));
    let (mut live, mut tokens) = (Vec::new(), Vec::new());
    for (node, name) in [(0, "ann"), (1, "bob")] {
        let (client, token) = kept.connect(node, name);
        live.push((node, client));
        tokens.push((name, token));
    }
    let is = |kept: &Kept, node: usize| {
        let node = &kept.world.store.borrow().nodes[node];
        (node.is_late, node.is_away)
    };
    for _ in 0..80 {
        let node = rng.usize(..NODES);
        match rng.u8(..10) {
            0..=3 if !is(&kept, node).1 => {
                let (name, token) = &tokens[rng.usize(..tokens.len())];
                live.push((node, kept.knock(node, name, token)));
            }
            4 => kept.world.set_late(node, !is(&kept, node).0),
            5 => match is(&kept, node).1 {
                true => kept.world.mend(node),
                false => kept.world.cut_off(node),
            },
            6 if !live.is_empty() => {
                let (node, client) = live.swap_remove(rng.usize(..live.len()));
                kept.world.nodes[node].end(&client, CloseReason::Lost);
            }
            // Its clock is ahead from now on.
            7 => kept.world.nodes[node].pass(rng.u64(..20)),
            8 => kept.world.pass(rng.u64(..4_000)),
            _ => kept.trade(),
        }
        reap(&mut kept, &mut live);
    }
    for node in 0..NODES {
        kept.world.set_late(node, false);
        if is(&kept, node).1 {
            kept.world.mend(node);
        }
    }
    for _ in 0..4 {
        kept.trade();
        reap(&mut kept, &mut live);
        kept.world.pass(4_000);
    }
    for (name, _) in &tokens {
        let of_it: Vec<_> = live.iter().filter(|(_, client)| client.id == *name).collect();
        let held = kept.world.store.borrow().ids.get(&Name::fixed(name)).copied();
        let held = held.map(|(node, conn, _)| (node, conn.shard, conn.conn));
        let is_at = |(node, client): &&(usize, Client)| (*node, client.shard, client.conn);
        assert_eq!(of_it.first().map(is_at), held, "seed {seed}: {name}");
        assert!(of_it.len() <= 1, "seed {seed}: {name} has {} connections", of_it.len());
    }
}

/// Whoever was refused or closed is gone.
fn reap(kept: &mut Kept, live: &mut Vec<(usize, Client)>) {
    let mut at = 0;
    while at < live.len() {
        let (node, client) = live[at].clone();
        let heard = kept.heard(node, &client);
        if heard.iter().any(|text| text == CLOSED || text.contains("rejected")) {
            live.swap_remove(at);
            kept.world.nodes[node].end(&client, CloseReason::Superseded);
        } else {
            at += 1;
        }
    }
}
