//! A whole turn of the engine: from the bytes that sockets gave to the bytes for every socket. The
//! time of a delivery is the time of the turn by its throughput in elements.

mod common;

use common::bus::Load;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const PAIRS: Load = Load::ONE_TO_ONE;

fn turns(c: &mut Criterion) {
    let fanout = Load { connections: 101, rooms: 1, members: 101, publishers: 1, ..PAIRS };
    let loads = [
        ("1-to-1", PAIRS),
        ("1-to-1-crossed", Load { shards: 2, ..PAIRS }),
        ("1-to-1-acked", Load { wants_ack: true, ..PAIRS }),
        ("1-to-100", fanout),
        ("1-to-100-1Ki", Load { payload_bytes: 1_024, ..fanout }),
        ("4-to-100-deep", Load { publishers: 4, messages_per_turn: 32, ..fanout }),
        (
            "10-rooms-of-10",
            Load { rooms: 10, members: 10, publishers: 10, messages_per_turn: 10, ..PAIRS },
        ),
    ];
    let mut group = c.benchmark_group("turn");
    for (name, load) in loads {
        let mut running = load.start();
        let deliveries = load.messages_per_turn * load.deliveries();
        group.throughput(Throughput::Elements(deliveries as u64));
        let (mut messages, before) = (0, running.bus.delivered());
        group.bench_function(name, |b| b.iter(|| messages += running.turn()));
        let delivered = running.bus.delivered() - before;
        assert_eq!(delivered, (messages * load.deliveries()) as u64, "{name}: all was delivered");
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = common::criterion();
    targets = turns
}
criterion_main!(benches);
