//! Plays a transcript against a daemon.

use crate::common::daemon::{program, serve_flags};
use crate::common::{Daemon, PATIENCE};
use crate::peer::{Kind, Peer};
use crate::placeholders::Placeholders;
use crate::redis::Redis;
use crate::script::{Item, Script, Sent};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long nothing may come before a step that is written anew is over.
const QUIET: Duration = Duration::from_millis(600);
/// For how long a transcript is watched for what should not come after its last step.
const AFTERWARDS: Duration = Duration::from_millis(50);

/// Plays a script and gives what came. A script that is checked goes on with its next step when as much
/// came as it says; one that is written anew, when nothing comes any more.
pub(crate) fn play(script: &Script, shards: u16, is_writing: bool) -> Script {
    let mut player = Player::new(script, shards);
    let mut played = Vec::new();
    let last = script.0.iter().rposition(|item| matches!(item, Item::Step { .. }));
    for (at, item) in script.0.iter().enumerate() {
        let Item::Step { line, sent } = item else {
            played.push(item.clone());
            continue;
        };
        player.act(line);
        match is_writing {
            // The next step follows at once.
            _ if is_hasty(line) => {}
            true => player.settle(),
            false => player.wait_for(sent),
        }
        if Some(at) == last {
            sleep(AFTERWARDS);
            player.poll();
        }
        let sent = if is_hasty(line) { Vec::new() } else { player.take() };
        played.push(Item::Step { line: line.clone(), sent });
    }
    Script(played)
}

struct Player {
    flags: Vec<String>,
    daemon: Option<Daemon>,
    redis: Option<Redis>,
    peers: BTreeMap<String, Peer>,
    placeholders: Placeholders,
}

impl Player {
    fn new(script: &Script, shards: u16) -> Player {
        let mut flags = vec![
            "--shards".to_owned(),
            shards.to_string(),
            "--node".to_owned(),
            "node1".to_owned(),
            // What a process may hold differs from machine to machine.
            "--max-connections".to_owned(),
            "1000".to_owned(),
        ];
        let mut redis = None;
        for item in &script.0 {
            let Item::Step { line, .. } = item else { continue };
            if line == "* redis" {
                let server = Redis::start();
                flags.extend(["--storage".to_owned(), "redis".to_owned()]);
                flags.extend(["--redis-url".to_owned(), server.url()]);
                redis = Some(server);
            } else if let Some(more) = line.strip_prefix("* daemon ") {
                for flag in more.split(' ').filter(|word| word.starts_with("--")) {
                    // A flag that the script gives takes the place of the player's.
                    if let Some(at) = flags.iter().position(|own| own == flag) {
                        flags.drain(at..at + 2);
                    }
                }
                flags.extend(more.split(' ').map(str::to_owned));
            }
        }
        let (peers, placeholders) = (BTreeMap::new(), Placeholders::new());
        let mut player = Player { flags, daemon: None, redis, peers, placeholders };
        player.start();
        player
    }

    fn start(&mut self) {
        let mut command = program();
        command.args(serve_flags()).args(&self.flags);
        self.daemon = Some(Daemon::of_command(command));
    }

    fn act(&mut self, line: &str) {
        let line = self.placeholders.fill(line);
        match line.split_once(' ') {
            Some(("*", what)) => self.direct(what),
            Some((name, what)) => self.act_as(name, what),
            None => panic!("no step: {line:?}"),
        }
    }

    fn direct(&mut self, what: &str) {
        const RUNS: &str = "the daemon runs";
        match what.split_once(' ').unwrap_or((what, "")) {
            ("redis" | "daemon", _) => {}
            ("restart", _) => {
                self.daemon.take().expect(RUNS).stop();
                self.start();
            }
            ("kill", _) => {
                self.daemon.take().expect(RUNS).kill();
                self.start();
            }
            ("drain", _) => self.daemon.as_ref().expect(RUNS).signal(Signal::TERM),
            ("redis-dies", _) => self.redis.as_mut().expect("a Redis runs").kill(),
            ("wait", ms) => sleep(Duration::from_millis(ms.parse().expect("milliseconds"))),
            _ => panic!("no such step: * {what}"),
        }
    }

    fn act_as(&mut self, name: &str, what: &str) {
        let (verb, rest) = what.split_once(' ').unwrap_or((what, ""));
        let bus = self.daemon.as_ref().map(|daemon| daemon.bus);
        if matches!(verb, "connects" | "http") {
            let bus = bus.expect("the daemon runs");
            let peer = match verb {
                "http" => Peer::open(bus, &unescape(rest)),
                _ => {
                    let (query, headers) = match rest.strip_prefix("| ") {
                        Some(headers) => ("", headers),
                        None => rest.split_once(" | ").unwrap_or((rest, "")),
                    };
                    let headers = headers.split(" | ").filter(|header| !header.is_empty());
                    let headers: String = headers.map(|header| format!("{header}\r\n")).collect();
                    Peer::connect(bus, &format!("/?{query}"), &headers)
                }
            };
            // Whoever had the name has no more to say.
            self.peers.insert(name.to_owned(), peer);
            return;
        }
        let peer = self.peers.get_mut(name).unwrap_or_else(|| panic!("{name} is not connected"));
        match verb {
            "->" | "->>" => peer.send_frame(Kind::Text, &lengthen(rest)),
            "ping" => peer.send_frame(Kind::Ping, rest.as_bytes()),
            "pongs" => peer.send_frame(Kind::Pong, rest.as_bytes()),
            "binary" => peer.send_frame(Kind::Binary, rest.as_bytes()),
            "sends" => peer.send(&unescape(rest)),
            "sleeps" => peer.sleep(),
            "hangs" => peer.hang_up(),
            "closes" => {
                let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
                let code: u16 = code.parse().expect("a close code");
                peer.send_frame(
                    Kind::Close,
                    &[&code.to_be_bytes()[..], reason.as_bytes()].concat(),
                );
            }
            _ => panic!("no such step: {name} {what}"),
        }
    }

    fn poll(&mut self) -> bool {
        self.peers.values_mut().fold(false, |any, peer| peer.poll() | any)
    }

    fn settle(&mut self) {
        let mut since = Instant::now();
        while since.elapsed() < QUIET {
            match self.poll() {
                true => since = Instant::now(),
                false => sleep(Duration::from_millis(1)),
            }
        }
    }

    fn wait_for(&mut self, sent: &[Sent]) {
        let deadline = Instant::now() + PATIENCE;
        let is_short = |(name, peer): (&String, &Peer)| {
            peer.len() < sent.iter().filter(|line| line.to == *name).count()
        };
        self.poll();
        while self.peers.iter().any(is_short) && Instant::now() < deadline {
            if !self.poll() {
                sleep(Duration::from_micros(200));
            }
        }
    }

    /// What came since the last step.
    fn take(&mut self) -> Vec<Sent> {
        let mut all = Vec::new();
        for (name, peer) in &mut self.peers {
            let mut lines = peer.take();
            lines.sort_by_cached_key(|line| address(line));
            all.extend(lines.into_iter().map(|text| (name.clone(), text)));
        }
        let hide = |(to, text): (String, String)| Sent { to, text: self.placeholders.hide(&text) };
        all.into_iter().map(hide).collect()
    }
}

/// Whether a step is one of several at once: what comes of it stands behind the last of them.
fn is_hasty(line: &str) -> bool {
    matches!(line.split(' ').nth(1), Some("->>" | "pongs"))
}

/// Where a message belongs: what has the same address is in order. The end of a connection is last.
fn address(line: &str) -> (bool, String, String) {
    let is_end = line == "end" || line.starts_with("close ");
    let json: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
    (is_end, text("room"), text("channel"))
}

/// The bytes that `\r`, `\n`, `\\` and `\xNN` stand for; all else stands for itself.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next().expect("something follows a backslash") {
            b'r' => bytes.push(b'\r'),
            b'n' => bytes.push(b'\n'),
            b'\\' => bytes.push(b'\\'),
            b'x' => {
                let digits = [rest.next().expect("a digit"), rest.next().expect("a digit")];
                let digits = std::str::from_utf8(&digits).expect("hexadecimal digits");
                bytes.push(u8::from_str_radix(digits, 16).expect("hexadecimal digits"));
            }
            other => panic!("no such escape: \\{}", char::from(other)),
        }
    }
    bytes
}

/// The bytes of a message, in which `{long N}` stands for N letters.
fn lengthen(text: &str) -> Vec<u8> {
    let Some((before, rest)) = text.split_once("{long ") else { return text.as_bytes().to_vec() };
    let (count, after) = rest.split_once('}').expect("the count ends");
    let letters = "x".repeat(count.parse().expect("a count"));
    format!("{before}{letters}{after}").into_bytes()
}
