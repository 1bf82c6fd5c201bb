//! `arqonbus sub`: prints what is said in channels, one message a line, and misses nothing while
//! connections come and go.
//!
//! Standard output is buffered, and let out whenever the bus has nothing more to read: a fast bus
//! costs few system calls, and a slow one shows each message at once. When the reader of standard
//! output is slow, this program stops reading too; a bus that then loses patience closes the
//! connection (4008), and the next one reads on from where this one stopped.
//!
//! *Not here*: which messages were seen (`follow`).

use crate::cli::ask::no_answer;
use crate::cli::asking::Asking;
use crate::cli::console::Console;
use crate::cli::dial::{Dial, hang_up};
use crate::cli::failure::Failure;
use crate::cli::follow::{Follow, Joined};
use crate::cli::printer::{Printer, Style};
use crate::cli::seen::Seen;
use crate::cli::stream::{Page, Question, Span, Step, Verdict};
use crate::cli::target::{ConnectArgs, address};
use crate::cli::wire::{Halt, Link, Lost, Welcome};
use crate::cli::words::{self, Heard, Ids, Refused, Reply};
use crate::protocol::command::Address;
use crate::protocol::envelope::MessageType;
use crate::protocol::names::split_address;
use clap::Args;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::time::Instant;

/// How many messages one page of history holds while catching up.
const PAGE: usize = 500;

/// What `sub` takes.
#[derive(Args, Debug)]
pub(super) struct SubArgs {
    /// The channels; `room:*` is every channel of the room, present and future.
    #[arg(required = true, value_name = "ROOM:CHANNEL", value_parser = address)]
    channels: Vec<Address>,
    /// Print the last N messages of each channel first.
    #[arg(long, value_name = "N", default_value_t = 0)]
    history: u64,
    /// Stop after N messages.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print only the payload of each message.
    #[arg(long, conflicts_with = "pretty")]
    payload: bool,
    /// Print a line for people: time, room:channel, sender, payload.
    #[arg(long)]
    pretty: bool,
    /// Print this client's own messages too.
    #[arg(long)]
    echo: bool,
    /// Print who joins and who leaves, too.
    #[arg(long)]
    presence: bool,
    /// End when the connection is lost.
    #[arg(long)]
    no_reconnect: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Prints messages until there were enough of them, or for ever.
pub(super) fn run(args: &SubArgs, console: &mut Console) -> Result<(), Failure> {
    let mut dial = Dial::new(args.connect.target()?, !args.no_reconnect);
    let mut subscriber = Subscriber::new(args, console.is_terminal);
    console.end_with_reader();
    loop {
        let (mut link, welcome) = dial.open(console)?;
        let printed = subscriber.printed;
        let ended = subscriber.listen(&mut link, &welcome, &mut dial, console);
        let flushed = console.flush();
        match hang_up(link, console, ended)? {
            None => return flushed,
            Some(lost) => {
                flushed?;
                dial.on_lost(console, &lost, subscriber.printed > printed)?;
            }
        }
    }
}

struct Subscriber<'a> {
    args: &'a SubArgs,
    follow: Follow,
    asking: Asking<Question>,
    ids: Ids,
    printer: Printer,
    printed: u64,
    seen: Seen,
    /// Whether this is the first connection, on which every refusal is final.
    is_first: bool,
}

/// The payload of a notice.
#[derive(Deserialize)]
struct Notice {
    event: String,
    message: Option<String>,
    retry_after_ms: Option<u64>,
    channel: Option<String>,
    first: Option<u64>,
    last: Option<u64>,
    count: Option<u64>,
    reason: Option<String>,
    epoch: Option<String>,
    sequence: Option<u64>,
}

/// The result of `history`.
#[derive(Deserialize)]
struct HistoryBody<'a> {
    epoch: Option<String>,
    #[serde(default)]
    more: bool,
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
}

impl Subscriber<'_> {
    fn new(args: &SubArgs, is_terminal: bool) -> Subscriber<'_> {
        let style = match (args.payload, args.pretty) {
            (true, _) => Style::Payload,
            (_, true) => Style::Pretty,
            _ => Style::Envelope,
        };
        Subscriber {
            args,
            follow: Follow::new(&args.channels, args.history),
            asking: Asking::new(),
            ids: Ids::new(),
            printer: Printer::new(style, is_terminal),
            printed: 0,
            seen: Seen::new(),
            is_first: true,
        }
    }

    /// Works on one connection until it ends or enough was printed.
    fn listen(
        &mut self,
        link: &mut Link,
        welcome: &Welcome,
        dial: &mut Dial,
        console: &mut Console,
    ) -> Result<(), Halt> {
        let client_id = &welcome.client_id;
        self.asking = Asking::new();
        self.follow.on_connected(welcome.is_resumed);
        self.take_steps(console)?;
        loop {
            self.ask(link, client_id)?;
            while let Some(text) = link.read()? {
                self.on_text(&text, dial, console)?;
                if self.is_done() {
                    return Ok(());
                }
                self.ask(link, client_id)?;
                console.reactor.check()?;
            }
            link.flush()?;
            console.flush()?;
            let answer_by = self.asking.asked_at().map(|at| at + dial.timeout());
            if answer_by.is_some_and(|by| Instant::now() >= by) {
                return Err(no_answer("join_channel or history", dial.timeout()).into());
            }
            let until = answer_by.into_iter().chain(self.asking.quiet_until()).min();
            link.wait(&mut console.reactor, until)?;
        }
    }

    fn is_done(&self) -> bool {
        self.args.count.is_some_and(|count| self.printed >= count)
    }

    /// Sends the questions that may leave.
    fn ask(&mut self, link: &mut Link, client_id: &str) -> Result<(), Lost> {
        if self.asking.is_idle() {
            return Ok(());
        }
        let now = Instant::now();
        while let Some(question) = self.asking.next(now) {
            let id = self.ids.next();
            let (address, command, parameters) = self.spell(&question);
            let text = words::command(&id, client_id, Some(address), command, parameters);
            link.send(text)?;
            self.asking.on_sent(id, question, now);
            link.flush()?;
        }
        Ok(())
    }

    fn spell<'q>(&self, question: &'q Question) -> (&'q Address, &'static str, Value) {
        match question {
            Question::Join { address, recover } => {
                let mut parameters =
                    json!({"echo": self.args.echo, "presence": self.args.presence});
                if let Some(recover) = recover {
                    parameters["recover"] =
                        json!({"epoch": recover.epoch, "sequence": recover.sequence});
                }
                (address, "join_channel", parameters)
            }
            Question::Leave { address } => (address, "leave_channel", json!({})),
            Question::History { address, span } => {
                let parameters = match *span {
                    Span::After(after) => json!({"limit": PAGE, "after": after, "order": "asc"}),
                    Span::Range(first, last) => json!({
                        "limit": PAGE,
                        "after": first.saturating_sub(1),
                        "before": last.saturating_add(1),
                        "order": "asc",
                    }),
                    Span::Epoch => json!({"limit": 1}),
                };
                (address, "history", parameters)
            }
        }
    }

    fn on_text(
        &mut self,
        text: &str,
        dial: &mut Dial,
        console: &mut Console,
    ) -> Result<(), Failure> {
        let Some(heard) = Heard::read(text) else {
            console.note("the bus sent what is no envelope; it is left out");
            return Ok(());
        };
        match heard.kind() {
            Some(MessageType::CommandResponse) => {
                if let Some(reply) = Reply::read(&heard) {
                    self.on_reply(&reply, console)?;
                }
            }
            Some(MessageType::System) => self.on_notice(text, &heard, dial, console)?,
            Some(kind) => {
                let place =
                    self.follow.place(kind, (&heard.room, &heard.channel), heard.payload.get());
                match self.follow.on_message(place, heard.sequence(), text) {
                    Verdict::Print => self.print(text, &heard, console)?,
                    Verdict::Pass => {}
                }
                self.take_steps(console)?;
            }
            None => {}
        }
        Ok(())
    }

    fn on_reply(&mut self, reply: &Reply<'_>, console: &mut Console) -> Result<(), Failure> {
        let question = reply.request_id.as_deref().and_then(|id| self.asking.on_answer(id));
        match (question, reply.outcome()) {
            (Some(question), Ok(result)) => {
                self.asking.on_success();
                self.on_answer(question, result)?;
            }
            (Some(question), Err(refused)) => self.on_refused(question, &refused)?,
            (None, Err(refused)) => console.note(refused.to_string()),
            (None, Ok(_)) => {}
        }
        self.take_steps(console)
    }

    fn on_answer(&mut self, question: Question, result: &str) -> Result<(), Failure> {
        let unreadable = |command: &str| {
            Failure::Refused(format!("the bus's answer to {command} can't be read"))
        };
        match question {
            Question::Join { address, recover } => {
                let joined: Joined =
                    serde_json::from_str(result).map_err(|_| unreadable("join_channel"))?;
                self.follow.on_joined(&address, recover.as_ref(), joined);
                self.is_first = false;
            }
            Question::Leave { address } => self.follow.on_left(&address),
            Question::History { address, span } => {
                let page = read_page(result).ok_or_else(|| unreadable("history"))?;
                self.follow.on_history(&address, span, page);
            }
        }
        Ok(())
    }

    fn on_refused(&mut self, question: Question, refused: &Refused) -> Result<(), Failure> {
        // The place of the connection that was lost may still be taken for a while.
        let is_full = refused.code == 429 && !self.is_first && self.is_needed(&question);
        if refused.is_passing() || is_full {
            self.asking.on_too_much(question, Instant::now());
            return Ok(());
        }
        match question {
            Question::Leave { address } => {
                self.follow.on_left(&address);
                Ok(())
            }
            Question::Join { address, .. } => {
                if self.follow.on_join_refused(&address, &refused.to_string()) {
                    return Ok(());
                }
                Err(Failure::Refused(format!("{address} can't be joined: {refused}")))
            }
            Question::History { address, span } => {
                self.follow.on_history_refused(&address, span, &refused.to_string());
                Ok(())
            }
        }
    }

    /// Whether nothing can be had of a channel without an answer to this.
    fn is_needed(&self, question: &Question) -> bool {
        match question {
            Question::Join { address, .. } => !self.follow.is_for_recovery(address),
            Question::Leave { .. } => false,
            Question::History { .. } => true,
        }
    }

    fn on_notice(
        &mut self,
        text: &str,
        heard: &Heard<'_>,
        dial: &mut Dial,
        console: &mut Console,
    ) -> Result<(), Failure> {
        let Ok(notice) = serde_json::from_str::<Notice>(heard.payload.get()) else {
            return Ok(());
        };
        match notice.event.as_str() {
            "joined" | "left" if self.args.presence => self.write(text, heard, console),
            "closing" => {
                if let Some(pause_ms) = notice.retry_after_ms {
                    dial.on_retry_after(pause_ms);
                }
                Ok(())
            }
            "announcement" => {
                console.note(format!("announcement: {}", notice.message.unwrap_or_default()));
                Ok(())
            }
            "gap" => self.on_gap(&notice, heard, console),
            "epoch_changed" => {
                let channel = notice.channel.as_deref().unwrap_or(&heard.channel);
                if let Some(sequence) = notice.sequence {
                    let epoch = notice.epoch.clone();
                    self.follow.on_epoch((&heard.room, channel), epoch, sequence);
                }
                self.take_steps(console)
            }
            _ => Ok(()),
        }
    }

    fn on_gap(
        &mut self,
        notice: &Notice,
        heard: &Heard<'_>,
        console: &mut Console,
    ) -> Result<(), Failure> {
        let channel = notice.channel.as_deref().unwrap_or(&heard.channel);
        let place = split_address(channel).unwrap_or((&heard.room, channel));
        let reason = notice.reason.as_deref().unwrap_or("no reason given");
        let which = match (notice.first, notice.last, notice.count) {
            (Some(first), Some(last), _) => {
                self.follow.on_gap(place, first, last);
                format!("messages {first} to {last}")
            }
            (_, _, Some(count)) => format!("{count} messages"),
            _ => "messages".to_owned(),
        };
        let (room, channel) = place;
        console.note(format!(
            "{room}:{channel}: the bus dropped {which} for this connection: {reason}"
        ));
        self.take_steps(console)
    }

    fn take_steps(&mut self, console: &mut Console) -> Result<(), Failure> {
        for step in self.follow.take_steps() {
            match step {
                Step::Print(text) => {
                    if let Some(heard) = Heard::read(&text) {
                        self.print(&text, &heard, console)?;
                    }
                }
                Step::Tell(text) => console.note(text),
                Step::Ask(question) => self.asking.push(question),
            }
        }
        Ok(())
    }

    /// Prints a message, unless enough were printed.
    fn print(
        &mut self,
        text: &str,
        heard: &Heard<'_>,
        console: &mut Console,
    ) -> Result<(), Failure> {
        let place = (&*heard.room, &*heard.channel);
        let is_ordered = heard.sequence().is_some();
        if self.is_done() || (is_ordered && !self.seen.note(place, &heard.from, &heard.id)) {
            return Ok(());
        }
        self.printed += 1;
        self.write(text, heard, console)
    }

    fn write(
        &mut self,
        text: &str,
        heard: &Heard<'_>,
        console: &mut Console,
    ) -> Result<(), Failure> {
        self.printer
            .print(&mut console.out, text, heard)
            .map_err(|error| Failure::of_output(&error))
    }
}

fn read_page(result: &str) -> Option<Page> {
    let body: HistoryBody<'_> = serde_json::from_str(result).ok()?;
    let messages = body.messages.iter().filter_map(|message| {
        let sequence = Heard::read(message.get())?.sequence()?;
        Some((sequence, message.get().to_owned()))
    });
    let messages = messages.collect();
    Some(Page { epoch: body.epoch, has_more: body.more, messages })
}
