//! The daemon as a process, and clients that block, one step after the other.

use super::hello;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What a client can hold of what it has not taken.
const BUFFER_BYTES: usize = 256 * 1024;

/// A running daemon, on free ports of the loopback; it ends with this value.
pub(crate) struct Daemon {
    process: Child,
    /// Where its bus listens.
    pub(crate) address: String,
}

impl Daemon {
    /// Starts a daemon and waits until it listens.
    pub(crate) fn start(program: impl AsRef<Path>, shards: u16) -> Daemon {
        let program = program.as_ref();
        let mut process = Command::new(program)
            .args(["serve", "--log-format", "json", "--shards", &shards.to_string()])
            .args(["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"])
            .args(["--telemetry-listen", "127.0.0.1:0"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
        let log = process.stderr.take().expect("the log is a pipe");
        let mut lines = BufReader::new(log).lines();
        let address = loop {
            let line = lines.next().expect("the daemon listens before it ends").expect("a line");
            let entry: serde_json::Value = serde_json::from_str(&line).expect("the log is JSON");
            if entry["message"] == "listening" {
                break entry["listen"].as_str().expect("an address").to_owned();
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        Daemon { process, address }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A daemon that ended by itself is no reason to panic in a panic.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A client that blocks.
pub(crate) struct Socket {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Where in the buffer lies what was read and not taken.
    unread: Range<usize>,
}

impl Socket {
    /// Connects, joins the channel `general` of each room, and waits for the welcome.
    pub(crate) fn connect(address: &str, client_id: &str, rooms: &[String]) -> Socket {
        let stream = TcpStream::connect(address).expect("the daemon listens");
        stream.set_nodelay(true).expect("the socket is whole");
        let mut socket = Socket { stream, buffer: vec![0; BUFFER_BYTES], unread: 0..0 };
        socket.send(&hello(client_id, rooms));
        let end = loop {
            let unread = &socket.buffer[socket.unread.clone()];
            match unread.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => socket.read(),
            }
        };
        let answer = String::from_utf8_lossy(&socket.buffer[..end]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 101 "), "{client_id} is refused: {answer}");
        socket.unread.start = end;
        socket.take(1);
        socket
    }

    /// Sends bytes.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the daemon takes it");
    }

    /// Waits for so many frames, whatever is in them.
    pub(crate) fn take(&mut self, frames: usize) {
        for _ in 0..frames {
            let length = loop {
                match frame_length(&self.buffer[self.unread.clone()]) {
                    Some(length) if length <= self.unread.len() => break length,
                    _ => self.read(),
                }
            };
            self.unread.start += length;
        }
    }

    fn read(&mut self) {
        self.buffer.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();
        let free = &mut self.buffer[self.unread.end..];
        assert!(!free.is_empty(), "a frame is shorter than the buffer");
        let count = self.stream.read(free).expect("the daemon is there");
        assert!(count > 0, "the daemon closed the connection");
        self.unread.end += count;
    }
}

/// The length of the unmasked frame that the bytes begin with, if its header is there.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    match *bytes {
        [_, 126, a, b, ..] => Some(4 + usize::from(u16::from_be_bytes([a, b]))),
        [_, 127, a, b, c, d, e, f, g, h, ..] => {
            Some(10 + u64::from_be_bytes([a, b, c, d, e, f, g, h]) as usize)
        }
        [_, length @ 0..=125, ..] => Some(2 + usize::from(length)),
        _ => None,
    }
}
