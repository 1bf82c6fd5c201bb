//! The daemon over loopback: from a client's send until every member has read it, one step after the
//! other. Clients and daemon share the machine, so this is the time of the host as a whole, most of
//! which is the kernel's.

mod common;

use common::bus::Client;
use common::daemon::{Daemon, Socket};
use common::{Parcel, event, text_payload};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Rooms, members of each, and messages that a room's first member sends at once.
const STEPS: [(&str, usize, usize, usize); 4] = [
    ("1-to-1", 1, 2, 1),
    ("1-to-100", 1, 101, 1),
    ("1-to-100-deep", 1, 101, 32),
    ("10-rooms-of-10", 10, 10, 1),
];

fn steps(c: &mut Criterion) {
    let mut group = c.benchmark_group("end-to-end");
    for (name, rooms, members, messages) in STEPS {
        let daemon = Daemon::start(env!("CARGO_BIN_EXE_arqonbus"), 1);
        let mut clients: Vec<Vec<Socket>> = Vec::new();
        let mut parcels = Vec::new();
        for room in 0..rooms {
            let joined = [format!("room-{room}")];
            let id = |member| format!("client-{room}-{member}");
            let connect = |member| Socket::connect(&daemon.address, &id(member), &joined);
            clients.push((0..members).map(connect).collect());
            let mut parcel = Parcel::new(Client::ELSEWHERE);
            for _ in 0..messages {
                parcel.push(&event(&joined[0], &id(0), &text_payload(128), ""));
            }
            parcels.push(parcel);
        }
        let mut next_id = 0;
        group.throughput(Throughput::Elements((rooms * (members - 1) * messages) as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                for (parcel, members) in parcels.iter_mut().zip(&mut clients) {
                    parcel.renumber(&mut next_id);
                    members[0].send(&parcel.bytes);
                }
                for members in &mut clients {
                    members[1..].iter_mut().for_each(|member| member.take(messages));
                }
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = common::criterion();
    targets = steps
}
criterion_main!(benches);
