//! Envelopes as a client writes them.

use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A message id that no other message of this process has.
pub(crate) fn fresh_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    format!("arq_test_{}", COUNT.fetch_add(1, Relaxed))
}

/// A good envelope with an id of its own; `address` is `room:channel`.
pub(crate) fn envelope(kind: &str, from: &str, address: &str, payload: Value) -> Value {
    let (room, channel) = address.split_once(':').expect("an address is room:channel");
    json!({
        "version": "1.0",
        "id": fresh_id(),
        "type": kind,
        "room": room,
        "channel": channel,
        "from": from,
        "timestamp": "2025-11-30T12:00:00Z",
        "payload": payload,
    })
}

/// A command that is addressed to nothing but its own parameters, and its id.
pub(crate) fn command_text(from: &str, name: &str, parameters: Value) -> (String, String) {
    let payload = json!({"command": name, "parameters": parameters});
    let envelope = envelope("command", from, "*:*", payload);
    let id = envelope["id"].as_str().unwrap_or_default().to_owned();
    (id, envelope.to_string())
}
