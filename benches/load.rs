//! The whole daemon under a steady load: many connections in many rooms, messages at a fixed rate.
//!
//! It starts the release binary on a free port, connects `LOAD_CONNECTIONS` clients (5,000) to
//! `LOAD_ROOMS` rooms (50), notes what an idle connection costs, and then publishes for
//! `LOAD_SECONDS` (10) so that `LOAD_RATE` messages a second (10,000) are delivered. Latency is
//! taken from the time at which a message was due to be sent to the time at which a member's
//! client has read it, so a sender that is late counts against the result.
//!
//! Clients and daemon share the machine's cores: the figures are of this host as a whole.

mod common;

use common::daemon::Daemon;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::env;
use std::error::Error;
use std::fs;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, WebSocket};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Plan {
    connections: usize,
    rooms: usize,
    rate: f64,
    seconds: f64,
    payload: usize,
    shards: u16,
}

struct Member {
    socket: WebSocket<TcpStream>,
}

struct Totals {
    sent: u64,
    latencies_us: Vec<u32>,
    gaps: u64,
    last_sequence: Vec<u64>,
}

fn main() -> Result<()> {
    let plan = Plan {
        connections: setting("LOAD_CONNECTIONS", 5_000.0) as usize,
        rooms: setting("LOAD_ROOMS", 50.0) as usize,
        rate: setting("LOAD_RATE", 10_000.0),
        seconds: setting("LOAD_SECONDS", 10.0),
        payload: setting("LOAD_PAYLOAD", 128.0) as usize,
        shards: setting("LOAD_SHARDS", 1.0) as u16,
    };
    run(&plan, &Daemon::start(env!("CARGO_BIN_EXE_arqonbus"), plan.shards))
}

fn run(plan: &Plan, daemon: &Daemon) -> Result<()> {
    let pid = daemon.pid();
    let empty_kib = resident_kib(pid)?;
    let started = Instant::now();
    let mut members = (0..plan.connections)
        .map(|number| connect(daemon, number, number % plan.rooms))
        .collect::<Result<Vec<_>>>()?;
    let connected_s = started.elapsed().as_secs_f64();
    std::thread::sleep(Duration::from_millis(500));
    let full_kib = resident_kib(pid)?;
    let idle_cpu = cpu_seconds(pid)?;
    std::thread::sleep(Duration::from_secs(2));
    let idle_cpu = cpu_seconds(pid)? - idle_cpu;

    let cpu = cpu_seconds(pid)?;
    let mut totals = publish(plan, &mut members)?;
    let cpu = cpu_seconds(pid)? - cpu;
    let delivered = totals.latencies_us.len();
    totals.latencies_us.sort_unstable();
    let at = |share: f64| {
        let place = (delivered as f64 * share) as usize;
        let us = totals.latencies_us.get(place.min(delivered.saturating_sub(1)));
        us.map_or(f64::NAN, |&us| f64::from(us) / 1_000.0)
    };
    let expected = totals.sent * (plan.connections / plan.rooms - 1) as u64;
    println!("connections            {}", plan.connections);
    println!("rooms                  {}", plan.rooms);
    println!("shards                 {}", plan.shards);
    println!("connected in           {connected_s:.2} s");
    println!(
        "memory                 {:.0} bytes a connection",
        (full_kib - empty_kib) as f64 * 1024.0 / plan.connections as f64
    );
    println!(
        "idle CPU               {:.2} µs a connection and second",
        idle_cpu * 1e6 / 2.0 / plan.connections as f64
    );
    println!("published              {} ({} bytes of payload)", totals.sent, plan.payload);
    println!(
        "delivered              {delivered} of {expected}, {} out of order or lost",
        totals.gaps
    );
    println!("delivered a second     {:.0}", delivered as f64 / plan.seconds);
    println!(
        "latency                p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
        at(0.50),
        at(0.90),
        at(0.99),
        at(1.0)
    );
    println!("daemon CPU             {:.0} ns a delivered message", cpu * 1e9 / delivered as f64);
    if delivered as u64 != expected || totals.gaps > 0 {
        return Err("messages were lost, doubled or reordered".into());
    }
    Ok(())
}

/// The first client of each room is the one that publishes in it.
fn connect(daemon: &Daemon, number: usize, room: usize) -> Result<Member> {
    let stream = TcpStream::connect(&daemon.address)?;
    stream.set_nodelay(true)?;
    let id = client_id(number);
    let url = format!("ws://{}/?client_id={id}&join=load-{room}:main", daemon.address);
    let config = WebSocketConfig::default().read_buffer_size(8 * 1024).write_buffer_size(0);
    let (mut socket, _) =
        tungstenite::client::client_with_config(url.as_str(), stream, Some(config))?;
    socket.read()?;
    socket.get_ref().set_nonblocking(true)?;
    Ok(Member { socket })
}

/// Publishes on schedule and reads whatever comes, until everything has come.
fn publish(plan: &Plan, members: &mut [Member]) -> Result<Totals> {
    let mut poll = Poll::new()?;
    for (number, member) in members.iter().enumerate() {
        let fd = member.socket.get_ref().as_raw_fd();
        poll.registry().register(&mut SourceFd(&fd), Token(number), Interest::READABLE)?;
    }
    let ids: Vec<String> = (0..plan.rooms).map(client_id).collect();
    let per_message = (plan.connections / plan.rooms - 1) as f64;
    let interval = Duration::from_secs_f64(per_message / plan.rate);
    let count = (plan.seconds / interval.as_secs_f64()) as u64;
    let filler = "x".repeat(plan.payload.saturating_sub(24));
    let mut totals = Totals {
        sent: 0,
        latencies_us: Vec::new(),
        gaps: 0,
        last_sequence: vec![0; plan.connections],
    };
    let mut events = Events::with_capacity(4_096);
    let started = Instant::now();
    let expected = count * per_message as u64;
    let deadline = started + Duration::from_secs_f64(plan.seconds + 5.0);
    while (totals.latencies_us.len() as u64) < expected && Instant::now() < deadline {
        while totals.sent < count && started + interval * totals.sent as u32 <= Instant::now() {
            let room = totals.sent as usize % plan.rooms;
            let due_us = (interval * totals.sent as u32).as_micros();
            let text = envelope(&ids[room], totals.sent, room, due_us, &filler);
            members[room].socket.send(Message::text(text))?;
            totals.sent += 1;
        }
        let next = started + interval * totals.sent as u32;
        let wait = next.saturating_duration_since(Instant::now());
        let wait = if totals.sent < count { wait } else { Duration::from_millis(20) };
        poll.poll(&mut events, Some(wait))?;
        for event in &events {
            let number = event.token().0;
            read_all(&mut members[number], number, started, &mut totals)?;
        }
    }
    Ok(totals)
}

fn client_id(number: usize) -> String {
    format!("load-client-{number}")
}

fn envelope(id: &str, number: u64, room: usize, due_us: u128, filler: &str) -> String {
    format!(
        r#"{{"version":"1.0","id":"arq_{number}","type":"event","room":"load-{room}","channel":"main","from":"{id}","timestamp":"2025-01-01T00:00:00Z","payload":{{"due":{due_us},"fill":"{filler}"}}}}"#
    )
}

fn read_all(
    member: &mut Member,
    number: usize,
    started: Instant,
    totals: &mut Totals,
) -> Result<()> {
    loop {
        match member.socket.read() {
            Ok(Message::Text(text)) => {
                let now_us = started.elapsed().as_micros();
                let due_us = number_after(&text, "\"due\":").ok_or("a message without its time")?;
                let sequence = number_after(&text, "\"sequence\":").ok_or("no sequence")?;
                let last = &mut totals.last_sequence[number];
                if *last > 0 && sequence as u64 != *last + 1 {
                    totals.gaps += 1;
                }
                *last = sequence as u64;
                totals.latencies_us.push(now_us.saturating_sub(due_us) as u32);
            }
            Ok(_) => {}
            Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn number_after(text: &str, key: &str) -> Option<u128> {
    let rest = &text[text.find(key)? + key.len()..];
    let end = rest.find(|c: char| !c.is_ascii_digit())?;
    rest[..end].parse().ok()
}

fn setting(name: &str, default: f64) -> f64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn resident_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no VmRSS")?.parse()?)
}

/// User and system time of a process so far. The kernel counts in ticks of 10 ms; the scheduler's
/// own count of nanoseconds, summed over the threads, is finer.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let mut total_ns = 0u64;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = fs::read_to_string(thread?.path().join("schedstat"))?;
        total_ns += stat.split_whitespace().next().ok_or("no schedstat")?.parse::<u64>()?;
    }
    Ok(total_ns as f64 / 1e9)
}
