//! `arqonbus pub`: gives messages to a channel, and knows of each whether the bus has it.
//!
//! A line of input becomes a message with an id; the id stays the same through every retry, so the
//! bus can tell a repetition from a new message. Messages are pipelined, up to a window of them
//! without an answer; after a lost connection the same client comes back and sends what was not
//! answered again, in the same order, before anything new. What is reported as accepted is in the
//! channel once, and in the order of the input.
//!
//! One case keeps no order: a bus that refuses a message for the moment (429 `RATE_LIMITED`, 503)
//! may have accepted the ones behind it already. They are answered first, and from there on the
//! publisher goes one by one. A bus that says in its welcome that it limits the rate gets one
//! message at a time from the start.
//!
//! *Not here*: which message is where (`window`); what there is to send (`source`).

use crate::base::limits::{MESSAGE_ID_BYTES_MAX, TTL_MS_MAX};
use crate::cli::ask::no_answer;
use crate::cli::compose::{Composer, LineForm};
use crate::cli::console::Console;
use crate::cli::dial::{Dial, hang_up};
use crate::cli::failure::Failure;
use crate::cli::input::Lines;
use crate::cli::source::{Given, Source};
use crate::cli::target::{ConnectArgs, address, client_id};
use crate::cli::trace;
use crate::cli::window::{Outgoing, Window};
use crate::cli::wire::{Halt, Link, Lost, Welcome};
use crate::cli::words::{self, Heard, Ids, Refused, Reply, Wishes};
use crate::protocol::command::Address;
use crate::protocol::envelope::MessageType;
use crate::protocol::fault::Fault;
use crate::protocol::names::{Name, PRIVATE_CHANNEL};
use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::json;
use std::time::{Duration, Instant};

/// Messages read before it is looked whether there is something to send.
const READS_PER_TURN: usize = 1_024;
/// The first pause after the bus wants a message later; it doubles up to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often in a row a bus may be silent about what it was sent before this is given up.
const STALLS_MAX: u32 = 3;
/// The messages that are told of one by one; more are only counted.
const TOLD_MAX: u64 = 20;
/// More than an envelope needs beside its payload.
const ENVELOPE_BYTES: usize = 1_024;

/// What `pub` takes.
#[derive(Args, Debug)]
pub(super) struct PubArgs {
    /// The channel; `room:*` reaches every member of the room. A private message names a channel
    /// of a room that both sides may be in.
    #[arg(value_name = "ROOM:CHANNEL", value_parser = address)]
    channel: Address,
    /// The payload, a JSON object.
    #[arg(value_name = "JSON", required_unless_present = "lines", conflicts_with = "lines")]
    payload: Option<String>,
    /// Send each line of standard input as {"line": "…"}.
    #[arg(long)]
    lines: bool,
    /// The lines are JSON objects, each a payload; empty lines are passed over.
    #[arg(long, requires = "lines", conflicts_with = "payload")]
    json: bool,
    /// Replace bytes that are not UTF-8 instead of leaving the line out.
    #[arg(long, requires = "lines", conflicts_with_all = ["payload", "json"])]
    lossy: bool,
    /// What kind of message.
    #[arg(long = "type", value_name = "TYPE", default_value = "event")]
    kind: Kind,
    /// The client ids a private message is for.
    #[arg(long, value_name = "ID,…", value_delimiter = ',', value_parser = client_id)]
    #[arg(required_if_eq("kind", "private"))]
    target: Vec<Name>,
    /// The message's id, `arq_…`: a message that is sent again with it is not delivered again.
    #[arg(long, value_name = "ID", conflicts_with = "lines", value_parser = message_id)]
    id: Option<String>,
    /// Milliseconds after which the message is not delivered any more.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=TTL_MS_MAX))]
    ttl_ms: Option<u64>,
    /// Print which way each message went.
    #[arg(long)]
    trace: bool,
    /// Don't wait until the bus has each message. What a lost connection takes with it is lost.
    #[arg(long, conflicts_with = "trace")]
    no_ack: bool,
    /// How many messages may be on their way without an answer.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    window: u32,
    /// End when the connection is lost.
    #[arg(long)]
    no_reconnect: bool,
    /// Print no summary.
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Event,
    Private,
}

/// Sends everything, and says what became of it.
pub(super) fn run(args: &PubArgs, console: &mut Console) -> Result<(), Failure> {
    let mut dial = Dial::new(args.connect.target()?, !args.no_reconnect);
    let mut publisher = Publisher::new(args, console)?;
    let outcome = publisher.publish(&mut dial, console);
    // Who never sent anything is told why, and needs no figures.
    if !args.quiet && (outcome.is_ok() || publisher.window.tally().sent > 0) {
        publisher.summarise(console);
    }
    outcome?;
    console.flush()?;
    match publisher.window.tally().refused + publisher.left_out {
        0 => Ok(()),
        _ => Err(Failure::Incomplete),
    }
}

struct Publisher<'a> {
    args: &'a PubArgs,
    wishes: Wishes,
    source: Source,
    ids: Ids,
    window: Window,
    /// Lines that can't be messages.
    left_out: u64,
    told: u64,
    /// Nothing leaves before this.
    quiet_until: Option<Instant>,
    pause: Duration,
    /// When the bus last answered, or the first unanswered message left.
    answered_at: Instant,
    stalls: u32,
    /// The bus takes nothing any more on this connection.
    is_drained: bool,
    /// The question whose answer says that the bus has read everything before it.
    barrier: Option<String>,
    was_joined: bool,
    /// The person was told that the storage is waited for.
    awaits_storage: bool,
}

/// The result of an event's answer.
#[derive(Deserialize, Default)]
struct AckBody {
    #[serde(default)]
    duplicate: bool,
}

/// The payload of a notice.
#[derive(Deserialize)]
struct Notice {
    event: String,
    retry_after_ms: Option<u64>,
}

impl Publisher<'_> {
    fn new<'a>(args: &'a PubArgs, console: &mut Console) -> Result<Publisher<'a>, Failure> {
        check_addressing(args)?;
        let form = match (args.json, args.lossy) {
            (true, _) => LineForm::Json,
            (_, true) => LineForm::LossyText,
            _ => LineForm::Text,
        };
        let composer = Composer::new(form, &args.target);
        let mut ids = Ids::new();
        let source = match (&args.payload, console.input.take()) {
            (Some(text), _) => {
                let payload = composer.of_json(text).map_err(Failure::Usage)?;
                let id = args.id.clone().unwrap_or_else(|| ids.next());
                Source::One(Outgoing { id, payload, line: 1 })
            }
            (None, Some(input)) => {
                let lines = Lines::read(input, console.reactor.waker()).map_err(|error| {
                    Failure::Refused(format!("cannot read standard input: {error}"))
                })?;
                Source::Lines(lines, composer)
            }
            (None, None) => Source::Ended,
        };
        Ok(Publisher {
            wishes: Wishes { ack: !args.no_ack, trace: args.trace, ttl_ms: args.ttl_ms },
            source,
            ids,
            window: Window::new(args.window as usize),
            left_out: 0,
            told: 0,
            quiet_until: None,
            pause: PAUSE_FIRST,
            answered_at: Instant::now(),
            stalls: 0,
            is_drained: false,
            barrier: None,
            was_joined: false,
            awaits_storage: false,
            args,
        })
    }

    fn publish(&mut self, dial: &mut Dial, console: &mut Console) -> Result<(), Failure> {
        loop {
            let (mut link, welcome) = dial.open(console)?;
            // Only the same sender's ids can be told as repetitions.
            dial.keep_client_id(welcome.client_id.clone());
            let before = self.window.tally().accepted;
            let ended = self.work(&mut link, &welcome, dial, console);
            let Some(lost) = hang_up(link, console, ended)? else {
                return Ok(());
            };
            self.on_lost(console);
            dial.on_lost(console, &lost, self.window.tally().accepted > before)?;
        }
    }

    /// Works on one connection until all is done or it ends.
    fn work(
        &mut self,
        link: &mut Link,
        welcome: &Welcome,
        dial: &mut Dial,
        console: &mut Console,
    ) -> Result<(), Halt> {
        if welcome.is_rate_limited {
            self.window.narrow(1);
        }
        // What the bus has forgotten it can't tell as a repetition.
        self.window.narrow(welcome.history_size.unwrap_or(usize::MAX));
        self.join(link, welcome, dial, console)?;
        loop {
            let has_more = self.read(link, dial, console)?;
            self.fill(welcome, console);
            self.send(link, welcome)?;
            link.flush()?;
            if self.is_over() {
                return Ok(());
            }
            console.reactor.check()?;
            if !has_more {
                let until = self.next_deadline(dial.timeout())?;
                link.wait(&mut console.reactor, until)?;
            }
        }
    }

    /// Becomes a member, which a sender must be.
    fn join(
        &mut self,
        link: &mut Link,
        welcome: &Welcome,
        dial: &mut Dial,
        console: &mut Console,
    ) -> Result<(), Halt> {
        let mut was_told = false;
        loop {
            let id = self.ids.next();
            let address = &self.args.channel;
            let from = &welcome.client_id;
            link.send(words::command(&id, from, Some(address), "join_channel", json!({})))?;
            link.flush()?;
            let Err(refused) = await_answer(&id, link, dial, console)? else {
                self.was_joined = true;
                return Ok(());
            };
            // The place of the connection that was lost may still be taken for a while.
            let may_pass = refused.is_passing() || (refused.code == 429 && self.was_joined);
            if !may_pass {
                let why = format!("{address} can't be joined: {refused}");
                return Err(Failure::Refused(why).into());
            }
            if is_for_storage(&refused) && !std::mem::replace(&mut was_told, true) {
                console.note(format!("{address} can't be joined yet: {refused}"));
                console.note("trying again until it is joined; nothing is sent before");
            }
            let until = Instant::now() + self.next_pause();
            while Instant::now() < until {
                while link.read()?.is_some() {}
                link.wait(&mut console.reactor, Some(until))?;
            }
        }
    }

    /// Reads what the bus says; whether there may be more.
    fn read(
        &mut self,
        link: &mut Link,
        dial: &mut Dial,
        console: &mut Console,
    ) -> Result<bool, Halt> {
        for _ in 0..READS_PER_TURN {
            let Some(text) = link.read()? else {
                return Ok(false);
            };
            self.on_text(&text, dial, console)?;
        }
        Ok(true)
    }

    fn on_text(
        &mut self,
        text: &str,
        dial: &mut Dial,
        console: &mut Console,
    ) -> Result<(), Failure> {
        let Some(heard) = Heard::read(text) else {
            return Ok(());
        };
        match heard.kind() {
            Some(MessageType::CommandResponse) => {
                let Some(reply) = Reply::read(&heard) else {
                    return Ok(());
                };
                self.on_reply(&reply, console)
            }
            Some(MessageType::System) => {
                note_closing(&heard, dial);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn on_reply(&mut self, reply: &Reply<'_>, console: &mut Console) -> Result<(), Failure> {
        let id = reply.request_id.as_deref().unwrap_or_default();
        self.answered_at = Instant::now();
        self.stalls = 0;
        match reply.outcome() {
            _ if self.barrier.as_deref() == Some(id) => self.barrier = Some(String::new()),
            Ok(result) => {
                let ack: AckBody = serde_json::from_str(result).unwrap_or_default();
                if let Some(message) = self.window.on_accepted(id, ack.duplicate) {
                    self.pause = PAUSE_FIRST;
                    if std::mem::take(&mut self.awaits_storage) {
                        let what = self.name(&message);
                        console.note(format!("{what} is stored now"));
                    }
                    if self.args.trace {
                        trace::print(&message.id, result, console)?;
                    }
                }
            }
            Err(refused) => self.on_refused(id, &refused, console),
        }
        Ok(())
    }

    fn on_refused(&mut self, id: &str, refused: &Refused, console: &mut Console) {
        if self.args.no_ack {
            self.window.count_refused();
            self.tell(format!("{id}: {refused}"), console);
        } else if refused.is_passing() {
            if self.window.on_not_now(id, refused.error != "DRAINING") {
                self.tell_of_storage(id, refused, console);
                self.is_drained |= refused.error == "DRAINING";
                let pause = self.next_pause();
                self.quiet_until = Some(Instant::now() + pause);
            }
        } else if let Some(message) = self.window.on_refused(id) {
            let what = self.name(&message);
            self.tell(format!("{what} {refused}"), console);
        }
    }

    /// Takes from the source what there is room for.
    fn fill(&mut self, welcome: &Welcome, console: &mut Console) {
        while self.window.has_room() {
            let message = match self.source.next(&mut self.ids) {
                Given::Message(message) => message,
                Given::Nothing => return,
                Given::Unfit(why) => {
                    self.left_out += 1;
                    self.tell(why, console);
                    continue;
                }
                Given::Failed(why) => {
                    self.left_out += 1;
                    console.note(format!("cannot read standard input: {why}"));
                    return;
                }
            };
            match self.excess(&message, welcome) {
                None => self.window.push(message),
                Some(why) => {
                    self.left_out += 1;
                    let what = self.name(&message);
                    self.tell(format!("{what} {why}"), console);
                }
            }
        }
    }

    /// Why a message is too long for the bus, if it is. The bus might close the connection over
    /// it, and every later one.
    fn excess(&self, message: &Outgoing, welcome: &Welcome) -> Option<String> {
        let max = welcome.message_bytes_max?;
        if message.payload.len() + ENVELOPE_BYTES <= max {
            return None;
        }
        let length = self.spell(message, &welcome.client_id).len();
        (length > max).then(|| format!("is {length} bytes long; the bus takes {max}"))
    }

    fn spell(&self, message: &Outgoing, from: &str) -> String {
        let kind = match self.args.kind {
            Kind::Event => MessageType::Event,
            Kind::Private => MessageType::Private,
        };
        let (id, payload) = (&message.id, &message.payload);
        words::message(kind, id, from, &self.args.channel, payload, &self.wishes)
    }

    /// Sends what may leave and the socket takes.
    fn send(&mut self, link: &mut Link, welcome: &Welcome) -> Result<(), Lost> {
        if self.is_drained || self.quiet_until.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        self.quiet_until = None;
        if self.window.flying() == 0 && self.barrier.is_none() {
            self.answered_at = Instant::now();
        }
        while !link.is_blocked() {
            let Some(message) = self.window.take_next().cloned() else {
                break;
            };
            link.send(self.spell(&message, &welcome.client_id))?;
            if self.args.no_ack {
                self.window.forget_sent();
            }
        }
        if self.args.no_ack && self.is_all_sent() && self.barrier.is_none() {
            let id = self.ids.next();
            link.send(words::command(&id, &welcome.client_id, None, "ping", json!({})))?;
            self.barrier = Some(id);
        }
        Ok(())
    }

    fn is_all_sent(&self) -> bool {
        self.source.has_ended() && self.window.is_empty()
    }

    /// Whether there is nothing left to do: all is answered, or without answers all is read.
    fn is_over(&self) -> bool {
        let is_read = !self.args.no_ack || self.barrier.as_deref() == Some("");
        self.is_all_sent() && is_read
    }

    /// When something has to happen if the bus is silent, unless it has been silent too long.
    fn next_deadline(&mut self, timeout: Duration) -> Result<Option<Instant>, Halt> {
        if self.is_drained && self.window.flying() == 0 {
            return Err(Lost::Broken("the bus is going away".into()).into());
        }
        let is_due = self.window.flying() > 0 || self.barrier.is_some();
        let answer_by = is_due.then_some(self.answered_at + timeout);
        if answer_by.is_some_and(|by| Instant::now() >= by) {
            self.stalls += 1;
            let lost = no_answer("what was sent", timeout);
            return Err(match self.stalls < STALLS_MAX {
                true => lost.into(),
                false => Failure::Refused(format!("{lost}, {STALLS_MAX} times in a row")).into(),
            });
        }
        Ok(answer_by.into_iter().chain(self.quiet_until).min())
    }

    fn on_lost(&mut self, console: &mut Console) {
        self.window.on_lost();
        self.is_drained = false;
        self.quiet_until = None;
        self.barrier = None;
        if self.args.no_ack && self.window.tally().sent > 0 {
            console.note("without acknowledgements, what was last sent may be lost");
        }
    }

    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        pause.mul_f64(0.75 + 0.5 * fastrand::f64())
    }

    fn name(&self, message: &Outgoing) -> String {
        match self.args.lines {
            true => format!("line {}:", message.line),
            false => format!("{}:", message.id),
        }
    }

    /// Who waits for a storage that takes nothing is told, once until it takes something again.
    fn tell_of_storage(&mut self, id: &str, refused: &Refused, console: &mut Console) {
        if is_for_storage(refused) && !std::mem::replace(&mut self.awaits_storage, true) {
            console.note(format!("{id}: {refused}"));
            console.note(
                "sending it again with the same id until it is stored, and nothing new before; \
                 --no-ack does not wait for that",
            );
        }
    }

    /// Tells of one message; of many, only the first are told.
    fn tell(&mut self, text: String, console: &mut Console) {
        self.told += 1;
        match self.told {
            ..=TOLD_MAX => console.note(text),
            told if told == TOLD_MAX + 1 => console.note("more like that are only counted"),
            _ => {}
        }
    }

    fn summarise(&self, console: &mut Console) {
        let tally = self.window.tally();
        let mut text = if self.args.no_ack {
            format!("sent {} without asking for an answer", tally.sent)
        } else {
            format!(
                "sent {}, accepted {}, duplicate {}",
                tally.sent, tally.accepted, tally.duplicate
            )
        };
        text.push_str(&format!(", refused {}", tally.refused));
        let unanswered = self.window.len();
        for (count, what) in [(self.left_out, "left out"), (unanswered as u64, "not confirmed")] {
            if count > 0 {
                text.push_str(&format!(", {what} {count}"));
            }
        }
        console.note(text);
    }
}

/// Whether something is refused because nothing can be stored now.
fn is_for_storage(refused: &Refused) -> bool {
    refused.error == Fault::StorageUnavailable.word()
}

/// Waits for one answer and passes over everything else.
fn await_answer(
    id: &str,
    link: &mut Link,
    dial: &mut Dial,
    console: &mut Console,
) -> Result<Result<(), Refused>, Halt> {
    let until = Instant::now() + dial.timeout();
    while Instant::now() < until {
        while let Some(text) = link.read()? {
            let Some(heard) = Heard::read(&text) else { continue };
            note_closing(&heard, dial);
            let Some(reply) = Reply::read(&heard) else { continue };
            if heard.kind() == Some(MessageType::CommandResponse)
                && reply.request_id.as_deref() == Some(id)
            {
                return Ok(reply.outcome().map(drop));
            }
        }
        link.wait(&mut console.reactor, Some(until))?;
    }
    Err(no_answer("join_channel", dial.timeout()).into())
}

/// A bus that will go away says when to come back.
fn note_closing(heard: &Heard<'_>, dial: &mut Dial) {
    if heard.kind() != Some(MessageType::System) {
        return;
    }
    if let Ok(notice) = serde_json::from_str::<Notice>(heard.payload.get())
        && let ("closing", Some(pause_ms)) = (notice.event.as_str(), notice.retry_after_ms)
    {
        dial.on_retry_after(pause_ms);
    }
}

/// What clap can't check.
fn check_addressing(args: &PubArgs) -> Result<(), Failure> {
    let wrong = |text: &str| Err(Failure::Usage(text.into()));
    if args.kind == Kind::Event && !args.target.is_empty() {
        return wrong("--target is for private messages; add --type private");
    }
    if *args.channel.channel == *PRIVATE_CHANNEL {
        return wrong(
            "nobody can join the channel pm; private messages find their way there. Name a \
             channel to be in, such as science:general",
        );
    }
    Ok(())
}

fn message_id(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("arq_").unwrap_or_default();
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if rest.is_empty() || text.len() > MESSAGE_ID_BYTES_MAX || !rest.bytes().all(is_good) {
        return Err("an id is arq_ and 1 to 124 of A-Z a-z 0-9 _ -".into());
    }
    Ok(text.to_owned())
}
