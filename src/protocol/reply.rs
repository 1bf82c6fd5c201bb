//! What the server itself says: replies to one client, and notices that answer nothing.

use crate::protocol::fault::Refusal;
use crate::protocol::names::{EVERY_CHANNEL, SERVER_ID};
use crate::protocol::timestamp;
use crate::protocol::views::{HistoryView, Time};
use serde::Serialize;
use std::borrow::Cow;

/// What a reply answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The id of the message; `None` if there was none to read.
    pub id: Option<String>,
    /// The room and channel of the message; `*` where there were none to read.
    pub address: (String, String),
    /// The command, if it was one.
    pub command: Option<&'static str>,
    /// Whether names and counts will do.
    pub brief: bool,
    /// Which of its client's questions with a long answer it is, counted from 1; 0 if it is none. The
    /// ids of messages are the client's choice, and tell no two questions apart.
    pub turn: u32,
}

impl Question {
    /// The question of a message that is no command.
    pub fn of_message(id: &str, room: &str, channel: &str) -> Question {
        Question {
            id: Some(id.to_owned()),
            address: (room.to_owned(), channel.to_owned()),
            command: None,
            brief: false,
            turn: 0,
        }
    }

    /// The question of a message that could not be read.
    pub fn unreadable(id: Option<String>) -> Question {
        let every = || EVERY_CHANNEL.to_owned();
        Question { id, address: (every(), every()), command: None, brief: false, turn: 0 }
    }
}

/// Id and time of one thing the server says.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// The random and time parts of the id.
    pub ulid: ulid::Ulid,
    /// Microseconds since 1970.
    pub at_us: u64,
}

#[derive(Serialize)]
struct Outer<'a, P> {
    version: &'static str,
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    room: &'a str,
    channel: &'a str,
    from: &'static str,
    timestamp: Time,
    payload: P,
}

#[derive(Serialize)]
struct Success<'a, R> {
    request_id: Option<&'a str>,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'static str>,
    result: R,
}

#[derive(Serialize)]
struct Failure<'a> {
    request_id: Option<&'a str>,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'static str>,
    code: u16,
    error: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    fields: &'a [Cow<'static, str>],
}

/// The text of a reply that says yes.
pub fn success(stamp: Stamp, question: &Question, result: impl Serialize) -> String {
    let payload = Success {
        request_id: question.id.as_deref(),
        status: "success",
        command: question.command,
        result,
    };
    let (room, channel) = &question.address;
    envelope(stamp, "command_response", (room, channel), payload)
}

/// The text of the reply to `history`. Its messages are sound JSON already, and are not read again as a
/// serializer would.
pub fn page(stamp: Stamp, question: &Question, view: &HistoryView) -> String {
    const LIST: &str = r#""messages":["#;
    let text = success(stamp, question, view);
    // What follows in a view are numbers and an epoch, so the last such key is the view's.
    let Some(at) = text.rfind(LIST) else { unreachable!("a view of a history has messages") };
    let (head, tail) = text.split_at(at + LIST.len());
    [head, &view.messages, tail].concat()
}

/// The text of the reply that an event has its place: what [`success`] writes of an
/// [`AckView`](crate::protocol::views::AckView) without a trace. There is one for each event that asks
/// for it, so it is put together without a serializer; ids and names hold nothing to escape.
pub fn accepted(
    stamp: Stamp,
    id: &str,
    (room, channel): (&str, &str),
    sequence: u64,
    is_duplicate: bool,
) -> String {
    let (mut ulid, mut digits) = ([0; ulid::ULID_LEN], itoa::Buffer::new());
    let time = timestamp::format(stamp.at_us);
    let parts = [
        r#"{"version":"1.0","id":"arq_"#,
        stamp.ulid.array_to_str(&mut ulid),
        r#"","type":"command_response","room":""#,
        room,
        r#"","channel":""#,
        channel,
        r#"","from":""#,
        SERVER_ID,
        r#"","timestamp":""#,
        std::str::from_utf8(&time).unwrap_or_default(),
        r#"","payload":{"request_id":""#,
        id,
        r#"","status":"success","result":{"sequence":"#,
        digits.format(sequence),
        if is_duplicate { r#","duplicate":true}}}"# } else { r#","duplicate":false}}}"# },
    ];
    parts.concat()
}

/// The text of a reply that says no.
pub fn failure(stamp: Stamp, question: &Question, refusal: &Refusal) -> String {
    let payload = Failure {
        request_id: question.id.as_deref(),
        status: "error",
        command: question.command,
        code: refusal.fault.code(),
        error: refusal.fault.word(),
        message: &refusal.message,
        field: refusal.field.as_deref(),
        fields: &refusal.fields,
    };
    let (room, channel) = &question.address;
    envelope(stamp, "command_response", (room, channel), payload)
}

/// The text of a system envelope; `payload` says which event it is.
pub fn notice(stamp: Stamp, address: (&str, &str), payload: impl Serialize) -> String {
    envelope(stamp, "system", address, payload)
}

fn envelope(
    stamp: Stamp,
    kind: &'static str,
    (room, channel): (&str, &str),
    payload: impl Serialize,
) -> String {
    let outer = Outer {
        version: "1.0",
        id: &server_id(stamp.ulid),
        kind,
        room,
        channel,
        from: SERVER_ID,
        timestamp: Time(stamp.at_us),
        payload,
    };
    match serde_json::to_string(&outer) {
        Ok(text) => text,
        // Every type that is passed in here has text keys and no failing parts.
        Err(error) => unreachable!("a reply can't be written: {error}"),
    }
}

/// The id of something the server says.
pub fn server_id(ulid: ulid::Ulid) -> String {
    format!("arq_{ulid}")
}

/// The server's time as text.
pub fn time_text(at_us: u64) -> String {
    timestamp::format(at_us).iter().map(|&byte| char::from(byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::fault::Fault;
    use crate::protocol::names::Name;
    use crate::protocol::views::AckView;
    use serde_json::{Value, json};

    const STAMP: Stamp = Stamp { ulid: ulid::Ulid::nil(), at_us: 1_764_000_000_123_456 };

    #[test]
    fn a_page_is_written_as_a_serializer_would() {
        let name = Name::fixed("lab");
        let question = Question::of_message("arq_\"messages\":[", "lab", "lab");
        for messages in ["", r#"{"id":"a"}"#, r#"{"id":"a"},{"id":"\"messages\":[","t":[]}"#] {
            let view = HistoryView {
                room: name.clone(),
                channel: name.clone(),
                messages: messages.to_owned(),
                epoch: "e".into(),
                first: None,
                last: Some(2),
                more: false,
                incomplete: false,
            };
            let text = page(STAMP, &question, &view);
            let list: Value = serde_json::from_str(&format!("[{messages}]")).unwrap();
            let written: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(written["payload"]["result"]["messages"], list);
            assert_eq!(written["payload"]["result"]["last"], 2);
            assert_eq!(written["payload"]["request_id"], "arq_\"messages\":[");
        }
    }

    #[test]
    fn acks_are_what_a_serializer_writes() {
        let stamp = Stamp { ulid: ulid::Ulid::from(0x0123_4567_89ab_cdef_u128 << 60), ..STAMP };
        for (sequence, duplicate) in [(0, false), (7, true), (u64::MAX, false)] {
            let (trace, delivered, unreported) = (None, None, 0);
            let view = AckView { sequence, duplicate, trace, delivered, unreported };
            let question = Question::of_message("arq_A-z_7", "science.x", "*");
            let text = accepted(stamp, "arq_A-z_7", ("science.x", "*"), sequence, duplicate);
            assert_eq!(text, success(stamp, &question, view));
        }
    }

    #[test]
    fn replies_have_the_shape_of_the_protocol() {
        let mut question = Question::of_message("arq_7", "science", "general");
        question.command = Some("ping");
        let yes: Value =
            serde_json::from_str(&success(STAMP, &question, json!({"pong": true}))).unwrap();
        assert_eq!(
            yes["payload"],
            json!({"request_id": "arq_7", "status": "success", "command": "ping",
                   "result": {"pong": true}})
        );
        assert_eq!(yes["type"], "command_response");
        assert_eq!(yes["from"], "arqonbus_server");
        let refusal = Refusal::of_field(Fault::BadName, "room", "The room is empty.");
        let no: Value =
            serde_json::from_str(&failure(STAMP, &Question::unreadable(None), &refusal)).unwrap();
        assert_eq!(
            no["payload"],
            json!({"request_id": null, "status": "error", "code": 400, "error": "BAD_NAME",
                   "message": "The room is empty.", "field": "room"})
        );
        assert_eq!((&no["room"], &no["channel"]), (&json!("*"), &json!("*")));
    }
}
