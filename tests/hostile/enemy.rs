//! A socket in bad hands: it writes what it likes, reads only if it likes, and never waits for long.

use crate::common::envelope;
use crate::common::raw::{TEXT, frame};
use rustix::net::{RecvFlags, recv};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long a write or a read may wait for the other side.
const IMPATIENCE: Duration = Duration::from_millis(100);

/// How long an answer that the attack needs is waited for.
const ANSWER: Duration = Duration::from_secs(10);

/// A connection that misbehaves.
pub(crate) struct Enemy {
    stream: TcpStream,
    /// Its client id, if it has been welcomed.
    pub id: String,
}

/// What came of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// Everything was taken.
    All,
    /// The other side takes no more for now; so many bytes were taken.
    Stuck(usize),
    /// The connection has ended.
    Gone,
}

impl Pushed {
    pub(crate) fn is_all(self) -> bool {
        self == Pushed::All
    }
}

/// A client id that no other connection of any attacking process has.
pub(crate) fn fresh_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    format!("enemy-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed))
}

/// The request for a WebSocket; sound unless `target` or `more` say otherwise.
pub(crate) fn handshake(address: SocketAddr, target: &str, more: &str) -> Vec<u8> {
    format!(
        "GET {target} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
    .into_bytes()
}

impl Enemy {
    /// A connection; none if the other side takes none.
    pub(crate) fn connect(address: SocketAddr) -> Option<Enemy> {
        Enemy::over(TcpStream::connect_timeout(&address, ANSWER).ok()?)
    }

    /// A connection whose kernel holds little that was not read.
    pub(crate) fn narrow(address: SocketAddr) -> Option<Enemy> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).ok()?;
        socket.set_recv_buffer_size(4 * 1024).ok()?;
        socket.connect_timeout(&address.into(), ANSWER).ok()?;
        Enemy::over(socket.into())
    }

    fn over(stream: TcpStream) -> Option<Enemy> {
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(IMPATIENCE)).ok()?;
        stream.set_write_timeout(Some(IMPATIENCE)).ok()?;
        Some(Enemy { stream, id: String::new() })
    }

    /// A client that was welcomed, with an id of its own and this further query string.
    pub(crate) fn client(bus: SocketAddr, query: &str) -> Option<Enemy> {
        Enemy::connect(bus)?.welcomed(&format!("client_id={}&{query}", fresh_name()))
    }

    /// The same over a connection whose kernel holds little that was not read.
    pub(crate) fn narrow_client(bus: SocketAddr, query: &str) -> Option<Enemy> {
        Enemy::narrow(bus)?.welcomed(&format!("client_id={}&{query}", fresh_name()))
    }

    /// Shakes hands with this query string, and reads the welcome.
    pub(crate) fn welcomed(mut self, query: &str) -> Option<Enemy> {
        let address = self.stream.peer_addr().ok()?;
        if !self.push(&handshake(address, &format!("/?{query}"), "")).is_all() {
            return None;
        }
        // The id stands before the role in the welcome, which follows the head of the answer.
        let text = self.read_until("\"role\"")?;
        if !text.starts_with("HTTP/1.1 101") {
            return None;
        }
        self.id = text.split("\"client_id\":\"").nth(1)?.split('"').next()?.to_owned();
        Some(self)
    }

    /// Writes bytes, as many as the other side takes.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Pushed {
        let mut done = 0;
        while done < bytes.len() {
            match self.stream.write(&bytes[done..]) {
                Ok(0) => return Pushed::Gone,
                Ok(count) => done += count,
                Err(error) if is_wait(error.kind()) => return Pushed::Stuck(done),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Pushed::Gone,
            }
        }
        Pushed::All
    }

    /// Sends a message.
    pub(crate) fn say(&mut self, envelope: &Value) -> Pushed {
        self.push(&frame(TEXT, envelope.to_string()))
    }

    /// A good event from this client.
    pub(crate) fn event(&self, address: &str, payload: Value) -> Value {
        envelope("event", &self.id, address, payload)
    }

    /// A command from this client, as a frame.
    pub(crate) fn command(&self, name: &str, parameters: Value) -> Vec<u8> {
        let payload = json!({"command": name, "parameters": parameters});
        frame(TEXT, envelope("command", &self.id, "*:*", payload).to_string())
    }

    /// Takes whatever is there without waiting; how many bytes, or `None` if the connection has ended.
    pub(crate) fn skim(&mut self) -> Option<usize> {
        let (mut buffer, mut total) = ([0; 64 * 1024], 0);
        loop {
            match recv(&self.stream, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return None,
                Ok((count, _)) => total += count,
                Err(rustix::io::Errno::AGAIN) => return Some(total),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }

    /// Reads at most `count` bytes, waiting a little for the first; `None` if the connection has ended.
    pub(crate) fn sip(&mut self, count: usize) -> Option<usize> {
        let mut buffer = vec![0; count];
        match self.stream.read(&mut buffer) {
            Ok(0) => None,
            Ok(count) => Some(count),
            Err(error) if is_wait(error.kind()) => Some(0),
            Err(_) => None,
        }
    }

    /// Reads until `mark` is among what has come; all of it, or `None` if it does not come.
    pub(crate) fn read_until(&mut self, mark: &str) -> Option<String> {
        let deadline = Instant::now() + ANSWER;
        let (mut text, mut buffer) = (String::new(), [0; 4096]);
        while !text.contains(mark) {
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => text += &String::from_utf8_lossy(&buffer[..count]),
                Err(error) if is_wait(error.kind()) && Instant::now() < deadline => {}
                Err(_) => return None,
            }
        }
        Some(text)
    }

    /// Says that nothing more will come; the other side may go on.
    pub(crate) fn half_close(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends the connection by a reset, as a crashed machine does.
    pub(crate) fn reset(self) {
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

fn is_wait(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
