//! How a run of several nodes ends: the trouble stops, all must come to rest and agree; clients go on from
//! where they are; then everyone leaves, and nothing may be left.

use crate::conn::Stage;
use crate::nodes::Nodes;
use crate::nodes::client::{Link, What};
use crate::nodes::truth::Address;
use crate::shared::LEASE_MS;
use crate::violation;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Turns in which everything that is under way must have come to its end.
const TURNS_MAX: u64 = 100_000;
/// How long it may take until the last timer has done what it does, beside heartbeats.
const PATIENCE_MS: u64 = 2 * LEASE_MS + 20_000;
/// How long a channel is followed that nobody is in, twice over.
const IDLE_MS: u64 = 65_000;

impl Nodes {
    /// The trouble stops; everything under way comes to its end, and then all agree.
    pub(super) fn rest(&mut self) {
        self.note(format_args!("the trouble stops"));
        self.shared.lost_answers = 0;
        for node in 0..self.nodes.len() {
            if self.nodes[node].stopped_until > 0 {
                self.go_on(node);
            }
            let hub = self.nodes[node].hub;
            if self.nodes[node].world.is_some() && !self.shared.hubs[hub].is_up {
                self.shared.mend(hub);
            }
            let is_last = node + 1 == self.nodes.len() && self.running() == 0;
            if self.nodes[node].world.is_none() && (is_last || self.rng.bool()) {
                self.start(node);
            }
        }
        self.work_off();
        self.let_pass(2 * u64::from(self.plan.setup.limits.heartbeat_ms) + PATIENCE_MS);
        (self.is_calm, self.privates_before) = (true, self.sent.privates.len());
        self.note(format_args!("all is calm"));
        self.speak();
        self.check_agreement();
        self.go_on_from_there();
    }

    /// Everyone who is there says something everywhere, and asks who is there.
    fn speak(&mut self) {
        for client in self.live() {
            for address in self.addresses_of(client) {
                let id = format!("arq_{client}-calm-{}-{}", address.0, address.1);
                self.publish(client, &id, address);
            }
            self.work_off();
        }
        let ids: Vec<String> = self.links().map(|link| link.client_id.clone()).collect();
        for client in self.live() {
            for address in self.addresses_of(client) {
                let at = (address.0.as_str(), address.1.as_str());
                let what = What::Info(address.clone());
                self.command(client, "channel_info", at, "{}", what);
            }
            self.command(client, "list_clients", ("science", "general"), "{}", What::Clients);
            for id in ids.clone() {
                self.private(client, id);
            }
            self.work_off();
        }
        self.let_pass(5_000);
    }

    /// Nodes and clients agree on who is there, and everyone has what there is.
    fn check_agreement(&mut self) {
        if let Some((node, what)) = self.shared.unrest() {
            violation!("quiet", "process {node} does not come to rest: {what}");
        }
        let mut holders: BTreeMap<String, usize> = BTreeMap::new();
        for link in self.links() {
            if let Some(other) = holders.insert(link.client_id.clone(), link.key) {
                violation!("one holder", "{} is {other} and {}", link.client_id, link.key);
            }
            let held = self.shared.redis.ids.iter().find(|(id, _)| id.as_str() == link.client_id);
            if held.is_none_or(|(_, (hub, _))| *hub != link.hub) {
                violation!("one holder", "{} is on {}, not {held:?}", link.client_id, link.hub);
            }
        }
        let ids = self.shared.redis.ids.iter();
        let leaked = ids
            .filter(|(id, (hub, _))| self.shared.lives(*hub) && !holders.contains_key(id.as_str()));
        if let Some((id, (hub, _))) = leaked.into_iter().next() {
            violation!("no leaked claim", "{id} is held by process {hub}, and nobody is it");
        }
        self.check_answers(&holders);
        for client in self.live() {
            self.judge(client, |link, judge| link.check_stays(judge));
        }
        self.check_privates();
    }

    fn check_answers(&self, holders: &BTreeMap<String, usize>) {
        let all: BTreeSet<String> = holders.keys().cloned().collect();
        let mut members: BTreeMap<Address, BTreeSet<String>> = BTreeMap::new();
        for link in self.links() {
            for address in link.stays.keys() {
                members.entry(address.clone()).or_default().insert(link.client_id.clone());
            }
        }
        for link in self.links() {
            let key = link.key;
            let owed = link.asked.iter().find(|(_, asked)| asked.required > 0);
            if let Some((id, asked)) = owed {
                violation!("every answer", "{key} waits for {id}: {:?}", asked.what);
            }
            // A page that is not the last holds the first of them.
            if let Some((listed, is_whole)) = &link.listed
                && (!all.iter().take(listed.len()).eq(listed) || *is_whole != (*listed == all))
            {
                violation!("one census", "{key} was told of {listed:?}, not {all:?}");
            }
            for (address, told) in link.infos.iter().filter(|(it, _)| link.stays.contains_key(*it))
            {
                if *told != members[address] {
                    let there = &members[address];
                    violation!("one census", "{key}: {told:?} in {address:?}, not {there:?}");
                }
            }
        }
    }

    /// A private message that was acknowledged reached who had the id; all did that were sent in calm.
    fn check_privates(&self) {
        let live: BTreeMap<usize, &Link> = self.links().map(|link| (link.key, link)).collect();
        for (number, private) in self.sent.privates.iter().enumerate() {
            let Some(link) = private.link.and_then(|key| live.get(&key)) else { continue };
            let is_meant = private.is_acked
                && link.hub == private.hub
                && link.client_id == private.target
                && link.unordered_lost == 0;
            if is_meant && !private.heard_by.contains(&link.key) {
                violation!("private", "{} never got private message {number}", link.key);
            }
        }
        for private in self.sent.privates[self.privates_before..].iter().filter(|it| it.is_acked) {
            let mut holders = live.values().filter(|link| link.client_id == private.target);
            let missed =
                |link: &&&Link| link.unordered_lost == 0 && !private.heard_by.contains(&link.key);
            if let Some(link) = holders.find(missed) {
                violation!("private", "{} is there, and nothing private reaches it", link.key);
            }
        }
    }

    /// Everyone leaves every channel and joins it again: an epoch that was told holds.
    fn go_on_from_there(&mut self) {
        let mut before = Vec::new();
        for client in self.live() {
            let Some(link) = &self.clients[client].link else { continue };
            let memories: Vec<_> = link.memories().collect();
            let options: Vec<_> =
                link.stays.iter().map(|(at, stay)| (client, at.clone(), stay.options)).collect();
            before.extend(options);
            self.clients[client].memory.extend(memories);
            for address in self.addresses_of(client) {
                self.leave(client, &address);
            }
        }
        self.work_off();
        for (client, address, options) in before {
            self.join(client, &address, options.unwrap_or_default());
        }
        self.work_off();
        self.let_pass(5_000);
        for client in self.live() {
            self.judge(client, |link, judge| link.check_stays(judge));
        }
    }

    /// Everyone leaves.
    pub(super) fn end(&mut self) {
        self.is_calm = false;
        self.note(format_args!("everyone leaves"));
        for client in 0..self.clients.len() {
            let how = self.rng.u8(..3);
            let Some(link) = &mut self.clients[client].link else { continue };
            link.is_doomed = true;
            let (node, number) = (link.node, link.number);
            match how {
                0 => link.peer.close(),
                1 => {
                    let world = self.nodes[node].world.as_mut();
                    world.into_iter().for_each(|world| world.end(number));
                }
                _ => {
                    let world = self.nodes[node].world.as_mut();
                    world.into_iter().for_each(|world| world.reset(number));
                    self.disconnected(client);
                }
            }
        }
        self.work_off();
        self.let_pass(2 * u64::from(self.plan.setup.limits.heartbeat_ms) + PATIENCE_MS);
        self.let_pass(2 * (61_000 + IDLE_MS));
        self.check_empty();
    }

    fn check_empty(&self) {
        if let Some((client, _)) =
            self.clients.iter().enumerate().find(|(_, client)| client.link.is_some())
        {
            violation!("all gone", "client {client} still has a connection");
        }
        for (number, node) in self.nodes.iter().enumerate() {
            let Some(world) = &node.world else { continue };
            for (shard, of_shard) in world.shards.iter().enumerate() {
                let engine = &of_shard.engine;
                let facts = [
                    ("connections", engine.connection_count()),
                    ("sessions", engine.edge().session_count()),
                    ("pending answers", engine.edge().pending_count()),
                    ("client ids", engine.home().client_id_count()),
                    ("people in rooms", engine.home().presence_count()),
                    ("acks that wait", engine.home().waiting_acks()),
                ];
                if let Some((what, count)) = facts.into_iter().find(|(_, count)| *count > 0) {
                    violation!("all gone", "shard {shard} of node {number} has {count} {what}");
                }
            }
        }
        let lives = |hub: &usize| self.shared.lives(*hub);
        if let Some((id, (hub, _))) = self.shared.redis.ids.iter().find(|(_, (hub, _))| lives(hub))
        {
            violation!("no leaked claim", "{id} is held by process {hub}, and all are gone");
        }
        for (key, order) in &self.shared.redis.orders {
            if order.followers.iter().any(lives) {
                violation!("all gone", "{key} is followed by {:?}", order.followers);
            }
            if order.record.auto_created && order.record.address.channel.as_str() != "*" {
                violation!("all gone", "{key} is left");
            }
        }
    }

    /// A process ends as it is told to: it sends its clients away, and writes all.
    pub(super) fn end_well(&mut self, node: usize) {
        let hub = self.nodes[node].hub;
        if !self.shared.hubs[hub].is_up {
            self.shared.mend(hub);
        }
        for shard in 0..usize::from(self.plan.setup.shards) {
            while let Some(world) = &mut self.nodes[node].world
                && !world.ask(shard, arqonbus::broker::lane::Ask::Drain { window_ms: 100 })
            {
                // A shard whose neighbour's lane is full takes nothing until that one has had a turn.
                (0..usize::from(self.plan.setup.shards)).for_each(|shard| self.turn(node, shard));
            }
        }
        for client in 0..self.clients.len() {
            let link = self.clients[client].link.as_mut();
            link.into_iter().filter(|link| link.node == node).for_each(|it| it.is_doomed = true);
        }
        let lost_answers = std::mem::take(&mut self.shared.lost_answers);
        self.work_off_node(node);
        self.pass(Duration::from_millis(200));
        self.work_off_node(node);
        self.shared.lost_answers = lost_answers;
        self.shared.bid_farewell(hub);
        self.bury(node);
    }

    fn work_off_node(&mut self, node: usize) {
        for _ in 0..50 {
            let mut is_busy = false;
            for shard in 0..usize::from(self.plan.setup.shards) {
                is_busy |= self.turn_if_needed(node, shard);
            }
            for client in 0..self.clients.len() {
                if self.clients[client].link.as_ref().is_some_and(|link| link.node == node) {
                    is_busy |= self.flush(client);
                }
            }
            is_busy |= self.store_all(node);
            if !is_busy {
                return;
            }
        }
    }

    fn turn_if_needed(&mut self, node: usize, shard: usize) -> bool {
        let Some(world) = &mut self.nodes[node].world else { return false };
        let is_needed = world.reason(shard).is_some();
        if is_needed {
            self.turn(node, shard);
        }
        is_needed
    }

    /// Redis and a node do all there is to do, and homes are told of it.
    fn store_all(&mut self, node: usize) -> bool {
        if self.nodes[node].world.is_none() {
            return false;
        }
        let (hub, now, mut is_busy) = (self.nodes[node].hub, self.time_of(node), false);
        while self.shared.step(hub, now, &mut self.rng).is_some() {
            is_busy = true;
        }
        while let Some((to, news)) = self.shared.hubs[hub].news.pop_front() {
            self.route(node, to, news);
            is_busy = true;
        }
        for shard in 0..self.nodes[node].waiting.len() {
            is_busy |= !self.nodes[node].waiting[shard].is_empty();
            self.offer(node, shard, usize::MAX);
        }
        is_busy
    }

    /// Runs everything as long as anything has a reason to do something.
    pub(super) fn work_off(&mut self) {
        let begun = self.turns;
        loop {
            let mut is_busy = false;
            for node in 0..self.nodes.len() {
                for shard in 0..usize::from(self.plan.setup.shards) {
                    is_busy |= self.turn_if_needed(node, shard);
                }
                is_busy |= self.store_all(node);
            }
            for client in 0..self.clients.len() {
                is_busy |= self.flush(client);
            }
            if !is_busy {
                return;
            }
            if self.turns - begun > TURNS_MAX {
                violation!("liveness", "no rest after {TURNS_MAX} turns");
            }
        }
    }

    /// Lets time pass, as it does when every driver sleeps until its next timer.
    fn let_pass(&mut self, ms: u64) {
        let until_ms = self.now.mono_ms() + ms;
        loop {
            self.work_off();
            let now_ms = self.now.mono_ms();
            if now_ms >= until_ms {
                return;
            }
            let worlds = self.nodes.iter().filter_map(|node| node.world.as_ref());
            let wait = |world: &crate::world::World| {
                let ticks = world.shards.iter().filter_map(|shard| shard.engine.next_tick_ms());
                ticks.min().map(|tick_ms| tick_ms.saturating_sub(world.now.mono_ms()))
            };
            let next_ms = worlds.filter_map(wait).min().unwrap_or(u64::MAX);
            // Leases run out at no tick.
            let next_ms = next_ms.clamp(1, (until_ms - now_ms).min(LEASE_MS));
            self.pass(Duration::from_millis(next_ms));
        }
    }

    fn live(&self) -> Vec<usize> {
        let is_live = |client: &usize| {
            let link = self.clients[*client].link.as_ref();
            link.is_some_and(|link| link.stage == Stage::Live && !link.is_doomed)
        };
        (0..self.clients.len()).filter(is_live).collect()
    }

    fn links(&self) -> impl Iterator<Item = &Link> {
        let links = self.clients.iter().filter_map(|client| client.link.as_ref());
        links.filter(|link| link.stage == Stage::Live && !link.is_doomed)
    }

    fn addresses_of(&self, client: usize) -> Vec<Address> {
        let link = self.clients[client].link.as_ref();
        link.map(|link| link.stays.keys().cloned().collect()).unwrap_or_default()
    }
}
