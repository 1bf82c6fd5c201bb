//! Connecting: so many at a time, each through the kernel's handshake, HTTP's and the bus's.

use super::Core;
use super::conn::Stage;
use crate::cli::bench::plan::Act;
use crate::cli::bench::shared::{Shared, Trouble};
use crate::cli::bench::site::{ACCEPT, Dialect};
use crate::cli::words::{Heard, Reply};
use memchr::memmem;
use rustix::event::epoll;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use serde::Deserialize;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::TcpStream;

/// The handshakes that are under way at once, over all cores.
const OPENING_MAX: usize = 256;
/// What the kernel keeps for a member that will stop reading.
const SLOW_BUFFER_BYTES: usize = 32 * 1024;
/// The longest head of an answer.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The HTTP status of a path at which there is nothing.
const NOT_FOUND: &str = "404";
/// The HTTP status of a name that another connection has.
const NAME_TAKEN: &str = "409";
/// The connections of a core whose welcome is read in full though they join nothing.
const READ_IN_FULL: u64 = 16;

/// How far the opening of a core's connections is.
#[derive(Debug)]
pub(super) struct Opening {
    /// Who is to be connected, in this order.
    queue: VecDeque<u32>,
    under_way: usize,
    most: usize,
    /// Connections that are welcomed.
    pub(super) opened: u64,
    /// When the last one was, or opening began.
    pub(super) progressed_ns: u64,
}

impl Opening {
    /// Nothing is opened yet.
    pub(super) fn new(shared: &Shared, conns: usize) -> Opening {
        let most = (OPENING_MAX / shared.threads).max(1);
        let (queue, progressed_ns) = ((0..conns as u32).collect(), shared.clock.now_ns());
        Opening { queue, under_way: 0, most, opened: 0, progressed_ns }
    }

    /// A connection is to be opened again.
    pub(super) fn push(&mut self, local: u32) {
        self.queue.push_back(local);
    }

    /// One that was under way is not any more.
    pub(super) fn give_up(&mut self) {
        self.under_way -= 1;
    }
}

#[derive(Deserialize)]
struct WelcomeBody<'a> {
    event: &'a str,
    #[serde(borrow)]
    joined: Vec<Joined<'a>>,
    #[serde(borrow, default)]
    refused: Vec<NotJoined<'a>>,
}

#[derive(Deserialize)]
struct Joined<'a> {
    room: &'a str,
    epoch: &'a str,
}

#[derive(Deserialize)]
struct NotJoined<'a> {
    error: &'a str,
}

#[derive(Deserialize, Default)]
struct RefusalBody {
    message: Option<String>,
    error: Option<String>,
}

impl Core<'_> {
    /// Begins as many connections as may be under way.
    pub(super) fn open_more(&mut self) {
        if self.opening.queue.is_empty() && self.opening.under_way == 0 {
            return;
        }
        while self.opening.under_way < self.opening.most {
            let Some(local) = self.opening.queue.pop_front() else {
                break;
            };
            if self.opening.under_way == 0 {
                self.opening.progressed_ns = self.shared.clock.now_ns();
            }
            self.opening.under_way += 1;
            if let Err(error) = self.connect(local as usize) {
                self.unreachable(&error);
                return;
            }
        }
        let idle_ns = self.shared.clock.now_ns().saturating_sub(self.opening.progressed_ns);
        if u128::from(idle_ns) > self.shared.timeout.as_nanos() {
            self.stuck();
        }
    }

    /// Nobody was added for too long.
    fn stuck(&self) {
        let is_upgraded = self.conns.iter().any(|conn| conn.stage == Stage::Entering);
        let what = match is_upgraded {
            true => "upgrades connections and sends no welcome",
            false => "answers no handshake any more",
        };
        self.shared.raise(Trouble::Refused(format!(
            "{} {what}: {} of {} connections are open, and for {:?} none was added",
            self.shared.site.host,
            self.opening.opened,
            self.conns.len(),
            self.shared.timeout
        )));
    }

    fn unreachable(&self, error: &io::Error) {
        let opened = self.opening.opened;
        let after =
            if opened > 0 { format!(", after {opened} connections") } else { String::new() };
        let host = &self.shared.site.host;
        self.shared
            .raise(Trouble::Unreachable(format!("cannot connect to {host}{after}: {error}")));
    }

    fn connect(&mut self, local: usize) -> io::Result<()> {
        let address = self.shared.site.address;
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        if self.is_slow(local) {
            // What the kernel would keep for a client that does not read hides for long that it
            // does not.
            sockopt::set_socket_recv_buffer_size(&socket, SLOW_BUFFER_BYTES)?;
        }
        match connect(&socket, &address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let mut socket = TcpStream::from(socket);
        // On loopback the kernel's handshake is mostly over by now, and the request can leave.
        let request = self.handshake(local);
        let written = socket.write(&request).ok();
        let is_out_watched = written != Some(request.len());
        let mut flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        flags.set(epoll::EventFlags::OUT, is_out_watched);
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(local as u64), flags)?;
        let conn = &mut self.conns[local];
        conn.socket = Some(socket);
        conn.is_out_watched = is_out_watched;
        conn.stage = written.map_or(Stage::Connecting, |_| Stage::Upgrading);
        conn.backlog.extend_from_slice(&request[written.unwrap_or(request.len())..]);
        Ok(())
    }

    fn handshake(&self, local: usize) -> Vec<u8> {
        let (shared, joins) = (self.shared, !self.is_returning(local));
        shared.site.request(&shared.layout, &shared.naming, self.global(local), joins)
    }

    /// The kernel has connected it, or could not.
    pub(super) fn on_connected(&mut self, local: usize) {
        let Some(socket) = &self.conns[local].socket else {
            return;
        };
        match socket.take_error() {
            Ok(None) => {}
            Ok(Some(error)) | Err(error) => return self.unreachable(&error),
        }
        self.conns[local].stage = Stage::Upgrading;
        let request = self.handshake(local);
        self.write(local, &request);
    }

    /// Looks for the end of the answer's head; gives how many bytes it took.
    pub(super) fn on_head(&mut self, local: usize, bytes: &[u8]) -> usize {
        let Some(end) = memmem::find(bytes, b"\r\n\r\n") else {
            if bytes.len() > HEAD_BYTES_MAX
                || !b"HTTP/1.1 ".starts_with(&bytes[..bytes.len().min(9)])
            {
                self.no_bus("what it answers is not HTTP");
            }
            return 0;
        };
        let (head, body) = bytes.split_at(end + 4);
        if !head.starts_with(b"HTTP/1.1 101") {
            return self.on_refusal(local, head, body);
        }
        let speaks = memmem::find(head, ACCEPT.as_bytes()).is_some();
        match self.shared.site.dialect {
            Dialect::Bus if !speaks => self.no_bus("it upgrades without the accept key"),
            Dialect::Bus => self.conns[local].stage = Stage::Entering,
            Dialect::Relay => self.on_entered(local),
        }
        head.len()
    }

    /// The first message of the bus.
    pub(super) fn on_welcome(&mut self, local: usize, text: &[u8]) {
        let seats = self.shared.layout.seats[self.global(local) as usize].len();
        // What does not look like a welcome may be a refusal, which must be told.
        let is_glanced_at = seats == 0 && self.opening.opened >= READ_IN_FULL;
        if is_glanced_at && memmem::find(text, br#""event":"welcome""#).is_some() {
            return self.on_entered(local);
        }
        let heard = std::str::from_utf8(text).ok().and_then(Heard::read);
        if let Some(Err(refused)) =
            heard.as_ref().and_then(Reply::read).map(|reply| reply.outcome())
        {
            return self.refuses(&refused.to_string());
        }
        let Some(body) = heard
            .as_ref()
            .and_then(|heard| serde_json::from_str::<WelcomeBody<'_>>(heard.payload.get()).ok())
            .filter(|body| body.event == "welcome")
        else {
            return self.no_bus("its first message is no welcome");
        };
        let is_returning = self.is_returning(local);
        if body.joined.len() != seats && !is_returning {
            let why = body.refused.first().map_or("it does not say why", |refused| refused.error);
            let joined = body.joined.len();
            return self
                .refuses(&format!("a client was let into {joined} of {seats} rooms: {why}"));
        }
        if self.shared.act == Act::Storm && !is_returning {
            let conn = self.global(local) as usize;
            let seats = self.shared.layout.seats[conn].iter().enumerate();
            let epochs: Vec<(usize, String)> = seats
                .filter_map(|(seat, &group)| {
                    let room = self.shared.naming.room(group);
                    let joined = body.joined.iter().find(|joined| joined.room == room)?;
                    Some((seat, joined.epoch.to_owned()))
                })
                .collect();
            self.note_epochs(local, epochs.into_iter());
        }
        self.on_entered(local);
        if is_returning {
            self.recover(local);
        }
    }

    fn on_entered(&mut self, local: usize) {
        self.conns[local].stage = Stage::Live;
        self.opening.under_way -= 1;
        self.opening.opened += 1;
        self.opening.progressed_ns = self.shared.clock.now_ns();
    }

    fn no_bus(&self, why: &str) {
        let host = &self.shared.site.host;
        self.shared.raise(Trouble::Refused(format!("{host} is not a bus: {why}")));
    }

    /// The server answered with something else than an upgrade; gives how many bytes that took, or 0
    /// while the rest of it is on its way.
    fn on_refusal(&mut self, local: usize, head: &[u8], body: &[u8]) -> usize {
        let text = String::from_utf8_lossy(head);
        let mut lines = text.lines();
        let line = lines.next().unwrap_or_default().to_owned();
        let length = lines
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, length)| length.trim().parse::<usize>().ok());
        if body.len() < length.unwrap_or(0).min(HEAD_BYTES_MAX) {
            return 0;
        }
        let status = line.split(' ').nth(1).unwrap_or("?");
        if status == NAME_TAKEN && self.is_returning(local) {
            self.try_again(local);
            return head.len() + body.len();
        }
        let said: RefusalBody = serde_json::from_slice(body).unwrap_or_default();
        match said.message.or(said.error) {
            // Whatever it is, it has no bus at this path.
            Some(why) if status == NOT_FOUND => self.no_bus(&format!("{why} (HTTP {status})")),
            Some(why) => self.refuses(&format!("{why} (HTTP {status})")),
            None => self.no_bus(&format!("it answers the handshake with {line:?}")),
        }
        head.len() + body.len()
    }

    fn refuses(&self, why: &str) {
        let opened = self.opening.opened;
        let after = if opened > 0 { format!(" after {opened} connections") } else { String::new() };
        let host = &self.shared.site.host;
        self.shared.raise(Trouble::Refused(format!("{host} refuses the load{after}: {why}")));
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::bench::core::Core;
    use crate::cli::bench::shared::Shared;
    use crate::cli::bench::site::ACCEPT;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener};
    use std::sync::atomic::Ordering::Relaxed;
    use std::time::Duration;

    const WELCOME: &str = r#"{"type":"system","room":"r","channel":"c","from":"bus","timestamp":"t",
        "payload":{"event":"welcome","joined":[],"refused":[]}}"#;
    const REFUSAL: &str = r#"{"type":"command_response","room":"r","channel":"c","from":"bus",
        "timestamp":"t","payload":{"status":"error","code":503,"error":"CONNECTION_LIMIT",
        "message":"it is full"}}"#;

    /// A server that upgrades so many connections, and says this to each of them; `None` is silence.
    fn server(connections: usize, says: fn(usize) -> Option<&'static str>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for (number, socket) in listener.incoming().take(connections).enumerate() {
                let mut socket = socket.unwrap();
                let _ = socket.read(&mut [0; 1_024]);
                let accept = format!("Sec-WebSocket-Accept: {ACCEPT}");
                let mut answer =
                    format!("HTTP/1.1 101 Switching Protocols\r\n{accept}\r\n\r\n").into_bytes();
                if let Some(text) = says(number) {
                    answer.extend([0x81, 126]);
                    answer.extend((text.len() as u16).to_be_bytes());
                    answer.extend(text.as_bytes());
                }
                // A client that has heard enough may be gone.
                let _ = socket.write_all(&answer);
                open.push(socket);
            }
            // A connection that ended now would be told instead.
            open.iter_mut().for_each(|socket| drop(socket.read_to_end(&mut Vec::new())));
        });
        address
    }

    #[test]
    fn what_a_server_says_first_is_told_as_it_is() {
        // Answers may take long on a busy machine; only silence is waited for to its end.
        for (says, timeout, told) in [
            (
                (|number| Some(if number < 30 { WELCOME } else { REFUSAL })) as fn(usize) -> _,
                "30",
                "refuses the load after 30 connections: it is full (503 CONNECTION_LIMIT)",
            ),
            (|_| Some(REFUSAL), "30", "refuses the load: it is full (503 CONNECTION_LIMIT)"),
            (
                |number| Some(if number < 30 { WELCOME } else { "{}" }),
                "30",
                "is not a bus: its first message is no welcome",
            ),
            (|_| None, "2", "upgrades connections and sends no welcome: 0 of 40"),
        ] {
            let mut shared =
                Shared::of_words(&format!("idle --connections 40 --timeout {timeout}"));
            shared.site.address = server(40, says);
            let mut core = Core::new(&shared, 0).unwrap();
            while !shared.is_over.load(Relaxed) && core.opening.opened < 40 {
                core.turn().unwrap();
            }
            let trouble = shared.trouble().expect(told);
            assert!(trouble.sentence().contains(told), "{trouble:?}");
        }
    }

    #[test]
    fn a_server_that_does_not_answer_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut shared = Shared::of_words("idle --connections 2 --timeout 0.1");
        shared.site.address = listener.local_addr().unwrap();
        assert_eq!(shared.timeout, Duration::from_millis(100));
        let mut core = Core::new(&shared, 0).unwrap();
        while !shared.is_over.load(Relaxed) {
            core.turn().unwrap();
        }
        let trouble = shared.trouble().unwrap();
        assert!(
            trouble.sentence().contains("answers no handshake any more: 0 of 2"),
            "{trouble:?}"
        );
    }
}
