//! One connection to a bus: text messages in and out, without ever blocking.
//!
//! The socket is non-blocking and edge-triggered. A caller reads until [`Link::read`] has nothing
//! more, writes until [`Link::is_blocked`], and only then waits; pings are answered by reading.
//!
//! *Invariants*: what [`Link::send`] took is written in order, or the link is lost; a link that
//! heard nothing for two heartbeats is lost, as the bus's own rule is.
//!
//! *Not here*: opening one (`handshake`); opening another after a loss (`dial`).

use crate::cli::failure::Failure;
use crate::cli::reactor::Reactor;
use crate::protocol::names::Name;
use mio::net::TcpStream;
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Error, Message, Utf8Bytes, WebSocket};

/// The longest message a bus may send: a long page of history with long messages.
const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// A socket that its handshake and its owner can hold at the same time.
#[derive(Debug, Clone)]
pub(super) struct Stream(pub(super) Arc<TcpStream>);

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self.0).flush()
    }
}

/// What must not be shown to anybody.
#[derive(Clone, PartialEq)]
pub(super) struct Secret(pub(super) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What the bus said first.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Welcome {
    /// Who this client is from now on.
    pub(super) client_id: Name,
    /// The silence after which either side asks whether the other is there.
    pub(super) heartbeat: Duration,
    /// The longest message the bus takes, if it said so.
    pub(super) message_bytes_max: Option<usize>,
    /// Whether the bus takes only so many messages a second from one client.
    pub(super) is_rate_limited: bool,
    /// How many messages of a channel the bus remembers, if it said so.
    pub(super) history_size: Option<usize>,
    /// By what this client comes back as who it is, if the bus keeps sessions.
    pub(super) session: Option<Secret>,
    /// Whether it has come back as who it was, a member of what it had joined.
    pub(super) is_resumed: bool,
}

/// Why a connection is no more.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Lost {
    /// The bus closed it, with a code and a reason.
    Closed {
        /// The WebSocket close code.
        code: u16,
        /// The reason in words.
        reason: String,
    },
    /// It broke.
    Broken(String),
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Lost::Closed { code, reason } if reason.is_empty() => {
                write!(f, "the bus closed the connection with {code}")
            }
            Lost::Closed { code, reason } => {
                write!(f, "the bus closed the connection: {reason} ({code})")
            }
            Lost::Broken(why) => write!(f, "the connection was lost: {why}"),
        }
    }
}

/// Why work on a connection ended before it was done.
#[derive(Debug, PartialEq)]
pub(super) enum Halt {
    /// The connection is no more; another one may do.
    Lost(Lost),
    /// The command is over.
    Failed(Failure),
}

impl From<Lost> for Halt {
    fn from(lost: Lost) -> Halt {
        Halt::Lost(lost)
    }
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Halt {
        Halt::Failed(failure)
    }
}

/// One connection.
pub(super) struct Link {
    socket: WebSocket<Stream>,
    /// Whether bytes wait for the socket to take them.
    is_blocked: bool,
    heard_at: Instant,
    /// Whether a ping of ours is out since `heard_at`.
    is_asking: bool,
    heartbeat: Duration,
}

/// The configuration of every connection.
pub(super) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
}

impl Link {
    /// A connection whose handshake is done.
    pub(super) fn new(socket: WebSocket<Stream>, heartbeat: Duration) -> Link {
        Link { socket, is_blocked: false, heard_at: Instant::now(), is_asking: false, heartbeat }
    }

    /// Takes the heartbeat that the bus's welcome told.
    pub(super) fn set_heartbeat(&mut self, heartbeat: Duration) {
        self.heartbeat = heartbeat;
    }

    /// Whether bytes wait for the socket to take them; sending more would only pile them up.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Takes a message for the bus. It is on its way after [`Link::flush`] at the latest.
    pub(super) fn send(&mut self, text: String) -> Result<(), Lost> {
        let written = self.socket.write(Message::text(text));
        self.note_written(written)
    }

    /// Gives the socket what waits for it.
    pub(super) fn flush(&mut self) -> Result<(), Lost> {
        let written = self.socket.flush();
        if written.is_ok() {
            self.is_blocked = false;
        }
        self.note_written(written)
    }

    /// The next message from the bus; `None` if it has not come yet.
    pub(super) fn read(&mut self) -> Result<Option<Utf8Bytes>, Lost> {
        loop {
            let message = match self.socket.read() {
                Ok(message) => message,
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(None);
                }
                Err(error) => return Err(of_error(&error)),
            };
            self.heard_at = Instant::now();
            self.is_asking = false;
            match message {
                Message::Text(text) => return Ok(Some(text)),
                Message::Close(frame) => {
                    // The answer to the close frame is queued; whether it still leaves is the
                    // bus's concern, not ours.
                    let _ = self.socket.flush();
                    return Err(of_close(frame));
                }
                Message::Binary(_) => {
                    return Err(Lost::Broken("the bus sent a binary message".into()));
                }
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    /// Waits until there may be something to read, room to write, or `until` has come. May return
    /// early.
    pub(super) fn wait(
        &mut self,
        reactor: &mut Reactor,
        until: Option<Instant>,
    ) -> Result<(), Halt> {
        let wake_at = self.keep_alive(Instant::now())?;
        reactor.wait(Some(until.map_or(wake_at, |until| until.min(wake_at))))?;
        if self.is_blocked {
            self.flush()?;
        }
        Ok(())
    }

    /// Closes the connection in good order, and gives the bus a moment to agree.
    pub(super) fn leave(mut self, reactor: &mut Reactor) {
        let until = Instant::now() + GOODBYE;
        let frame = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
        let mut step = self.socket.close(Some(frame));
        while Instant::now() < until {
            match step {
                Ok(()) => {}
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    if reactor.wait_regardless(Some(until)).is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
            step = self.socket.flush().and_then(|()| self.socket.read().map(drop));
        }
    }

    /// Asks the bus whether it is still there when it was silent for long, and gives up on it when
    /// it does not answer. Gives the time at which to look again.
    fn keep_alive(&mut self, now: Instant) -> Result<Instant, Lost> {
        let ask_at = self.heard_at + self.heartbeat;
        let give_up_at = ask_at + self.heartbeat;
        if now >= give_up_at {
            let seconds = (2 * self.heartbeat).as_secs_f32();
            return Err(Lost::Broken(format!("nothing was heard for {seconds} seconds")));
        }
        if now < ask_at {
            return Ok(ask_at);
        }
        if !self.is_asking {
            self.is_asking = true;
            let written = self.socket.write(Message::Ping(Default::default()));
            self.note_written(written)?;
            self.flush()?;
        }
        Ok(give_up_at)
    }

    fn note_written(&mut self, written: Result<(), Error>) -> Result<(), Lost> {
        match written {
            Ok(()) => Ok(()),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_blocked = true;
                Ok(())
            }
            Err(error) => Err(self.why_unwritable(&error)),
        }
    }

    /// A bus that closes a connection says why before its socket ends; if a write notices the end
    /// first, the reason is still there to be read.
    fn why_unwritable(&mut self, error: &Error) -> Lost {
        while let Ok(message) = self.socket.read() {
            if let Message::Close(frame) = message {
                return of_close(frame);
            }
        }
        of_error(error)
    }
}

fn of_close(frame: Option<CloseFrame>) -> Lost {
    match frame {
        Some(frame) => {
            Lost::Closed { code: frame.code.into(), reason: frame.reason.as_str().to_owned() }
        }
        // RFC 6455, section 7.1.5: a close frame without a code counts as 1005.
        None => Lost::Closed { code: 1005, reason: String::new() },
    }
}

fn of_error(error: &Error) -> Lost {
    Lost::Broken(match error {
        Error::Io(error) => error.to_string(),
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => {
            "the bus went away without a word".into()
        }
        other => other.to_string(),
    })
}
