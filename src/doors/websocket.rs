//! One WebSocket conversation, seen from the server, after its handshake (RFC 6455).
//!
//! The caller owns the bytes: it hands over what it has read, and the machine unmasks and checks
//! each message where it lies and lends it back. Only the fragments of an unfinished message are
//! kept here, since the frames around them are gone from the caller's buffer by then.
//!
//! *Invariants*
//! - After [`Step::Need`] a conversation owns heap only between the fragments of a message, and
//!   never more than the size limit and `Vec`'s slack.
//! - An input that does not begin with a whole frame is left untouched, so the caller may hand it
//!   in again with more behind it, and cutting the same bytes differently gives the same events.
//! - Every event uses at least one byte, so a loop over [`WebSocket::next`] ends.
//! - After a [`Step::Fail`] there is no other answer; after the peer's close nothing is an event.
//!
//! *Not here*: pings of our own, time, what a message says.

use crate::base::limits::EMPTY_FRAGMENTS_MAX;
use crate::doors::control;
use crate::doors::header::{Header, Opcode};
use crate::doors::mask::unmask;
use crate::protocol::close::CloseReason;

/// The reading half of one conversation.
#[derive(Debug, Default)]
pub struct WebSocket {
    state: State,
    /// The fragments of a message that has not ended; also one whose event the caller may still
    /// hold, until the next call.
    assembly: Option<Box<Assembly>>,
}

/// What the peer did.
#[derive(Debug, PartialEq)]
pub enum Event<'a> {
    /// One whole message.
    Text(&'a str),
    /// A ping, to be answered with a pong of the same payload.
    Ping(&'a [u8]),
    /// A pong, asked for or not.
    Pong(&'a [u8]),
    /// The peer's last word, with what it gave as its reason.
    Close(Option<CloseFrame<'a>>),
}

/// What a peer's close says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseFrame<'a> {
    /// A code that may be sent.
    pub code: u16,
    /// The reason in words, often empty.
    pub reason: &'a str,
}

/// What came of one call.
#[derive(Debug, PartialEq)]
#[must_use]
pub enum Step<'a> {
    /// No whole frame is there. The one that has begun needs `wanted` bytes from its beginning;
    /// 0 if that can't be told yet.
    Need {
        /// The length of the pending frame.
        wanted: usize,
    },
    /// A frame was read; a fragment in the middle of a message is no event.
    Event {
        /// The bytes of the input that are done with.
        used: usize,
        /// What the peer did; may borrow from the input.
        event: Option<Event<'a>>,
    },
    /// The peer broke a rule, and nothing more may be read.
    Fail(CloseReason),
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Open,
    Closed,
    Failed(CloseReason),
}

/// A message in fragments.
#[derive(Debug, Default)]
struct Assembly {
    bytes: Vec<u8>,
    /// Up to where `bytes` is known to be UTF-8.
    checked: usize,
    /// How many fragments brought nothing.
    empty_fragments: u32,
    /// The message has ended.
    is_whole: bool,
}

impl WebSocket {
    /// The memory that the fragments of an unfinished message take, in bytes.
    pub fn assembly_bytes(&self) -> usize {
        self.assembly.as_ref().map_or(0, |assembly| assembly.bytes.capacity())
    }

    /// A conversation that begins.
    pub fn new() -> WebSocket {
        WebSocket::default()
    }

    /// Reads the frame that `input` begins with. A message longer than `message_bytes_max` is
    /// refused as soon as a header says so.
    pub fn next<'a>(&'a mut self, input: &'a mut [u8], message_bytes_max: usize) -> Step<'a> {
        if self.assembly.as_ref().is_some_and(|assembly| assembly.is_whole) {
            self.assembly = None;
        }
        match self.state {
            State::Open => {}
            State::Closed if input.is_empty() => return Step::Need { wanted: 0 },
            State::Closed => return Step::Event { used: input.len(), event: None },
            State::Failed(reason) => return Step::Fail(reason),
        }
        let header = match Header::parse(input) {
            Ok(Some(header)) => header,
            Ok(None) => return Step::Need { wanted: 0 },
            Err(reason) => return self.fail(reason),
        };
        if let Err(reason) = self.admit(&header, message_bytes_max) {
            return self.fail(reason);
        }
        let used = header.header_bytes.saturating_add(header.payload_bytes);
        let Some(payload) = input.get_mut(header.header_bytes..used) else {
            return Step::Need { wanted: used };
        };
        unmask(payload, header.mask);
        self.take(&header, payload, used)
    }

    /// The rules between frames: what may follow what, and how long a message may get.
    fn admit(&self, header: &Header, message_bytes_max: usize) -> Result<(), CloseReason> {
        let gathered = match (header.opcode, &self.assembly) {
            (Opcode::Text, None) => 0,
            (Opcode::Continuation, Some(assembly)) => assembly.bytes.len(),
            (Opcode::Text, Some(_)) | (Opcode::Continuation, None) => {
                return Err(CloseReason::Protocol);
            }
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => return Ok(()),
        };
        if header.payload_bytes > message_bytes_max.saturating_sub(gathered) {
            return Err(CloseReason::TooBig);
        }
        Ok(())
    }

    /// Takes a frame that is there as a whole.
    fn take<'a>(&'a mut self, header: &Header, payload: &'a [u8], used: usize) -> Step<'a> {
        let event = match header.opcode {
            Opcode::Text if header.is_final => match simdutf8::basic::from_utf8(payload) {
                Ok(text) => Event::Text(text),
                Err(_) => return self.fail(CloseReason::NotUtf8),
            },
            Opcode::Text | Opcode::Continuation => {
                return self.gather(payload, header.is_final, used);
            }
            Opcode::Ping => Event::Ping(payload),
            Opcode::Pong => Event::Pong(payload),
            Opcode::Close => match close_frame(payload) {
                Ok(close_frame) => {
                    self.state = State::Closed;
                    self.assembly = None;
                    Event::Close(close_frame)
                }
                Err(reason) => return self.fail(reason),
            },
        };
        Step::Event { used, event: Some(event) }
    }

    /// Adds a fragment, and gives out the message if it was the last.
    fn gather(&mut self, payload: &[u8], is_final: bool, used: usize) -> Step<'_> {
        if let Err(reason) = self.assembly.get_or_insert_default().push(payload, is_final) {
            return self.fail(reason);
        }
        if !is_final {
            return Step::Event { used, event: None };
        }
        match self.assembly.as_ref().map(|assembly| std::str::from_utf8(&assembly.bytes)) {
            Some(Ok(text)) => Step::Event { used, event: Some(Event::Text(text)) },
            // The message ends inside a character. The next call drops its fragments.
            Some(Err(_)) | None => {
                self.state = State::Failed(CloseReason::NotUtf8);
                Step::Fail(CloseReason::NotUtf8)
            }
        }
    }

    fn fail(&mut self, reason: CloseReason) -> Step<'static> {
        self.state = State::Failed(reason);
        self.assembly = None;
        Step::Fail(reason)
    }
}

impl Assembly {
    /// Adds a fragment. Text that can't become UTF-8 any more is refused here, before its end.
    fn push(&mut self, payload: &[u8], is_final: bool) -> Result<(), CloseReason> {
        // A fragment without a byte never brings the message nearer to its size limit, so it has
        // a limit of its own; otherwise one message could go on for ever.
        if payload.is_empty() && !is_final {
            self.empty_fragments += 1;
            if self.empty_fragments > EMPTY_FRAGMENTS_MAX {
                return Err(CloseReason::TooBig);
            }
        }
        self.bytes.extend_from_slice(payload);
        self.is_whole = is_final;
        match std::str::from_utf8(&self.bytes[self.checked..]) {
            Ok(_) => self.checked = self.bytes.len(),
            // A character that is cut where the fragment ends may go on in the next one; if there
            // is none, whoever asks for the whole text finds out.
            Err(error) if error.error_len().is_none() => {
                self.checked += error.valid_up_to();
            }
            Err(_) => return Err(CloseReason::NotUtf8),
        }
        Ok(())
    }
}

/// Reads the payload of a close: nothing, or a code and a reason.
fn close_frame(payload: &[u8]) -> Result<Option<CloseFrame<'_>>, CloseReason> {
    if payload.is_empty() {
        return Ok(None);
    }
    let (code, reason) = payload.split_first_chunk::<2>().ok_or(CloseReason::Protocol)?;
    let code = u16::from_be_bytes(*code);
    if !control::may_be_sent(code) {
        return Err(CloseReason::Protocol);
    }
    let reason = std::str::from_utf8(reason).map_err(|_| CloseReason::NotUtf8)?;
    Ok(Some(CloseFrame { code, reason }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use CloseReason::{Binary, NotUtf8, Protocol, TooBig};
    use proptest::prelude::*;

    const MAX: usize = 100_000;
    const MASK: [u8; 4] = [0xa1, 0x02, 0xf3, 0x44];

    /// A client's frame; `first` is its first byte.
    fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
        let mut payload = payload.as_ref().to_vec();
        let mut bytes = vec![first];
        match payload.len() {
            length @ 0..=125 => bytes.push(0x80 | length as u8),
            length @ 126..=65_535 => {
                bytes.push(0xfe);
                bytes.extend((length as u16).to_be_bytes());
            }
            length => {
                bytes.push(0xff);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend(MASK);
        unmask(&mut payload, MASK);
        bytes.extend(payload);
        bytes
    }

    /// What a conversation came to: its events, in words, and how it ended.
    #[derive(Debug, PartialEq, Default)]
    struct Story {
        events: Vec<String>,
        failed: Option<CloseReason>,
    }

    fn story<const N: usize>(events: [&str; N], failed: impl Into<Option<CloseReason>>) -> Story {
        Story { events: events.map(str::to_owned).to_vec(), failed: failed.into() }
    }

    /// Plays `bytes` as they come off a socket in the given pieces, with one buffer, as an engine
    /// would, and holds every step against the invariants.
    fn play<'p>(pieces: impl IntoIterator<Item = &'p [u8]>, max: usize) -> Story {
        let mut socket = WebSocket::new();
        let (mut story, mut buffer) = (Story::default(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            let mut at = 0;
            loop {
                let before = buffer[at..].to_vec();
                match socket.next(&mut buffer[at..], max) {
                    Step::Event { used, event } => {
                        assert!(used > 0 && used <= before.len());
                        at += used;
                        story.events.extend(event.map(|event| match event {
                            Event::Text(text) => format!("text {text}"),
                            Event::Ping(payload) => format!("ping {payload:?}"),
                            Event::Pong(payload) => format!("pong {payload:?}"),
                            Event::Close(None) => "close".to_owned(),
                            Event::Close(Some(close)) => {
                                format!("close {} {}", close.code, close.reason)
                            }
                        }));
                    }
                    Step::Need { wanted } => {
                        assert_eq!(buffer[at..], before, "an unfinished frame is not touched");
                        assert!(wanted == 0 || wanted > before.len());
                        assert!(wanted <= max.max(125) + 14);
                        break;
                    }
                    Step::Fail(reason) => {
                        assert_eq!(socket.next(&mut buffer, max), Step::Fail(reason));
                        assert!(socket.assembly.is_none());
                        story.failed = Some(reason);
                        return story;
                    }
                }
            }
            buffer.drain(..at);
        }
        story
    }

    fn play_whole(bytes: &[u8]) -> Story {
        play([bytes], MAX)
    }

    #[test]
    fn frames_follow_the_rules() {
        let table = [
            // Messages, whole and in fragments, with control frames between.
            (vec![frame(0x81, "hello")], story(["text hello"], None)),
            (vec![frame(0x81, "")], story(["text "], None)),
            (vec![frame(0x81, "1"), frame(0x81, "2")], story(["text 1", "text 2"], None)),
            (vec![frame(0x01, "a"), frame(0x00, "b"), frame(0x80, "c")], story(["text abc"], None)),
            (vec![frame(0x01, ""), frame(0x00, ""), frame(0x80, "")], story(["text "], None)),
            (
                vec![frame(0x01, "a"), frame(0x89, [1]), frame(0x8a, []), frame(0x80, "b")],
                story(["ping [1]", "pong []", "text ab"], None),
            ),
            (
                vec![frame(0x01, "a"), frame(0x80, "b"), frame(0x81, "c")],
                story(["text ab", "text c"], None),
            ),
            // Control frames.
            (vec![frame(0x89, [7; 125])], story([&*format!("ping {:?}", [7; 125])], None)),
            (vec![frame(0x89, [7; 126])], story([], Protocol)),
            (vec![frame(0x09, "")], story([], Protocol)),
            (vec![frame(0x0a, "")], story([], Protocol)),
            (vec![frame(0x08, "")], story([], Protocol)),
            // Closes, and what follows them.
            (vec![frame(0x88, "")], story(["close"], None)),
            (vec![frame(0x88, b"\x03\xe8bye")], story(["close 1000 bye"], None)),
            (vec![frame(0x88, b"\x0f\xa0")], story(["close 4000 "], None)),
            (vec![frame(0x88, ""), frame(0x81, "late"), vec![0xff; 9]], story(["close"], None)),
            (vec![frame(0x01, "a"), frame(0x88, ""), frame(0x80, "b")], story(["close"], None)),
            (vec![frame(0x88, [3])], story([], Protocol)),
            (vec![frame(0x88, [0, 0])], story([], Protocol)),
            (vec![frame(0x88, 999u16.to_be_bytes())], story([], Protocol)),
            (vec![frame(0x88, 1005u16.to_be_bytes())], story([], Protocol)),
            (vec![frame(0x88, 1006u16.to_be_bytes())], story([], Protocol)),
            (vec![frame(0x88, 2000u16.to_be_bytes())], story([], Protocol)),
            (vec![frame(0x88, 5000u16.to_be_bytes())], story([], Protocol)),
            (vec![frame(0x88, b"\x03\xe8\xff")], story([], NotUtf8)),
            // Headers.
            (vec![vec![0x81, 0x05], b"hello".to_vec()], story([], Protocol)),
            (vec![frame(0xc1, "rsv1")], story([], Protocol)),
            (vec![frame(0xa1, "rsv2")], story([], Protocol)),
            (vec![frame(0x91, "rsv3")], story([], Protocol)),
            (vec![frame(0x83, "reserved")], story([], Protocol)),
            (vec![frame(0x8f, "reserved")], story([], Protocol)),
            (vec![vec![0x81, 0xfe, 0, 5], MASK.to_vec(), vec![0; 5]], story([], Protocol)),
            // Fragments out of place.
            (vec![frame(0x80, "x")], story([], Protocol)),
            (vec![frame(0x00, "x")], story([], Protocol)),
            (vec![frame(0x01, "x"), frame(0x81, "y")], story([], Protocol)),
            (vec![frame(0x01, "x"), frame(0x01, "y")], story([], Protocol)),
            (vec![frame(0x81, "x"), frame(0x80, "y")], story(["text x"], Protocol)),
            // Binary.
            (vec![frame(0x82, "x")], story([], Binary)),
            (vec![frame(0x02, "x"), frame(0x80, "y")], story([], Binary)),
            (vec![frame(0x89, []), frame(0x82, "x")], story(["ping []"], Binary)),
            // Text that is not UTF-8: a stray byte, a surrogate, an overlong form, a cut character.
            (vec![frame(0x81, b"\xff")], story([], NotUtf8)),
            (vec![frame(0x81, b"\xed\xa0\x80")], story([], NotUtf8)),
            (vec![frame(0x81, b"\xc0\xaf")], story([], NotUtf8)),
            (vec![frame(0x81, b"\xe2\x82")], story([], NotUtf8)),
            (vec![frame(0x01, b"\xe2"), frame(0x80, b"\x82")], story([], NotUtf8)),
            (vec![frame(0x01, b"\xe2\x82"), frame(0x80, b"\xac")], story(["text €"], None)),
            (
                vec![
                    frame(0x01, b"\xf0"),
                    frame(0x00, b"\x9f"),
                    frame(0x00, b""),
                    frame(0x80, b"\x98\x80"),
                ],
                story(["text 😀"], None),
            ),
        ];
        for (frames, expected) in table {
            assert_eq!(play_whole(&frames.concat()), expected, "{frames:x?}");
        }
    }

    #[test]
    fn bytes_mean_the_same_however_they_are_cut() {
        let frames = [
            frame(0x81, "whole"),
            frame(0x01, b"fr\xe2"),
            frame(0x89, "ping"),
            frame(0x00, b"\x82"),
            frame(0x80, b"\xacnd"),
            frame(0x81, "x".repeat(130)),
            frame(0x88, b"\x03\xe8bye"),
        ];
        let bytes = frames.concat();
        let whole = play_whole(&bytes);
        assert_eq!(whole.events.len(), 5);
        for cut in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            assert_eq!(play([head, tail], MAX), whole, "cut at {cut}");
        }
        assert_eq!(play(bytes.chunks(1), MAX), whole);
    }

    #[test]
    fn messages_of_every_length_class_pass() {
        for length in [0, 1, 7, 8, 125, 126, 127, 65_535, 65_536, 65_537] {
            let text = "é".repeat(length / 2) + &"x".repeat(length % 2);
            let bytes = frame(0x81, &text);
            assert_eq!(play_whole(&bytes), story([&*format!("text {text}")], None), "{length}");
            let mut short = bytes[..bytes.len() - 1].to_vec();
            if length > 0 {
                let mut socket = WebSocket::new();
                let step = socket.next(&mut short, MAX);
                assert_eq!(step, Step::Need { wanted: bytes.len() }, "{length}");
            }
        }
    }

    #[test]
    fn long_messages_are_refused_by_their_header_alone() {
        let header_of = |first, length| frame(first, vec![b'x'; length])[..14].to_vec();
        assert_eq!(play([&*header_of(0x81, 70_000)], 70_000), Story::default());
        assert_eq!(play([&*header_of(0x81, 70_001)], 70_000), story([], TooBig));
        assert_eq!(play([&*header_of(0x01, 70_001)], 70_000), story([], TooBig));
        let begun = [frame(0x01, "abc"), frame(0x00, "def")].concat();
        assert_eq!(play([&*begun, &frame(0x80, "ghij")], 10), story(["text abcdefghij"], None));
        assert_eq!(play([&*begun, &header_of(0x80, 70_000)], 70_000), story([], TooBig));
        assert_eq!(play([&*begun, &frame(0x80, "ghijk")[..6]], 10), story([], TooBig));
        // Control frames are no part of a message.
        assert_eq!(play([&*frame(0x89, [0; 9])], 3).failed, None);
        // The limit may fall while a message is under way.
        let mut socket = WebSocket::new();
        let _ = socket.next(&mut frame(0x01, "abcdef"), 10);
        assert_eq!(socket.next(&mut frame(0x80, "g"), 3), Step::Fail(TooBig));
    }

    #[test]
    fn fragments_that_can_not_become_text_are_refused_at_once() {
        assert_eq!(play_whole(&frame(0x01, b"ok\xff")), story([], NotUtf8));
        let bytes = [frame(0x01, b"\xe2\x82"), frame(0x00, b"x")].concat();
        assert_eq!(play_whole(&bytes), story([], NotUtf8));
    }

    #[test]
    fn fragments_are_checked_once_each() {
        let mut socket = WebSocket::new();
        let mut fragments = [frame(0x01, "a€b"), frame(0x00, b"c\xe2\x82"), frame(0x00, b"\xacd")];
        for (bytes, checked) in fragments.iter_mut().zip([5, 6, 10]) {
            let _ = socket.next(bytes, MAX);
            assert_eq!(socket.assembly.as_ref().map(|assembly| assembly.checked), Some(checked));
        }
    }

    #[test]
    fn a_flood_of_empty_fragments_ends() {
        let most = EMPTY_FRAGMENTS_MAX as usize;
        let flood = |count| [frame(0x01, "a"), frame(0x00, "").repeat(count)].concat();
        let ended = [flood(most), frame(0x80, "b")].concat();
        assert_eq!(play_whole(&ended), story(["text ab"], None));
        assert_eq!(play_whole(&flood(most + 1)), story([], TooBig));
    }

    #[test]
    fn an_idle_conversation_is_small_and_owns_nothing() {
        assert!(size_of::<WebSocket>() <= 16);
        let mut socket = WebSocket::new();
        let _ = socket.next(&mut frame(0x01, "a"), MAX);
        assert!(socket.assembly.is_some());
        assert_eq!(
            socket.next(&mut frame(0x80, "b"), MAX),
            Step::Event { used: 7, event: Some(Event::Text("ab")) }
        );
        assert_eq!(socket.next(&mut [], MAX), Step::Need { wanted: 0 });
        assert!(socket.assembly.is_none());
        let _ = socket.next(&mut frame(0x01, "a"), MAX);
        let _ = socket.next(&mut frame(0x88, ""), MAX);
        assert!(socket.assembly.is_none(), "a closed conversation keeps nothing");
    }

    /// A frame that is right, or nearly so.
    fn any_frame() -> impl Strategy<Value = Vec<u8>> {
        let first = prop_oneof![
            Just(0x81u8),
            Just(0x01),
            Just(0x00),
            Just(0x80),
            Just(0x89),
            Just(0x88),
            any::<u8>()
        ];
        let payload = prop_oneof![
            ".{0,40}".prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..200)
        ];
        (first, payload).prop_map(|(first, payload)| frame(first, payload))
    }

    proptest! {
        #[test]
        fn garbage_ends_in_need_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            play([&*bytes], 64);
        }

        #[test]
        fn any_frames_cut_anywhere_tell_one_story(
            frames in proptest::collection::vec(any_frame(), 0..8),
            piece in 1usize..50,
            max in 0usize..300,
        ) {
            let bytes = frames.concat();
            prop_assert_eq!(play(bytes.chunks(piece), max), play([&*bytes], max));
        }
    }
}
