//! Connecting: so many at a time, each through the kernel's handshake, HTTP's and the bus's.

use super::Core;
use super::conn::Stage;
use crate::cli::bench::shared::{Shared, Trouble};
use crate::cli::bench::site::{ACCEPT, Dialect};
use crate::cli::words::Heard;
use memchr::memmem;
use rustix::event::epoll;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use serde::Deserialize;
use std::io;
use std::net::TcpStream;

/// The handshakes that are under way at once, over all cores.
const OPENING_MAX: usize = 256;
/// The longest head of an answer.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The connections of a core whose welcome is read in full though they join nothing.
const READ_IN_FULL: u64 = 16;

/// How far the opening of a core's connections is.
#[derive(Debug)]
pub(super) struct Opening {
    next: usize,
    under_way: usize,
    most: usize,
    /// Connections that are welcomed.
    pub(super) opened: u64,
    /// When the last one was, or opening began.
    progressed_ns: u64,
}

impl Opening {
    /// Nothing is opened yet.
    pub(super) fn new(shared: &Shared) -> Opening {
        let most = (OPENING_MAX / shared.threads).max(1);
        Opening { next: 0, under_way: 0, most, opened: 0, progressed_ns: shared.clock.now_ns() }
    }
}

#[derive(Deserialize)]
struct WelcomeBody<'a> {
    event: &'a str,
    joined: Vec<serde::de::IgnoredAny>,
}

#[derive(Deserialize, Default)]
struct RefusalBody {
    message: Option<String>,
    error: Option<String>,
}

impl Core<'_> {
    /// Begins as many connections as may be under way.
    pub(super) fn open_more(&mut self) {
        if self.opening.next == self.conns.len() && self.opening.under_way == 0 {
            return;
        }
        while self.opening.next < self.conns.len() && self.opening.under_way < self.opening.most {
            let local = self.opening.next;
            self.opening.next += 1;
            self.opening.under_way += 1;
            if let Err(error) = self.connect(local) {
                self.unreachable(&error);
                return;
            }
        }
        let idle_ns = self.shared.clock.now_ns().saturating_sub(self.opening.progressed_ns);
        if u128::from(idle_ns) > self.shared.timeout.as_nanos() {
            let opened = self.opening.opened;
            self.shared.raise(Trouble::Refused(format!(
                "{} answers no handshake any more: {opened} of {} connections are open, and for {:?} \
                 none was added",
                self.shared.site.host,
                self.conns.len(),
                self.shared.timeout
            )));
        }
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
        match connect(&socket, &address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let socket = TcpStream::from(socket);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(local as u64), flags)?;
        let conn = &mut self.conns[local];
        conn.socket = Some(socket);
        conn.is_out_watched = true;
        conn.stage = Stage::Connecting;
        Ok(())
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
        let conn = self.global(local);
        let request = self.shared.site.request(&self.shared.layout, &self.shared.naming, conn);
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
            self.on_refusal(head, body);
            return bytes.len();
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
        if seats == 0 && self.opening.opened >= READ_IN_FULL {
            return match memmem::find(text, br#""event":"welcome""#) {
                Some(_) => self.on_entered(local),
                None => self.no_bus("its first message is no welcome"),
            };
        }
        let heard = std::str::from_utf8(text).ok().and_then(Heard::read);
        let Some(body) = heard
            .as_ref()
            .and_then(|heard| serde_json::from_str::<WelcomeBody<'_>>(heard.payload.get()).ok())
            .filter(|body| body.event == "welcome")
        else {
            return self.no_bus("its first message is no welcome");
        };
        if body.joined.len() != seats {
            self.shared.raise(Trouble::Refused(format!(
                "the bus let a client into {} of {seats} rooms",
                body.joined.len()
            )));
            return;
        }
        self.on_entered(local);
    }

    fn on_entered(&mut self, local: usize) {
        self.conns[local].stage = Stage::Live;
        self.opening.under_way -= 1;
        self.opening.opened += 1;
        self.opening.progressed_ns = self.shared.clock.now_ns();
        // Bytes are all it is to tell from now on; what does not fit is watched for when it happens.
    }

    fn no_bus(&self, why: &str) {
        let host = &self.shared.site.host;
        self.shared.raise(Trouble::Refused(format!("{host} is not a bus: {why}")));
    }

    fn on_refusal(&self, head: &[u8], body: &[u8]) {
        let line =
            String::from_utf8_lossy(head.split(|&byte| byte == b'\r').next().unwrap_or(head));
        let status = line.split(' ').nth(1).unwrap_or("?").to_owned();
        let said: RefusalBody = serde_json::from_slice(body).unwrap_or_default();
        let why = said.message.or(said.error).unwrap_or_else(|| line.into_owned());
        let opened = self.opening.opened;
        self.shared.raise(Trouble::Refused(format!(
            "{} refuses the load after {opened} connections: {why} (HTTP {status})",
            self.shared.site.host
        )));
    }
}
