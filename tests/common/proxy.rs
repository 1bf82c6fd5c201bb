//! A TCP proxy between client and bus that can cut connections, in the middle of a frame too.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;

/// A proxy that ends when it is dropped.
pub(crate) struct Proxy {
    /// Where clients connect to.
    pub address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    is_over: AtomicBool,
    is_shut: AtomicBool,
    connections: AtomicU64,
    /// After how many more bytes from the bus each connection is cut; 0 for never.
    cut_after: AtomicU64,
    /// After how many more bytes to the bus each connection is cut; 0 for never.
    cut_up_after: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
    bus: Mutex<Option<SocketAddr>>,
}

impl Proxy {
    /// A proxy to the bus.
    pub(crate) fn to(bus: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("a listener has an address");
        let state = Arc::new(State::default());
        *state.bus.lock().expect("no connection panicked") = Some(bus);
        let shared = state.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.is_over.load(SeqCst) {
                    return;
                }
                if !shared.is_shut.load(SeqCst) {
                    shared.connections.fetch_add(1, SeqCst);
                    connect(client, shared.clone());
                }
            }
        });
        Proxy { address, state }
    }

    /// How many connections there were.
    pub(crate) fn connections(&self) -> u64 {
        self.state.connections.load(SeqCst)
    }

    /// Connections from now on lead to this bus.
    pub(crate) fn lead_to(&self, bus: SocketAddr) {
        *self.state.bus.lock().expect("no connection panicked") = Some(bus);
    }

    /// Cuts each connection, those that are open and those that come, once so many more bytes
    /// came from the bus; 0 for never.
    pub(crate) fn cut_after(&self, bytes: u64) {
        self.state.cut_after.store(bytes, SeqCst);
    }

    /// The same for bytes on their way to the bus.
    pub(crate) fn cut_up_after(&self, bytes: u64) {
        self.state.cut_up_after.store(bytes, SeqCst);
    }

    /// Takes no connections for a while.
    pub(crate) fn shut(&self, is_shut: bool) {
        self.state.is_shut.store(is_shut, SeqCst);
    }

    /// Cuts every connection now.
    pub(crate) fn cut(&self) {
        for stream in self.state.open.lock().expect("no connection panicked").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.is_over.store(true, SeqCst);
        self.cut();
        // So that it looks.
        let _ = TcpStream::connect(self.address);
    }
}

fn connect(client: TcpStream, state: Arc<State>) {
    let bus = *state.bus.lock().expect("no connection panicked");
    let Some(Ok(bus)) = bus.map(TcpStream::connect) else { return };
    let Ok(clones) = client.try_clone().and_then(|a| Ok((a, bus.try_clone()?))) else { return };
    let (client_2, bus_2) = clones;
    let mut open = state.open.lock().expect("no connection panicked");
    open.extend([&client, &bus].iter().filter_map(|stream| stream.try_clone().ok()));
    drop(open);
    let shared = state.clone();
    thread::spawn(move || pump(bus, client, |count| spend(&shared.cut_after, count)));
    thread::spawn(move || pump(client_2, bus_2, |count| spend(&state.cut_up_after, count)));
}

/// How many of `count` bytes may pass; whether that was all that may.
fn spend(budget: &AtomicU64, count: usize) -> (usize, bool) {
    let left = budget.load(SeqCst);
    if left == 0 {
        return (count, false);
    }
    let passes = left.min(count as u64);
    // The budget never reaches 0, which would mean that nothing is to be cut.
    let is_over = passes == left;
    budget.store(if is_over { 0 } else { left - passes }, SeqCst);
    (passes as usize, is_over)
}

fn pump(mut from: TcpStream, mut to: TcpStream, mut spend: impl FnMut(usize) -> (usize, bool)) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 {
            break;
        }
        let (passes, is_over) = spend(count);
        if to.write_all(&buffer[..passes]).is_err() || is_over {
            break;
        }
    }
    for stream in [from, to] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}
