//! `arqonbus history`: prints what was said in a channel before.
//!
//! One answer of the bus holds only so many messages, so this asks page by page: forward from a
//! place where one is named, else backward from the newest.

use crate::base::limits::HISTORY_LIMIT_MAX;
use crate::cli::ask::{Asker, with_bus};
use crate::cli::console::Console;
use crate::cli::failure::Failure;
use crate::cli::printer::{Printer, Style};
use crate::cli::target::{ConnectArgs, channel_address};
use crate::cli::words::Heard;
use crate::protocol::command::Address;
use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// What `history` takes.
#[derive(Args, Debug)]
pub(super) struct HistoryArgs {
    /// The channel.
    #[arg(value_name = "ROOM:CHANNEL", value_parser = channel_address)]
    channel: Address,
    /// At most so many messages: the last ones, or with --after or --since the first ones from
    /// there on.
    #[arg(long, short = 'n', value_name = "N", default_value_t = 50)]
    number: u64,
    /// Only messages at or after this time, such as 2025-11-30T12:00:00Z.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only messages at or before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only messages after this sequence.
    #[arg(long, value_name = "SEQUENCE")]
    after: Option<u64>,
    /// Only messages before this sequence.
    #[arg(long, value_name = "SEQUENCE")]
    before: Option<u64>,
    /// asc prints the oldest first, desc the last ones with the newest first.
    #[arg(long, value_name = "ORDER", default_value = "asc")]
    order: Order,
    /// Print only the payload of each message.
    #[arg(long, conflicts_with = "pretty")]
    payload: bool,
    /// Print a line for people: time, room:channel, sender, payload.
    #[arg(long)]
    pretty: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Order {
    Asc,
    Desc,
}

/// The result of `history`.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    more: bool,
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
}

/// Prints a part of a channel's history.
pub(super) fn run(args: &HistoryArgs, console: &mut Console) -> Result<(), Failure> {
    with_bus(&args.connect, console, |bus, console| {
        bus.join(console, &args.channel)?;
        let messages = read(args, bus, console)?;
        let style = match (args.payload, args.pretty) {
            (true, _) => Style::Payload,
            (_, true) => Style::Pretty,
            _ => Style::Envelope,
        };
        let mut printer = Printer::new(style, console.is_terminal);
        for text in &messages {
            if let Some(heard) = Heard::read(text) {
                printer
                    .print(&mut console.out, text, &heard)
                    .map_err(|error| Failure::of_output(&error))?;
            }
        }
        Ok(())
    })
}

/// Every message that was asked for, in the order in which it is to be printed.
fn read(
    args: &HistoryArgs,
    bus: &mut Asker,
    console: &mut Console,
) -> Result<Vec<String>, Failure> {
    let is_forward = args.order == Order::Asc && (args.after.is_some() || args.since.is_some());
    let (mut after, mut before) = (args.after, args.before);
    let mut messages: Vec<String> = Vec::new();
    while (messages.len() as u64) < args.number {
        let left = args.number - messages.len() as u64;
        let order = if is_forward { "asc" } else { "desc" };
        let mut parameters = json!({"limit": left.min(HISTORY_LIMIT_MAX as u64), "order": order});
        for (name, value) in [
            ("since", args.since.as_deref().map(Value::from)),
            ("until", args.until.as_deref().map(Value::from)),
            ("after", after.map(Value::from)),
            ("before", before.map(Value::from)),
        ] {
            if let Some(value) = value {
                parameters[name] = value;
            }
        }
        let result = bus.ask(console, Some(&args.channel), "history", parameters)?;
        let page: Page<'_> = serde_json::from_str(&result)
            .map_err(|_| Failure::Refused("the bus's answer to history can't be read".into()))?;
        messages.extend(page.messages.iter().map(|message| message.get().to_owned()));
        let edge = page.messages.last().and_then(|text| Heard::read(text.get())?.sequence());
        if !page.more || edge.is_none() {
            break;
        }
        *(if is_forward { &mut after } else { &mut before }) = edge;
    }
    if args.order == Order::Asc && !is_forward {
        messages.reverse();
    }
    Ok(messages)
}
