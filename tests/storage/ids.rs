//! Client ids where several nodes share a Redis: whose one is, and who takes it over.

use crate::desk::SOON;
use crate::node::Node;
use crate::redis::Redis;
use arqonbus::base::ids::{ConnId, ConnRef, ShardId};
use arqonbus::broker::peers::Verdict::{Granted, Superseded, Taken};
use arqonbus::broker::peers::{PeerRecord, Verdict};
use arqonbus::broker::returning::Stake;
use arqonbus::protocol::names::Name;
use arqonbus::protocol::session::SessionToken;
use std::time::{Duration, Instant};

const CLIENTS: &str = "arqonbus:{bus}:clients";

fn of(session: &str, life: u64) -> Option<Stake> {
    Some(Stake { key: SessionToken::given(session).key(), life })
}

/// Wishes for an id, and says nothing yet of what comes of it.
fn wish(node: &Node, id: &str, stake: Option<Stake>) {
    let slot = stake.map_or(0, |stake| stake.life as u32);
    let conn = ConnRef { shard: ShardId(0), conn: ConnId { slot, generation: 1 } };
    node.ask(PeerRecord::Claim(Name::parse(id).unwrap(), conn, stake));
}

/// The next that is said of claims after so many.
fn next(node: &Node, before: usize) -> (String, Verdict) {
    node.wait("a verdict", |heard| heard.claims.len() > before).claims[before].clone()
}

/// Claims an id; what is decided.
fn claim(node: &Node, id: &str, stake: Option<Stake>) -> Verdict {
    let before = node.heard().claims.len();
    wish(node, id, stake);
    let (of, verdict) = next(node, before);
    assert_eq!(of, id);
    verdict
}

fn held(redis: &Redis, id: &str) -> String {
    redis.cli(&["HGET", CLIENTS, id])
}

/// Waits until Redis says this of an id.
fn await_held(redis: &Redis, id: &str, is_so: impl Fn(&str) -> bool) {
    let end = Instant::now() + SOON;
    while !is_so(&held(redis, id)) {
        assert!(Instant::now() < end, "{id} stays {:?}", held(redis, id));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_later_life_of_a_session_takes_its_id_over_from_a_node_that_lives() {
    let redis = Redis::start();
    let (a, b) = (Node::at("a", &redis.url()), Node::at("b", &redis.url()));
    assert_eq!(claim(&a, "ann", of("one", 10)), Granted);
    let of_a = held(&redis, "ann");
    for (stake, verdict) in
        [(None, Taken), (of("two", 99), Taken), (of("one", 10), Taken), (of("one", 9), Superseded)]
    {
        assert_eq!(claim(&b, "ann", stake), verdict, "{stake:?}");
    }
    assert_eq!(held(&redis, "ann"), of_a);
    assert_eq!(a.heard().claims.len(), 1, "nobody has taken it");
    assert_eq!(claim(&b, "ann", of("one", 11)), Granted);
    assert_eq!(next(&a, 1), ("ann".to_owned(), Superseded), "the other node learns it");
    // What the old node gives back it has not any more.
    let of_b = held(&redis, "ann");
    assert!(of_b.ends_with(" 11") && of_b[..16] != of_a[..16], "{of_b}");
    a.ask(PeerRecord::Release(Name::fixed("ann")));
    assert_eq!(claim(&a, "other", None), Granted);
    assert_eq!(held(&redis, "ann"), of_b);
    // And back; nothing of it is told twice.
    assert_eq!(claim(&a, "ann", of("one", 12)), Granted);
    assert_eq!(next(&b, 5), ("ann".to_owned(), Superseded));
    a.ask(PeerRecord::Release(Name::fixed("ann")));
    await_held(&redis, "ann", str::is_empty);
    assert_eq!((a.heard().claims.len(), b.heard().claims.len()), (4, 6));
    a.stop();
    b.stop();
}

#[test]
fn an_earlier_life_does_not_win_its_id_back() {
    let mut redis = Redis::with(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
    let (a, b) = (Node::at("a", &redis.url()), Node::at("b", &redis.url()));
    for id in ["ann", "bob", "cat"] {
        assert_eq!(claim(&a, id, of(id, 10)), Granted);
    }
    let token = held(&redis, "ann")[..16].to_owned();
    // As if, while `a` was away, somebody had taken over one of them and another one that was thought
    // to be free, and had died.
    let key = SessionToken::given("ann").key();
    redis.cli(&["HSET", CLIENTS, "ann", &format!("00000000deadbeef {key} 11")]);
    redis.cli(&["HSET", CLIENTS, "bob", "00000000deadbeef"]);
    redis.kill();
    redis.restart();
    a.wait("restored", |heard| heard.restored > 0 && heard.claims.len() == 4);
    assert_eq!(a.heard().claims[3], ("ann".to_owned(), Superseded));
    // It was nobody's.
    await_held(&redis, "bob", |held| held.starts_with(&token));
    // Who shows the token has it, also with a clock that is behind.
    b.wait("restored", |heard| heard.restored > 0);
    assert_eq!(claim(&b, "ann", of("ann", 5)), Granted);
    a.stop();
    b.stop();
}

#[test]
fn of_two_nodes_that_claim_for_a_session_at_once_one_has_it_in_the_end() {
    let redis = Redis::start();
    let (a, b) = (Node::at("a", &redis.url()), Node::at("b", &redis.url()));
    const ROUNDS: u32 = 200;
    std::thread::scope(|scope| {
        for (node, shift) in [(&a, 0), (&b, 1)] {
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let life = 10 + u64::from((round + shift) % 2);
                    wish(node, &format!("id-{round}"), of("one", life));
                }
            });
        }
    });
    let last = |node: &Node, id: &str| {
        let claims = node.heard().claims;
        claims.into_iter().rev().find(|(of, _)| of == id).map(|(_, verdict)| verdict)
    };
    for round in 0..ROUNDS {
        let id = format!("id-{round}");
        // The later life has it, whichever came first, and the other node knows.
        let (winner, loser) = if round % 2 == 1 { (&a, &b) } else { (&b, &a) };
        let end = Instant::now() + SOON;
        while (last(winner, &id), last(loser, &id)) != (Some(Granted), Some(Superseded)) {
            assert!(Instant::now() < end, "{id}: {:?} {:?}", last(winner, &id), last(loser, &id));
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(held(&redis, &id).ends_with(" 11"));
    }
    a.stop();
    b.stop();
}

#[test]
fn what_was_claimed_without_a_session_is_understood_and_the_dead_keep_nothing() {
    let redis = Redis::start();
    let (a, b) = (Node::at("a", &redis.url()), Node::at("b", &redis.url()));
    assert_eq!(claim(&a, "ann", None), Granted);
    // As whoever knows nothing of sessions writes it, too.
    assert_eq!(held(&redis, "ann").len(), 16);
    assert_eq!(claim(&b, "ann", of("one", 10)), Taken);
    for other in ["00000000deadbeef", "not a claim", ""] {
        redis.cli(&["HSET", CLIENTS, "bob", other]);
        assert_eq!(claim(&b, "bob", of("one", 10)), Granted, "{other:?}");
        b.ask(PeerRecord::Release(Name::fixed("bob")));
    }
    // A node that dies is swept away with all its claims.
    let c = Node::at("c", &redis.url());
    assert_eq!(claim(&c, "cat", of("two", 10)), Granted);
    assert_eq!(claim(&c, "dan", None), Granted);
    assert_eq!(claim(&c, "eve", of("three", 10)), Granted);
    c.abandon();
    assert_eq!(claim(&b, "eve", of("three", 11)), Granted, "before anybody has noticed");
    await_held(&redis, "cat", str::is_empty);
    await_held(&redis, "dan", str::is_empty);
    assert!(held(&redis, "eve").ends_with(" 11"));
    a.stop();
    b.stop();
}
