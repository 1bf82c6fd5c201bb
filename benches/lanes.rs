//! What it costs to cross from shard to shard: through the lane of one sender, through one that
//! several threads fill, and to wake a shard that sleeps.

mod common;

use arqonbus::base::ids::{ConnId, ConnRef, ShardId};
use arqonbus::broker::lane::{Ask, Tell};
use arqonbus::broker::staged::Staged;
use arqonbus::shard::driver::poll_with_bell;
use arqonbus::shard::lanes::{Inbox, Lanes};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::iter;
use std::thread;
use std::time::{Duration, Instant};

const CONN: ConnId = ConnId { slot: 1, generation: 1 };

fn ask() -> Ask {
    Ask::Gone(ConnRef { shard: ShardId(0), conn: CONN })
}

fn tell() -> Tell {
    Tell::Claimed { conn: CONN, granted: true, life: 0 }
}

/// What one shard stages in a turn and the other takes in the next, in one thread.
fn one_sender(c: &mut Criterion) {
    let (poll, bell) = poll_with_bell().expect("a poll");
    let (lanes, inboxes) = Lanes::new(vec![bell]);
    let Inbox { asks, tells } = &inboxes[0];
    let mut group = c.benchmark_group("lanes/one-sender");
    for count in [1, 32] {
        group.throughput(Throughput::Elements(count as u64));
        let mut staged = Staged::default();
        group.bench_function(BenchmarkId::new("asks", count), |b| {
            b.iter(|| {
                (0..count).for_each(|_| staged.push_back(ask()));
                lanes.send_asks(ShardId(0), &mut staged);
                lanes.ring(ShardId(0));
                iter::from_fn(|| asks.take()).map(black_box).count()
            });
        });
        let mut staged = Staged::default();
        group.bench_function(BenchmarkId::new("tells", count), |b| {
            b.iter(|| {
                (0..count).for_each(|_| staged.push_back(tell()));
                lanes.send_tells(ShardId(0), &mut staged);
                lanes.ring(ShardId(0));
                iter::from_fn(|| tells.take()).map(black_box).count()
            });
        });
    }
    group.finish();
    drop(poll);
}

/// Threads that fill one shard's lane as fast as it is emptied; the time of one tell.
fn several_senders(c: &mut Criterion) {
    let mut group = c.benchmark_group("lanes/senders");
    for senders in [1, 2, 4] {
        group.bench_function(BenchmarkId::from_parameter(senders), |b| {
            b.iter_custom(|count| contend(senders, count));
        });
    }
    group.finish();
}

fn contend(senders: u64, count: u64) -> Duration {
    let (_poll, bell) = poll_with_bell().expect("a poll");
    let (lanes, inboxes) = Lanes::new(vec![bell]);
    let started = Instant::now();
    thread::scope(|scope| {
        for number in 0..senders {
            let lanes = lanes.clone();
            let mut left = count / senders + u64::from(number < count % senders);
            scope.spawn(move || {
                let mut staged = Staged::default();
                while left > 0 || !staged.is_empty() {
                    // As many as a turn may bring.
                    let next = left.min(32_u64.saturating_sub(staged.len() as u64));
                    (0..next).for_each(|_| staged.push_back(tell()));
                    left -= next;
                    lanes.send_tells(ShardId(0), &mut staged);
                    lanes.ring(ShardId(0));
                    if !staged.is_empty() {
                        thread::yield_now();
                    }
                }
            });
        }
        let mut taken = 0;
        while taken < count {
            let before = taken;
            taken += iter::from_fn(|| inboxes[0].tells.take()).map(black_box).count() as u64;
            if taken == before {
                thread::yield_now();
            }
        }
    });
    started.elapsed()
}

fn bell(c: &mut Criterion) {
    let (_poll, bell) = poll_with_bell().expect("a poll");
    let mut group = c.benchmark_group("lanes/ring");
    group.bench_function("awake", |b| b.iter(|| bell.ring()));
    group.bench_function("asleep", |b| {
        b.iter(|| {
            bell.lie_down();
            bell.ring()
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = common::criterion();
    targets = one_sender, several_senders, bell
}
criterion_main!(benches);
