//! The sessions of this node's clients: written when they change, renewed while their clients are
//! connected, read for those that return.
//!
//! Each has a key of its own, `PREFIX:{bus}:session:HASH`, that expires: while its client is connected
//! later than a client may be away, and renewed in time, so that it is there for long enough whenever
//! this process dies; from the end of the connection on after just that time. Whoever keeps the storage
//! takes records in ([`Sessions::take`]), and does what is due in rounds: [`Sessions::begin`],
//! [`Round::run`], [`Sessions::end`].
//!
//! *Invariants*: what is said of a life of a session is written in its order, and never over what is of
//! a later one; what somebody asks for is written before it is read; each that asks is answered once.
//!
//! *Not here*: connections, retries, when it is time for a round.

use crate::base::budget::SESSION_BYTES;
use crate::base::hash::{Map, seeded};
use crate::base::ids::ConnRef;
use crate::base::limits::{
    PROFILE_FIELD_BYTES_MAX, SESSION_UPDATES_BYTES_A_SECOND, SESSIONS_GONE_BYTES_MAX,
};
use crate::broker::channel::Options;
use crate::broker::peers::To;
use crate::broker::record::StorageNews;
use crate::broker::returning::{KeptSession, Recalled, SessionRecord, Subscription};
use crate::protocol::command::{Address, ClientType};
use crate::protocol::names::Name;
use crate::protocol::session::SessionKey;
use crate::storage::keys::Keys;
use crate::storage::link::{Link, SESSIONS};
use crate::storage::trouble::Trouble;
use redis::cmd;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The sessions that one call writes: Redis serves nobody else meanwhile.
const ROUND_WRITES_MAX: usize = 256;
/// The bytes that one call writes, unless one session alone has more.
const ROUND_BYTES_MAX: usize = 256 * 1024;
/// How long it is remembered that a session has ended by order: a node that was stopped meanwhile must not
/// bring it back.
const OVER: Duration = Duration::from_secs(600);
/// The sessions that one call reads.
const ROUND_READS_MAX: usize = 256;

/// The sessions of one node.
#[derive(Debug)]
pub(super) struct Sessions {
    /// How long a client may be away.
    ttl: Duration,
    known: Map<SessionKey, Entry>,
    /// What those of `known` weigh whose clients have gone.
    gone_bytes: usize,
    /// Those that are to be written; passed over where that is done.
    due: VecDeque<SessionKey>,
    /// Those that were written before and are another now, or are to be written again: they wait for
    /// each other.
    updates: VecDeque<SessionKey>,
    /// When the next of the updates and the renewals may be written.
    paced_until: Instant,
    /// Those whose clients are connected, and when they are to be written again, the first first.
    renewals: VecDeque<(Instant, SessionKey)>,
    /// Who asks for which.
    asked: VecDeque<(SessionKey, ConnRef)>,
}

/// A session that is not known to be written, or is to be renewed.
#[derive(Debug)]
struct Entry {
    life: u64,
    what: What,
    /// Whether it is listed as due, or as an update.
    is_due: bool,
    /// Whether it was written in this life.
    is_written: bool,
    /// Whether it is listed to be renewed.
    is_renewed: bool,
}

#[derive(Clone, Debug)]
enum What {
    /// Its client is connected.
    Here(Arc<str>),
    /// Its client went then.
    Left(Arc<str>, Instant),
    /// It is to be deleted.
    Over,
}

/// One round: what is written and then read.
#[derive(Debug, Default)]
pub(super) struct Round {
    writes: Vec<Write>,
    reads: Vec<(SessionKey, ConnRef)>,
}

#[derive(Debug)]
struct Write {
    key: SessionKey,
    life: u64,
    ms: u64,
    /// Empty if the session is deleted.
    text: Arc<str>,
}

/// What came of a round.
pub(super) type Answers = (Vec<bool>, Vec<Option<String>>);

impl Sessions {
    /// Sessions whose clients may be away for so long.
    pub(super) fn new(ttl: Duration) -> Sessions {
        let hasher = seeded(fastrand::u64(..));
        let (due, updates, renewals, asked) = Default::default();
        let (known, paced_until) = (Map::with_hasher(hasher), Instant::now());
        Sessions { ttl, known, gone_bytes: 0, due, updates, paced_until, renewals, asked }
    }

    /// Takes in what an edge says; false if there is no room for it, so that the session expires as it
    /// was written last.
    #[must_use]
    pub(super) fn take(&mut self, record: SessionRecord) -> bool {
        match record {
            SessionRecord::Recall(key, conn) => {
                self.asked.push_back((key, conn));
                true
            }
            SessionRecord::Here(key, kept) => self.note(key, kept.life, What::Here(text(&kept))),
            SessionRecord::Left(key, kept) => {
                self.note(key, kept.life, What::Left(text(&kept), Instant::now()))
            }
            SessionRecord::Over(key, life) => self.note(key, life, What::Over),
        }
    }

    /// When there is something for a round: now, if that is past; `None` if there is nothing.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let is_waiting = !self.due.is_empty() || !self.asked.is_empty();
        if is_waiting {
            return Some(Instant::now());
        }
        let first = match self.updates.is_empty() {
            false => Some(Instant::now()),
            true => self.renewals.front().map(|&(at, _)| at),
        };
        first.map(|at| at.max(self.paced_until))
    }

    /// Whether something is not written yet that was said.
    pub(super) fn has_unwritten(&self) -> bool {
        !self.due.is_empty() || !self.updates.is_empty()
    }

    /// Redis may have forgotten what it had: all of it is to be written again.
    pub(super) fn write_again(&mut self) {
        let keys: Vec<SessionKey> = self.renewals.iter().map(|&(_, key)| key).collect();
        keys.into_iter().for_each(|key| self.list(key));
    }

    /// Nothing can be read for now: nobody waits for it.
    pub(super) fn give_up(&mut self, mut tell: impl FnMut(To, StorageNews)) {
        for (_, ConnRef { shard, conn }) in self.asked.drain(..) {
            tell(To::Shard(shard), StorageNews::Session(conn, Recalled::Unavailable));
        }
    }

    /// The next round. What it takes comes back with [`Sessions::end`].
    pub(super) fn begin(&mut self, now: Instant) -> Round {
        let mut round = Round::default();
        let count = self.asked.len().min(ROUND_READS_MAX);
        round.reads.extend(self.asked.drain(..count));
        let mut bytes = 0;
        for (key, _) in &round.reads {
            self.write(*key, now, &mut round.writes, &mut bytes);
        }
        let has_room =
            |writes: &Vec<Write>, bytes| writes.len() < ROUND_WRITES_MAX && bytes < ROUND_BYTES_MAX;
        while has_room(&round.writes, bytes)
            && let Some(key) = self.due.pop_front()
        {
            self.write(key, now, &mut round.writes, &mut bytes);
        }
        if self.paced_until > now {
            return round;
        }
        let before = bytes;
        while has_room(&round.writes, bytes)
            && let Some(key) = self.updates.pop_front()
        {
            self.write(key, now, &mut round.writes, &mut bytes);
        }
        while has_room(&round.writes, bytes)
            && let Some(&(at, key)) = self.renewals.front()
            && at <= now
        {
            self.renewals.pop_front();
            let Some(entry) = self.known.get_mut(&key) else { continue };
            entry.is_renewed = false;
            entry.is_due = true;
            self.write(key, now, &mut round.writes, &mut bytes);
        }
        let share = Duration::from_secs(1)
            .mul_f64((bytes - before) as f64 / SESSION_UPDATES_BYTES_A_SECOND as f64);
        self.paced_until = now + share;
        round
    }

    /// What came of a round, if anything did; who asked is told.
    pub(super) fn end(
        &mut self,
        round: Round,
        answers: Result<&Answers, &Trouble>,
        mut tell: impl FnMut(To, StorageNews),
    ) {
        let Ok((written, read)) = answers else {
            round.writes.iter().for_each(|write| self.list(write.key));
            for (_, ConnRef { shard, conn }) in round.reads {
                tell(To::Shard(shard), StorageNews::Session(conn, Recalled::Unavailable));
            }
            return;
        };
        let at = Instant::now() + self.ttl / 3;
        for (Write { key, life, .. }, &is_written) in round.writes.iter().zip(written) {
            let Some(entry) = self.known.get_mut(key) else { continue };
            let is_here = matches!(entry.what, What::Here(_));
            entry.is_written |= entry.life == *life;
            if entry.life == *life && !is_written {
                // It goes on in a later life, elsewhere.
                self.forget(key);
            } else if is_here && !entry.is_renewed {
                entry.is_renewed = true;
                self.renewals.push_back((at, *key));
            } else if !is_here && !entry.is_due {
                self.forget(key);
            }
        }
        for ((_, ConnRef { shard, conn }), text) in round.reads.into_iter().zip(read) {
            let recalled = text.as_deref().map_or(Recalled::Unknown, recalled);
            tell(To::Shard(shard), StorageNews::Session(conn, recalled));
        }
    }

    fn note(&mut self, key: SessionKey, life: u64, what: What) -> bool {
        if self.known.get(&key).is_some_and(|entry| entry.life > life) {
            return true;
        }
        let bytes_max = match what {
            What::Here(_) => usize::MAX,
            What::Left(..) => SESSIONS_GONE_BYTES_MAX,
            // A session that ended by order and is forgotten could come back.
            What::Over => 2 * SESSIONS_GONE_BYTES_MAX,
        };
        if self.gone_bytes >= bytes_max {
            self.forget(&key);
            return false;
        }
        if self.due.len() >= 2 * self.known.len() + ROUND_WRITES_MAX {
            self.due.retain(|key| self.known.get(key).is_some_and(|entry| entry.is_due));
        }
        let (is_due, is_written, is_renewed) = (false, false, false);
        let new =
            || Entry { life, what: What::Here(Arc::from("")), is_due, is_written, is_renewed };
        let entry = self.known.entry(key).or_insert_with(new);
        entry.is_written &= entry.life == life;
        let is_urgent = !matches!(what, What::Here(_));
        self.gone_bytes = self.gone_bytes + what.gone_bytes() - entry.what.gone_bytes();
        (entry.life, entry.what) = (life, what);
        if is_urgent && entry.is_due && entry.is_written {
            // It is listed as an update, and the end of it does not wait for others.
            self.due.push_back(key);
        } else {
            self.list(key);
        }
        true
    }

    fn forget(&mut self, key: &SessionKey) {
        if let Some(entry) = self.known.remove(key) {
            self.gone_bytes -= entry.what.gone_bytes();
        }
    }

    fn list(&mut self, key: SessionKey) {
        if let Some(entry) = self.known.get_mut(&key)
            && !std::mem::replace(&mut entry.is_due, true)
        {
            match entry.is_written && matches!(entry.what, What::Here(_)) {
                true => self.updates.push_back(key),
                false => self.due.push_back(key),
            }
        }
    }

    /// Adds a session to what is written, if it is due.
    fn write(&mut self, key: SessionKey, now: Instant, writes: &mut Vec<Write>, bytes: &mut usize) {
        let Some(entry) = self.known.get_mut(&key) else { return };
        if !std::mem::take(&mut entry.is_due) {
            return;
        }
        let (text, left) = match &entry.what {
            // It is renewed after a third of the time: so there is more left of it than a client may be
            // away, whenever this process ends.
            What::Here(text) => (Arc::clone(text), self.ttl + self.ttl / 2),
            What::Left(text, at) => (Arc::clone(text), self.ttl.saturating_sub(now - *at)),
            What::Over => (Arc::from(""), OVER),
        };
        if left.is_zero() {
            return self.forget(&key);
        }
        *bytes += text.len();
        writes.push(Write { key, life: entry.life, ms: (left.as_millis() as u64).max(1), text });
    }
}

impl What {
    /// What it weighs if its client has gone.
    fn gone_bytes(&self) -> usize {
        match self {
            What::Left(text, _) => SESSION_BYTES as usize + text.len(),
            What::Over => SESSION_BYTES as usize,
            What::Here(_) => 0,
        }
    }
}

impl Round {
    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.reads.is_empty()
    }

    /// Writes and then reads.
    pub(super) async fn run(&self, link: &Link, keys: &Keys) -> Result<Answers, Trouble> {
        let mut written = Vec::new();
        if !self.writes.is_empty() {
            let names: Vec<String> =
                self.writes.iter().map(|write| keys.session(&write.key)).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let mut call = SESSIONS.call(&names);
            for Write { life, ms, text, .. } in &self.writes {
                call.arg(life).arg(ms).arg(&**text);
            }
            written = link.run(&SESSIONS, &call).await?;
        }
        let mut read = Vec::new();
        if !self.reads.is_empty() {
            let mut call = cmd("MGET");
            self.reads.iter().for_each(|(key, _)| _ = call.arg(keys.session(key)));
            read = link.ask(&call).await?;
        }
        Ok((written, read))
    }
}

/// A session as it stands in Redis. The life stands first, where the script looks for it.
#[derive(Serialize, Deserialize)]
struct Text {
    life: u64,
    client_id: String,
    client_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    screen_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    avatar: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    personality: Option<String>,
    subscriptions: Vec<TextOfOne>,
}

#[derive(Serialize, Deserialize)]
struct TextOfOne {
    room: String,
    channel: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    echo: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    presence: bool,
}

fn text(kept: &KeptSession) -> Arc<str> {
    let one = |Subscription { address, options }: &Subscription| TextOfOne {
        room: address.room.to_string(),
        channel: address.channel.to_string(),
        echo: options.echo,
        presence: options.presence,
    };
    let text = serde_json::to_string(&Text {
        life: kept.life,
        client_id: kept.client_id.to_string(),
        client_type: kept.client_type.as_str().to_owned(),
        screen_name: kept.screen_name.clone(),
        avatar: kept.avatar.clone(),
        personality: kept.personality.clone(),
        subscriptions: kept.subscriptions.iter().map(one).collect(),
    });
    match text {
        Ok(text) => text.into(),
        Err(error) => unreachable!("strings and numbers are JSON: {error}"),
    }
}

/// How the text ends that says that a session has ended, as `scripts/sessions.lua` writes it.
const OVER_END: &str = r#","over":true}"#;

/// What a text that was kept says.
fn recalled(text: &str) -> Recalled {
    if text.ends_with(OVER_END) {
        return Recalled::Unknown;
    }
    match parse(text) {
        Some(kept) => Recalled::Found(Box::new(kept)),
        None => {
            tracing::warn!("a session that is kept can't be read, and is taken for unknown");
            Recalled::Unknown
        }
    }
}

pub(super) fn parse(text: &str) -> Option<KeptSession> {
    let text: Text = serde_json::from_str(text).ok()?;
    let one = |one: TextOfOne| {
        let room = Name::parse(&one.room).ok()?;
        let address = Address { room, channel: Name::parse_channel(&one.channel).ok()? };
        Some(Subscription { address, options: Options { echo: one.echo, presence: one.presence } })
    };
    let texts = [&text.screen_name, &text.avatar, &text.personality];
    let is_long = |text: &String| text.len() > PROFILE_FIELD_BYTES_MAX;
    if texts.into_iter().flatten().any(is_long) {
        return None;
    }
    Some(KeptSession {
        life: text.life,
        client_id: Name::parse(&text.client_id).ok()?,
        client_type: ClientType::parse(&text.client_type)?,
        screen_name: text.screen_name,
        avatar: text.avatar,
        personality: text.personality,
        subscriptions: text.subscriptions.into_iter().map(one).collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{ConnId, ShardId};
    use crate::protocol::session::SessionToken;

    const TTL: Duration = Duration::from_secs(9);

    fn key(text: &str) -> SessionKey {
        SessionToken::given(text).key()
    }

    fn conn(slot: u32) -> ConnRef {
        ConnRef { shard: ShardId(1), conn: ConnId { slot, generation: 0 } }
    }

    fn kept(life: u64) -> Box<KeptSession> {
        let address = Address { room: Name::fixed("r"), channel: Name::every() };
        let options = Options { echo: false, presence: true };
        Box::new(KeptSession {
            life,
            client_id: Name::fixed("ann"),
            client_type: ClientType::AiAgent,
            screen_name: Some("A \"n\" ☺".to_owned()),
            avatar: None,
            personality: Some(String::new()),
            subscriptions: vec![Subscription { address, options }],
        })
    }

    fn take(sessions: &mut Sessions, record: SessionRecord) {
        assert!(sessions.take(record), "there is room for it");
    }

    fn lives(round: &Round) -> Vec<u64> {
        round.writes.iter().map(|write| write.life).collect()
    }

    /// Ends a round in which everything was done and nothing was found.
    fn done(sessions: &mut Sessions, round: Round) -> Vec<Recalled> {
        let answers = (vec![true; round.writes.len()], vec![None; round.reads.len()]);
        let mut told = Vec::new();
        sessions.end(round, Ok(&answers), |to, news| {
            assert_eq!(to, To::Shard(ShardId(1)));
            let StorageNews::Session(_, recalled) = news else { panic!("{news:?}") };
            told.push(recalled);
        });
        told
    }

    #[test]
    fn what_is_written_is_read_as_it_was() {
        let text = text(&kept(7));
        assert!(text.starts_with(r#"{"life":7,"client_id":"ann","client_type":"ai-agent""#));
        assert_eq!(recalled(&text), Recalled::Found(kept(7)));
        let long = text.replace("ann", &"a".repeat(99));
        for bad in [
            "",
            "{}",
            "7",
            r#"{"life":7,"over":true}"#,
            &text[1..],
            &text.replace("ai-agent", "robot"),
            &long,
        ] {
            assert_eq!(recalled(bad), Recalled::Unknown, "{bad}");
        }
    }

    #[test]
    fn who_is_here_is_renewed_and_who_left_is_not() {
        let (mut sessions, now) = (Sessions::new(TTL), Instant::now());
        take(&mut sessions, SessionRecord::Here(key("a"), kept(1)));
        take(&mut sessions, SessionRecord::Here(key("a"), kept(1)));
        let round = sessions.begin(now);
        assert_eq!((lives(&round), round.writes[0].ms), (vec![1], 13_500), "once in a round");
        done(&mut sessions, round);
        assert!(sessions.next_due().unwrap() > now + TTL / 4 && !sessions.has_unwritten());
        assert!(sessions.begin(now).is_empty());
        let round = sessions.begin(now + TTL / 2);
        assert_eq!(lives(&round), [1]);
        // What comes while it is under way is written after it.
        take(&mut sessions, SessionRecord::Left(key("a"), kept(1)));
        done(&mut sessions, round);
        let round = sessions.begin(Instant::now());
        assert!(round.writes[0].ms <= 9_000 && round.writes[0].ms > 8_000);
        done(&mut sessions, round);
        assert!(sessions.begin(now + TTL).is_empty() && sessions.known.is_empty());
    }

    #[test]
    fn what_is_remembered_of_those_who_went_is_bounded_in_bytes() {
        let mut sessions = Sessions::new(TTL);
        let mut large = kept(1);
        large.subscriptions = vec![large.subscriptions[0].clone(); 1_000];
        let refused = |sessions: &mut Sessions, make: &dyn Fn(usize) -> SessionRecord| {
            (0..300_000).position(|n| !sessions.take(make(n)))
        };
        let left = |n: usize| SessionRecord::Left(key(&format!("left-{n}")), large.clone());
        let over = |n: usize| SessionRecord::Over(key(&format!("over-{n}")), 1);
        let count = refused(&mut sessions, &left).unwrap();
        assert!((500..10_000).contains(&count), "{count}");
        assert!(refused(&mut sessions, &over).unwrap() > 100_000, "these weigh little");
        let weight = |sessions: &Sessions| {
            sessions.known.values().map(|entry| entry.what.gone_bytes()).sum::<usize>()
        };
        assert_eq!(sessions.gone_bytes, weight(&sessions));
        take(&mut sessions, SessionRecord::Here(key("new"), kept(1)));
        // When Redis is there again, nothing of it is left.
        while sessions.gone_bytes > 0 {
            let round = sessions.begin(Instant::now());
            done(&mut sessions, round);
        }
        assert_eq!(sessions.known.len(), 1);
        take(&mut sessions, left(0));
    }

    #[test]
    fn updates_wait_for_each_other_and_nobody_waits_for_them() {
        let mut sessions = Sessions::new(TTL);
        let large = |life| {
            let mut kept = kept(life);
            kept.subscriptions = vec![kept.subscriptions[0].clone(); 1_000];
            SessionRecord::Here(key(&life.to_string()), kept)
        };
        let all = 1..=20;
        all.clone().for_each(|life| take(&mut sessions, large(life)));
        let mut now = Instant::now();
        while sessions.has_unwritten() {
            let round = sessions.begin(now);
            assert!(!round.is_empty(), "new ones are not slowed down");
            done(&mut sessions, round);
        }
        let started = now;
        let mut bytes = 0;
        for turn in 0..200 {
            all.clone().for_each(|life| take(&mut sessions, large(life)));
            if turn == 100 {
                take(&mut sessions, SessionRecord::Left(key("7"), kept(7)));
                let round = sessions.begin(now);
                assert_eq!(lives(&round)[0], 7, "the end of one does not wait");
                done(&mut sessions, round);
            }
            let round = sessions.begin(now);
            bytes += round.writes.iter().map(|write| write.text.len()).sum::<usize>();
            done(&mut sessions, round);
            now += Duration::from_millis(10);
        }
        let a_second = bytes as f64 / (now - started).as_secs_f64();
        assert!(
            (4e6..SESSION_UPDATES_BYTES_A_SECOND as f64 * 1.1).contains(&a_second),
            "{a_second}"
        );
    }

    #[test]
    fn an_earlier_life_says_nothing_any_more() {
        let (mut sessions, now) = (Sessions::new(TTL), Instant::now());
        take(&mut sessions, SessionRecord::Here(key("a"), kept(5)));
        take(&mut sessions, SessionRecord::Left(key("a"), kept(4)));
        take(&mut sessions, SessionRecord::Over(key("a"), 4));
        let round = sessions.begin(now);
        assert_eq!((lives(&round), round.writes[0].text.is_empty()), (vec![5], false));
        // Redis knows a later one: it goes on elsewhere.
        sessions.end(round, Ok(&(vec![false], Vec::new())), |_, _| {});
        assert!(sessions.known.is_empty() && sessions.begin(now + TTL).is_empty());
        take(&mut sessions, SessionRecord::Over(key("a"), 6));
        let round = sessions.begin(now);
        assert!(round.writes[0].text.is_empty());
        done(&mut sessions, round);
        assert!(sessions.known.is_empty());
    }

    #[test]
    fn a_round_that_failed_is_made_again_and_nobody_waits_for_it() {
        let (mut sessions, now) = (Sessions::new(TTL), Instant::now());
        take(&mut sessions, SessionRecord::Here(key("a"), kept(1)));
        take(&mut sessions, SessionRecord::Left(key("b"), kept(2)));
        take(&mut sessions, SessionRecord::Recall(key("b"), conn(3)));
        take(&mut sessions, SessionRecord::Recall(key("c"), conn(4)));
        let round = sessions.begin(now);
        assert_eq!(lives(&round), [2, 1], "what is asked for comes first");
        let mut told = Vec::new();
        let trouble = Trouble::Outage("gone".to_owned());
        sessions.end(round, Err(&trouble), |_, news| told.push(news));
        let StorageNews::Session(first, Recalled::Unavailable) = &told[0] else { panic!() };
        assert_eq!((*first, told.len()), (conn(3).conn, 2));
        assert!(sessions.has_unwritten());
        let mut again = lives(&sessions.begin(now));
        again.sort_unstable();
        assert_eq!(again, [1, 2]);
        assert!(sessions.begin(now + 2 * TTL).is_empty(), "they are under way");
    }

    #[test]
    fn who_was_away_too_long_is_not_written_any_more() {
        let mut sessions = Sessions::new(TTL);
        take(&mut sessions, SessionRecord::Left(key("a"), kept(1)));
        take(&mut sessions, SessionRecord::Recall(key("a"), conn(1)));
        let round = sessions.begin(Instant::now() + TTL);
        assert!(round.writes.is_empty() && sessions.known.is_empty());
        assert_eq!(done(&mut sessions, round), [Recalled::Unknown]);
        take(&mut sessions, SessionRecord::Recall(key("a"), conn(1)));
        let mut told = 0;
        sessions.give_up(|_, _| told += 1);
        assert_eq!((told, sessions.begin(Instant::now()).is_empty()), (1, true));
    }
}
