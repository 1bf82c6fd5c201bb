//! How fast the commands are when the bus is not what they wait for. Ignored by default: run with
//! `cargo test --lib cli::tests::speed -- --ignored --nocapture`.

use crate::cli::tests::run::Run;
use crate::cli::tests::world::system;
use serde_json::json;
use std::net::TcpListener;
use std::time::Instant;
use tungstenite::Message;

const MESSAGES: u64 = 100_000;

/// A bus for one client that does as little as it can: it welcomes, lets join, answers every event,
/// and sends `deliveries` events to whoever joined.
fn quick_bus(deliveries: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut socket = tungstenite::accept(listener.accept().unwrap().0).unwrap();
        let welcome = json!({"event": "welcome", "client_id": "ann", "heartbeat_ms": 25_000});
        socket.send(Message::text(system("*", "welcome", welcome))).unwrap();
        let mut sequence = 0;
        while let Ok(Message::Text(text)) = socket.read() {
            let id = &text[text.find("arq_").unwrap()..];
            let id = &id[..id.find('"').unwrap()];
            let is_event = text.contains(r#""type":"event""#);
            sequence += u64::from(is_event);
            let reply = format!(
                r#"{{"type":"command_response","room":"*","channel":"*","from":"s","timestamp":"t",
                "payload":{{"request_id":"{id}","status":"success",
                "result":{{"epoch":"e","sequence":{sequence},"duplicate":false}}}}}}"#
            );
            socket.write(Message::text(reply)).unwrap();
            for sequence in 1..=if is_event { 0 } else { deliveries } {
                let event = format!(
                    r#"{{"version":"1.0","timestamp":"2025-11-30T12:00:00.000000Z","metadata":
                    {{"sequence":{sequence}}},"id":"arq_{sequence}","from":"bob","type":"event",
                    "room":"science","channel":"general","payload":{{"line":"line {sequence}"}}}}"#
                );
                socket.write(Message::text(event.replace('\n', ""))).unwrap();
            }
            socket.flush().unwrap();
        }
    });
    url
}

#[test]
#[ignore = "a measurement"]
fn publishing_a_hundred_thousand_lines() {
    let text: String = (0..MESSAGES).map(|n| format!("this is line {n} of a log\n")).collect();
    let url = quick_bus(0);
    let start = Instant::now();
    let run = Run::start_plain(&["pub", "science:general", "--lines", "--url", &url]).feed(text);
    let done = run.done();
    println!("pub: {MESSAGES} messages in {:?}: {}", start.elapsed(), done.err);
    assert_eq!(done.code, 0);
}

#[test]
#[ignore = "a measurement"]
fn printing_a_hundred_thousand_messages() {
    let (url, count) = (quick_bus(MESSAGES), MESSAGES.to_string());
    let start = Instant::now();
    let run = Run::start_plain(&["sub", "science:general", "--count", &count, "--url", &url]);
    let done = run.done();
    println!("sub: {} messages in {:?}", done.out.len(), start.elapsed());
    assert_eq!((done.code, done.out.len() as u64), (0, MESSAGES));
}
