//! Several nodes in an order of events that a seed chooses.

use super::super::Client;
use super::{World, for_each_seed};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// By client and channel: the ids that it heard, and the sequences since its last gap.
type Heard = BTreeMap<(usize, String), (BTreeSet<String>, Vec<u64>)>;

/// What clients were told: the places of their events, and by client and channel the epoch.
#[derive(Default)]
struct Told {
    acked: BTreeMap<String, u64>,
    epochs: BTreeMap<(usize, String), String>,
}

/// A schedule that a seed chooses: clients on three nodes join, leave, publish and move, while nodes
/// hear late or are cut off. Afterwards every member has heard each event at most once; what it heard
/// since its last gap is a run; what was acknowledged has just that place; and the epoch that it was
/// told last is the one that its node has, and recovers all.
#[test]
fn whatever_happens_everybody_ends_in_one_order() {
    for_each_seed(run);
}

fn run(seed: u64) {
    const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    const CHANNELS: [&str; 3] = ["r:x", "r:y", "s:x"];
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut world = World::new(3);
    let mut clients: Vec<(usize, Client)> = Vec::new();
    for (at, name) in NAMES.into_iter().enumerate() {
        let client = world.nodes[at % 3].connect(at as u16 % 2, name);
        clients.push((at % 3, client));
        world.settle();
    }
    let mut joined: Vec<BTreeSet<&str>> = vec![BTreeSet::new(); NAMES.len()];
    let mut heard = Heard::new();
    let mut sent: Vec<(usize, &str, String)> = Vec::new();
    let mut joined_at: BTreeMap<(usize, String), usize> = BTreeMap::new();
    let mut told = Told::default();
    for _ in 0..120 {
        let at = rng.usize(..clients.len());
        let (node, client) = clients[at].clone();
        let channel = CHANNELS[rng.usize(..CHANNELS.len())];
        match rng.u8(..13) {
            0..=5 if joined[at].contains(channel) => {
                let id = world.nodes[node].send(&client, channel);
                sent.push((at, channel, id));
            }
            // Sends one of its last events again.
            11 if joined[at].contains(channel) => {
                let of_it = |(of, to, _): &&(usize, &str, String)| *of == at && *to == channel;
                let last: Vec<String> =
                    sent.iter().rev().filter(of_it).take(5).map(|(_, _, id)| id.clone()).collect();
                if let Some(id) = rng.choice(last) {
                    world.nodes[node].send_again(&client, channel, &id);
                }
            }
            6..=7 if !joined[at].contains(channel) => {
                let payload = json!({"command": "join_channel", "parameters": {}});
                world.nodes[node].say(&client, "command", channel, payload, json!({}));
                // It may wait, and is answered in any case before it is looked at.
                world.store.borrow_mut().nodes[node].is_late = false;
                world.settle();
                joined[at].insert(channel);
                joined_at.insert((at, channel.to_owned()), sent.len());
                heard.remove(&(at, channel.to_owned()));
            }
            8 if joined[at].contains(channel) => {
                world.nodes[node].done(&client, "leave_channel", channel, json!({}));
                listen(&mut world, at, &clients[at], &mut heard, &sent, &mut told);
                joined[at].remove(channel);
            }
            9 => world.store.borrow_mut().nodes[node].is_late ^= true,
            10 => {
                let is_away = world.store.borrow().nodes[node].is_away;
                match is_away {
                    true => world.mend(node),
                    false => world.cut_off(node),
                }
            }
            _ => world.pass(rng.u64(..40_000)),
        }
        if rng.bool() {
            world.settle();
        }
        for (at, client) in clients.iter().enumerate() {
            listen(&mut world, at, client, &mut heard, &sent, &mut told);
        }
    }
    for node in 0..3 {
        world.store.borrow_mut().nodes[node].is_late = false;
        let is_away = world.store.borrow().nodes[node].is_away;
        if is_away {
            world.mend(node);
        }
    }
    world.settle();
    world.pass(1);
    for (at, client) in clients.iter().enumerate() {
        listen(&mut world, at, client, &mut heard, &sent, &mut told);
    }
    for (at, (node, client)) in clients.iter().enumerate() {
        for channel in &joined[at] {
            let bus = &mut world.nodes[*node];
            let (room, name) = channel.split_once(':').unwrap();
            let home = bus.placement.of_room(room).index();
            let history = &bus.homes[home].channel(room, name).expect("it has a member").history;
            let (epoch, sequence) = (history.epoch().to_string(), history.last());
            let known = &told.epochs[&(at, (*channel).to_owned())];
            assert_eq!(*known, epoch, "seed {seed}: {at} in {channel}");
            bus.done(client, "leave_channel", channel, json!({}));
            let recover = json!({"recover": {"epoch": known, "sequence": sequence}});
            let again = bus.done(client, "join_channel", channel, recover);
            assert_eq!(again["recovered"], true, "seed {seed}: {at} in {channel}: {again}");
        }
    }
    let store = world.store.borrow();
    for (key, sequence) in &told.acked {
        let is_so = store.places[key].values().any(|place| place == sequence);
        assert!(is_so, "seed {seed}: {key} was acknowledged with {sequence}");
    }
    for ((at, channel), (ids, run)) in &heard {
        if !joined[*at].contains(channel.as_str()) {
            continue;
        }
        let is_grown = run.windows(2).all(|pair| pair[0] < pair[1]);
        assert!(is_grown, "seed {seed}: {at} in {channel}: {run:?}");
        let frames = &store.channels[channel].frames;
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        for frame in frames.iter().filter(|frame| (*first..=*last).contains(&frame.sequence)) {
            let is_own = frame.from() == NAMES[*at];
            // What it heard before a gap it does not hear again; what was said to the members of its
            // node before it was one may have got its place since.
            let is_heard = ids.contains(frame.id());
            let said = sent.iter().position(|(_, _, id)| id == frame.id()).unwrap();
            let is_early = said < joined_at[&(*at, channel.clone())];
            let name = frame.id();
            assert!(
                is_own != is_heard || is_early,
                "seed {seed}: {at} in {channel}: {run:?} {name}"
            );
        }
    }
}

/// Takes note of what a client heard.
fn listen(
    world: &mut World,
    at: usize,
    (node, client): &(usize, Client),
    heard: &mut Heard,
    sent: &[(usize, &str, String)],
    told: &mut Told,
) {
    for message in world.nodes[*node].heard(client) {
        let text = |field: &str| message[field].as_str().unwrap_or_default().to_owned();
        let key = (at, format!("{}:{}", text("room"), text("channel")));
        let payload = &message["payload"];
        match text("type").as_str() {
            "event" => {
                let (ids, run) = heard.entry(key).or_default();
                assert!(ids.insert(text("id")), "{at} heard {message} before");
                run.push(message["metadata"]["sequence"].as_u64().unwrap());
            }
            "system" if payload["event"] == "gap" || payload["event"] == "epoch_changed" => {
                if let Some(epoch) = payload["epoch"].as_str() {
                    told.epochs.insert(key.clone(), epoch.to_owned());
                }
                heard.entry(key).or_default().1.clear();
            }
            "command_response" if payload["status"] == "success" => {
                let id = payload["request_id"].as_str().unwrap_or_default();
                if let Some((_, channel, _)) = sent.iter().find(|(_, _, known)| known == id) {
                    let sequence = payload["result"]["sequence"].as_u64().unwrap();
                    told.acked.insert(format!("{channel} {id}"), sequence);
                }
                if let (Some(epoch), true) =
                    (payload["result"]["epoch"].as_str(), payload["command"] == "join_channel")
                {
                    told.epochs.insert(key, epoch.to_owned());
                }
            }
            _ => {}
        }
    }
}
