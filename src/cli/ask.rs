//! Question and answer: for the commands that ask the bus something, print it and are done.

use crate::cli::console::Console;
use crate::cli::failure::Failure;
use crate::cli::handshake;
use crate::cli::session::judge_denial;
use crate::cli::target::ConnectArgs;
use crate::cli::wire::{Halt, Link, Lost};
use crate::cli::words::{self, Heard, Ids, Refused, Reply};
use crate::protocol::command::Address;
use crate::protocol::envelope::MessageType;
use crate::protocol::names::Name;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A connection for questions.
pub(super) struct Asker {
    link: Link,
    client_id: Name,
    ids: Ids,
    timeout: Duration,
}

/// Connects, lets `work` ask its questions, and closes the connection in good order.
pub(super) fn with_bus(
    connect: &ConnectArgs,
    console: &mut Console,
    work: impl FnOnce(&mut Asker, &mut Console) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let target = connect.target()?;
    let (link, welcome) = match handshake::open(&target, &mut console.reactor) {
        Ok(opened) => opened,
        Err(denied) => {
            return judge_denial(denied, &target.name(), false)
                .and_then(|why| Err(Failure::Unreachable(why)));
        }
    };
    let (ids, timeout) = (Ids::new(), target.timeout);
    let mut asker = Asker { link, client_id: welcome.client_id, ids, timeout };
    let outcome = work(&mut asker, console);
    asker.link.leave(&mut console.reactor);
    outcome.and_then(|()| console.flush())
}

impl Asker {
    /// Asks, and waits for the answer: the result's JSON text.
    pub(super) fn ask(
        &mut self,
        console: &mut Console,
        address: Option<&Address>,
        command: &str,
        parameters: Value,
    ) -> Result<String, Failure> {
        match self.exchange(console, address, command, parameters) {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(refused)) => Err(Failure::Refused(refused.to_string())),
            Err(Halt::Lost(lost)) => Err(Failure::Refused(lost.to_string())),
            Err(Halt::Failed(failure)) => Err(failure),
        }
    }

    /// Joins a channel, as its history demands.
    pub(super) fn join(&mut self, console: &mut Console, address: &Address) -> Result<(), Failure> {
        self.ask(console, Some(address), "join_channel", json!({})).map(drop)
    }

    /// Waits until `until`, and answers what the bus asks meanwhile.
    pub(super) fn pause(&mut self, console: &mut Console, until: Instant) -> Result<(), Failure> {
        let outcome = self.idle(console, until);
        outcome.map_err(|halt| match halt {
            Halt::Lost(lost) => Failure::Refused(lost.to_string()),
            Halt::Failed(failure) => failure,
        })
    }

    fn idle(&mut self, console: &mut Console, until: Instant) -> Result<(), Halt> {
        while Instant::now() < until {
            while self.link.read()?.is_some() {}
            self.link.wait(&mut console.reactor, Some(until))?;
        }
        Ok(())
    }

    fn exchange(
        &mut self,
        console: &mut Console,
        address: Option<&Address>,
        command: &str,
        parameters: Value,
    ) -> Result<Result<String, Refused>, Halt> {
        let id = self.ids.next();
        let text = words::command(&id, &self.client_id, address, command, parameters);
        self.link.send(text)?;
        self.link.flush()?;
        let until = Instant::now() + self.timeout;
        loop {
            while let Some(text) = self.link.read()? {
                if let Some(outcome) = answer_to(&id, &text) {
                    return Ok(outcome);
                }
            }
            if Instant::now() >= until {
                return Err(Halt::Lost(no_answer(command, self.timeout)));
            }
            self.link.wait(&mut console.reactor, Some(until))?;
        }
    }
}

/// The sentence for a bus that does not answer.
pub(super) fn no_answer(command: &str, timeout: Duration) -> Lost {
    Lost::Broken(format!("no answer to {command} within {} seconds", timeout.as_secs_f32()))
}

fn answer_to(id: &str, text: &str) -> Option<Result<String, Refused>> {
    let heard = Heard::read(text)?;
    if heard.kind() != Some(MessageType::CommandResponse) {
        return None;
    }
    let reply = Reply::read(&heard)?;
    if reply.request_id.as_deref() != Some(id) {
        return None;
    }
    Some(reply.outcome().map(str::to_owned))
}
