//! What a start tries before it goes on: every command that is needed, and every login. What is missing is
//! named, and what can be done without is done without.

use crate::desk::{Desk, Line, settings};
use crate::node::Node;
use crate::redis::Redis;
use crate::redis::sentinel::Guard;
use arqonbus::storage::{LoadError, RedisUrl, Settings, Wrong};

/// The rights that a user needs, as README.md gives them.
fn rights() -> Vec<String> {
    let readme =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let mut lines = readme.lines().skip_while(|line| !line.starts_with("ACL SETUSER arqonbus"));
    let mut text = String::new();
    for line in lines.by_ref() {
        text.push_str(line.trim_end_matches('\\'));
        if !line.ends_with('\\') {
            break;
        }
    }
    text.split_whitespace().map(str::to_owned).collect()
}

/// A user with these rights; where to connect as it.
fn user(redis: &Redis, rights: &[String]) -> String {
    let words: Vec<&str> = rights.iter().map(String::as_str).collect();
    assert_eq!(redis.cli(&words), "OK", "{words:?}");
    redis.url().replace("redis://", "redis://arqonbus:secret@")
}

/// Begins alone and as one of several nodes, with replicas to wait for; what keeps either from it.
fn refused(url: &str) -> Vec<Wrong> {
    let settings = Settings { replicas: 1, ..settings(url) };
    let desk = Desk::open(settings.clone());
    let alone = desk.load().map(|_| ());
    match &alone {
        Ok(()) => desk.stop(),
        Err(_) => _ = desk.abandon(),
    }
    let node = Node::open("n", settings);
    let shared = node.load().map(|_| ());
    node.abandon();
    let wrong = |answer| match answer {
        Ok(()) => None,
        Err(LoadError::Wrong(wrong)) => Some(wrong),
        Err(other) => panic!("{other}"),
    };
    [alone, shared].into_iter().filter_map(wrong).collect()
}

/// Does what a bus does.
fn play(url: &str) {
    let (desk, _) = Desk::at(url);
    let mut line = Line::new(1, "r", "c");
    desk.create(&line);
    desk.say(&mut line, 10);
    desk.wait_stored(&line);
    crate::sessions::play(&desk);
    desk.stop();
    let (desk, snapshot) = Desk::at(url);
    assert_eq!(snapshot.channels[0].last, 10);
    desk.stop();
    let nodes = [Node::at("a", url), Node::at("b", url)];
    let mut post = nodes[0].follow(1, "r", "d");
    nodes[1].follow(1, "r", "d");
    nodes[0].say(&mut post, "one");
    nodes[0].wait_placed(&post);
    nodes[1].wait_last(&post, 1);
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn the_rights_that_the_readme_gives_are_enough() {
    let redis = Redis::start();
    play(&user(&redis, &rights()));
    let names = redis.cli(&["KEYS", "*probe*"]);
    assert_eq!(names, "", "nothing stays of what was only tried");
}

#[test]
fn each_right_that_is_missing_is_named() {
    let redis = Redis::start();
    let rights = rights();
    let commands: Vec<&String> = rights.iter().filter(|word| word.starts_with('+')).collect();
    assert!(commands.len() > 25, "{rights:?}");
    for without in commands {
        redis.cli(&["ACL", "DELUSER", "arqonbus"]);
        redis.cli(&["SCRIPT", "FLUSH"]);
        redis.cli(&["FLUSHALL"]);
        let others: Vec<String> = rights.iter().filter(|word| *word != without).cloned().collect();
        let wrongs = refused(&user(&redis, &others));
        let command = without.trim_start_matches('+').split('|').next().unwrap();
        if ["info", "ping", "hello", "role"].contains(&command) {
            assert!(wrongs.is_empty(), "{without} can be done without: {wrongs:?}");
            continue;
        }
        assert!(!wrongs.is_empty(), "nobody needs {without}");
        for wrong in wrongs {
            let sentence = wrong.to_string().to_lowercase();
            assert!(sentence.contains(command), "{without} is not named: {sentence}");
        }
    }
    // Keys and channels are rights, too.
    for without in ["~arqonbus:*", "&arqonbus*"] {
        redis.cli(&["ACL", "DELUSER", "arqonbus"]);
        let elsewhere = |word: &String| match word == without {
            true => without.replace("arqonbus", "elsewhere"),
            false => word.clone(),
        };
        let others: Vec<String> = rights.iter().map(elsewhere).collect();
        assert!(others != rights, "{without} is given");
        assert!(!refused(&user(&redis, &others)).is_empty(), "{without}");
    }
}

#[test]
fn a_command_under_another_name_is_named_or_done_without() {
    for (command, is_needed) in [("INFO", false), ("XADD", true), ("EVALSHA", true), ("TIME", true)]
    {
        let redis = Redis::with(&["--save", "", "--rename-command", command, ""]);
        let wrongs = refused(&redis.url());
        assert_eq!(wrongs.len(), if is_needed { 2 } else { 0 }, "{command}: {wrongs:?}");
        for wrong in wrongs {
            let sentence = wrong.to_string();
            assert!(sentence.to_uppercase().contains(command), "{sentence}");
        }
        if !is_needed {
            redis.cli(&["FLUSHALL"]);
            play(&redis.url());
        }
    }
}

#[test]
fn every_command_that_the_storage_uses_is_tried() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/storage");
    let probe = std::fs::read_to_string(folder.join("scripts/probe.lua")).unwrap();
    let rights = rights().join(" ");
    let mut folders = vec![folder];
    let mut found = std::collections::BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for (mark, quote) in [("cmd(\"", '"'), ("call('", '\''), ("scan(\"", '"')] {
                for rest in text.split(mark).skip(1) {
                    found.extend(rest.split_once(quote).map(|(command, _)| command.to_owned()));
                }
            }
        }
    }
    assert!(found.len() > 20, "{found:?}");
    for command in found {
        let name = command.to_lowercase();
        let is_given = rights.contains(&format!("+{name}"))
            // The README says when the latter is needed.
            || ["sentinel", "cluster"].contains(&&*name);
        assert!(is_given, "README.md does not give {command}");
        // What no script may call, or what is done without.
        let apart = ["evalsha", "script", "wait", "info", "hello", "role", "sentinel", "cluster"];
        if !apart.contains(&&*name) {
            assert!(probe.contains(&format!("'{command}'")), "{command} is not tried");
        }
    }
}

#[test]
fn sentinels_and_master_each_have_their_own_login() {
    let master = Redis::with(&["--save", "", "--requirepass", "m-pw"]);
    let guard = Guard::of(&master, "sentinel auth-pass main m-pw\nrequirepass s-pw\n");
    let url = |master: &str, sentinels: &str| {
        format!("redis+sentinel://{master}127.0.0.1:{}/main{sentinels}", guard.port())
    };
    let (desk, _) = Desk::at(&url(":m-pw@", "?sentinel_password=s-pw"));
    desk.stop();
    let node = Node::at("n", &url(":m-pw@", "?sentinel_password=s-pw"));
    node.stop();
    let sentinel = format!("the sentinel 127.0.0.1:{} refuses", guard.port());
    let of_master = format!("the master 127.0.0.1:{} refuses", master.port());
    for (url, who, advice) in [
        (url(":m-pw@", ""), &sentinel, "redis_sentinel_password"),
        (url(":m-pw@", "?sentinel_password=m-pw"), &sentinel, "redis_sentinel_password"),
        (url("", "?sentinel_password=s-pw"), &of_master, "before the @"),
        (url(":s-pw@", "?sentinel_password=s-pw"), &of_master, "before the @"),
    ] {
        RedisUrl::parse(&url).unwrap();
        let wrongs = refused(&url);
        assert_eq!(wrongs.len(), 2, "{url}");
        for wrong in wrongs {
            let sentence = wrong.to_string();
            assert!(matches!(wrong, Wrong::Login(_)), "{url}: {sentence}");
            assert!(sentence.contains(who) && sentence.contains(advice), "{url}: {sentence}");
            assert!(!sentence.contains("s-pw") && !sentence.contains("m-pw"), "{sentence}");
        }
    }
    let unknown = url(":m-pw@", "?sentinel_password=s-pw").replace("/main", "/other");
    let wrongs = refused(&unknown);
    assert!(
        wrongs.iter().all(|wrong| wrong.to_string().contains("no master \"other\"")),
        "{wrongs:?}"
    );
}
