//! What it costs to write a message: the part that its edge writes, the part that its home adds,
//! the same message once more as history gives it out, and the server's own answer to it.

mod common;

use arqonbus::protocol::decode::decode;
use arqonbus::protocol::frame::{Draft, Frame, Origin};
use arqonbus::protocol::reply::{self, Question, Stamp};
use arqonbus::protocol::views::AckView;
use common::{event, text_payload};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

const NOW_US: u64 = 1_764_504_000_123_456;
const ORIGIN: Origin = Origin { received_ns: 1_000_000_000, ttl_ms: None };

fn events(c: &mut Criterion) {
    for bytes in [128, 1_024, 64 * 1_024] {
        let text = event("science", "client-00001", &text_payload(bytes), "");
        let envelope = decode(&text).expect("it follows every rule");
        let draft = || Draft::new(&envelope, "client-00001", ORIGIN);
        let mut group = c.benchmark_group(format!("encode/{bytes}"));
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function("draft", |b| {
            b.iter(|| Draft::new(black_box(&envelope), "client-00001", ORIGIN));
        });
        group.bench_function("stamp", |b| {
            b.iter_batched(draft, |draft| draft.stamp(1_234, NOW_US), BatchSize::SmallInput);
        });
        let frame = draft().stamp(1_234, NOW_US);
        group.bench_function("replayed", |b| b.iter(|| black_box(&frame).replayed()));
        group.finish();
    }
}

fn replies(c: &mut Criterion) {
    let question = Question::of_message("arq_01JDZ8Q6YH3V5K9T0000000000", "science", "general");
    let mut group = c.benchmark_group("encode/reply");
    group.bench_function("ack", |b| {
        b.iter(|| {
            let stamp = Stamp { ulid: ulid::Ulid(black_box(1 << 90)), at_us: NOW_US };
            let (trace, delivered, unreported) = (None, None, 0);
            let ack = AckView { sequence: 1_234, duplicate: false, trace, delivered, unreported };
            Frame::of_text(&reply::success(stamp, black_box(&question), ack), 0)
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = common::criterion();
    targets = events, replies
}
criterion_main!(benches);
