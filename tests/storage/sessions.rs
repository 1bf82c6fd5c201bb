//! Sessions of clients: many at once, by later lives, and for as long as they should be.

use crate::desk::{Desk, Line, settings};
use crate::redis::Redis;
use arqonbus::base::ids::{ConnId, ConnRef, ShardId};
use arqonbus::broker::channel::Options;
use arqonbus::broker::record::Record;
use arqonbus::broker::returning::{KeptSession, Recalled, SessionRecord, Subscription};
use arqonbus::protocol::command::{Address, ClientType};
use arqonbus::protocol::names::Name;
use arqonbus::protocol::session::{SessionKey, SessionToken};
use std::time::{Duration, Instant};

/// More than one round writes or reads.
const MANY: u32 = 700;

fn key(number: u32) -> SessionKey {
    SessionToken::given(&format!("token {number}")).key()
}

fn kept(number: u32, life: u64) -> Box<KeptSession> {
    let address = Address { room: Name::fixed("r"), channel: Name::every() };
    Box::new(KeptSession {
        life,
        client_id: Name::parse(&format!("client-{number}")).unwrap(),
        client_type: ClientType::Service,
        screen_name: Some("\u{1f980} \"quoted\"".to_owned()),
        avatar: None,
        personality: None,
        subscriptions: vec![Subscription { address, options: Options::default() }],
    })
}

fn say(desk: &Desk, record: SessionRecord) {
    desk.offer(Record::Session(record));
}

/// Asks for a session, and waits for the answer.
fn recall(desk: &Desk, number: u32) -> Recalled {
    let before = desk.news().recalled.len();
    let conn = ConnRef { shard: ShardId(1), conn: ConnId { slot: number, generation: 0 } };
    say(desk, SessionRecord::Recall(key(number), conn));
    let news = desk.wait("an answer", |news| news.recalled.len() > before);
    let (slot, recalled) = news.recalled.last().unwrap().clone();
    assert_eq!(slot, number);
    recalled
}

fn found(number: u32, life: u64) -> Recalled {
    Recalled::Found(kept(number, life))
}

/// What any Redis must do.
pub(crate) fn play(desk: &Desk) {
    for number in 0..MANY {
        say(desk, SessionRecord::Here(key(number), kept(number, 1_764_000_000_000_007)));
    }
    for number in 0..MANY {
        let conn = ConnRef { shard: ShardId(1), conn: ConnId { slot: number, generation: 0 } };
        say(desk, SessionRecord::Recall(key(number), conn));
    }
    let news = desk.wait("all answers", |news| news.recalled.len() == MANY as usize);
    for (number, recalled) in news.recalled {
        assert_eq!(recalled, found(number, 1_764_000_000_000_007));
    }
    // A later life is not overwritten by an earlier one, nor ended by it.
    let lives = [1_764_000_000_000_008, 1_764_000_000_000_007];
    for life in lives {
        say(desk, SessionRecord::Left(key(1), kept(1, life)));
        assert_eq!(recall(desk, 1), found(1, lives[0]));
    }
    say(desk, SessionRecord::Over(key(1), lives[1]));
    assert_eq!(recall(desk, 1), found(1, lives[0]));
    say(desk, SessionRecord::Over(key(1), lives[0]));
    assert_eq!(recall(desk, 1), Recalled::Unknown);
    // Nobody who was stopped meanwhile brings it back, nor its own node.
    for life in lives {
        say(desk, SessionRecord::Left(key(1), kept(1, life)));
        assert_eq!(recall(desk, 1), Recalled::Unknown, "{life}");
        say(desk, SessionRecord::Here(key(1), kept(1, life)));
        assert_eq!(recall(desk, 1), Recalled::Unknown, "{life}");
    }
    assert_eq!(recall(desk, MANY), Recalled::Unknown);
}

#[test]
fn sessions_are_kept_by_a_server() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    play(&desk);
    desk.stop();
}

#[test]
fn what_is_not_ours_is_left_alone_and_what_can_not_be_read_is_unknown() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    let name = |number| format!("arqonbus:{{bus}}:session:{}", key(number));
    redis.cli(&["RPUSH", &name(1), "a"]);
    redis.cli(&["SET", &name(2), "something else"]);
    redis.cli(&["SET", &name(3), r#"{"life":3,"client_id":"no name"}"#]);
    for number in 1..=3 {
        say(&desk, SessionRecord::Here(key(number), kept(number, 2)));
        assert_eq!(recall(&desk, number), Recalled::Unknown, "{number}");
        say(&desk, SessionRecord::Over(key(number), 2));
    }
    say(&desk, SessionRecord::Here(key(4), kept(4, 2)));
    assert_eq!(recall(&desk, 4), found(4, 2), "others are not concerned");
    assert_eq!(redis.cli(&["GET", &name(2)]), "something else");
    assert_eq!(redis.cli(&["LLEN", &name(1)]), "1");
    assert!(desk.news().degraded.is_empty());
    desk.stop();
}

#[test]
fn a_session_that_has_ended_by_order_is_remembered_for_a_while() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    say(&desk, SessionRecord::Over(key(1), 7));
    desk.stop();
    let name = format!("arqonbus:{{bus}}:session:{}", key(1));
    assert_eq!(redis.cli(&["GET", &name]), r#"{"life":7,"over":true}"#);
    let left_ms: i64 = redis.cli(&["PTTL", &name]).parse().unwrap();
    assert!((1..=600_000).contains(&left_ms), "{left_ms}");
}

#[test]
fn sessions_that_change_leave_room_for_events() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    let mut line = Line::new(1, "r", "c");
    desk.create(&line);
    let large = |number, life| {
        let mut kept = kept(number, life);
        let one = kept.subscriptions[0].clone();
        kept.subscriptions = vec![one; 1_000];
        SessionRecord::Here(key(number), kept)
    };
    let clients = 10;
    (0..clients).for_each(|number| say(&desk, large(number, 5)));
    assert!(matches!(recall(&desk, clients - 1), Recalled::Found(_)));
    let written = || -> u64 {
        let stats = redis.cli(&["INFO", "stats"]);
        let field = stats.lines().find_map(|line| line.strip_prefix("total_net_input_bytes:"));
        field.unwrap().trim().parse().unwrap()
    };
    let (before, started) = (written(), Instant::now());
    // All of them change as often as they can, while somebody publishes.
    while started.elapsed() < Duration::from_secs(3) {
        (0..clients).for_each(|number| say(&desk, large(number, 5)));
        desk.say(&mut line, 1);
        desk.wait_stored(&line);
    }
    let a_second = (written() - before) as f64 / started.elapsed().as_secs_f64();
    assert!(a_second < 16e6, "{a_second} bytes a second");
    let news = desk.news();
    assert!(news.lost.is_empty() && news.degraded.is_empty());
    assert!(line.last > 10, "{} events in three seconds", line.last);
    desk.stop();
}

#[test]
fn sessions_last_as_long_as_their_clients_and_a_while() {
    let redis = Redis::start();
    let mut settings = settings(&redis.url());
    settings.session_ttl_ms = 900;
    let desk = Desk::open(settings);
    desk.load().unwrap();
    say(&desk, SessionRecord::Here(key(1), kept(1, 5)));
    say(&desk, SessionRecord::Left(key(2), kept(2, 5)));
    assert_eq!(recall(&desk, 2), found(2, 5));
    std::thread::sleep(Duration::from_millis(2_000));
    assert_eq!((recall(&desk, 1), recall(&desk, 2)), (found(1, 5), Recalled::Unknown));
    // The last of it is written when the storage ends, and is there for long enough after it.
    say(&desk, SessionRecord::Left(key(3), kept(3, 5)));
    desk.stop();
    let name = |number| format!("arqonbus:{{bus}}:session:{}", key(number));
    let left_ms: i64 = redis.cli(&["PTTL", &name(3)]).parse().unwrap();
    assert!((1..=900).contains(&left_ms), "{left_ms}");
    let left_ms: i64 = redis.cli(&["PTTL", &name(1)]).parse().unwrap();
    assert!((700..=1_350).contains(&left_ms), "{left_ms}");
}
