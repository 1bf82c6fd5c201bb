//! Counts the system calls of a shard's thread in the real daemon, for messages that come in steps:
//! the next is sent when the last was read by everybody. So the shard sleeps before each, and what
//! it does depends on nobody's speed.

use crate::common::bus::Client;
use crate::common::daemon::{Daemon, Socket};
use crate::common::{Parcel, event, text_payload};
use crate::report::SystemCalls;
use rustix::process::{Pid, Signal, kill_process};
use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const STEPS: usize = 500;

/// What comes in one step: some messages of one publisher, in one piece.
struct Step {
    name: &'static str,
    members: usize,
    messages: usize,
}

const ALL: [Step; 3] = [
    Step { name: "pair-step", members: 2, messages: 1 },
    Step { name: "fanout-step", members: 101, messages: 1 },
    Step { name: "fanout-32-step", members: 101, messages: 32 },
];

/// Counts the system calls of every kind of step.
pub(crate) fn count_all() -> Vec<SystemCalls> {
    let program = env::current_exe().expect("this program is somewhere");
    // Examples lie in a folder beside the program that they belong to.
    let daemon =
        program.parent().and_then(Path::parent).expect("the build folder").join("arqonbus");
    ALL.iter().map(|step| count(&daemon, step)).collect()
}

fn count(program: &Path, step: &Step) -> SystemCalls {
    eprintln!("{}: {} messages to {} members", step.name, step.messages, step.members - 1);
    let daemon = Daemon::start(program, 1);
    let room = ["room-0".to_owned()];
    let connect = |number| Socket::connect(&daemon.address, &client_id(number), &room);
    let mut members: Vec<Socket> = (0..step.members).map(connect).collect();
    let mut parcel = Parcel::new(Client::ELSEWHERE);
    for _ in 0..step.messages {
        parcel.push(&event("room-0", &client_id(0), &text_payload(128), ""));
    }
    let mut next_id = 0;
    let mut run = |steps| {
        for _ in 0..steps {
            parcel.renumber(&mut next_id);
            members[0].send(&parcel.bytes);
            members[1..].iter_mut().for_each(|member| member.take(step.messages));
        }
    };
    run(20);
    let counting = Counting::start(shard_thread(&daemon));
    run(STEPS);
    let calls = counting.end();
    let messages = (STEPS * step.messages) as f64;
    let kinds = calls.iter().map(|(name, count)| (name, *count as f64 / messages));
    let kinds = kinds.filter(|(_, count)| *count >= 0.005);
    SystemCalls {
        input: step.name.to_owned(),
        per_message: calls.iter().map(|(_, count)| *count as f64).sum::<f64>() / messages,
        deliveries: step.members - 1,
        kinds: kinds
            .map(|(name, count)| format!("{name} {count:.2}"))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

fn client_id(number: usize) -> String {
    format!("client-{number:05}")
}

fn shard_thread(daemon: &Daemon) -> u32 {
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("the daemon runs");
    let name = |id: &str| fs::read_to_string(format!("/proc/{}/task/{id}/comm", daemon.pid()));
    let mut ids = threads.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let id = ids.find(|id| name(id).is_ok_and(|name| name.trim() == "shard-0"));
    id.and_then(|id| id.parse().ok()).expect("the daemon has a shard")
}

/// strace, attached to one thread.
struct Counting {
    process: Child,
    out: tempfile::NamedTempFile,
}

impl Counting {
    fn start(thread: u32) -> Counting {
        let out = tempfile::NamedTempFile::new().expect("a temporary file");
        let mut process = Command::new("strace")
            .args(["-c", "-p", &thread.to_string(), "-o"])
            .arg(out.path())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace is installed");
        let said = BufReader::new(process.stderr.take().expect("a pipe")).lines().next();
        let said = said.and_then(Result::ok).unwrap_or_default();
        assert!(said.contains("attached"), "strace may not watch the daemon: {said}");
        Counting { process, out }
    }

    /// How often each system call was made, by name.
    fn end(mut self) -> Vec<(String, u64)> {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, Signal::INT).expect("strace runs");
        self.process.wait().expect("strace ends");
        let text = fs::read_to_string(self.out.path()).expect("strace has written its table");
        let mut calls: Vec<(String, u64)> = text.lines().filter_map(row).collect();
        calls.sort();
        calls
    }
}

/// Reads a row of strace's table: share, seconds, microseconds a call, calls, errors if there are
/// any, name.
fn row(line: &str) -> Option<(String, u64)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let name = words.last().filter(|name| **name != "total")?;
    Some(((*name).to_owned(), words.get(3)?.parse().ok()?))
}
