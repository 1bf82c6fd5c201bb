//! The way of an event between its decoding and the outboxes: the edge's rules, the home that gives
//! it its place, and the list of those who get it. One shard, no bytes, no sockets.

mod common;

use arqonbus::base::hash::{Placement, seeded};
use arqonbus::base::ids::{ConnId, ShardId};
use arqonbus::base::limits::Limits;
use arqonbus::base::quota::NodeQuotas;
use arqonbus::broker::delivery::{Deliveries, Delivery};
use arqonbus::broker::edge::{Edge, Flow};
use arqonbus::broker::home::{Home, Told};
use arqonbus::broker::lane::Asks;
use arqonbus::broker::policy::Role;
use arqonbus::protocol::command::{Address, Identity};
use arqonbus::protocol::decode::decode;
use arqonbus::protocol::envelope::Envelope;
use arqonbus::protocol::names::Name;
use common::bus::{START, facts};
use common::{event, text_payload};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::borrow::Cow;
use std::sync::Arc;

const SHARD: ShardId = ShardId(0);

/// An edge and a home that talk to each other without lanes.
struct Pair {
    edge: Edge,
    home: Home,
    asks: Asks,
    told: Told,
    deliveries: Deliveries,
}

impl Pair {
    /// With so many members of one channel; the first is connection 0.
    fn with_members(members: u32) -> Pair {
        let (limits, hasher) = (Arc::new(Limits::default()), seeded(1));
        let rng = fastrand::Rng::with_seed;
        let placement = Placement::new(1, 1);
        let mut pair = Pair {
            edge: Edge::new(SHARD, placement, limits.clone(), facts(), hasher.clone(), rng(1)),
            home: Home::new(SHARD, 1, limits, NodeQuotas::default(), hasher, rng(2)),
            asks: Asks::new(1),
            told: Told::default(),
            deliveries: Deliveries::default(),
        };
        for slot in 0..members {
            let conn = ConnId { slot, generation: 0 };
            let address = Address { room: Name::fixed("science"), channel: Name::fixed("general") };
            let client_id = Name::parse(&client_id(slot)).ok();
            let identity = Identity { client_id, join: vec![address], ..Identity::default() };
            pair.edge.connect(START, conn, (None, Role::User), identity, &mut pair.asks);
            pair.route();
            pair.edge.run_errands(conn, &mut pair.asks);
            pair.route();
            assert!(pair.edge.may_send(conn));
        }
        pair.deliveries = Deliveries::default();
        pair
    }

    fn publish(&mut self, envelope: &Envelope<'_>) -> usize {
        let conn = ConnId { slot: 0, generation: 0 };
        let Pair { edge, asks, deliveries, .. } = self;
        let flow = edge.on_message(START, conn, envelope, false, asks, deliveries);
        assert_eq!(flow, Flow::Done);
        self.route();
        let count = self.deliveries.receivers.len();
        assert!(matches!(self.deliveries.list[..], [Delivery::Fanout { .. }]), "it is accepted");
        self.deliveries.list.clear();
        self.deliveries.receivers.clear();
        count
    }

    /// Lets the home answer what it is asked, and the edge handle what it is told.
    fn route(&mut self) {
        while let Some(ask) = self.asks.queue(SHARD).pop_front() {
            self.home.on_ask(START, ask, &mut self.told);
        }
        for (_, tell) in self.told.tells.drain(..) {
            self.edge.on_tell(START, tell, &mut self.deliveries);
        }
        self.told.telemetry.clear();
    }
}

fn client_id(slot: u32) -> String {
    format!("client-{slot:05}")
}

fn publish(c: &mut Criterion) {
    let text = event("science", &client_id(0), &text_payload(128), "");
    let mut group = c.benchmark_group("route");
    for members in [2, 101, 10_001] {
        let mut pair = Pair::with_members(members);
        let mut number = 0_u64;
        group.throughput(Throughput::Elements(u64::from(members - 1)));
        group.bench_function(BenchmarkId::new("publish", members - 1), |b| {
            let next = || {
                number += 1;
                let mut envelope = decode(&text).expect("it follows every rule");
                envelope.id = Cow::Owned(format!("arq_01JDZ8Q6YH3V5K9T{number:010}"));
                envelope
            };
            let publish = |envelope| assert_eq!(pair.publish(&envelope), members as usize - 1);
            b.iter_batched(next, publish, BatchSize::SmallInput);
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = common::criterion();
    targets = publish
}
criterion_main!(benches);
