//! What a reload changes, and what it leaves alone.

use super::*;
use crate::daemon::config::reload::reload_on;
use crate::daemon::logging::Filter;

#[test]
fn a_reload_changes_what_it_may_and_names_the_rest() {
    let layers = Layers::new(&["--heartbeat-ms=500"]).file("shards = 2\n");
    let current = layers.load().unwrap().config;
    let reload = |text: &str| {
        fs::write(layers.args.config.as_ref().unwrap(), text).unwrap();
        reload_on(&layers.host, &current, &layers.args, |name| layers.lookup(name))
    };

    let same = reload("shards = 2 # the same\n").unwrap();
    assert!(same.is_empty(), "{same:?}");
    assert_eq!(same.config, current);

    let live = reload(
        "shards = 2\nlog_level = 'debug'\nallowed_origins = ['https://a.org']\n\
         drain_timeout_ms = 5\n[limits]\nhistory_size = 9\nheartbeat_ms = 900\n",
    )
    .unwrap();
    let limits = live.limits.clone().unwrap();
    assert_eq!((limits.history_size, limits.heartbeat_ms), (9, 500), "the flag still holds");
    assert_eq!(live.log_level.as_ref().map(Filter::as_str), Some("debug"));
    assert!(live.allowed_origins.as_ref().unwrap().allows("https://a.org"));
    assert_eq!(live.drain_timeout_ms, Some(5));
    assert_eq!(live.needs_restart, [""; 0]);
    assert_eq!(live.config.limits, limits);

    let fixed = reload(
        "shards = 3\nlisten = '0.0.0.0:1'\npin = 'on'\nlog_format = 'json'\nnode = 'n'\n\
         policy.publish_anywhere = ['admin']\n[turn]\nlane_budget = 1\n[[rooms]]\nname = 'new'\n",
    )
    .unwrap();
    let named = [
        "listen",
        "node",
        "shards",
        "pin",
        "log_format",
        "policy.publish_anywhere",
        "turn.lane_budget",
        "rooms",
    ];
    assert_eq!(fixed.needs_restart, named);
    assert_eq!(fixed.config, current, "nothing of it is in force");
    assert_eq!(fixed.allowed_origins, None);
    assert_eq!(fixed.config.access().origins, Origins::loopback(), "it still listens on loopback");

    let rooms = reload("shards = 2\nbootstrap = false\n").unwrap();
    assert_eq!(rooms.needs_restart, ["bootstrap"]);

    for bad in ["shards = 2\nlog_level = 'debug'\n[limits]\nhistory_size = -1\n", "shards ="] {
        assert_eq!(reload(bad).unwrap_err().len(), 1, "{bad}");
    }
    fs::remove_file(layers.args.config.as_ref().unwrap()).unwrap();
    let gone = reload_on(&layers.host, &current, &layers.args, |_| None).unwrap_err();
    assert!(gone[0].to_string().contains("can't be read"), "{gone:?}");
}

#[test]
fn every_live_key_reaches_the_running_daemon() {
    for (path, values) in SAMPLES {
        let key = find(path).unwrap();
        let layers = Layers::new(&[]).file("");
        let current = layers.load().unwrap().config;
        let default = key.field.show(&current).unwrap();
        let Some(value) =
            values.iter().map(|text| as_toml(key, text)).find(|value| *value != default)
        else {
            continue;
        };
        let layers = layers.file(&as_file(key, &value));
        let reload = reload_on(&layers.host, &current, &layers.args, |_| None).unwrap();
        let restarts = reload.needs_restart == [*path];
        assert_eq!(restarts, !key.is_live, "{path}: {reload:?}");
        assert!(!reload.is_empty(), "{path}");
        assert_eq!(reload.config == current, restarts, "{path}");
    }
}
