//! What it costs to read a message: the whole decoder, its scanner alone, and simd-json's tape of
//! a copy of the same text (it writes into its input, and the payload must stay as it was sent).
//!
//! A tape only says that the text is JSON and where things are; the decoder's time includes the
//! search for repeated keys and every rule of the envelope.

use arqonbus::protocol::decode::decode;
use arqonbus::protocol::{json, timestamp};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

/// A message with a payload of about so many bytes: one long text, or many small records.
fn message(payload_bytes: usize, of_records: bool) -> String {
    let payload = if of_records {
        let record = r#"{"sensor":"t-17","at":1764504000.25,"ok":true,"tags":["a","b"]}"#;
        let count = (payload_bytes / (record.len() + 1)).max(1);
        format!(r#"{{"records":[{}]}}"#, vec![record; count].join(","))
    } else {
        let sentence = "The quick brown fox says \\\"hi\\\" and jumps over the lazy dog again. ";
        let text: String =
            sentence.chars().cycle().take(payload_bytes.saturating_sub(20)).collect();
        format!(r#"{{"text":"{}"}}"#, text.trim_end_matches('\\'))
    };
    format!(
        r#"{{"version":"1.0","id":"arq_01JDZ8Q6YH3V5K9T2N4W7X8B1C","type":"event","room":"science","channel":"general","from":"arq_client_01JDZ8Q6YH3V5K9T2N4W7X8B1C","timestamp":"2025-11-30T12:00:00.123Z","payload":{payload}}}"#
    )
}

fn messages(c: &mut Criterion) {
    for (name, bytes, of_records) in [
        ("text-128", 128, false),
        ("text-1Ki", 1024, false),
        ("text-64Ki", 64 * 1024, false),
        ("records-128", 128, true),
        ("records-1Ki", 1024, true),
        ("records-64Ki", 64 * 1024, true),
    ] {
        let text = message(bytes, of_records);
        assert!(decode(&text).is_ok());
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function("decode", |b| b.iter(|| decode(black_box(&text)).is_ok()));
        group.bench_function("scan", |b| {
            b.iter(|| json::members(black_box(&text), |_, value| _ = black_box(value)).is_ok());
        });
        let mut copy = Vec::new();
        group.bench_function("simd-json-tape-of-copy", |b| {
            b.iter(|| {
                copy.clear();
                copy.extend_from_slice(black_box(&text).as_bytes());
                simd_json::to_tape(&mut copy).is_ok()
            });
        });
        group.finish();
    }
}

fn timestamps(c: &mut Criterion) {
    let mut group = c.benchmark_group("timestamp");
    group.bench_function("check", |b| {
        b.iter(|| timestamp::check(black_box("2025-11-30T12:00:00.123456Z")));
    });
    group.bench_function("format", |b| {
        b.iter(|| timestamp::format(black_box(1_764_504_000_123_456)));
    });
    group.finish();
}

criterion_group!(benches, messages, timestamps);
criterion_main!(benches);
