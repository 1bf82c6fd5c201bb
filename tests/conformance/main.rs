//! Transcripts of the wire: what clients send to a real daemon and what it sends back, byte for byte.
//!
//! Each file in `transcripts` is played on 1, 2 and 4 shards, and the daemon must send exactly what the
//! file holds. `ARQONBUS_WRITE_TRANSCRIPTS=1` writes the files anew; a difference in git is then a change
//! of the protocol. A file holds, line by line:
//!
//! | line | meaning |
//! |---|---|
//! | `# text` | a comment |
//! | `* daemon FLAGS` | the daemon's flags; the first line that is no comment, if it is there |
//! | `* redis` | a Redis is started and the daemon uses it; before `* daemon` |
//! | `* restart`, `* kill`, `* drain` | the daemon is stopped or killed and started again, or told to end |
//! | `* redis-dies` | the Redis is killed |
//! | `* wait MS` | milliseconds go by |
//! | `ann connects QUERY` | a WebSocket handshake; behind ` \| ` further header lines |
//! | `ann http REQUEST` | a connection that sends these bytes; `\r` and `\n` are escaped |
//! | `ann -> TEXT` | a text message; `{long N}` in it stands for N letters |
//! | `ann ->> TEXT`, `ann pongs TEXT` | a text message or a pong after which the next step follows at once |
//! | `ann sends BYTES` | bytes as they are, escaped; a frame of its own is up to the script |
//! | `ann ping TEXT`, `ann binary TEXT` | a frame of that kind |
//! | `ann closes CODE REASON` | a close frame |
//! | `ann hangs up` | the end of the TCP connection |
//! | `ann sleeps` | from now on it answers no pings |
//! | `ann <- TEXT` | a text message of the daemon |
//! | `ann <- 409 TEXT` | a refused handshake: status and body |
//! | `ann <- close CODE REASON`, `ann <- pong TEXT`, `ann <- end` | a frame, and the end of TCP |
//!
//! What the server makes up is replaced: `<client 1>`, `<id 1>`, `<epoch 1>`, `<token 1>` and `<cursor 1>`
//! are numbered in the order of their appearance and can be sent back; `<time>`, `<n>` and `<version>` stand
//! for what differs between runs.
//!
//! *Order*: after each step the lines of a connection stand together. Within one room and channel they
//! are in the order of arrival; rooms and channels are sorted, because shards work independently.

#![allow(clippy::unwrap_used, reason = "a test that can't go on says so by a panic")]

#[allow(dead_code, unused_imports, unused_macros, reason = "each suite uses a part of it")]
#[path = "../common/mod.rs"]
mod common;
mod peer;
mod placeholders;
mod player;
#[allow(dead_code, reason = "each suite uses a part of it")]
#[path = "../redis/mod.rs"]
mod redis;
mod script;

use crate::player::play;
use crate::script::Script;
use arqonbus::protocol::close::CloseReason;
use arqonbus::protocol::command::help_brief;
use arqonbus::protocol::fault::Fault;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::{fs, thread};

/// Files that are played at once.
const THREADS: usize = 4;

/// Faults that no transcript shows, and why.
const UNSHOWN_FAULTS: &[(Fault, &str)] = &[
    (Fault::Unauthorized, "no authentication can be configured yet"),
    (Fault::StorageLost, "only a Redis that has lost what it had acknowledged makes it"),
    (Fault::AddressLimit, "loopback addresses are not counted"),
    (Fault::Internal, "only an error of the server makes it"),
    (Fault::Draining, "whoever comes during a drain races with its end"),
];

/// Reasons for a close that no transcript shows, and why.
const UNSHOWN_CLOSES: &[(CloseReason, &str)] = &[
    (CloseReason::ByClient, "the client's own code is sent back"),
    (CloseReason::Lost, "there is nobody to be told"),
    (CloseReason::HandshakeTimeout, "the socket is closed without a WebSocket"),
    (CloseReason::HandshakeRefused, "the refusal is an HTTP answer"),
    (CloseReason::Internal, "only an error of the server makes it"),
    (CloseReason::Unauthorized, "no authentication can be configured yet"),
    (CloseReason::AddressFull, "loopback addresses are not counted"),
    (CloseReason::Memory, "how much memory a process takes differs from run to run"),
    (CloseReason::TooSlow, "how much the kernel holds decides what comes before it"),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/transcripts")
}

/// Every transcript, by name, sorted.
fn transcripts() -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = fs::read_dir(folder())
        .expect("the transcripts are there")
        .map(|entry| entry.expect("an entry of the folder").path())
        .filter(|path| path.extension().is_some_and(|it| it == "txt"))
        .map(|path| {
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).expect("a transcript is text"))
        })
        .collect();
    all.sort();
    all
}

fn play_all(shards: u16) {
    let is_writing = std::env::var_os("ARQONBUS_WRITE_TRANSCRIPTS").is_some();
    let only = std::env::var("ARQONBUS_TRANSCRIPT").ok();
    let mut left = transcripts();
    left.retain(|(name, _)| only.as_ref().is_none_or(|only| name == only));
    let (left, wrong) = (Mutex::new(left), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let next = left.lock().unwrap().pop();
            let Some((name, text)) = next else { return };
            let script = Script::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            let played = play(&script, shards, is_writing);
            if is_writing {
                let path = folder().join(&name).with_extension("txt");
                fs::write(path, played.to_string()).expect("the transcript can be written");
            } else if let Some(difference) = script.difference(&played) {
                wrong.lock().unwrap().push(format!("{name}.txt on {shards} shards: {difference}"));
            }
        }
    };
    thread::scope(|scope| (0..THREADS).for_each(|_| _ = scope.spawn(work)));
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn on_one_shard() {
    play_all(1);
}

#[test]
fn on_two_shards() {
    // Written once, by one shard; then these show that shards make no difference.
    if std::env::var_os("ARQONBUS_WRITE_TRANSCRIPTS").is_none() {
        play_all(2);
    }
}

#[test]
fn on_four_shards() {
    if std::env::var_os("ARQONBUS_WRITE_TRANSCRIPTS").is_none() {
        play_all(4);
    }
}

/// The lines that the daemon sent, of all transcripts.
fn sent_lines() -> Vec<String> {
    let texts = transcripts();
    texts
        .iter()
        .flat_map(|(_, text)| text.lines())
        .filter(|line| line.contains(" <- "))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_command_is_shown_with_its_answer() {
    let lines = sent_lines();
    let names = serde_json::to_value(help_brief()).expect("names are JSON");
    for name in names.as_array().expect("a list") {
        let answer = format!(r#""status":"success","command":{name},"#);
        assert!(lines.iter().any(|line| line.contains(&answer)), "{name}");
    }
}

#[test]
fn every_fault_is_shown() {
    let lines = sent_lines();
    for &fault in Fault::ALL {
        let is_shown = lines.iter().any(|line| line.contains(&format!("\"{}\"", fault.word())));
        let is_exempt = UNSHOWN_FAULTS.iter().any(|(unshown, _)| *unshown == fault);
        assert!(
            is_shown != is_exempt,
            "{fault:?}: shown {is_shown}, listed as unshown {is_exempt}"
        );
    }
}

#[test]
fn every_close_is_shown() {
    let lines = sent_lines();
    for &reason in CloseReason::ALL {
        let frame = format!("<- close {} {}", reason.code(), reason.reason());
        let is_shown = lines.iter().any(|line| line.contains(&frame));
        let is_exempt = UNSHOWN_CLOSES.iter().any(|(unshown, _)| *unshown == reason);
        assert!(
            is_shown != is_exempt,
            "{reason:?}: shown {is_shown}, listed as unshown {is_exempt}"
        );
    }
}
