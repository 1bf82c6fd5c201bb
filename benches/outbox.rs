//! What a delivery costs at the outbox: a number put in, the bytes gathered, the write noted. One
//! connection, some messages a turn; and a socket that takes little, so that a backlog is kept.

mod common;

use arqonbus::base::ids::{ChannelId, ShardId};
use arqonbus::protocol::envelope::MessageType;
use arqonbus::protocol::frame::{Draft, Frame, Origin};
use arqonbus::shard::outbox::{Mail, Outbox, Put};
use common::text_payload;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;

const BYTES_MAX: usize = 4 << 20;

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

fn put_all(outbox: &mut Outbox, mail: &mut Mail, frames: &[Arc<Frame>]) {
    let channel = ChannelId::new(ShardId(0), 1);
    for frame in frames {
        let number = mail.add(frame.clone(), Some(channel));
        assert_eq!(outbox.put_message(mail, number, BYTES_MAX), Put::Queued);
    }
}

fn turn(c: &mut Criterion) {
    let mut group = c.benchmark_group("outbox");
    for count in [1, 4, 32] {
        let frames = frames(count);
        let (mut outbox, mut mail, mut bytes) = (Outbox::default(), Mail::default(), Vec::new());
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("put", count), |b| {
            b.iter(|| {
                put_all(&mut outbox, &mut mail, &frames);
                outbox.advance(&mail, outbox.bytes());
                mail.clear();
            });
        });
        group.bench_function(BenchmarkId::new("put-gather-advance", count), |b| {
            b.iter(|| {
                put_all(&mut outbox, &mut mail, &frames);
                bytes.clear();
                outbox.gather(&mail, &mut bytes);
                outbox.advance(&mail, black_box(&bytes).len());
                mail.clear();
            });
        });
    }
    group.finish();
}

/// The socket is full when the turn ends, and takes a part of what waits in the next.
fn backlog(c: &mut Criterion) {
    let frames = frames(32);
    let (mut outbox, mut mail, mut bytes) = (Outbox::default(), Mail::default(), Vec::new());
    let mut group = c.benchmark_group("outbox");
    group.throughput(Throughput::Elements(32));
    group.bench_function(BenchmarkId::new("backlog", 32), |b| {
        b.iter(|| {
            put_all(&mut outbox, &mut mail, &frames);
            outbox.settle(&mail);
            mail.clear();
            while !outbox.is_empty() {
                bytes.clear();
                outbox.gather(&mail, &mut bytes);
                outbox.advance(&mail, black_box(&bytes).len().min(4_096));
            }
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = common::criterion();
    targets = turn, backlog
}
criterion_main!(benches);
