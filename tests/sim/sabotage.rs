//! Planted bugs: the driver does something wrong, and a check must notice.

use crate::shared::Flaw;
use arqonbus::base::ids::{ChannelId, ConnId, ConnRef};
use arqonbus::broker::lane::{Ask, Tell};
use arqonbus::broker::peers::PeerRecord;
use arqonbus::broker::record::{KeptChannel, Record};
use arqonbus::shard::engine::Engine;
use fastrand::Rng;
use std::collections::VecDeque;

/// Something that can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    SwapFanouts,
    DropFanout,
    DuplicateFanout,
    MisdirectFanout,
    DropAccepted,
    WrongAckSequence,
    ShortReplay,
    ReplayUnmarked,
    DeliverToStranger,
    DropDeliver,
    DropAnswer,
    AnswerToStranger,
    DropJoined,
    DropLeft,
    DropOpened,
    GrantTakenId,
    LoseGone,
    LoseRelease,
    LosePublish,
    CorruptSequence,
    CorruptTimestamp,
    DropBytes,
    RepeatBytes,
    IgnoreWantsInput,
    OverfillLane,
    ClaimUnstored,
    LoseRecord,
    ForgetTail,
    ForgetTerms,
    Misnumber,
    // Those of several nodes.
    ReplyBeforeHandshake,
    RouteToClaimant,
    HideNewOrder,
    LeakClaim,
    TwoHolders,
    WholeCatchUp,
    LoseArrival,
    LoseTicket,
    WrongPlace,
    LosePeerGone,
    AckUnstored,
}

impl Bug {
    /// All of those that need several nodes, or are looked for there.
    pub const OF_NODES: [Bug; 11] = [
        Bug::ReplyBeforeHandshake,
        Bug::RouteToClaimant,
        Bug::HideNewOrder,
        Bug::LeakClaim,
        Bug::TwoHolders,
        Bug::WholeCatchUp,
        Bug::LoseArrival,
        Bug::LoseTicket,
        Bug::WrongPlace,
        Bug::LosePeerGone,
        Bug::AckUnstored,
    ];

    /// What is wrong with the storage that several nodes share, if it sits there.
    pub fn flaw(self) -> Flaw {
        match self {
            Bug::TwoHolders => Flaw::TwoHolders,
            Bug::WholeCatchUp => Flaw::WholeCatchUp,
            Bug::LoseArrival => Flaw::LoseArrival,
            Bug::LoseTicket => Flaw::LoseTicket,
            Bug::WrongPlace => Flaw::WrongPlace,
            Bug::LosePeerGone => Flaw::LosePeerGone,
            Bug::AckUnstored => Flaw::AckUnstored,
            _ => Flaw::None,
        }
    }

    /// Whether it sits between a shard and its storage.
    pub fn is_of_storage(self) -> bool {
        matches!(
            self,
            Bug::ClaimUnstored
                | Bug::LoseRecord
                | Bug::ForgetTail
                | Bug::ForgetTerms
                | Bug::Misnumber
        )
    }

    /// All of one node.
    pub const ALL: [Bug; 30] = [
        Bug::SwapFanouts,
        Bug::DropFanout,
        Bug::DuplicateFanout,
        Bug::MisdirectFanout,
        Bug::DropAccepted,
        Bug::WrongAckSequence,
        Bug::ShortReplay,
        Bug::ReplayUnmarked,
        Bug::DeliverToStranger,
        Bug::DropDeliver,
        Bug::DropAnswer,
        Bug::AnswerToStranger,
        Bug::DropJoined,
        Bug::DropLeft,
        Bug::DropOpened,
        Bug::GrantTakenId,
        Bug::LoseGone,
        Bug::LoseRelease,
        Bug::LosePublish,
        Bug::CorruptSequence,
        Bug::CorruptTimestamp,
        Bug::DropBytes,
        Bug::RepeatBytes,
        Bug::IgnoreWantsInput,
        Bug::OverfillLane,
        Bug::ClaimUnstored,
        Bug::LoseRecord,
        Bug::ForgetTail,
        Bug::ForgetTerms,
        Bug::Misnumber,
    ];
}

/// What is done wrong in one run, if anything.
pub struct Sabotage {
    bug: Option<Bug>,
    rng: Rng,
    channels: Vec<ChannelId>,
    conns: Vec<ConnId>,
    /// Connections that wait to hear whether they may have their id.
    claimants: Vec<ConnRef>,
}

impl Sabotage {
    /// Does this wrong now and then.
    pub fn new(bug: Option<Bug>, rng: Rng) -> Sabotage {
        let (channels, conns, claimants) = (Vec::new(), Vec::new(), Vec::new());
        Sabotage { bug, rng, channels, conns, claimants }
    }

    /// Meddles with what is staged for a lane of asks.
    pub fn asks(&mut self, staged: &mut VecDeque<Ask>) {
        let Some(bug) = self.bug else { return };
        let claims = staged.iter().filter_map(|ask| match ask {
            Ask::Claim(claim) => Some(claim.conn),
            _ => None,
        });
        self.claimants.extend(claims);
        let rng = &mut self.rng;
        staged.retain(|ask| {
            let is_lost = match ask {
                Ask::Gone(_) => bug == Bug::LoseGone,
                Ask::Release(..) => bug == Bug::LoseRelease,
                Ask::Publish(publish) => bug == Bug::LosePublish && publish.ack,
                _ => false,
            };
            !is_lost || rng.u8(..3) > 0
        });
    }

    /// Meddles with what is staged for a lane of tells.
    pub fn tells(&mut self, staged: &mut VecDeque<Tell>) {
        let Some(bug) = self.bug else { return };
        if bug == Bug::SwapFanouts {
            for place in 1..staged.len() {
                let channels = (channel(&staged[place - 1]), channel(&staged[place]));
                if channels.0.is_some() && channels.0 == channels.1 && self.rng.bool() {
                    staged.swap(place - 1, place);
                }
            }
        }
        let rng = &mut self.rng;
        staged.retain(|tell| {
            let is_lost = match tell {
                Tell::Fanout(fanout) if fanout.frame.sequence == 0 => {
                    bug == Bug::HideNewOrder && is_of_order(fanout.frame.text())
                }
                Tell::Fanout(_) => bug == Bug::DropFanout,
                Tell::Accepted(_) => bug == Bug::DropAccepted,
                Tell::Deliver(..) => bug == Bug::DropDeliver,
                Tell::Answer(_) => bug == Bug::DropAnswer,
                Tell::Joined(joined) => bug == Bug::DropJoined && joined.question.is_some(),
                Tell::Left(_) => bug == Bug::DropLeft,
                Tell::Opened(_) => bug == Bug::DropOpened,
                _ => false,
            };
            !is_lost || (bug != Bug::HideNewOrder && rng.u8(..6) > 0)
        });
        let mut again = Vec::new();
        for (place, tell) in staged.iter_mut().enumerate() {
            self.meddle(bug, tell);
            if let Tell::Fanout(fanout) = tell
                && bug == Bug::DuplicateFanout
                && fanout.frame.sequence > 0
                && self.rng.u8(..6) == 0
            {
                again.push((place, fanout.clone()));
            }
        }
        for (place, fanout) in again.into_iter().rev() {
            staged.insert(place, Tell::Fanout(fanout));
        }
    }

    fn meddle(&mut self, bug: Bug, tell: &mut Tell) {
        let is_time = self.rng.u8(..4) == 0;
        match tell {
            Tell::Fanout(fanout) => {
                if !self.channels.contains(&fanout.channel) {
                    self.channels.push(fanout.channel);
                }
                if bug == Bug::MisdirectFanout && is_time && fanout.frame.sequence > 0 {
                    fanout.channel = self.channels[self.rng.usize(..self.channels.len())];
                }
            }
            Tell::Accepted(accepted) if bug == Bug::WrongAckSequence && is_time => {
                accepted.sequence += 1;
            }
            Tell::Joined(joined) => {
                if !self.conns.contains(&joined.conn) {
                    self.conns.push(joined.conn);
                }
                if bug == Bug::ShortReplay {
                    joined.replay.pop();
                }
                if bug == Bug::ReplayUnmarked {
                    joined.view.recovered &= joined.replay.is_empty();
                }
            }
            Tell::Deliver(conn, _) if bug == Bug::DeliverToStranger && is_time => {
                if let Some(stranger) = self.stranger(*conn) {
                    *conn = stranger;
                }
            }
            Tell::Answer(answer) if bug == Bug::AnswerToStranger && is_time => {
                if let Some(stranger) = self.stranger(answer.conn) {
                    answer.conn = stranger;
                }
            }
            Tell::Deliver(conn, _) if bug == Bug::RouteToClaimant => {
                *conn = self.claimants.last().map_or(*conn, |claimant| claimant.conn);
            }
            Tell::Claimed { conn, granted, .. } => {
                *granted |= bug == Bug::GrantTakenId;
                self.claimants.retain(|claimant| claimant.conn != *conn);
            }
            _ => {}
        }
    }

    fn stranger(&mut self, conn: ConnId) -> Option<ConnId> {
        let strangers: Vec<ConnId> =
            self.conns.iter().copied().filter(|other| *other != conn).collect();
        (!strangers.is_empty()).then(|| strangers[self.rng.usize(..strangers.len())])
    }

    /// Meddles with what the storage says is stored, before it stores the first `count` of a queue.
    pub fn stored(
        &mut self,
        queue: &VecDeque<Record>,
        count: usize,
        stored: &mut Vec<(ChannelId, u64)>,
    ) {
        if self.bug == Some(Bug::ClaimUnstored)
            && let Some(Record::Event(event)) = queue.get(count)
        {
            stored.push((event.channel, event.frame.sequence));
        }
    }

    /// Meddles with what waits for the storage.
    pub fn records(&mut self, staged: &mut VecDeque<Record>) {
        if self.bug == Some(Bug::LoseRecord) {
            let rng = &mut self.rng;
            staged.retain(|record| !matches!(record, Record::Event(_)) || rng.u8(..6) > 0);
        }
        if self.bug == Some(Bug::LeakClaim) {
            let is_release = |record: &Record| matches!(record, Record::Peer(of_peers) if matches!(**of_peers, PeerRecord::Release(_)));
            staged.retain(|record| !is_release(record));
        }
        if self.bug == Some(Bug::Misnumber) {
            for record in staged {
                let Record::Merged(merged) = record else { continue };
                let said = merged.channels.iter_mut().filter_map(|channel| channel.said.as_mut());
                said.for_each(|said| said.base += 1);
            }
        }
    }

    /// Meddles with what a node that starts is given.
    pub fn kept(&mut self, channels: &mut [KeptChannel]) {
        for channel in channels {
            match self.bug {
                Some(Bug::ForgetTail) if channel.messages.len() > 1 => {
                    channel.messages.pop();
                    channel.last -= 1;
                }
                // The home that went on is taken for the one before it.
                Some(Bug::ForgetTerms) => {
                    (channel.record.term, channel.record.past) = (0, Vec::new());
                }
                _ => {}
            }
        }
    }

    /// How many slots a lane is believed to have.
    pub fn lane_slots(&self, slots: usize) -> usize {
        if self.bug == Some(Bug::OverfillLane) { slots + 1 } else { slots }
    }

    /// Whether a socket is read although the engine does not want it.
    pub fn reads_unwanted(&self, engine: &Engine, conn: ConnId) -> bool {
        let is_there = || engine.edge().session(conn).is_some();
        self.bug == Some(Bug::IgnoreWantsInput) && is_there()
    }

    /// Writes to a socket.
    pub fn write(&mut self, bytes: &[u8], socket: &mut VecDeque<u8>) {
        let is_time = self.bug.is_some() && self.rng.u8(..20) == 0;
        if self.bug == Some(Bug::ReplyBeforeHandshake) && bytes.starts_with(b"HTTP/") {
            socket.extend(b"\x81\x02{}");
        }
        match self.bug.filter(|_| is_time) {
            Some(Bug::DropBytes) => {
                let lost = self.rng.usize(..=bytes.len());
                socket.extend(&bytes[..lost]);
                socket.extend(bytes.iter().skip(lost + 1));
            }
            Some(Bug::RepeatBytes) => {
                let from = self.rng.usize(..=bytes.len());
                socket.extend(bytes);
                socket.extend(&bytes[from..]);
            }
            Some(Bug::CorruptSequence) => corrupt(bytes, br#""sequence":"#, 0, socket),
            Some(Bug::CorruptTimestamp) => corrupt(bytes, br#""timestamp":""#, 3, socket),
            _ => socket.extend(bytes),
        }
    }
}

/// Whether a notice says that an order is another one, or its epoch.
fn is_of_order(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    text.contains("order_changed") || text.contains("epoch_changed")
}

fn channel(tell: &Tell) -> Option<ChannelId> {
    match tell {
        Tell::Fanout(fanout) if fanout.frame.sequence > 0 => Some(fanout.channel),
        _ => None,
    }
}

/// Writes `bytes` with one digit changed, `skip` bytes after the first `mark`.
fn corrupt(bytes: &[u8], mark: &[u8], skip: usize, socket: &mut VecDeque<u8>) {
    let mut bytes = bytes.to_vec();
    let place = bytes.windows(mark.len()).position(|window| window == mark);
    if let Some(digit) = place.and_then(|place| bytes.get_mut(place + mark.len() + skip))
        && digit.is_ascii_digit()
    {
        *digit = if *digit == b'1' { b'2' } else { *digit - 1 };
    }
    socket.extend(bytes);
}
