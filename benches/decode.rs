//! What it costs to read a message: the whole decoder, its long way, its scanner alone, and
//! simd-json's tape of a copy of the same text (it writes into its input, and the payload must stay
//! as it was sent).
//!
//! A tape only says that the text is JSON and where things are; the decoder's time includes the
//! search for repeated keys and every rule of the envelope.

mod common;

use arqonbus::protocol::decode::{decode, decode_any};
use arqonbus::protocol::{json, timestamp};
use common::{event, records_payload, text_payload};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

fn messages(c: &mut Criterion) {
    for (name, payload) in [
        ("text-128", text_payload(128)),
        ("text-1Ki", text_payload(1_024)),
        ("text-64Ki", text_payload(64 * 1_024)),
        ("records-128", records_payload(128)),
        ("records-1Ki", records_payload(1_024)),
        ("records-64Ki", records_payload(64 * 1_024)),
    ] {
        let text = event("science", "arq_client_01JDZ8Q6YH3V5K9T2N4W7X8B1C", &payload, "");
        assert!(decode(&text).is_ok());
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function("decode", |b| b.iter(|| decode(black_box(&text)).is_ok()));
        group.bench_function("long-way", |b| b.iter(|| decode_any(black_box(&text)).is_ok()));
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

criterion_group! {
    name = benches;
    config = common::criterion();
    targets = messages, timestamps
}
criterion_main!(benches);
