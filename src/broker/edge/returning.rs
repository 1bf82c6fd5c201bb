//! Sessions at the edge: asking for one, going on with it, recording what becomes of it.
//!
//! *Invariants*: nothing is recorded before the welcome; a session that changes is listed once until
//! it is recorded; whoever waits for the storage gets an answer in time.

use crate::base::ids::ConnId;
use crate::base::limits::SESSION_EVERY_MS;
use crate::base::time::Now;
use crate::broker::delivery::{Deliveries, Delivery};
use crate::broker::edge::Edge;
use crate::broker::record::{Record, StorageNews};
use crate::broker::returning::{KeptSession, Recalled, SessionPlan, SessionRecord, Stay};
use crate::broker::session::{Claiming, Errands, Phase, Session};
use crate::protocol::close::CloseReason;
use crate::protocol::command::Identity;
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::session::SessionToken;
use std::collections::VecDeque;

/// The sessions of a shard that keeps them.
#[derive(Debug)]
pub(super) struct Returns {
    plan: SessionPlan,
    /// Whether the storage can't be asked.
    is_away: bool,
    /// Those that wait for the storage, and until when; the first ends first.
    waiting: VecDeque<(u64, ConnId)>,
    /// Those that have just changed.
    changed: Vec<ConnId>,
    /// Those that changed after they were recorded, and when they are recorded again; the first is
    /// due first.
    later: VecDeque<(u64, ConnId)>,
    /// What is to be recorded beside them.
    said: VecDeque<SessionRecord>,
    counts: ReturnCounts,
}

/// How often clients returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReturnCounts {
    /// To a session that went on.
    pub resumed: u64,
    /// With a token that no session is kept under.
    pub unknown: u64,
}

impl Edge {
    /// Has clients return. Called once, before the first turn, if sessions are kept.
    pub fn keep_sessions(&mut self, plan: SessionPlan) {
        self.returns = Some(Box::new(Returns {
            plan,
            is_away: false,
            waiting: VecDeque::new(),
            changed: Vec::new(),
            later: VecDeque::new(),
            said: VecDeque::new(),
            counts: ReturnCounts::default(),
        }));
    }

    /// Whether sessions are kept.
    pub fn keeps_sessions(&self) -> bool {
        self.returns.is_some()
    }

    /// Why nobody can return now, if somebody wants to.
    pub fn refuses_return(&self, identity: &Identity) -> Option<Refusal> {
        identity.session.as_ref()?;
        match &self.returns {
            None => Some(Refusal::of_field(
                Fault::SessionUnknown,
                "session",
                "This server keeps no sessions; connect without one.",
            )),
            Some(returns) if returns.is_away => Some(unavailable()),
            Some(_) => None,
        }
    }

    /// What the storage says that concerns sessions.
    pub fn on_storage(&mut self, now: Now, news: &StorageNews, out: &mut Deliveries) {
        let Some(returns) = &mut self.returns else { return };
        match news {
            StorageNews::Session(conn, recalled) => self.on_recalled(now, *conn, recalled, out),
            StorageNews::Restored => returns.is_away = false,
            StorageNews::Degraded(_) => {
                returns.is_away = true;
                for (_, conn) in std::mem::take(&mut returns.waiting) {
                    self.on_recalled(now, conn, &Recalled::Unavailable, out);
                }
            }
            _ => {}
        }
    }

    /// A session for a client that comes for the first time, if there may be one.
    pub(super) fn new_stay(&self) -> Option<Box<Stay>> {
        let random = (self.returns.as_ref()?.plan.random)()?;
        Some(Box::new(Stay::new(SessionToken::of_random(random), false)))
    }

    /// Asks for the session that a client returns to.
    pub(super) fn recall(&mut self, now: Now, session: &mut Session, identity: Identity) {
        let here = self.conn_ref(session.conn);
        // There must be time left to say so.
        let longest_ms = u64::from(self.limits.handshake_timeout_ms) / 2;
        let (Some(returns), Some(token)) = (&mut self.returns, &identity.session) else { return };
        let stay = Stay::new(token.clone(), true);
        let due_ms = now.mono_ms() + returns.plan.answer_timeout_ms.min(longest_ms);
        returns.waiting.push_back((due_ms, session.conn));
        returns.said.push_back(SessionRecord::Recall(stay.key, here));
        session.stay = Some(Box::new(stay));
        session.phase = Phase::Returning(Box::new(identity));
    }

    /// The storage has answered, or can't.
    fn on_recalled(&mut self, now: Now, conn: ConnId, recalled: &Recalled, out: &mut Deliveries) {
        let Some(session) = self.session_mut(conn) else { return };
        if !matches!(session.phase, Phase::Returning(_)) {
            return;
        }
        let refusal = match recalled {
            Recalled::Found(kept) => return self.go_on(now, conn, kept, out),
            Recalled::Unavailable => unavailable(),
            Recalled::Unknown => {
                self.count(|counts| counts.unknown += 1);
                Refusal::of_field(
                    Fault::SessionUnknown,
                    "session",
                    "No session is kept under this token, or not any more; connect without one.",
                )
            }
        };
        self.reject(conn, refusal, out);
    }

    /// A client goes on with its session, once it has its id.
    fn go_on(&mut self, now: Now, conn: ConnId, kept: &KeptSession, out: &mut Deliveries) {
        let Some(session) = self.session_mut(conn) else { return };
        let Phase::Returning(given) = std::mem::replace(&mut session.phase, Phase::Live) else {
            return;
        };
        let Identity { join, token, .. } = *given;
        let identity = Identity {
            client_id: Some(kept.client_id.clone()),
            client_type: Some(kept.client_type),
            screen_name: kept.screen_name.clone(),
            avatar: kept.avatar.clone(),
            personality: kept.personality.clone(),
            join,
            token,
            session: None,
        };
        if let Some(stay) = &mut session.stay {
            stay.life = kept.life;
        }
        let (client_id, identify) = (kept.client_id.clone(), None);
        let subscriptions = kept.subscriptions.clone();
        let claiming = Claiming { identity, client_id: client_id.clone(), identify, subscriptions };
        session.phase = Phase::Claiming(Box::new(claiming));
        session.last_activity_us = now.wall_us;
        session.errands = Some(Box::new(Errands { claim: Some(client_id), ..Errands::default() }));
        out.list.push(Delivery::Resume(conn));
    }

    /// Refuses the handshake of a client that is not connected yet.
    pub(super) fn reject(&mut self, conn: ConnId, refusal: Refusal, out: &mut Deliveries) {
        self.sessions[conn.slot as usize] = None;
        out.faults.push(refusal.fault);
        out.list.push(Delivery::Reject(conn, Box::new(refusal)));
    }

    /// A client is welcomed; gives its token, and whether it has returned.
    pub(super) fn begin_stay(&mut self, conn: ConnId) -> Option<(SessionToken, u64, bool)> {
        let ttl_ms = self.returns.as_ref()?.plan.ttl_ms;
        let stay = self.session_mut(conn)?.stay.as_mut()?;
        stay.is_welcome = true;
        let (token, is_resumed) = (stay.token.take()?, stay.is_resumed);
        self.count(|counts| counts.resumed += u64::from(is_resumed));
        Some((token, ttl_ms, is_resumed))
    }

    /// What is kept of a client may be another now.
    pub(super) fn note_change(&mut self, conn: ConnId) {
        let Some(stay) = self.session_mut(conn).and_then(|session| session.stay.as_mut()) else {
            return;
        };
        if stay.is_welcome
            && !std::mem::replace(&mut stay.is_changed, true)
            && let Some(returns) = &mut self.returns
        {
            returns.changed.push(conn);
        }
    }

    /// A connection ends, and may be told so after this. Who is sent away for what it did does not go
    /// on.
    pub fn end_stay(&mut self, conn: ConnId, reason: CloseReason) {
        let Some(session) = self.session_mut(conn) else { return };
        let Some(stay) = session.stay.take().filter(|stay| stay.is_welcome) else { return };
        let record = match reason {
            CloseReason::Disconnected | CloseReason::Unauthorized | CloseReason::Violations => {
                SessionRecord::Over(stay.key, stay.life)
            }
            _ => SessionRecord::Left(stay.key, Box::new(kept(session, &stay))),
        };
        if let Some(returns) = &mut self.returns {
            returns.said.push_back(record);
        }
    }

    /// Answers those whom the storage has not answered in time.
    pub(super) fn end_overdue_returns(&mut self, now: Now, out: &mut Deliveries) {
        while let Some(returns) = &mut self.returns
            && let Some(&(due_ms, conn)) = returns.waiting.front()
            && due_ms <= now.mono_ms()
        {
            returns.waiting.pop_front();
            self.on_recalled(now, conn, &Recalled::Unavailable, out);
        }
    }

    /// When somebody will have waited too long, on the monotonic clock in milliseconds.
    pub(super) fn next_overdue_return_ms(&self) -> Option<u64> {
        self.returns.as_ref()?.waiting.front().map(|&(due_ms, _)| due_ms)
    }

    /// Whether something of a session is to be recorded, other than what is due later.
    pub fn has_session_records(&self) -> bool {
        let returns = self.returns.as_ref();
        returns.is_some_and(|returns| !returns.changed.is_empty() || !returns.said.is_empty())
    }

    /// When the first of the sessions that changed again is recorded, on the monotonic clock in
    /// milliseconds.
    pub fn next_session_ms(&self) -> Option<u64> {
        self.returns.as_ref()?.later.front().map(|&(due_ms, _)| due_ms)
    }

    /// The next of what is to be recorded of sessions: each as it is now. One that changes again and
    /// again is recorded once in [`SESSION_EVERY_MS`]; at the end, `is_last`, all that changed are.
    pub fn take_session_record(&mut self, now: Now, is_last: bool) -> Option<Record> {
        loop {
            let returns = self.returns.as_mut()?;
            if let Some(said) = returns.said.pop_front() {
                return Some(Record::Session(said));
            }
            let conn = match returns.changed.pop() {
                Some(conn) => {
                    let is_recorded =
                        |session: &Session| session.stay.as_ref().is_some_and(|it| it.is_recorded);
                    if !is_last && self.session(conn).is_some_and(is_recorded) {
                        let due_ms = now.mono_ms() + SESSION_EVERY_MS;
                        self.returns.as_mut()?.later.push_back((due_ms, conn));
                        continue;
                    }
                    conn
                }
                None => {
                    let is_due = |(due_ms, _): &mut (u64, _)| is_last || *due_ms <= now.mono_ms();
                    returns.later.pop_front_if(is_due)?.1
                }
            };
            let Some(session) = self.session_mut(conn) else { continue };
            if let Some(stay) = &mut session.stay {
                (stay.is_changed, stay.is_recorded) = (false, true);
            }
            if let Some(stay) = &session.stay {
                let kept = Box::new(kept(session, stay));
                return Some(Record::Session(SessionRecord::Here(stay.key, kept)));
            }
        }
    }

    /// How often clients returned since this was last asked.
    pub fn take_return_counts(&mut self) -> ReturnCounts {
        let returns = self.returns.as_mut();
        returns.map(|returns| std::mem::take(&mut returns.counts)).unwrap_or_default()
    }

    fn count(&mut self, count: impl FnOnce(&mut ReturnCounts)) {
        if let Some(returns) = &mut self.returns {
            count(&mut returns.counts);
        }
    }
}

/// A session as it is now.
fn kept(session: &Session, stay: &Stay) -> KeptSession {
    let profile = session.profile.as_deref();
    let own = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
    KeptSession {
        life: stay.life,
        client_id: session.card.client_id.clone(),
        client_type: session.card.client_type,
        screen_name: session.card.screen_name.clone(),
        avatar: profile.and_then(|profile| own(&profile.avatar)),
        personality: profile.and_then(|profile| own(&profile.personality)),
        subscriptions: session.kept_subscriptions(),
    }
}

fn unavailable() -> Refusal {
    Refusal::of_field(
        Fault::StorageUnavailable,
        "session",
        "What is kept of sessions can't be read now; try again later.",
    )
}
