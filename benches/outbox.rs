//! What a turn's mail costs at one outbox: a batch that is all there is, letters of its own that
//! are listed and gathered, and a backlog for a socket that takes little.

mod common;

use arqonbus::base::ids::{ChannelId, ConnId, ShardId};
use arqonbus::protocol::envelope::MessageType;
use arqonbus::protocol::frame::{Draft, Frame, Origin};
use arqonbus::shard::mail::{Letter, Mail};
use arqonbus::shard::outbox::Outbox;
use common::text_payload;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;

const CONN: ConnId = ConnId { slot: 1, generation: 1 };

fn frames(count: usize) -> Vec<Arc<Frame>> {
    let payload = text_payload(128);
    let frame = |sequence| {
        let origin = Origin { received_ns: 0, ttl_ms: None };
        let draft = Draft::of_server(
            "arq_01JDZ8Q6YH3V5K9T0000000000",
            MessageType::Event,
            ("science", "general"),
            &payload,
            origin,
        );
        draft.stamp(sequence, 1_764_504_000_123_456)
    };
    (1..=count as u64).map(frame).collect()
}

fn letter(frame: &Arc<Frame>) -> Letter {
    let channel = Some(ChannelId::new(ShardId(0), 1));
    Letter { channel, ..Letter::new(frame.clone(), true) }
}

/// The messages of a turn as one batch.
fn batch(c: &mut Criterion) {
    let mut group = c.benchmark_group("outbox");
    for count in [1, 32] {
        let frames = frames(count);
        let (mut outbox, mut mail, mut bytes) = (Outbox::default(), Mail::default(), Vec::new());
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("batch", count), |b| {
            b.iter(|| {
                let batch = mail.begin_batch(None);
                outbox.put_batch(batch);
                for frame in &frames {
                    let number = mail.add(letter(frame));
                    mail.join_batch(batch, number);
                }
                bytes.clear();
                let batch = outbox.only_batch().expect("nothing else waits");
                mail.gather(batch, &mut bytes);
                black_box(&bytes);
                outbox.clear();
                mail.clear();
            });
        });
    }
    group.finish();
}

/// The messages of a turn one by one, to a socket that takes so many bytes at once.
fn letters(c: &mut Criterion) {
    let mut group = c.benchmark_group("outbox");
    for (name, count, takes) in
        [("letters", 1, usize::MAX), ("letters", 32, usize::MAX), ("backlog", 32, 4_096)]
    {
        let frames = frames(count);
        let (mut outbox, mut mail, mut bytes) = (Outbox::default(), Mail::default(), Vec::new());
        let mut numbers = Vec::new();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new(name, count), |b| {
            b.iter(|| {
                for frame in &frames {
                    let number = mail.add(letter(frame));
                    outbox.put(&mail, number);
                }
                while !outbox.is_empty() {
                    outbox.list(&mail, CONN, &mut numbers);
                    bytes.clear();
                    outbox.gather(&mail, &numbers, &mut bytes);
                    outbox.advance(&mail, &numbers, black_box(&bytes).len().min(takes));
                }
                mail.clear();
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = common::criterion();
    targets = batch, letters
}
criterion_main!(benches);
