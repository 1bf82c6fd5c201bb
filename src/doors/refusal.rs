//! Saying no before there is a WebSocket: an HTTP answer with a JSON body (protocol, section 2).
//!
//! The body has the words of a `command_response`, so that a client reads both in one way. Its
//! `code` is the fault's; the HTTP status is the same but for 426, which HTTP wants where a client
//! should change protocol and the table of faults files under [`Fault::BadHandshake`].

use crate::protocol::fault::{Fault, Refusal};
use serde::Serialize;

/// After how many seconds a client that found the server full or leaving may come back.
const RETRY_AFTER_S: u32 = 5;

/// The whole HTTP answer for a refusal. The connection is to be closed after it.
pub fn refuse(refusal: &Refusal) -> Vec<u8> {
    answer(refusal.fault.code(), refusal)
}

/// The answer to a client that should speak WebSocket, or the right version of it.
pub(super) fn upgrade_required(refusal: &Refusal) -> Vec<u8> {
    answer(426, refusal)
}

#[derive(Serialize)]
struct Body<'a> {
    status: &'static str,
    code: u16,
    error: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
}

fn answer(status: u16, refusal: &Refusal) -> Vec<u8> {
    let Refusal { fault, field, message, .. } = refusal;
    let body = Body {
        status: "error",
        code: fault.code(),
        error: fault.word(),
        message,
        field: field.as_deref(),
    };
    // Strings and numbers always become JSON; an empty body would still be a whole answer.
    let body = serde_json::to_string(&body).unwrap_or_default();
    let phrase = reason_phrase(status);
    let length = body.len();
    let headers = headers_of(status, *fault);
    format!(
        "HTTP/1.1 {status} {phrase}\r\n{headers}Content-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// The headers that a status or a fault calls for.
fn headers_of(status: u16, fault: Fault) -> String {
    let mut headers = match status {
        426 => "Connection: close, Upgrade\r\nUpgrade: websocket\r\n".to_owned(),
        _ => "Connection: close\r\n".to_owned(),
    };
    if fault == Fault::BadHandshake {
        headers.push_str("Sec-WebSocket-Version: 13\r\n");
    }
    if status == 401 {
        headers.push_str("WWW-Authenticate: Bearer\r\n");
    }
    if status == 503 {
        headers.push_str(&format!("Retry-After: {RETRY_AFTER_S}\r\n"));
    }
    headers
}

fn reason_phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        409 => "Conflict",
        410 => "Gone",
        413 => "Content Too Large",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parse(answer: &[u8]) -> (u16, Vec<(String, String)>, Value) {
        let mut slots = [httparse::EMPTY_HEADER; 16];
        let mut response = httparse::Response::new(&mut slots);
        let head = response.parse(answer).unwrap().unwrap();
        let header = |header: &httparse::Header<'_>| {
            (header.name.to_owned(), String::from_utf8(header.value.to_vec()).unwrap())
        };
        let headers: Vec<_> = response.headers.iter().map(header).collect();
        let length = (answer.len() - head).to_string();
        assert!(headers.contains(&("Content-Length".to_owned(), length)));
        (response.code.unwrap(), headers, serde_json::from_slice(&answer[head..]).unwrap())
    }

    #[test]
    fn every_fault_is_a_whole_answer() {
        for &fault in Fault::ALL {
            let (status, headers, body) = parse(&refuse(&Refusal::new(fault, "no \"more\"\r\n")));
            assert_eq!(status, fault.code());
            assert_ne!(reason_phrase(status), "Refused", "{status}");
            let expected = json!({
                "status": "error", "code": status, "error": fault.word(), "message": "no \"more\"\r\n",
            });
            assert_eq!(body, expected);
            assert!(headers.contains(&("Connection".to_owned(), "close".to_owned())));
            assert_eq!(headers.iter().any(|(name, _)| name == "Retry-After"), status == 503);
        }
    }

    #[test]
    fn a_field_is_named() {
        let (_, _, body) = parse(&refuse(&Refusal::of_field(Fault::BadIdentity, "join", "no")));
        assert_eq!(body["field"], "join");
    }

    #[test]
    fn an_upgrade_says_to_what() {
        let refusal = Refusal::new(Fault::BadHandshake, "speak WebSocket");
        let (status, headers, body) = parse(&upgrade_required(&refusal));
        assert_eq!((status, &body["code"]), (426, &json!(400)));
        for (name, value) in [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")] {
            assert!(headers.contains(&(name.to_owned(), value.to_owned())), "{name}");
        }
    }
}
