//! Presence: who asked for it is told who comes and goes, channel by channel.

use crate::common::{Client, Daemon, on_shards};
use serde_json::{Value, json};

on_shards! { watchers_are_told_who_comes_and_goes whole_rooms_can_be_watched }

#[track_caller]
fn told(watcher: &mut Client, event: &str) -> Value {
    let notice = watcher.notice(event);
    assert_eq!(notice["from"], "arqonbus_server");
    json!([notice["room"], notice["channel"], notice["payload"]["client_id"]])
}

fn watchers_are_told_who_comes_and_goes(daemon: Daemon) {
    let mut watcher = daemon.client("watcher");
    let mut blind = daemon.client("blind");
    blind.join("lab:a");
    watcher.join_with("lab:a", json!({"presence": true}));
    let mut ann = daemon.client_with("client_id=ann&client_type=ai-agent&screen_name=Ann");
    ann.join("lab:a");
    let notice = watcher.notice("joined");
    assert_eq!(
        notice["payload"],
        json!({"event": "joined", "client_id": "ann", "client_type": "ai-agent", "screen_name": "Ann"})
    );
    assert_eq!((&notice["room"], &notice["channel"]), (&json!("lab"), &json!("a")));
    // Joining again is no news.
    ann.join_with("lab:a", json!({"echo": true}));
    ann.join("lab:b");
    ann.leave("lab:a");
    assert_eq!(told(&mut watcher, "left"), json!(["lab", "a", "ann"]));
    // At connect, and by the end of the connection.
    let bob = daemon.client_with("client_id=bob&join=lab:a");
    assert_eq!(told(&mut watcher, "joined"), json!(["lab", "a", "bob"]));
    bob.close();
    assert_eq!(told(&mut watcher, "left"), json!(["lab", "a", "bob"]));
    drop(ann);
    watcher.assert_quiet();
    blind.assert_quiet();
    // Whoever stops asking hears nothing more.
    watcher.join_with("lab:a", json!({"presence": false}));
    let _carl = daemon.client_with("client_id=carl&join=lab:a");
    watcher.assert_quiet();
}

fn whole_rooms_can_be_watched(daemon: Daemon) {
    let mut watcher = daemon.client("watcher");
    watcher.join_with("lab:*", json!({"presence": true}));
    let mut ann = daemon.client("ann");
    for channel in ["a", "b"] {
        ann.join(&format!("lab:{channel}"));
        // A channel's first member made it; the watcher was there as soon as it was.
        assert_eq!(told(&mut watcher, "joined"), json!(["lab", channel, "ann"]));
    }
    drop(ann);
    let mut left = [told(&mut watcher, "left"), told(&mut watcher, "left")];
    left.sort_by_key(Value::to_string);
    assert_eq!(left, [json!(["lab", "a", "ann"]), json!(["lab", "b", "ann"])]);
    watcher.assert_quiet();
}
