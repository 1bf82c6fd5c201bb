//! What others have written, read with no trust in it: entries, rooms, channels and sessions as they
//! stand in Redis, and what peer nodes say. Any bytes are read or refused in a sentence.
//!
//! *Not here*: more of fuzzing; that is `tests/fuzz`.

use super::codec::{read_address, read_channel_text, read_entry, read_frame, read_room};
use super::{census, hub, sessions};
use crate::base::time::Now;
use std::sync::Arc;

const NOW: Now = Now { mono_ns: 1_000_000_000, wall_us: 1_764_000_000_000_000 };

/// Reads any bytes as everything that a Redis server or a peer node may give.
pub fn stored(input: &[u8]) {
    census::read_any(input, NOW);
    let fields: Vec<(Vec<u8>, Vec<u8>)> = input
        .split(|&byte| byte == 0)
        .filter_map(|field| {
            let at = field.iter().position(|&byte| byte == b'=')?;
            Some((field[..at].to_vec(), field[at + 1..].to_vec()))
        })
        .collect();
    if let Ok(entry) = read_entry(fields)
        && let Ok(frame) = read_frame(&entry, NOW, 1_764_000_000_000)
    {
        assert_eq!(frame.sequence, entry.sequence);
        assert!(std::str::from_utf8(frame.text()).is_ok());
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    hub::read_any(text);
    let _ = sessions::parse(text);
    let _ = read_room("lab", text);
    if let Ok(address) = read_address("lab:a") {
        let _ = read_channel_text(&Arc::new(address), text);
    }
    let _ = read_address(text);
}

#[cfg(test)]
#[path = "../../tests/fuzz/mutate.rs"]
mod mutate;

#[cfg(test)]
mod tests {
    use super::mutate::mutate;
    use super::stored;

    /// The new inputs where no time is given.
    const INPUTS: u64 = 20_000;

    const KNOWN: &[&str] = &[
        "epoch=e\0sequence=3\0origin=a.1:2\0until=1764000001000\0message={\"version\":\"1.0\",\"id\":\"arq_1\",\"type\":\"event\",\"room\":\"lab\",\"channel\":\"a\",\"from\":\"ann\",\"timestamp\":\"2025-11-30T12:00:00.000000Z\",\"payload\":{\"n\":1},\"metadata\":{\"sequence\":3}}",
        r#"{"type":"user","paused":false,"created_us":5,"created_by":"ann","config":{"history_size":5}}"#,
        r#"{"epoch":"e","term":"1","past":"[[1,2]]","type":"private","created_us":"5","created_by":"","metadata":"{}","guests":"[\"ann\"]","auto_created":"0","last":"7","last_us":"9"}"#,
        r#"{"v":1,"from":"t","node":"n","say":{"beat":{"number":3,"clients":2,"members":1}}}"#,
        r#"{"v":1,"from":"t","node":"n","say":{"changes":{"number":3,"rows":[{"id":"ann","here":true,"in":{"type":"human","role":"user","channels":["lab:a"]},"out":["lab:b"]}]}}}"#,
        r#"{"v":1,"from":"t","node":"n","say":{"part":{"ask":1,"number":2,"part":0,"is_last":true,"rows":[]}}}"#,
        r#"{"v":1,"from":"t","node":"n","say":{"note":{"private":{"targets":["ann"],"message":{"text":"{}","left_ms":5}}}}}"#,
        r#"{"v":1,"from":"t","node":"n","say":{"note":{"clients":{"to":[0,1],"shard":[0,2],"rows":[["ann",{}]],"count":1}}}}"#,
        r#"{"v":1,"from":"t","node":"n","say":"bye"}"#,
        "events e 7\n1 5-1 a:1 4\n{}x\n2 5-2 - 0 250\n",
        "term e 9 7 2 5-2 b:1 [[3,1],[7,2]]",
        r#"room lab {"type":"user","paused":true,"created_us":5,"created_by":null,"config":{}}"#,
        "channel_gone lab:a",
        r#"{"life":1,"client_id":"ann","client_type":"human","subscriptions":[{"room":"lab","channel":"*","echo":true,"presence":false}]}"#,
    ];

    const WORDS: &[&str] = &[
        "\0",
        "=",
        "\n",
        " ",
        ":",
        "18446744073709551615",
        "-1",
        "9007199254740993",
        "null",
        "\"",
        "{",
        "}",
        "[[",
        "\u{81}",
        "lab:*",
        "\"v\":1,",
    ];

    /// Seeded mutation, as `tests/fuzz` does it for what clients send; the same variables steer it.
    #[test]
    fn whatever_redis_or_a_peer_gives_is_read_or_refused() {
        let variable = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
        let known: Vec<Vec<u8>> = KNOWN.iter().map(|text| text.as_bytes().to_vec()).collect();
        known.iter().for_each(|input| stored(input));
        let first = variable("FUZZ_SEED").unwrap_or(1);
        let time = variable("FUZZ_SECONDS").map(std::time::Duration::from_secs);
        let begun = std::time::Instant::now();
        let mut count = 0;
        while time.map_or(count < INPUTS, |time| begun.elapsed() < time) {
            let input = mutate(&mut fastrand::Rng::with_seed(first + count), &known, WORDS);
            stored(&input);
            count += 1;
        }
        println!("stored: {} known inputs, {count} new ones from seed {first}", known.len());
    }
}
