use super::peer::ASK_AGAIN_MS;
use super::*;
use crate::base::ids::ShardId;
use crate::broker::census::{Rows, RowsWanted};
use crate::broker::lane::{ClientsPart, PendingRef};
use crate::broker::peers::PeerClients;
use crate::broker::policy::Role;
use crate::protocol::command::ClientType;
use crate::protocol::envelope::MessageType;
use crate::protocol::frame::{Draft, Frame, Origin};

const START: Now = Now { mono_ns: 10_000_000_000, wall_us: 0 };

fn at(ms: u64) -> Now {
    Now { mono_ns: START.mono_ns + ms * 1_000_000, wall_us: 0 }
}

fn name(text: &str) -> Name {
    Name::parse_channel(text).unwrap()
}

fn address(room: &str, channel: &str) -> Arc<Address> {
    Arc::new(Address { room: name(room), channel: name(channel) })
}

fn card(id: &str, screen_name: Option<&str>) -> Arc<ClientCard> {
    let screen_name = screen_name.map(str::to_owned);
    let (client_type, role) = (ClientType::Service, Role::Admin);
    Arc::new(ClientCard { client_id: name(id), client_type, screen_name, role })
}

/// A connected node.
fn node(token: &str) -> Census {
    let mut census = Census::new(token.to_owned(), format!("node of {token}"), 1);
    census.set_connected(START, true);
    census
}

/// Delivers everything between two nodes until there is nothing; gives how many messages there were.
fn exchange(now: Now, a: &mut Census, b: &mut Census) -> usize {
    let mut count = 0;
    loop {
        let (of_a, of_b) = (a.take_outgoing(), b.take_outgoing());
        if of_a.is_empty() && of_b.is_empty() {
            return count;
        }
        count += of_a.len() + of_b.len();
        of_a.iter().for_each(|one| hear(now, b, one));
        of_b.iter().for_each(|one| hear(now, a, one));
    }
}

fn hear(now: Now, census: &mut Census, message: &Outgoing) {
    assert!(message.bytes.len() <= 256 * 1024, "{} bytes", message.bytes.len());
    match &message.to {
        Reach::Everyone => _ = census.on_message(now, &message.bytes),
        Reach::One(token) if *token == census.token => census.on_direct(now, &message.bytes),
        Reach::One(_) => {}
    }
}

/// Two nodes that know each other.
fn pair() -> (Census, Census) {
    let (mut a, mut b) = (node("a"), node("b"));
    exchange(START, &mut a, &mut b);
    for census in [&mut a, &mut b] {
        assert_eq!(news(census), ["peers 1 0"]);
    }
    (a, b)
}

#[test]
fn a_node_is_told_of_before_it_is_answered_and_is_known_when_it_is() {
    let (mut a, mut b) = (node("a"), node("b"));
    b.on_client(&name("bob"), true);
    // Whatever a says to everyone, b has not answered it.
    b.take_outgoing();
    let hello = a.take_outgoing();
    hello.iter().for_each(|one| hear(START, &mut b, one));
    assert_eq!(news(&mut b), ["peers 1 0"], "its homes know of it before the answer leaves");
    assert!(!a.is_acquainted_with("b"));
    b.tick(at(BEAT_MS));
    let of_b = b.take_outgoing();
    let to_everyone = of_b.iter().filter(|one| one.to == Reach::Everyone);
    to_everyone.for_each(|one| hear(at(BEAT_MS), &mut a, one));
    assert!(!a.is_acquainted_with("b"), "that may have been on its way before");
    let answer = of_b.iter().filter(|one| one.to != Reach::Everyone);
    answer.for_each(|one| hear(at(BEAT_MS), &mut a, one));
    assert!(!a.is_acquainted_with("b"), "its clients are not known yet");
    exchange(at(BEAT_MS), &mut a, &mut b);
    assert!(a.is_acquainted_with("b") && b.is_acquainted_with("a"));
    assert!(!a.is_acquainted_with("c"));
    let bye = b.bye();
    hear(at(BEAT_MS), &mut a, &bye);
    assert!(a.is_acquainted_with("b"), "it is not waited for any more");
    assert!(news(&mut a).contains(&"peers".to_owned()), "and told of at once");
}

/// The news as words.
fn news(census: &mut Census) -> Vec<String> {
    let word = |(to, news)| match news {
        PeerNews::Member { peer, address, client, is_member } => {
            assert_eq!(to, To::Room(address.room.clone()));
            let who = client.screen_name.as_ref().unwrap_or(&"".to_owned()).clone();
            format!("{} {}{who} {is_member} {address}", peer.0, client.client_id)
        }
        PeerNews::Client { peer, client_id, is_connected } => {
            assert_eq!(to, To::Client(client_id.clone()));
            format!("{} {client_id} {is_connected}", peer.0)
        }
        PeerNews::PeerGone(peer) => format!("{} gone", peer.0),
        PeerNews::Peers(peers) => {
            let peer = |peer: &PeerView| format!(" {} {}", peer.id.0, peer.clients);
            format!("peers{}", peers.iter().map(peer).collect::<String>())
        }
        PeerNews::Note(note) => {
            let text = |frame: &Frame| String::from_utf8(frame.text().to_vec()).unwrap();
            let what = match note {
                PeerNote::Private { targets, frame } => format!("{targets:?} {}", text(&frame)),
                PeerNote::Announce { room, frame } => format!("{room:?} {}", text(&frame)),
                PeerNote::Disconnect { client_id, reason } => format!("{client_id} {reason:?}"),
                other => panic!("{other:?} is told as what it asks or answers"),
            };
            format!("{to:?}: {what}")
        }
        other => panic!("{other:?}"),
    };
    census.take_news().into_iter().map(word).collect()
}

fn is_same(a: &Census, b: &Census) -> bool {
    let known = b.peers[&a.token].table().all();
    format!("{known:?}") == format!("{:?}", a.own.table().all())
}

#[test]
fn changes_go_together_and_only_what_is_so_at_the_end() {
    let (mut a, mut b) = pair();
    let ann = card("ann", None);
    type Act = fn(&mut Census, &Arc<ClientCard>);
    let rounds: [(&str, Act, &[&str]); 6] = [
        (
            "comes and joins",
            |a, ann| {
                a.on_client(&ann.client_id, true);
                a.on_member(&address("r", "*"), ann, true);
                a.on_member(&address("r", "c"), ann, true);
            },
            &["1 ann true", "1 ann true r:*", "1 ann true r:c"],
        ),
        (
            "leaves and comes back",
            |a, ann| {
                a.on_member(&address("r", "c"), ann, false);
                a.on_member(&address("r", "c"), ann, true);
            },
            &[],
        ),
        (
            "looks in",
            |a, ann| {
                a.on_member(&address("s", "c"), ann, true);
                a.on_member(&address("s", "c"), ann, false);
            },
            &[],
        ),
        (
            "is another in all channels",
            |a, _| a.on_member(&address("r", "c"), &card("ann", Some("X")), true),
            &["1 annX true r:*", "1 annX true r:c"],
        ),
        (
            "is another once more, and leaves where it was told",
            |a, ann| {
                a.on_member(&address("r", "c"), ann, true);
                a.on_member(&address("r", "c"), ann, false);
            },
            &["1 annX false r:c", "1 ann true r:*"],
        ),
        (
            "goes",
            |a, ann| {
                a.on_client(&ann.client_id, false);
                a.on_member(&address("r", "*"), ann, false);
            },
            &["1 ann false", "1 ann false r:*"],
        ),
    ];
    for (what, act, told) in rounds {
        act(&mut a, &ann);
        assert_eq!(exchange(START, &mut a, &mut b), 1, "{what}");
        assert_eq!(news(&mut b), told, "{what}");
        assert!(is_same(&a, &b), "{what}");
        a.own.check();
    }
    a.on_client(&ann.client_id, false);
    a.on_member(&address("r", "*"), &ann, false);
    assert_eq!(exchange(START, &mut a, &mut b), 0, "nothing has changed");
}

#[test]
fn large_tables_go_in_small_messages_and_share_what_they_can() {
    let mut a = node("a");
    let channels: Vec<_> = (0..700).map(|n| address("room", &format!("c{n:060}"))).collect();
    for n in 0..3_000 {
        let client = card(&format!("client{n:050}"), Some(&"\u{1}".repeat(500)));
        a.on_client(&client.client_id, n % 2 == 0);
        let joins = if n == 1_500 { channels.len() } else { n % 3 };
        channels[..joins].iter().for_each(|at| a.on_member(at, &client, true));
    }
    // One hears it as changes, one as an answer.
    let (mut b, mut c) = (node("b"), node("c"));
    assert!(exchange(START, &mut a, &mut b) > 10);
    assert!(exchange(START, &mut a, &mut c) > 10);
    for census in [&mut b, &mut c] {
        assert!(is_same(&a, census));
        let told = census.take_news();
        let members = told.iter().filter_map(|(_, news)| match news {
            PeerNews::Member { address, client, .. } => Some((address, client)),
            _ => None,
        });
        let mut shared = BTreeMap::new();
        let mut cards = BTreeMap::new();
        for (address, client) in members {
            let one = shared.entry(Arc::clone(address)).or_insert_with(|| Arc::clone(address));
            assert!(Arc::ptr_eq(one, address), "{address}");
            let one = cards.entry(&client.client_id).or_insert(client);
            assert!(Arc::ptr_eq(one, client), "{client:?}");
        }
    }
}

#[test]
fn more_changes_than_may_wait_are_told_as_all_that_is_so() {
    let (mut a, mut b) = pair();
    for n in 0..300_000 {
        let id = name(&format!("c{}", n % 150_000));
        a.on_client(&id, n < 150_000 || n % 2 == 0);
    }
    a.own.check();
    exchange(START, &mut a, &mut b);
    assert_eq!(
        news(&mut b).len(),
        b.peers()[0].clients as usize,
        "the rest waited, or was skipped"
    );
    a.tick(at(BEAT_MS));
    exchange(at(BEAT_MS), &mut a, &mut b);
    assert_eq!(b.peers()[0].clients, 75_000);
    assert_eq!(b.peers["a"].table().counts(), a.own.table().counts());
}

#[test]
fn what_was_missed_is_asked_for_until_it_comes() {
    let (mut a, mut b) = pair();
    a.on_client(&name("ann"), true);
    a.take_outgoing();
    a.on_client(&name("bob"), true);
    let now = at(10);
    a.take_outgoing().iter().for_each(|one| hear(now, &mut b, one));
    assert_eq!(b.take_outgoing().len(), 1, "it asks");
    // The question was lost, and is not asked again too soon, whatever comes.
    a.on_client(&name("cyd"), true);
    a.take_outgoing().iter().for_each(|one| hear(at(20), &mut b, one));
    assert!(b.take_outgoing().is_empty());
    assert!(news(&mut b).is_empty());
    assert_eq!(b.next_due_ms(), Some(at(BEAT_MS).mono_ms()));
    b.tick(at(10 + ASK_AGAIN_MS));
    let now = at(20 + ASK_AGAIN_MS);
    b.take_outgoing().iter().for_each(|one| hear(now, &mut a, one));
    // What is said after the answer may come before it.
    let answer = a.take_outgoing();
    a.on_client(&name("ann"), false);
    a.take_outgoing().iter().for_each(|one| hear(now, &mut b, one));
    assert!(news(&mut b).iter().all(|word| word.starts_with("peers")));
    answer.iter().for_each(|one| hear(now, &mut b, one));
    let told = ["1 ann true", "1 bob true", "1 cyd true", "1 ann false"];
    assert_eq!(news(&mut b), told);
    // Said twice, nothing of it counts.
    answer.iter().for_each(|one| hear(now, &mut b, one));
    assert!(news(&mut b).is_empty() && b.take_outgoing().is_empty());
    assert!(is_same(&a, &b));
}

#[test]
fn a_table_that_is_not_that_of_its_number_is_put_right() {
    let (mut a, mut b) = pair();
    a.on_client(&name("ann"), true);
    exchange(START, &mut a, &mut b);
    let wrong = Say::Changes {
        number: 2,
        rows: vec![wire::Row {
            id: name("eve"),
            here: Some(true),
            joined: None,
            left: vec![address("r", "c")],
        }],
    };
    b.on_message(START, &encode("a", "n", &wrong));
    assert_eq!(news(&mut b), ["1 ann true", "1 eve true"]);
    a.on_client(&name("bob"), true);
    a.on_client(&name("dan"), true);
    a.take_outgoing();
    a.tick(at(BEAT_MS));
    exchange(at(BEAT_MS), &mut a, &mut b);
    assert_eq!(news(&mut b), ["1 eve false", "1 bob true", "1 dan true"]);
    b.peers["a"].check();
}

#[test]
fn leases_run_out_of_those_who_could_be_heard() {
    let gone = |words: &[String]| words.contains(&"1 gone".to_owned());
    let tick_to = |census: &mut Census, from: u64, to: u64| {
        (from..=to).step_by(500).for_each(|ms| census.tick(at(ms)));
        news(census)
    };
    // Silence.
    let (_, mut b) = pair();
    assert!(!gone(&tick_to(&mut b, 0, LEASE_MS - 500)));
    assert!(gone(&tick_to(&mut b, LEASE_MS, LEASE_MS)));
    assert_eq!(b.take_departed(), ["a"]);
    assert!(b.take_departed().is_empty());
    // A token that comes back is another peer.
    let mut a = node("a");
    a.on_client(&name("ann"), true);
    exchange(at(LEASE_MS), &mut a, &mut b);
    assert_eq!(news(&mut b), ["2 ann true", "peers 2 1"]);
    // The thread stood still.
    let (_, mut b) = pair();
    let late = 3 * LEASE_MS;
    assert!(!gone(&tick_to(&mut b, late, late + LEASE_MS - 500)));
    assert!(gone(&tick_to(&mut b, late + LEASE_MS, late + LEASE_MS)));
    // Redis was away.
    let (_, mut b) = pair();
    b.set_connected(START, false);
    assert_eq!(b.next_due_ms(), None);
    assert!(!gone(&tick_to(&mut b, 0, late)));
    assert!(b.take_outgoing().is_empty());
    b.set_connected(at(late), true);
    assert!(!gone(&tick_to(&mut b, late, late + LEASE_MS - 500)));
    assert!(gone(&tick_to(&mut b, late + LEASE_MS, late + LEASE_MS)));
    // It has said so.
    let (a, mut b) = pair();
    hear(START, &mut b, &a.bye());
    hear(START, &mut b, &a.bye());
    assert_eq!(news(&mut b), ["1 gone", "peers"]);
    assert_eq!(b.take_departed(), ["a"]);
}

#[test]
fn who_was_away_says_what_changed_meanwhile() {
    let (mut a, mut b) = pair();
    a.on_client(&name("ann"), true);
    a.set_connected(START, false);
    a.on_client(&name("bob"), true);
    a.set_connected(at(10), true);
    exchange(at(10), &mut a, &mut b);
    assert_eq!(news(&mut b), ["1 ann true", "1 bob true"]);
    // And hears what it has missed.
    b.on_client(&name("cyd"), true);
    b.take_outgoing();
    a.set_connected(at(20), true);
    exchange(at(20), &mut a, &mut b);
    assert_eq!(news(&mut a), ["1 cyd true"]);
}

#[test]
fn peers_are_told_once_a_second_if_they_have_changed() {
    let (mut a, mut b) = pair();
    let mut told = Vec::new();
    for ms in (0..4 * BEAT_MS).step_by(100) {
        if ms < 2 * BEAT_MS {
            a.on_client(&name(&format!("c{ms}")), true);
        }
        a.tick(at(ms));
        exchange(at(ms), &mut a, &mut b);
        b.tick(at(ms));
        told.extend(news(&mut b).into_iter().filter(|word| word.starts_with("peers")));
    }
    assert_eq!(told, ["peers 1 11", "peers 1 20"]);
    assert_eq!(b.peers()[0].node, "node of a");
}

#[test]
fn notes_come_to_the_homes_that_they_concern() {
    let (mut a, mut b) = pair();
    let payload = r#"{"b": 1e3,  "t":"\u0007 ü \" 😀"}"#;
    let draft = |ttl_ms| {
        let origin = Origin { received_ns: START.mono_ns, ttl_ms };
        let names = ("private", "pm");
        Draft::of_server("arq_1", MessageType::Event, names, payload, origin).stamp_unordered(7)
    };
    let frame = draft(Some(500));
    let text = std::str::from_utf8(frame.text()).unwrap();
    let (ann, bob) = (name("ann"), name("bob"));
    let note = PeerNote::Private { targets: vec![ann.clone(), bob], frame: Arc::clone(&frame) };
    a.send_all(at(100), &note);
    let peer = a.peers()[0].id;
    let say = |room| PeerNote::Announce { room, frame: Frame::of_text("hi", 0) };
    a.send(at(100), peer, &say(None));
    a.send(at(100), peer, &say(Some(name("r"))));
    a.send(at(100), peer, &PeerNote::Disconnect { client_id: ann, reason: Some("why".into()) });
    a.send(at(100), PeerId(77), &say(None));
    assert_eq!(a.lost_notes(), 1);
    assert_eq!(exchange(at(150), &mut a, &mut b), 4);
    let told = b.take_news();
    let (_, PeerNews::Note(PeerNote::Private { frame, .. })) = &told[0] else { panic!("{told:?}") };
    assert_eq!(frame.expires_ms, Some(at(550).mono_ms()), "400 ms were left");
    b.news = told;
    let expected = [
        format!("Client(\"ann\"): [\"ann\"] {text}"),
        format!("Client(\"bob\"): [\"bob\"] {text}"),
        "All: None hi".to_owned(),
        "Room(\"r\"): Some(\"r\") hi".to_owned(),
        "Client(\"ann\"): ann Some(\"why\")".to_owned(),
    ];
    assert_eq!(news(&mut b), expected);
    // Nobody hears what is said while Redis is away.
    a.set_connected(START, false);
    a.send_all(START, &say(None));
    a.set_connected(START, true);
    exchange(START, &mut a, &mut b);
    assert!(news(&mut b).is_empty());
    assert_eq!(a.lost_notes(), 2);
}

#[test]
fn garbled_messages_are_counted_and_change_nothing() {
    let (mut a, mut b) = pair();
    a.on_client(&name("ann"), true);
    let good = a.take_outgoing().remove(0).bytes;
    let mut rng = fastrand::Rng::with_seed(1);
    for round in 0..2_000 {
        let mut bytes = good.clone();
        let place = rng.usize(..bytes.len());
        bytes[place] = rng.u8(..);
        bytes.truncate(rng.usize(..bytes.len() + 1));
        b.on_message(START, &bytes);
        b.peers.values().for_each(Peer::check);
        assert!(b.garbled() <= round + 1);
    }
    assert!(b.garbled() > 1_000);
    b.on_message(START, &good);
    assert!(is_same(&a, &b));
}

#[test]
fn a_table_that_changes_while_it_is_read_loses_nothing_that_stays() {
    let mut table = table::Table::default();
    let (ann, bob) = (card("ann", None), card("bob", None));
    let channel = |n: usize| address("r", &format!("c{n:04}"));
    (0..1_000).for_each(|n| table.join(&channel(n), &ann, &mut |_| {}));
    table.join(&channel(0), &bob, &mut |_| {});
    let (mut read, mut addresses) = (table::Table::default(), Addresses::new(1));
    let (mut cursor, mut parts) = (None, 0);
    loop {
        let (rows, next) = table.rows(cursor.as_ref(), 1);
        rows.into_iter().for_each(|row| read.apply(row, &mut addresses, &mut |_| {}));
        // What goes is before the place, at it, and behind it.
        [0, 1, 2, 3, 250, 255, 256, 510].iter().filter(|_| parts == 0).for_each(|&n| {
            table.leave(&channel(n), &ann.client_id, &mut |_| {});
        });
        parts += 1;
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(parts, 5, "four rows of the one, one of the other");
    let mut wrong = Vec::new();
    table.compare(&read, &mut |change| wrong.push(change));
    let is_old = |change: &table::Change| matches!(change, table::Change::Member { client, is_member: true, .. } if **client == *ann);
    assert!(wrong.iter().all(is_old), "nothing is missing: {wrong:?}");
    assert_eq!(wrong.len(), 6, "what went after it was read");
}

#[test]
fn who_asks_for_clients_is_answered_by_name() {
    let (mut a, mut b) = pair();
    let reply_to = PendingRef { shard: ShardId(3), pending: 9 };
    let rows = RowsWanted { bytes: 77, limit: 5, ..RowsWanted::first() };
    a.send_all(at(100), &PeerNote::AskClients { reply_to, rows: rows.clone() });
    exchange(at(100), &mut a, &mut b);
    let asked = b.take_news();
    let [(To::All, PeerNews::AskClients { peer, reply_to: asked, rows: wanted })] = &asked[..]
    else {
        panic!("{asked:?}")
    };
    assert_eq!(*wanted, rows);
    assert_eq!((b.peers()[0].id, *asked), (*peer, reply_to));
    let rows = Rows { rows: Vec::new(), count: 5, last: None };
    let part = ClientsPart { rows, peers: Arc::default() };
    let clients = PeerClients { reply_to, shard: 1, shards: 2, part };
    b.send(at(100), *peer, &PeerNote::Clients(Box::new(clients)));
    exchange(at(100), &mut a, &mut b);
    let told = a.take_news();
    let [(To::Shard(ShardId(3)), PeerNews::Clients(peer, clients))] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!((*peer, clients.part.rows.count), (a.peers()[0].id, 5));
}
