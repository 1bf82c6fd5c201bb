//! The small bus's sockets: one thread that accepts, and one for each peer.

use crate::cli::tests::world::{Moods, Out, World};
use serde_json::Value;
use std::io::ErrorKind;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::http::Response as HttpResponse;
use tungstenite::protocol::CloseFrame;
use tungstenite::{Error, Message, WebSocket};

/// How long a peer's thread listens before it looks for something to send.
const TURN: Duration = Duration::from_millis(1);

pub(super) struct Bus {
    port: u16,
    world: Arc<Mutex<World>>,
    is_over: Arc<AtomicBool>,
}

impl Bus {
    pub(super) fn start() -> Bus {
        Bus::start_with(|_| {})
    }

    pub(super) fn start_with(set: impl FnOnce(&mut Moods)) -> Bus {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut world = World::new();
        set(&mut world.moods);
        let bus = Bus { port, world: Arc::new(Mutex::new(world)), is_over: Arc::default() };
        let (world, is_over) = (bus.world.clone(), bus.is_over.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let world = world.clone();
                std::thread::spawn(move || serve(stream, &world));
            }
        });
        bus
    }

    pub(super) fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub(super) fn publish(&self, address: &str, payload: Value) -> u64 {
        let (room, channel) = address.split_once(':').unwrap();
        self.world().publish(room, channel, payload)
    }

    /// Waits until the world is as it should be.
    pub(super) fn until(&self, what: &str, is_so: impl Fn(&World) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_so(&self.world()) {
            assert!(Instant::now() < deadline, "waited in vain until {what}");
            std::thread::sleep(TURN);
        }
    }

    pub(super) fn until_joined(&self, address: &str) {
        let (room, channel) = address.split_once(':').unwrap();
        self.until("it is joined", |world| match channel {
            "*" => world.commands.iter().any(|(name, _)| name == "join_channel"),
            _ => world.is_member(room, channel),
        });
    }

    /// Ends every connection without a word.
    pub(super) fn cut(&self) {
        self.world().all(|| Out::Cut);
        self.until("everyone is gone", |world| world.peer_count() == 0);
    }

    pub(super) fn close(&self, code: u16, reason: &str) {
        self.world().all(|| Out::Close(code, reason.to_owned()));
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if !std::thread::panicking() {
            let mut world = self.world();
            world.all(|| Out::Cut);
            assert_eq!(world.errors, [""; 0]);
        }
    }
}

#[expect(clippy::result_large_err, reason = "the type of the answer is the library's")]
fn serve(stream: TcpStream, world: &Mutex<World>) {
    let mut client_id = None;
    let on_request = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        let mut world = world.lock().unwrap();
        let token = request.headers().get("authorization");
        let token = token.map(|value| value.to_str().unwrap().to_owned());
        world.handshakes.push((request.uri().to_string(), token));
        client_id = form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes())
            .find(|(key, _)| key == "client_id")
            .map(|(_, value)| value.into_owned());
        match world.moods.http {
            Some((status, body)) => {
                let response = HttpResponse::builder().status(status);
                Err(response.body(Some(body.to_owned())).unwrap())
            }
            None => Ok(response),
        }
    };
    let Ok(mut socket) = tungstenite::accept_hdr(stream, on_request) else {
        return;
    };
    let (sender, out) = channel();
    // The library answers handshakes before anything can look at the client id; so a client id
    // that is taken is answered with what a full bus says, which a client may retry as well.
    let Some(peer) = world.lock().unwrap().enter(client_id, sender) else {
        let frame = CloseFrame { code: 1013.into(), reason: "the client id is taken".into() };
        let _ = socket.close(Some(frame));
        let _ = socket.read();
        return;
    };
    socket.get_mut().set_read_timeout(Some(TURN)).unwrap();
    let code = talk(&mut socket, peer, &out, world);
    world.lock().unwrap().leave(peer, code);
    let _ = socket.get_mut().shutdown(Shutdown::Both);
}

/// Talks until the connection ends; the close code, if the peer said goodbye.
fn talk(
    socket: &mut WebSocket<TcpStream>,
    peer: u64,
    out: &Receiver<Out>,
    world: &Mutex<World>,
) -> Option<u16> {
    let mut heard_at = Instant::now();
    let mut pinged_at = heard_at;
    loop {
        let mut was_frozen = false;
        while world.lock().unwrap().moods.is_frozen {
            was_frozen = true;
            std::thread::sleep(TURN);
        }
        if was_frozen {
            return None;
        }
        loop {
            match out.try_recv() {
                Ok(Out::Text(text)) => socket.write(Message::text(text)).ok()?,
                Ok(Out::Close(code, reason)) => {
                    let frame = CloseFrame { code: code.into(), reason: reason.into() };
                    let _ = socket.close(Some(frame));
                    while socket.read().is_ok() {}
                    return None;
                }
                Ok(Out::Cut) => {
                    let _ = socket.flush();
                    return None;
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return None,
            }
        }
        socket.flush().ok()?;
        match socket.read() {
            Ok(message) => {
                heard_at = Instant::now();
                match message {
                    Message::Text(text) => {
                        let pause = world.lock().unwrap().moods.thinks_for;
                        std::thread::sleep(pause);
                        world.lock().unwrap().on_text(peer, &text);
                    }
                    Message::Close(frame) => {
                        let _ = socket.flush();
                        return Some(frame.map_or(1005, |frame| frame.code.into()));
                    }
                    _ => {}
                }
            }
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
        let heartbeat = world.lock().unwrap().moods.heartbeat;
        if let Some(heartbeat) = heartbeat {
            if heard_at.elapsed() > 2 * heartbeat {
                world.lock().unwrap().errors.push("a peer was silent for two heartbeats".into());
                return None;
            }
            if heard_at.elapsed() > heartbeat && pinged_at.elapsed() > heartbeat {
                pinged_at = Instant::now();
                socket.send(Message::Ping(Default::default())).ok()?;
            }
        }
    }
}
