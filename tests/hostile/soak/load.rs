//! The ordinary clients of a soak: publishers that send until they are acknowledged, members that follow
//! and recover, auditors that read the history.

use super::ledger::Ledger;
use super::nodes::Whereabouts;
use crate::common::{Client, Message, command_text, eventually};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

/// How many entries a publisher has under way, and how long it rests between such lots.
const UNDER_WAY: usize = 10;
const REST: Duration = Duration::from_millis(20);
/// How long an auditor rests.
const BETWEEN_AUDITS: Duration = Duration::from_millis(1_500);
/// How long a member listens before it looks whether it is over.
const LISTEN: Duration = Duration::from_millis(200);
/// The entries that a member remembers, and the notices.
const REMEMBERED: usize = 20_000;
const NOTES: usize = 6;

fn id_of(number: u64) -> String {
    format!("arq_entry-{number}")
}

fn number_of(message: &Value) -> Option<u64> {
    message["id"].as_str()?.strip_prefix("arq_entry-")?.parse().ok()
}

/// Connects as soon as a node lets it; nothing if it is over.
fn connect(whereabouts: &Whereabouts, id: &str, is_over: &AtomicBool) -> Option<Client> {
    while !is_over.load(SeqCst) {
        if let Some(client) = Client::try_connect(whereabouts.bus(), &format!("client_id={id}")) {
            return Some(client);
        }
        thread::sleep(Duration::from_millis(20));
    }
    None
}

/// Asks something of a bus that may die meanwhile.
fn try_ask(client: &mut Client, command: &str, parameters: Value) -> Option<Value> {
    let mut envelope = client.envelope("command", "ledger:*", json!({}));
    envelope["payload"] = json!({"command": command, "parameters": parameters});
    let id = envelope["id"].as_str()?.to_owned();
    client.try_send_text(envelope.to_string()).ok()?;
    loop {
        let message = client.try_next().ok()?;
        if message["payload"]["request_id"] == id {
            return Some(message["payload"].clone());
        }
    }
}

/// Sends each entry again and again until it is acknowledged.
pub(super) struct Publisher<'a> {
    ledger: &'a Ledger,
    waiting: Vec<u64>,
    given: u64,
}

impl Publisher<'_> {
    pub(super) fn new(ledger: &Ledger) -> Publisher<'_> {
        Publisher { ledger, waiting: Vec::new(), given: 0 }
    }

    /// Goes on until it is over and everything is acknowledged.
    pub(super) fn run(mut self, whereabouts: &Whereabouts, is_over: &AtomicBool) {
        let never = AtomicBool::new(false);
        let name = format!("publisher-{}", self.ledger.channel.replace(':', "-"));
        while let Some(mut client) = connect(whereabouts, &name, &never) {
            if self.in_one_life(&mut client, is_over).is_some() {
                return;
            }
        }
    }

    /// Nothing if the connection ended before all was done.
    fn in_one_life(&mut self, client: &mut Client, is_over: &AtomicBool) -> Option<()> {
        let joined = try_ask(client, "join_channel", json!({"channel": self.ledger.channel}))?;
        assert_eq!(joined["status"], "success", "{joined}");
        loop {
            while self.waiting.len() < UNDER_WAY && !is_over.load(SeqCst) {
                self.given += 1;
                self.waiting.push(self.given);
            }
            if self.waiting.is_empty() {
                return Some(());
            }
            for &number in &self.waiting {
                let mut event = client.envelope("event", self.ledger.channel, json!({}));
                event["id"] = id_of(number).into();
                event["metadata"] = json!({"ack": true});
                client.try_send_text(event.to_string()).ok()?;
            }
            for _ in 0..self.waiting.len() {
                self.take_ack(client)?;
            }
            thread::sleep(REST);
        }
    }

    fn take_ack(&mut self, client: &mut Client) -> Option<()> {
        let reply = loop {
            let message = client.try_next().ok()?;
            if message["type"] == "command_response" {
                break message["payload"].clone();
            }
        };
        let number = reply["request_id"].as_str().and_then(|id| id.strip_prefix("arq_entry-"));
        let number: u64 = number.and_then(|n| n.parse().ok()).expect("an ack says of what");
        if reply["status"] == "success" {
            self.waiting.retain(|waiting| *waiting != number);
            self.ledger.acknowledge(number, reply["result"]["sequence"].as_u64().expect("where"));
        } else if reply["error"] == "STORAGE_LOST" {
            // It will never be stored, and nobody was told that it is.
            self.waiting.retain(|waiting| *waiting != number);
        } else {
            assert_eq!(reply["error"], "STORAGE_UNAVAILABLE", "{reply}");
        }
        Some(())
    }
}

/// Follows the channel over all its connections, and sees that nothing is doubled, missing or reordered.
pub(super) struct Member<'a> {
    ledger: &'a Ledger,
    name: String,
    /// The epoch and the sequence of what it has seen last.
    known: Option<(String, u64)>,
    /// The number of each entry since it last began anew, by its sequence.
    run: BTreeMap<u64, u64>,
    /// How many entries it was given in an order that is over, and that may have other places in the one
    /// that counts: they do not come again, so it sees a jump there.
    elsewhere: u64,
    /// The latest answers and notices that it was given, each with what it had seen before.
    heard: VecDeque<String>,
}

impl Member<'_> {
    pub(super) fn new(ledger: &Ledger, name: String) -> Member<'_> {
        Member {
            ledger,
            name,
            known: None,
            run: BTreeMap::new(),
            elsewhere: 0,
            heard: VecDeque::new(),
        }
    }

    pub(super) fn run(mut self, whereabouts: &Whereabouts, is_over: &AtomicBool) {
        while let Some(mut client) = connect(whereabouts, &self.name, is_over) {
            let _ = self.in_one_life(&mut client, is_over);
        }
    }

    fn in_one_life(&mut self, client: &mut Client, is_over: &AtomicBool) -> Option<()> {
        let mut parameters = json!({"channel": self.ledger.channel});
        if let Some((epoch, sequence)) = &self.known {
            parameters["recover"] = json!({"epoch": epoch, "sequence": sequence});
        }
        let joined = try_ask(client, "join_channel", parameters)?;
        if joined["status"] != "success" {
            assert_eq!(joined["code"], 503, "{joined}");
            thread::sleep(Duration::from_millis(50));
            return None;
        }
        let joined = &joined["result"];
        self.note(format!(
            "joined in {} at {}, recovered {} {}",
            joined["epoch"], joined["sequence"], joined["recovered"], joined["reason"]
        ));
        let epoch = joined["epoch"].as_str().expect("a channel has an epoch").to_owned();
        match (joined["recovered"] == true, self.known.as_mut()) {
            (true, Some(known)) => {
                self.ledger.recovered();
                known.0 = epoch;
            }
            (_, known) => {
                if known.is_some() {
                    self.ledger.began_anew();
                }
                self.run.clear();
                self.elsewhere = 0;
                let sequence = joined["sequence"].as_u64().expect("a channel has a sequence");
                self.known = Some((epoch, sequence));
            }
        }
        self.follow(client, is_over)
    }

    fn follow(&mut self, client: &mut Client, is_over: &AtomicBool) -> Option<()> {
        while !is_over.load(SeqCst) {
            client.drain_for(LISTEN);
            let mut is_quiet = true;
            while let Some(message) = client.take_kept() {
                is_quiet = false;
                self.hear(&message)?;
            }
            if is_quiet {
                // Where the connection has ended this can't be sent.
                let (_, ping) = command_text(&client.id, "ping", json!({}));
                client.try_send_text(ping).ok()?;
            }
        }
        Some(())
    }

    /// Nothing if what was missed is to be got by coming back.
    fn hear(&mut self, message: &Message) -> Option<()> {
        if message["type"] == "event" {
            self.take(message.sequence(), number_of(message));
            return Some(());
        }
        let payload = &message["payload"];
        self.note(payload.to_string());
        // What is said to the whole room has an order of its own.
        let own = self.ledger.channel.split_once(':').map(|(_, channel)| channel);
        let is_here = payload["channel"].as_str() == own;
        match payload["event"].as_str() {
            Some("epoch_changed") if is_here => {
                self.change_order(payload["epoch"].as_str()?, payload["sequence"].as_u64()?);
            }
            Some("gap") if payload["reason"] == "order_changed" => {
                if !is_here {
                    return Some(());
                }
                // What it misses has places up to the last one of these.
                self.change_order(payload["epoch"].as_str()?, 0);
                self.known.as_mut()?.1 = payload["last"].as_u64()?;
            }
            // It was too slow for once.
            Some("gap") => return None,
            _ => {}
        }
        Some(())
    }

    /// The order is another one beyond what is sure.
    fn change_order(&mut self, epoch: &str, sure: u64) {
        let Some(known) = &mut self.known else { return };
        known.0 = epoch.to_owned();
        if sure < known.1 {
            self.ledger.began_anew();
            known.1 = sure;
            self.elsewhere += self.run.split_off(&(sure + 1)).len() as u64;
        }
    }

    fn note(&mut self, what: String) {
        let known = self.known.as_ref().map(|known| known.1);
        self.heard.push_back(format!("{} after {known:?}: {what}", jiff::Timestamp::now()));
        if self.heard.len() > NOTES {
            self.heard.pop_front();
        }
    }

    fn take(&mut self, sequence: u64, number: Option<u64>) {
        let Some((_, last)) = &mut self.known else { return };
        let jump = sequence.checked_sub(*last + 1).filter(|jump| *jump <= self.elsewhere);
        self.elsewhere -= jump.unwrap_or_default();
        if jump.is_none() {
            let what = format!(
                "{} was given {sequence} after {last}, having heard {:#?}",
                self.name, self.heard
            );
            self.ledger.member_reordered(what);
        }
        *last = sequence;
        self.ledger.delivered(1);
        let Some(number) = number else { return };
        if let Some((before, _)) =
            self.run.iter().rev().take(1_000).find(|entry| *entry.1 == number)
        {
            let what = format!(
                "{} was given {number} at {before} and at {sequence}, having heard {:#?}",
                self.name, self.heard
            );
            self.ledger.member_doubled(what);
        }
        self.run.insert(sequence, number);
        if self.run.len() > REMEMBERED {
            self.run.pop_first();
        }
    }
}

/// Reads the whole history from time to time, and holds it against the ledger.
pub(super) struct Auditor<'a> {
    ledger: &'a Ledger,
}

impl Auditor<'_> {
    pub(super) fn new(ledger: &Ledger) -> Auditor<'_> {
        Auditor { ledger }
    }

    pub(super) fn run(self, whereabouts: &Whereabouts, is_over: &AtomicBool) {
        let name = format!("auditor-{}", self.ledger.channel.replace(':', "-"));
        while let Some(mut client) = connect(whereabouts, &name, is_over) {
            let parameters = json!({"channel": self.ledger.channel});
            if try_ask(&mut client, "join_channel", parameters).is_some() {
                let promised = self.ledger.acknowledged();
                if let Some(rows) = read_history(&mut client, self.ledger.channel) {
                    self.ledger.audit(&rows, &promised, false);
                }
            }
            for _ in 0..50 {
                if is_over.load(SeqCst) {
                    return;
                }
                thread::sleep(BETWEEN_AUDITS / 50);
            }
        }
    }
}

/// The sequences and numbers of a history, oldest first; nothing if it can't be read to its end.
fn read_history(client: &mut Client, channel: &str) -> Option<Vec<(u64, u64)>> {
    let (mut rows, mut after) = (Vec::new(), 0);
    loop {
        let parameters = json!({"channel": channel, "after": after, "limit": 1000});
        let page = try_ask(client, "history", parameters)?;
        let page = (page["status"] == "success").then(|| page["result"].clone())?;
        if page["incomplete"] == true {
            // What others have stored meanwhile is not here yet.
            return None;
        }
        for message in page["messages"].as_array()? {
            after = message["metadata"]["sequence"].as_u64()?;
            rows.push((after, number_of(message).unwrap_or(u64::MAX - after)));
        }
        if page["more"] != true {
            return Some(rows);
        }
    }
}

/// The last audit, when nothing is published any more: everything that was acknowledged is there.
pub(super) fn last_audit(ledger: &Ledger, whereabouts: &Whereabouts) {
    let never = AtomicBool::new(false);
    let promised = ledger.acknowledged();
    let last = promised.values().max().copied().unwrap_or_default();
    eventually("the history can be read to its end", || {
        let mut client = connect(whereabouts, "last-auditor", &never)?;
        try_ask(&mut client, "join_channel", json!({"channel": ledger.channel}))?;
        let rows = read_history(&mut client, ledger.channel)?;
        // A node that was behind hears of the rest by and by.
        let is_whole = rows.last().is_some_and(|row| row.0 >= last);
        is_whole.then(|| ledger.audit(&rows, &promised, true))
    });
}
