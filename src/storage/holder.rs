//! The right to write under a prefix: one node has it at a time.
//!
//! It is a hash in Redis with a token, the end of a lease, and a number, the **generation**, that
//! grows with every connection. Every change carries the generation, and every channel remembers
//! the highest that wrote to it; so what an older connection or another node still has under way
//! is refused. A lease that has run out may be taken by another node, and so may at once that of a
//! process of this host that is dead.
//!
//! *Invariants*: a token that has held the right never takes it from another, since what was kept
//! here meanwhile may contradict what the other wrote; a generation is given once.

use crate::protocol::timestamp;
use crate::storage::keys::Keys;
use crate::storage::link::{ALONE, HOLD, Link, RENEW};
use crate::storage::settings::{LEASE_MS, Settings};
use crate::storage::trouble::{Trouble, Wrong};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// What stands for a token while several nodes share what is kept.
pub(super) const SHARED: &str = "shared";

/// This process, as the one who writes.
#[derive(Debug)]
pub(super) struct Holder {
    token: String,
    has_held: AtomicBool,
    /// A generation that must be passed, as it was seen at some channel.
    floor: AtomicU64,
}

/// What came of trying to get the right to write.
#[derive(Debug)]
pub(super) enum Hold {
    /// It is ours; every change carries this generation.
    Held {
        generation: u64,
        /// How often rooms and channels were changed.
        changes: u64,
        /// Whether Redis has forgotten that it was ours before, and so maybe much else.
        is_forgotten: bool,
    },
    /// Another node has it, for so long unless it says that it lives.
    Other { wrong: Wrong, left_ms: u64 },
    /// Another node has taken it from us.
    Overtaken(Wrong),
}

impl Holder {
    pub(super) fn new() -> Holder {
        let process = Process::this().map_or("unknown".to_owned(), |process| process.to_string());
        let token = format!("{:016x}/{process}", fastrand::u64(..));
        Holder { token, has_held: AtomicBool::new(false), floor: AtomicU64::new(0) }
    }

    /// Notes that a later writer was seen.
    pub(super) fn saw(&self, generation: u64) {
        self.floor.fetch_max(generation, Relaxed);
    }

    /// Tries to get the right, or a new generation of it.
    pub(super) async fn hold(
        &self,
        link: &Link,
        keys: &Keys,
        settings: &Settings,
    ) -> Result<Hold, Trouble> {
        let mut dead = String::new();
        let has_held = self.has_held.load(Relaxed);
        loop {
            let mut call = HOLD.call(&[&keys.writer]);
            call.arg(&self.token).arg(&settings.node).arg(LEASE_MS);
            call.arg(self.floor.load(Relaxed)).arg(u8::from(has_held)).arg(&dead).arg(host());
            let (word, text, number, token): (String, String, u64, String) = link
                .run(&HOLD, &call)
                .await
                .map_err(|trouble| foreign(trouble, &keys.writer, "hash"))?;
            let wrong = || other_writer(&text, &token, &settings.prefix);
            match word.as_str() {
                "held" => {
                    let is_forgotten = has_held && text == "new";
                    self.has_held.store(true, Relaxed);
                    // A master in another's place may not have heard of it.
                    self.saw(number);
                    let changes = token.parse().unwrap_or(0);
                    return Ok(Hold::Held { generation: number, changes, is_forgotten });
                }
                "overtaken" => return Ok(Hold::Overtaken(wrong())),
                _ if dead != token && is_dead(&token) => dead = token,
                _ => return Ok(Hold::Other { wrong: wrong(), left_ms: number }),
            }
        }
    }

    /// Deletes what nodes have left that shared what is kept here before this one wrote alone.
    pub(super) async fn sweep(&self, link: &Link, keys: &Keys) -> Result<(), Trouble> {
        let mut call = ALONE.call(&[&keys.writer, &keys.clients, &keys.nodes]);
        call.arg(&self.token);
        link.run::<u64>(&ALONE, &call).await.map(|_| ())
    }

    /// Says that this process lives, and gives how often rooms and channels were changed. `None` if
    /// the right is gone.
    pub(super) async fn renew(&self, link: &Link, keys: &Keys) -> Result<Option<u64>, Trouble> {
        self.set_lease(link, keys, LEASE_MS).await
    }

    /// Says that this process has ended well, so that another needs not wait.
    pub(super) async fn release(&self, link: &Link, keys: &Keys) -> Result<Option<u64>, Trouble> {
        self.set_lease(link, keys, 0).await
    }

    async fn set_lease(
        &self,
        link: &Link,
        keys: &Keys,
        lease_ms: u64,
    ) -> Result<Option<u64>, Trouble> {
        let mut call = RENEW.call(&[&keys.writer]);
        call.arg(&self.token).arg(lease_ms);
        let (word, changes): (String, u64) = link.run(&RENEW, &call).await?;
        Ok((word == "done").then_some(changes))
    }
}

/// Whose the right is, as the scripts say it: the name, the host and since when in ms, in a line each.
pub(super) fn other_writer(said: &str, token: &str, prefix: &str) -> Wrong {
    let mut lines = said.lines();
    let node = lines.next().unwrap_or_default().to_owned();
    let prefix = prefix.to_owned();
    if token == SHARED {
        return Wrong::Shared { node, prefix };
    }
    let mut whereabouts = Vec::new();
    if let Some(host) = lines.next().filter(|host| !host.is_empty()) {
        whereabouts.push(format!("host {host}"));
    }
    if let Some(process) = Process::of_token(token) {
        whereabouts.push(format!("process {}", process.id));
    }
    if let Some(since_ms @ 1..) = lines.next().and_then(|since| since.parse::<u64>().ok()) {
        let since = timestamp::format(since_ms.saturating_mul(1_000));
        whereabouts.push(format!("since {}", String::from_utf8_lossy(&since)));
    }
    let whereabouts = match whereabouts.is_empty() {
        true => String::new(),
        false => format!(" ({})", whereabouts.join(", ")),
    };
    Wrong::AnotherWriter { node, prefix, whereabouts }
}

/// The name of this host, in one line; empty where it is not known.
pub(super) fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.lines().next().unwrap_or_default().trim().to_owned()
}

/// Names the key that is not ours.
pub(super) fn foreign(trouble: Trouble, key: &str, wanted: &'static str) -> Trouble {
    match trouble {
        Trouble::Foreign => {
            let found = "value of another type".to_owned();
            Trouble::Wrong(Wrong::ForeignKey { key: key.to_owned(), found, wanted })
        }
        other => other,
    }
}

/// A process, so that its end can be seen by another one beside it.
#[derive(Debug, PartialEq, Eq)]
struct Process {
    /// The boot of the host.
    boot: String,
    /// The namespace that the id counts in.
    namespace: String,
    id: u32,
    /// When it started, so that a later process of the same id is another.
    started: String,
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}/{}", self.boot, self.namespace, self.id, self.started)
    }
}

impl Process {
    fn this() -> Option<Process> {
        Process::running(std::process::id())
    }

    /// The process of this id, if there is one, as seen from here.
    fn running(id: u32) -> Option<Process> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        let namespace = fs::read_link("/proc/self/ns/pid").ok()?.to_string_lossy().into_owned();
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // The name stands in parentheses and may hold anything; the start is the 20th field after.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace();
        let is_zombie = fields.next() == Some("Z");
        let started = fields.nth(18)?.to_owned();
        (!is_zombie).then_some(Process { boot, namespace, id, started })
    }

    /// The process of a token.
    fn of_token(token: &str) -> Option<Process> {
        let mut parts = token.split('/').skip(1).map(str::to_owned);
        let (boot, namespace) = (parts.next()?, parts.next()?);
        let id = parts.next()?.parse().ok()?;
        Some(Process { boot, namespace, id, started: parts.next()? })
    }
}

/// Whether a token's process is known to be dead: it ran beside this one, and runs no more. When
/// in doubt it lives.
pub(super) fn is_dead(token: &str) -> bool {
    let (Some(theirs), Some(ours)) = (Process::of_token(token), Process::this()) else {
        return false;
    };
    let is_beside = (&theirs.boot, &theirs.namespace) == (&ours.boot, &ours.namespace);
    is_beside && Process::running(theirs.id).is_none_or(|running| running != theirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_writer_is_told_with_its_whereabouts_as_far_as_it_says_them() {
        let token = "0/boot/pid:[1]/42/7";
        for (said, token, expected) in [
            (
                "one\nbox\n1764000000000",
                token,
                "the node one (host box, process 42, since 2025-11-24T16:00:00",
            ),
            ("one", token, "the node one (process 42) writes under the prefix p already"),
            ("one\n\n0", "0/unknown", "the node one writes under the prefix p already"),
            ("", "", "the node  writes"),
            ("two\nbox\n5", SHARED, "the node two shares what is kept"),
        ] {
            let sentence = other_writer(said, token, "p").to_string();
            assert!(sentence.starts_with(expected), "{sentence}");
        }
    }

    #[test]
    fn a_token_tells_whether_its_process_is_dead() {
        assert!(!is_dead(&Holder::new().token));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let token = format!("0/{}", Process::running(child.id()).unwrap());
        assert!(!is_dead(&token));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_dead(&token));
        assert!(!is_dead("0/another-boot/pid:[1]/1/1"), "of another host nothing is known");
        for garbled in ["", "0", "0/unknown", "0/a/b/c/d"] {
            assert!(!is_dead(garbled));
        }
    }
}
