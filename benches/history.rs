//! What a channel's order costs: a place for a new event, a page of what was said, and what a
//! member missed. The ring is full, as it is in every channel that is in use.

mod common;

use arqonbus::base::hash::seeded;
use arqonbus::broker::history::{History, Recovery, Verdict, newest};
use arqonbus::protocol::envelope::MessageType;
use arqonbus::protocol::frame::{Draft, Origin};
use arqonbus::protocol::names::Name;
use arqonbus::protocol::timestamp::Writer;
use common::text_payload;
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use std::hint::black_box;

const EPOCH: &str = "01JDZ8Q6YH3V5K9T2N4W7X8B1C";

fn draft(number: u64, payload: &str) -> Draft {
    let origin = Origin { received_ns: 0, ttl_ms: None };
    let id = format!("arq_01JDZ8Q6YH3V5K9T{number:010}");
    Draft::of_server(&id, MessageType::Event, ("science", "general"), payload, origin)
}

fn full(size: u32, payload: &str) -> History {
    let mut history = History::new(EPOCH.into(), size, usize::MAX, seeded(1));
    let mut times = Writer::default();
    for number in 0..u64::from(size) {
        let verdict = history.append(draft(number, payload), number, &mut times);
        assert!(matches!(verdict, Verdict::Fresh(_)));
    }
    history
}

fn append(c: &mut Criterion) {
    let payload = text_payload(128);
    let mut times = Writer::default();
    let mut group = c.benchmark_group("history/append");
    for size in [0, 500, 10_000] {
        let mut history = full(size, &payload);
        let mut number = u64::from(size);
        group.bench_function(BenchmarkId::new("fresh", size), |b| {
            let next = || {
                number += 1;
                draft(number, &payload)
            };
            let place = |draft| history.append(draft, 1, &mut times);
            b.iter_batched(next, place, BatchSize::SmallInput);
        });
    }
    let mut history = full(500, &payload);
    group.bench_function(BenchmarkId::new("repeated", 500), |b| {
        let again = || draft(499, &payload);
        let place =
            |draft| assert!(matches!(history.append(draft, 1, &mut times), Verdict::Duplicate(_)));
        b.iter_batched(again, place, BatchSize::SmallInput);
    });
    group.finish();
}

fn read(c: &mut Criterion) {
    let history = full(500, &text_payload(128));
    let mut group = c.benchmark_group("history");
    for limit in [50, 500] {
        let query = newest(Name::fixed("science"), Name::fixed("general"), limit);
        group.bench_function(BenchmarkId::new("page", limit), |b| {
            b.iter(|| history.page(black_box(&query), 0, 1 << 20).messages.len());
        });
        group.bench_function(BenchmarkId::new("since", limit), |b| {
            b.iter(|| match history.since(EPOCH, black_box(500 - limit as u64), 0, 1 << 20) {
                Recovery::Whole(frames) => frames.len(),
                Recovery::Impossible(why) => panic!("{why}"),
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = common::criterion();
    targets = append, read
}
criterion_main!(benches);
