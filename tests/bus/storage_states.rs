//! What a supervisor sees of a server whose storage can't do its work: the exit code, `/ready`, `/status`, the
//! command `status`, metrics and the log say the same, with the latest cause.

use crate::common::daemon::Daemon;
use crate::common::eventually;
use crate::durable::start;
use crate::redis::Redis;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::Duration;

/// The lines of the log at this level.
fn logged(daemon: &Daemon, level: &str) -> Vec<String> {
    let lines = daemon.log().lines();
    let lines = lines.into_iter().filter(|line| line["level"] == level);
    lines.map(|line| format!("{} {}", line["message"], line["reason"])).collect()
}

#[test]
fn a_server_that_was_overtaken_says_who_writes_and_ends() {
    let redis = Redis::start();
    let flags = ["--node", "one", "--drain-timeout-ms", "3000"];
    let mut one = start(&redis, &flags).expect_errors();
    let mut ann = one.client("ann");
    ann.join("lab:bench");
    assert_eq!(ann.publish_acked("lab:bench", json!({"n": 1})), 1);
    one.signal(Signal::STOP);
    // As if it had been stopped for longer than its lease.
    redis.cli(&["HSET", "arqonbus:{bus}:writer", "until_ms", "0"]);
    let two = start(&redis, &["--node", "two"]);
    one.signal(Signal::CONT);
    let whereabouts = format!("process {}, since ", two.pid());
    let refused = eventually("it is not ready", || {
        let answer = one.get("/ready");
        (answer.status == 503).then(|| answer.json())
    });
    let names_who = |text: &str| {
        assert!(text.contains("the node two (host "), "{text}");
        assert!(text.contains(&whereabouts), "{text}");
    };
    assert_eq!(refused["status"], "draining", "{refused}");
    names_who(refused["reason"].as_str().unwrap());
    let status = one.get("/status").json();
    assert_eq!(status["state"], "draining", "{status}");
    names_who(status["reason"].as_str().unwrap());
    names_who(status["storage_state"]["reason"].as_str().unwrap());
    assert_eq!(one.metric("arqonbus_storage_degraded", ""), 1.0);
    assert_eq!(ann.notice("closing")["payload"]["event"], "closing");
    let ended = one.wait();
    assert!(!ended.success() && ended.code().is_some(), "{ended}");
    let errors = logged(&one, "ERROR");
    assert_eq!(errors.len(), 1, "one line says it: {errors:?}");
    names_who(&errors[0]);
    // What it said while it was stopped is nowhere, and the other one goes on.
    let mut bob = two.client("bob");
    bob.join("lab:bench");
    assert_eq!(bob.publish_acked("lab:bench", json!({"n": 2})), 2);
    one.let_go();
    two.stop();
}

#[test]
fn a_degraded_server_says_the_latest_cause_everywhere() {
    let redis = Redis::start();
    let daemon = start(&redis, &["--ack-timeout-ms", "2000"]);
    let mut ann = daemon.client("ann");
    let before = daemon.get("/ready").json();
    assert_eq!(before, json!({"status": "ready"}));
    redis.cli(&["CONFIG", "SET", "requirepass", "new"]);
    redis.cli(&["-a", "new", "CLIENT", "KILL", "TYPE", "normal"]);
    let views = |ann: &mut crate::common::Client| -> [Value; 3] {
        let ready = daemon.get("/ready").json();
        let status = daemon.get("/status").json()["storage_state"].clone();
        [ready, status, ann.command("status", json!({}))["storage_state"].clone()]
    };
    let says = |views: &[Value; 3], word: &str| {
        views.iter().all(|view| view["reason"].as_str().is_some_and(|it| it.contains(word)))
    };
    let first = eventually("all say that the password is wrong", || {
        let views = views(&mut ann);
        says(&views, "password").then_some(views)
    });
    let [ready, status, _] = &first;
    assert_eq!((&ready["storage"], &status["state"]), (&json!("degraded"), &json!("degraded")));
    // Another cause, later: the time of the beginning stays, the cause and its time do not.
    redis.cli(&["-a", "new", "REPLICAOF", "127.0.0.1", "1"]);
    redis.cli(&["-a", "new", "CONFIG", "SET", "requirepass", ""]);
    let second = eventually("all say another cause", || {
        let views = views(&mut ann);
        says(&views, "READONLY").then_some(views)
    });
    for (first, second) in first.iter().zip(&second) {
        assert_eq!(first["since"], second["since"]);
        let at = |view: &Value| view["reason_at"].as_str().unwrap().to_owned();
        assert!(at(second) > at(first), "{first} {second}");
    }
    let warnings = logged(&daemon, "WARN");
    for word in ["password", "READONLY"] {
        assert!(warnings.iter().any(|line| line.contains(word)), "{word}: {warnings:?}");
    }
    assert_eq!(daemon.metric("arqonbus_storage_degraded", ""), 1.0);
    redis.cli(&["REPLICAOF", "NO", "ONE"]);
    eventually("it is well again", || {
        (daemon.get("/ready").json() == json!({"status": "ready"})).then_some(())
    });
    assert_eq!(daemon.metric("arqonbus_storage_degraded", ""), 0.0);
    daemon.stop();
}

#[test]
fn a_connection_that_is_cut_costs_no_ack() {
    let mut redis = Redis::with(&crate::durable::DURABLE);
    for many in [false, true] {
        let flags = ["--many-nodes", if many { "true" } else { "false" }];
        let daemon = start(&redis, &flags);
        let mut ann = daemon.client("ann");
        ann.join("lab:bench");
        for round in 0..5 {
            redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
            ann.publish_acked("lab:bench", json!({"round": round}));
        }
        redis.kill();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(200));
                redis.restart();
            });
            ann.publish_acked("lab:bench", json!({"after": "a restart"}));
        });
        daemon.stop();
        redis.cli(&["FLUSHALL"]);
    }
}
