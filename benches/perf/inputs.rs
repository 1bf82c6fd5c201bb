//! The inputs: small ones with a name, so that a figure can be followed over the project's life.

use crate::common::bus::{Bus, Load};
use crate::common::{Parcel, command};
use arqonbus::base::limits::Limits;

/// An input.
#[derive(Clone, Copy)]
pub(crate) struct Input {
    pub(crate) name: &'static str,
    /// What it is, in a few words.
    pub(crate) about: &'static str,
    pub(crate) kind: Kind,
    /// How many messages bring it into its steady state.
    pub(crate) before: usize,
    /// How many are counted after those.
    pub(crate) counted: usize,
}

/// What is done.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// Messages flow.
    Load(Load),
    /// A client connects, joins a room, and leaves.
    Arrivals,
    /// A client asks for the last 50 messages.
    History,
    /// A client gives commands that cost the most they can, on a bus as large as it says.
    Commands(Worst),
}

/// Commands at their limits.
#[derive(Clone, Copy)]
pub(crate) struct Worst {
    /// Rooms of the bus.
    rooms: usize,
    /// Channels of `room-0`.
    channels: usize,
    /// Clients that joined `room-0:general`, beside the one that asks.
    members: usize,
    /// Whether they watch who comes and goes.
    watch: bool,
    /// The commands, each with its parameters, that are given in turn.
    commands: &'static [(&'static str, &'static str)],
}

const WORST: Worst = Worst { rooms: 1, channels: 1, members: 1, watch: false, commands: &[] };
const EVERY: &str = r#"{"channel":"room-0:*"}"#;
const GENERAL: &str = r#"{"channel":"room-0:general"}"#;

const PAIRS: Load = Load { connections: 20, rooms: 10, history_size: 100, ..Load::ONE_TO_ONE };
const FANOUT: Load = Load { connections: 101, rooms: 1, members: 101, publishers: 1, ..PAIRS };
const ROOMS: Load =
    Load { connections: 100, members: 10, publishers: 10, messages_per_turn: 10, ..PAIRS };
const DEEP: Load = Load { connections: 100, members: 100, publishers: 4, ..FANOUT };
const SMALL_ROOMS: Load = Load {
    connections: 90,
    rooms: 300,
    members: 3,
    publishers: 3,
    messages_per_turn: 10,
    history_size: 16,
    ..PAIRS
};

/// All inputs, in the order of the report.
pub(crate) const ALL: &[Input] = &[
    load("pairs", "10 pairs, one message a turn", PAIRS, (3_000, 2_500)),
    load("pairs-1k", "the same, 1 KiB", Load { payload_bytes: 1_024, ..PAIRS }, (3_000, 2_500)),
    load(
        "pairs-acked",
        "the same, 128 B, each acknowledged",
        Load { wants_ack: true, ..PAIRS },
        (3_000, 2_500),
    ),
    load(
        "pairs-crossed",
        "the same, on two shards, every pair across them",
        Load { shards: 2, ..PAIRS },
        (3_000, 2_500),
    ),
    load("fanout", "1 publisher, 100 members, one message a turn", FANOUT, (300, 250)),
    load("fanout-1k", "the same, 1 KiB", Load { payload_bytes: 1_024, ..FANOUT }, (300, 250)),
    load(
        "fanout-deep",
        "4 publishers, 100 members, 32 messages a turn",
        Load { messages_per_turn: 32, ..DEEP },
        (320, 256),
    ),
    load("rooms", "10 rooms of 10, a message in each a turn", ROOMS, (3_000, 2_500)),
    load(
        "small-rooms",
        "300 rooms of 3, 90 members, 10 messages a turn",
        SMALL_ROOMS,
        (6_000, 6_000),
    ),
    Input {
        name: "arrivals",
        about: "a client connects, joins a room of 10, and is gone",
        kind: Kind::Arrivals,
        before: 50,
        counted: 150,
    },
    Input {
        name: "history",
        about: "a command for the last 50 messages",
        kind: Kind::History,
        before: 10,
        counted: 50,
    },
    worst(
        "list-rooms",
        "a page of 1,000 of 20,000 rooms",
        Worst { rooms: 20_000, commands: &[("list_rooms", "{}")], ..WORST },
    ),
    worst(
        "list-clients",
        "a page of 1,000 of 3,000 clients",
        Worst { members: 3_000, commands: &[("list_clients", "{}")], ..WORST },
    ),
    worst(
        "list-channels",
        "the 1,000 channels of a room",
        Worst { channels: 1_000, commands: &[("list_channels", r#"{"room":"room-0"}"#)], ..WORST },
    ),
    worst(
        "channel-info",
        "a page of 1,000 of 3,000 participants",
        Worst { members: 3_000, commands: &[("channel_info", GENERAL)], ..WORST },
    ),
    worst(
        "join-all",
        "a join of the 1,000 channels of a room by *, and a leave",
        Worst {
            channels: 1_000,
            commands: &[("join_channel", EVERY), ("leave_channel", EVERY)],
            ..WORST
        },
    ),
    worst(
        "flapping",
        "a join and a leave, each, of a channel that 1,000 clients watch",
        Worst {
            members: 1_000,
            watch: true,
            commands: &[("join_channel", GENERAL), ("leave_channel", GENERAL)],
            ..WORST
        },
    ),
    worst(
        "announce",
        "an announcement to 3,000 clients",
        Worst { members: 3_000, commands: &[("announce", r#"{"message":"hi"}"#)], ..WORST },
    ),
    worst("status", "counts of everything", Worst { commands: &[("status", "{}")], ..WORST }),
    worst("help", "every command, described", Worst { commands: &[("help", "{}")], ..WORST }),
];

const fn worst(name: &'static str, about: &'static str, worst: Worst) -> Input {
    Input { name, about, kind: Kind::Commands(worst), before: 4, counted: 20 }
}

const fn load(
    name: &'static str,
    about: &'static str,
    load: Load,
    (before, counted): (usize, usize),
) -> Input {
    Input { name, about, kind: Kind::Load(load), before, counted }
}

/// The input of that name.
pub(crate) fn find(name: &str) -> &'static Input {
    ALL.iter().find(|input| input.name == name).unwrap_or_else(|| {
        let names: Vec<&str> = ALL.iter().map(|input| input.name).collect();
        panic!("there is no input {name}; there are {}", names.join(", "))
    })
}

impl Input {
    /// How many deliveries one message makes; 0 where the question has no meaning.
    pub(crate) fn deliveries(&self) -> usize {
        match &self.kind {
            Kind::Load(load) => load.deliveries(),
            Kind::Arrivals | Kind::History | Kind::Commands(_) => 0,
        }
    }

    /// Does it as often as it says, and looks whether it was done.
    pub(crate) fn drive(&self) {
        match &self.kind {
            Kind::Load(load) => self.drive_load(load),
            Kind::Arrivals => self.drive_arrivals(),
            Kind::History => self.drive_history(),
            Kind::Commands(worst) => self.drive_commands(worst),
        }
    }

    fn drive_load(&self, load: &Load) {
        let mut running = load.start();
        for (is_counted, count) in [(false, self.before), (true, self.counted)] {
            if is_counted {
                steady();
            }
            let before = running.bus.delivered();
            let mut sent = 0;
            while sent < count {
                sent += running.turn();
            }
            assert_eq!(sent, count, "the count is a whole number of turns");
            let delivered = running.bus.delivered() - before;
            assert_eq!(delivered, (count * load.deliveries()) as u64, "all was delivered");
        }
    }

    fn drive_arrivals(&self) {
        let mut bus = Bus::new(1, Limits::default());
        let room = ["room-0".to_owned()];
        for number in 0..9 {
            bus.connect(0, &format!("client-{number:05}"), &room);
        }
        for number in 0..self.before + self.counted {
            if number == self.before {
                steady();
            }
            let client = bus.connect(0, &format!("guest-{number:06}"), &room);
            bus.disconnect(client);
        }
    }

    fn drive_history(&self) {
        let mut running = Load { connections: 2, rooms: 1, ..PAIRS }.start();
        for _ in 0..150 {
            running.turn();
        }
        let mut question = Parcel::new(running.clients[0]);
        question.push(&command("room-0", "client-00000", "history", r#"{"limit":50}"#));
        let mut next_id = 1_000_000;
        let before = running.bus.written_bytes();
        for number in 0..self.before + self.counted {
            if number == self.before {
                steady();
            }
            question.renumber(&mut next_id);
            running.bus.deliver(std::slice::from_mut(&mut question));
        }
        let answers = running.bus.written_bytes() - before;
        let answer = answers as usize / (self.before + self.counted);
        assert!(answer > 50 * 128, "an answer has 50 messages in it");
    }
}

impl Input {
    fn drive_commands(&self, worst: &Worst) {
        let limits = Limits { max_rooms: u32::MAX, max_channels: u32::MAX, ..Limits::default() };
        let mut bus = Bus::new(1, Limits { max_joins_per_client: 1_000_000, ..limits });
        let asker = bus.connect(0, "client-00000", &[]);
        let mut next_id = 1_000_000;
        let mut ask = |bus: &mut Bus, sender, from: &str, name: &str, parameters: &str| {
            let mut question = Parcel::new(sender);
            question.push(&command("*", from, name, parameters));
            question.renumber(&mut next_id);
            bus.deliver(std::slice::from_mut(&mut question));
        };
        for room in 0..worst.rooms {
            let parameters = format!(r#"{{"channel":"room-{room}:general"}}"#);
            ask(&mut bus, asker, "client-00000", "create_channel", &parameters);
        }
        for channel in 1..worst.channels {
            let parameters = format!(r#"{{"channel":"room-0:channel-{channel}"}}"#);
            ask(&mut bus, asker, "client-00000", "create_channel", &parameters);
        }
        for member in 1..=worst.members {
            let name = format!("client-{member:05}");
            let client = bus.connect(0, &name, &[]);
            let watch = worst.watch;
            let parameters = format!(r#"{{"channel":"room-0:general","presence":{watch}}}"#);
            ask(&mut bus, client, &name, "join_channel", &parameters);
        }
        let before = bus.written_bytes();
        for number in 0..self.before + self.counted {
            if number == self.before {
                steady();
            }
            for (name, parameters) in worst.commands {
                ask(&mut bus, asker, "client-00000", name, parameters);
            }
        }
        assert!(bus.written_bytes() > before, "it is answered");
    }
}

/// Where counting begins: what was counted before is forgotten.
#[inline(never)]
fn steady() {
    std::hint::black_box(());
}
