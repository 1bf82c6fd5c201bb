//! The relay over real sockets.

use super::*;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;

struct Running {
    address: SocketAddr,
    stop: UnixStream,
    thread: thread::JoinHandle<Counts>,
}

fn start() -> Running {
    let (stop, stopped) = UnixStream::pair().unwrap();
    let (tell, told) = mpsc::channel();
    let thread = thread::spawn(move || {
        let mut relay = Relay::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        tell.send(relay.listener.local_addr().unwrap()).unwrap();
        relay.run(&stopped).unwrap()
    });
    Running { address: told.recv().unwrap(), stop, thread }
}

impl Running {
    fn connect(&self, groups: &str) -> TcpStream {
        let mut socket = TcpStream::connect(self.address).unwrap();
        let request = format!(
            "GET /{groups}?n=1 HTTP/1.1\r\nHost: b\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(read(&mut socket, 1)[0]);
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        socket
    }

    fn end(mut self) -> Counts {
        self.stop.write_all(&[1]).unwrap();
        self.thread.join().unwrap()
    }
}

fn read(socket: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    socket.read_exact(&mut bytes).unwrap();
    bytes
}

fn header(payload: usize, mask_bit: u8) -> Vec<u8> {
    match payload {
        0..=125 => vec![0x81, mask_bit | payload as u8],
        126..=65_535 => [&[0x81, mask_bit | 126][..], &(payload as u16).to_be_bytes()].concat(),
        _ => [&[0x81, mask_bit | 127][..], &(payload as u64).to_be_bytes()].concat(),
    }
}

fn from_client(target: u32, payload: &[u8]) -> Vec<u8> {
    [&header(payload.len(), 0x80)[..], &target.to_be_bytes(), payload].concat()
}

fn to_client(payload: &[u8]) -> Vec<u8> {
    [&header(payload.len(), 0)[..], payload].concat()
}

#[test]
fn every_other_member_of_the_target_gets_the_frame() {
    let relay = start();
    let (mut ann, mut bob) = (relay.connect("a,b"), relay.connect("b,a"));
    let (mut cid, idle) = (relay.connect("b"), relay.connect(""));
    let long = vec![7; 70_000];
    let sent = [from_client(1, b"one"), from_client(0, b"two"), from_client(1, &long)].concat();
    for part in sent.chunks(10_000) {
        ann.write_all(part).unwrap();
    }
    let to_cid = [to_client(b"one"), to_client(&long)].concat();
    assert_eq!(read(&mut cid, to_cid.len()), to_cid);
    // What comes of different groups has no order.
    let mut got = read(&mut bob, to_cid.len() + to_client(b"two").len());
    let at = got.windows(5).position(|window| window == to_client(b"two")).unwrap();
    got.drain(at..at + 5);
    assert_eq!(got, to_cid);
    bob.write_all(&from_client(0, b"three")).unwrap();
    cid.write_all(&from_client(0, b"fours")).unwrap();
    let mut got = read(&mut ann, 14);
    if got.starts_with(&to_client(b"fours")) {
        got.rotate_left(7);
    }
    assert_eq!(got, [to_client(b"three"), to_client(b"fours")].concat());
    drop(idle);
    let counts = relay.end();
    assert_eq!((counts.accepts, counts.frames_in, counts.frames_out), (4, 5, 9));
}

#[test]
fn who_leaves_is_forgotten_and_who_does_not_read_loses_nothing_within_bounds() {
    let relay = start();
    let mut members: Vec<TcpStream> = (0..5).map(|_| relay.connect("a")).collect();
    members[0].write_all(&[0x88, 0x80, 0, 0, 0, 0]).unwrap();
    assert_eq!(members[0].read(&mut [0; 8]).unwrap(), 0, "a close ends the connection");
    members[1].write_all(&from_client(9, b"to a group that is not there")).unwrap();
    assert_eq!(members[1].read(&mut [0; 8]).unwrap_or(0), 0);
    let payload = vec![1; 60_000];
    let count = 60;
    for _ in 0..count {
        members[4].write_all(&from_client(0, &payload)).unwrap();
    }
    for member in &mut members[2..4] {
        for _ in 0..count {
            assert_eq!(read(member, 60_004), to_client(&payload));
        }
    }
    assert_eq!(relay.end().frames_out, 2 * count);
}
