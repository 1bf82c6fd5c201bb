//! Arriving: a claim for the client id, the joins that were asked for, the welcome. Who returns to a
//! session is asked for in the storage before ([`returning`](super::returning)).
//!
//! The directory's answer is a tell and may ask nothing, so the joins that follow it wait as
//! errands until the client's input is next looked at. Nothing a client sends is handled before
//! its arrival is complete.

use crate::base::ids::ConnId;
use crate::base::time::Now;
use crate::broker::channel::Options;
use crate::broker::delivery::{Deliveries, Delivery};
use crate::broker::edge::commands::join_limit;
use crate::broker::edge::{Edge, Flow};
use crate::broker::lane::{Ask, Asks, Claim, JoinAsk};
use crate::broker::policy::{ClientCard, Role};
use crate::broker::returning::Subscription;
use crate::broker::session::{Claiming, Errands, Joining, Phase, RefusedJoin, Session};
use crate::broker::telemetry::Event;
use crate::protocol::command::{Address, Identity, Join};
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::names::{EVERY_CHANNEL, Name};
use crate::protocol::reply::Question;
use crate::protocol::views::JoinView;
use serde_json::json;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

impl Edge {
    /// A client knocks, from an address and with the role that its connection gives it: its id is
    /// claimed, and the answer will be a tell.
    pub fn connect(
        &mut self,
        now: Now,
        conn: ConnId,
        (address, role): (Option<IpAddr>, Role),
        identity: Identity,
        asks: &mut Asks,
    ) -> Flow {
        let client_id = match &identity.client_id {
            Some(client_id) => client_id.clone(),
            None => self.new_client_id(now),
        };
        let home = self.placement.of_client(&client_id);
        let returns = identity.session.is_some();
        if !returns && !asks.has_room(home) {
            return Flow::Blocked(home);
        }
        let card = Arc::new(card(client_id.clone(), role, &identity, None));
        let mut session = Session::new(conn, card, address, now);
        if returns {
            self.recall(now, &mut session, identity);
        } else {
            session.stay = self.new_stay();
            let (conn, session_of) = (self.conn_ref(conn), session.stake());
            let claim = Claim { client_id, conn, session: session_of, returns: false };
            session.phase = Phase::Claiming(Box::new(Claiming::new(identity, &claim, None)));
            asks.push(home, Ask::Claim(Box::new(claim)));
        }
        let slot = conn.slot as usize;
        if self.sessions.len() <= slot {
            self.sessions.resize_with(slot + 1, || None);
        }
        assert!(self.sessions[slot].is_none(), "a slot has one tenant at a time");
        self.sessions[slot] = Some(Box::new(session));
        Flow::Done
    }

    /// `identify`: the same fields again, for a client that could not write a query string.
    pub(super) fn identify(
        &mut self,
        now: Now,
        conn: ConnId,
        question: Question,
        identity: Identity,
        asks: &mut Asks,
        out: &mut Deliveries,
    ) -> Flow {
        let here = self.conn_ref(conn);
        let Some(session) = self.session(conn) else { return Flow::Done };
        if session.messages > 0 || !session.rooms.is_empty() {
            let refusal = Refusal::new(
                Fault::AlreadyIdentified,
                "identify must be the first message and come before any join; connect anew to be somebody else.",
            );
            self.refuse(now, conn, &question, refusal, out);
            return Flow::Done;
        }
        let current = session.card.client_id.clone();
        let wanted = identity.client_id.clone().unwrap_or_else(|| current.clone());
        let home = self.placement.of_client(&wanted);
        if let Some(full) = Some(home).filter(|&home| !asks.has_room(home)) {
            return Flow::Blocked(full);
        }
        let Some(session) = self.session_mut(conn) else { return Flow::Done };
        let (client_id, stake) = (wanted, session.stake());
        let claim = Claim { client_id, conn: here, session: stake, returns: false };
        session.phase = Phase::Claiming(Box::new(Claiming::new(identity, &claim, Some(question))));
        asks.push(home, Ask::Claim(Box::new(claim)));
        Flow::Done
    }

    /// The directory has decided.
    pub(super) fn on_claimed(
        &mut self,
        now: Now,
        conn: ConnId,
        (granted, life): (bool, u64),
        out: &mut Deliveries,
    ) {
        let Some(session) = self.session_mut(conn) else { return };
        let claiming = match std::mem::replace(&mut session.phase, Phase::Live) {
            Phase::Claiming(claiming) => *claiming,
            other => {
                session.phase = other;
                return;
            }
        };
        let Claiming { identity, client_id, identify, subscriptions } = claiming;
        if !granted {
            return self.on_claim_denied(now, conn, &client_id, identify, out);
        }
        let Some(session) = self.session(conn) else { return };
        let before = session.card.clone();
        let known = identify.as_ref().map(|_| &*before);
        let card = card(client_id, before.role, &identity, known);
        let Identity { avatar, personality, join, .. } = identity;
        let max = self.limits.max_joins_per_client;
        let mut join = joins(subscriptions, join);
        let too_many = join.split_off(join.len().min(max as usize));
        let Some(session) = self.session_mut(conn) else { return };
        let release = (before.client_id != card.client_id).then(|| before.client_id.clone());
        let card = Arc::new(card);
        session.card = card.clone();
        session.messages += u64::from(identify.is_some());
        if let Some(stay) = &mut session.stay {
            stay.life = life;
        }
        if avatar.is_some() || personality.is_some() {
            let profile = session.profile.get_or_insert_default();
            profile.avatar = avatar.map(Into::into).or(profile.avatar.take());
            profile.personality = personality.map(Into::into).or(profile.personality.take());
        }
        let address = session.address;
        let (client_id, client_type) = (card.client_id.clone(), card.client_type);
        match (&identify, &release) {
            (None, _) => {
                let address = address.map_or_else(String::new, |address| address.to_string());
                out.telemetry.push(Event::ClientConnected { client_id, client_type, address });
                out.list.push(Delivery::Admit(conn));
            }
            (Some(_), Some(previous_id)) => {
                let previous_id = previous_id.clone();
                let event = Event::ClientIdentified { client_id, previous_id, client_type };
                out.telemetry.push(event);
            }
            (Some(_), None) => {}
        }
        let is_new = identify.is_none();
        let refused = too_many.iter().map(|Join { address, .. }| {
            RefusedJoin::new(&address.room, &address.channel, join_limit(max))
        });
        let refused = refused.collect();
        let joining = Joining { waiting: join.len(), identify, refused, ..Joining::default() };
        session.phase = Phase::Joining(Box::new(joining));
        if release.is_some() || !join.is_empty() {
            session.errands = Some(Box::new(Errands { claim: None, release, joins: join }));
        }
        self.connected += u64::from(is_new);
        if !is_new {
            self.names.remove(&(before.client_id.clone(), conn));
        }
        self.names.insert((card.client_id.clone(), conn));
        self.end_arrival_if_complete(now, conn, out);
        out.list.push(Delivery::Resume(conn));
    }

    /// Asks what tells obliged this edge to ask.
    pub fn run_errands(&mut self, conn: ConnId, asks: &mut Asks) -> Flow {
        let (here, max) = (self.conn_ref(conn), self.limits.max_joins_per_client);
        let Some(session) = self.session(conn) else { return Flow::Done };
        if session.errands.is_none() {
            return Flow::Done;
        }
        let placement = self.placement.clone();
        let Some(session) = self.session_mut(conn) else { return Flow::Done };
        let (client, stake) = (session.card.clone(), session.stake());
        let Some(errands) = &mut session.errands else { return Flow::Done };
        // What was asked is not asked again, however long the rest has to wait.
        if let Some(client_id) = &errands.claim {
            let home = placement.of_client(client_id);
            if !asks.has_room(home) {
                return Flow::Blocked(home);
            }
            let client_id = client_id.clone();
            let claim = Claim { client_id, conn: here, session: stake, returns: true };
            asks.push(home, Ask::Claim(Box::new(claim)));
            errands.claim = None;
        }
        // In the order in which they were wished for, so that the first ones win where not all can.
        while let Some(join) = errands.joins.front() {
            let home = placement.of_room(&join.address.room);
            if !asks.has_room(home) {
                return Flow::Blocked(home);
            }
            let Some(join) = errands.joins.pop_front() else { break };
            if !session.homes.contains(&home) {
                session.homes.push(home);
            }
            let joined = (session.memberships.len() + session.rooms.len()) as u32;
            let joins_left = max.saturating_sub(joined + session.joins_in_flight + 1);
            session.joins_in_flight += 1;
            let (client, question, has_returned) = (client.clone(), None, false);
            let ask = JoinAsk { conn: here, client, join, question, has_returned, joins_left };
            asks.push(home, Ask::Join(Box::new(ask)));
        }
        if let Some(client_id) = &errands.release {
            let home = placement.of_client(client_id);
            if !asks.has_room(home) {
                return Flow::Blocked(home);
            }
            asks.push(home, Ask::Release(client_id.clone(), here));
        }
        session.errands = None;
        Flow::Done
    }

    /// A join that was part of arriving was granted.
    pub(super) fn on_arrival_joined(
        &mut self,
        now: Now,
        conn: ConnId,
        view: JoinView,
        out: &mut Deliveries,
    ) {
        if let Some(session) = self.session_mut(conn)
            && let Phase::Joining(joining) = &mut session.phase
        {
            joining.waiting -= 1;
            joining.joined.push(view);
            self.end_arrival_if_complete(now, conn, out);
        }
    }

    /// A join that was part of arriving was refused.
    pub(super) fn on_arrival_refused(
        &mut self,
        now: Now,
        conn: ConnId,
        question: Question,
        refusal: Refusal,
        out: &mut Deliveries,
    ) {
        let (room, channel) = question.address;
        out.faults.push(refusal.fault);
        if let Some(session) = self.session_mut(conn) {
            session.joins_in_flight -= 1;
            if let Phase::Joining(joining) = &mut session.phase {
                joining.waiting -= 1;
                joining.refused.push(RefusedJoin::new(&room, &channel, refusal));
                self.end_arrival_if_complete(now, conn, out);
            }
        }
    }

    fn on_claim_denied(
        &mut self,
        now: Now,
        conn: ConnId,
        client_id: &Name,
        identify: Option<Question>,
        out: &mut Deliveries,
    ) {
        let refusal = Refusal::of_field(
            Fault::ClientIdInUse,
            "client_id",
            format!(
                "The client id {client_id} is in use; choose another, or wait until its connection has ended."
            ),
        );
        match identify {
            Some(question) => {
                self.refuse(now, conn, &question, refusal, out);
                out.list.push(Delivery::Resume(conn));
            }
            None => {
                self.reject(conn, refusal, out);
            }
        }
    }

    fn end_arrival_if_complete(&mut self, now: Now, conn: ConnId, out: &mut Deliveries) {
        let Some(session) = self.session_mut(conn) else { return };
        let joining = match std::mem::replace(&mut session.phase, Phase::Live) {
            Phase::Joining(joining) if joining.waiting == 0 => *joining,
            other => {
                session.phase = other;
                return;
            }
        };
        let card = session.card.clone();
        let Joining { joined, refused, identify, .. } = joining;
        match identify {
            Some(question) => {
                let result = json!({
                    "client_id": card.client_id,
                    "client_type": card.client_type,
                    "role": card.role,
                    "joined": joined,
                    "refused": refused,
                });
                self.succeed(now, conn, &question, result, out);
            }
            None => {
                let mut payload = self.welcome(&card, &joined, &refused);
                if let Some((token, ttl_ms, resumed)) = self.begin_stay(conn) {
                    let token = token.reveal();
                    payload["session"] =
                        json!({"token": token, "ttl_ms": ttl_ms, "resumed": resumed});
                }
                let frame = self.notice(now, (EVERY_CHANNEL, "welcome"), payload);
                out.list.push(Delivery::Welcome(conn, frame));
            }
        }
        self.note_change(conn);
        out.list.push(Delivery::Resume(conn));
    }

    fn welcome(
        &self,
        card: &ClientCard,
        joined: &[JoinView],
        refused: &[RefusedJoin],
    ) -> serde_json::Value {
        let limits = &self.limits;
        json!({
            "event": "welcome",
            "client_id": card.client_id,
            "client_type": card.client_type,
            "role": card.role,
            "protocol": "1.0",
            "server": {
                "name": "arqonbus",
                "version": self.facts.version,
                "node": self.facts.node,
            },
            "heartbeat_ms": limits.heartbeat_ms,
            "limits": {
                "max_message_bytes": limits.max_message_bytes,
                "max_joins_per_client": limits.max_joins_per_client,
                "history_size": limits.history_size,
                "outbox_bytes": limits.outbox_bytes,
                "rate_messages": limits.rate_messages,
                "rate_commands": limits.rate_commands,
                "max_violations": limits.max_violations,
            },
            "joined": joined,
            "refused": refused,
        })
    }

    fn new_client_id(&mut self, now: Now) -> Name {
        let id = format!("arq_client_{}", self.stamp(now).ulid);
        match Name::parse(&id) {
            Ok(name) => name,
            Err(error) => unreachable!("the server's own client id {id} {error}"),
        }
    }
}

/// Who a client will be: what it says, else what it was.
fn card(
    client_id: Name,
    role: Role,
    identity: &Identity,
    before: Option<&ClientCard>,
) -> ClientCard {
    let known_type = before.map(|card| card.client_type).unwrap_or_default();
    let known_name = before.and_then(|card| card.screen_name.clone());
    ClientCard {
        client_id,
        client_type: identity.client_type.unwrap_or(known_type),
        screen_name: identity.screen_name.clone().or(known_name),
        role,
    }
}

/// What a client is joined to when it arrives: what it had joined, as it had, and what it names now.
fn joins(subscriptions: Vec<Subscription>, named: Vec<Address>) -> VecDeque<Join> {
    let is_new = |address: &Address| !subscriptions.iter().any(|kept| kept.address == *address);
    let named: Vec<Subscription> = named
        .into_iter()
        .filter(is_new)
        .map(|address| Subscription { address, options: Options::default() })
        .collect();
    let join = |Subscription { address, options: Options { echo, presence } }| Join {
        address,
        echo,
        presence,
        recover: None,
    };
    subscriptions.into_iter().chain(named).map(join).collect()
}
