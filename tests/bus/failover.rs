//! A master with a replica: when the master dies and a sentinel puts the replica in its place, what
//! was acknowledged is there, and the bus goes on by itself; and without the replicas that were asked
//! for nothing is acknowledged, and nothing lost.

use crate::common::{Daemon, eventually};
use crate::durable::{ADDRESS, start, start_at, under_load};
use crate::redis::Redis;
use crate::redis::sentinel::Watched;
use serde_json::json;
use std::thread;
use std::time::Duration;

/// An event is acknowledged when one replica has it.
const REPLICATED: [&str; 4] = ["--replicas", "1", "--replicas-timeout-ms", "500"];
const MANY: [&str; 2] = ["--many-nodes", "true"];

fn is_well(daemon: &Daemon) -> Option<()> {
    (daemon.get("/status").json()["storage_state"]["state"] == "ok").then_some(())
}

fn fails_over(names: &[&str]) {
    let mut watched = Watched::start();
    let url = watched.url();
    let start = |name: &str| {
        let mut flags = REPLICATED.to_vec();
        // However much a client missed while its id was still that of a dead node, it may be given.
        flags.extend(["--node", name, "--outbox-bytes", "1000000000"]);
        flags.extend(MANY.iter().filter(|_| names.len() > 1));
        start_at(&url, &flags)
    };
    let mut daemons: Vec<Daemon> = names.iter().map(|name| start(name)).collect();
    let outcome = under_load(daemons.iter().map(|daemon| daemon.bus).collect(), |_| {
        thread::sleep(Duration::from_millis(400));
        watched.fail_over();
        daemons.iter().for_each(|daemon| {
            eventually("it is told", || is_well(daemon).map_or(Some(()), |()| None));
        });
        watched.bring_back();
        daemons.iter().for_each(|daemon| eventually("all is well again", || is_well(daemon)));
        thread::sleep(Duration::from_millis(200));
        daemons.remove(0)
    });
    daemons.into_iter().for_each(|daemon| _ = daemon.stop());
    outcome.check(&format!("a failover under {names:?}"), start(names[0]));
}

#[test]
fn what_was_acknowledged_survives_a_failover() {
    fails_over(&["one"]);
}

#[test]
fn what_several_nodes_acknowledged_survives_a_failover() {
    fails_over(&["one", "two"]);
}

#[test]
fn without_the_replicas_that_were_asked_for_nothing_is_acknowledged_and_nothing_lost() {
    for more in [&[][..], &MANY] {
        let (redis, replica) = (Redis::start(), Redis::start());
        let flags = [&REPLICATED[..], more, &["--ack-timeout-ms", "1000"]].concat();
        let daemon = start(&redis, &flags);
        let (mut ann, mut bob) = (daemon.client("ann"), daemon.client("bob"));
        ann.join(ADDRESS);
        bob.join(ADDRESS);
        let id = ann.publish_with(ADDRESS, json!({"n": 1}), json!({"ack": true}));
        let refused = ann.reply(&id);
        assert_eq!(
            (&refused["code"], &refused["error"]),
            (&json!(503), &json!("STORAGE_UNAVAILABLE"))
        );
        assert_eq!(bob.event()["payload"], json!({"n": 1}), "it is delivered all the same");
        replica.cli(&["REPLICAOF", "127.0.0.1", &redis.port().to_string()]);
        let mut again = ann.envelope("event", ADDRESS, json!({"n": 1}));
        again["id"] = id.as_str().into();
        again["metadata"] = json!({"ack": true});
        eventually("it is known to be stored", || {
            ann.send(&again);
            (ann.reply(&id)["result"] == json!({"sequence": 1, "duplicate": true})).then_some(())
        });
        eventually("all is well", || is_well(&daemon));
        assert_eq!(ann.publish_acked(ADDRESS, json!({"n": 2})), 2);
        assert_eq!(replica.cli(&["XLEN", "arqonbus:{ledger:entries}:stream"]), "2");
        daemon.stop();
    }
}
