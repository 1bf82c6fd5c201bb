//! One telemetry WebSocket: it is told everything, and has nothing to say.
//!
//! Each reader is a task with a cursor into the shared [`Backlog`](super::backlog::Backlog). While
//! its socket is full the task waits, and nobody waits for the task.
//!
//! *Invariants*: a reader holds a permit from the handshake to the end of its socket; every wait on
//! its socket has a deadline; what it sends is counted and forgotten.

use super::backlog::Cursor;
use super::{Shared, http, stopped, telemetry};
use crate::base::limits::{
    TELEMETRY_MESSAGE_BYTES_MAX, TELEMETRY_MESSAGES_MAX, VIOLATION_WINDOW_MS,
};
use crate::protocol::close::CloseReason;
use axum::Router;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, HeaderMap, RETRY_AFTER, UPGRADE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::get;
use futures_util::SinkExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// What there is on this port.
const ENDPOINTS: [(&str, &str); 1] =
    [("GET /", "a WebSocket (RFC 6455) that is told every telemetry event")];

/// The subprotocol of the bus, for clients that ask for it here too.
const SUBPROTOCOL: &str = "arqonbus.v1";

/// The buffers of one socket: a reader sends next to nothing and gets batches.
const READ_BUFFER_BYTES: usize = 4 * 1024;
const WRITE_BUFFER_BYTES: usize = 32 * 1024;

/// The telemetry port.
pub(super) fn router(shared: &Arc<Shared>) -> Router {
    let router = Router::new()
        .route("/", get(join))
        .fallback(async |request: Request| http::not_found(&request, &ENDPOINTS))
        .method_not_allowed_fallback(async |request: Request| {
            http::not_allowed(&request, &ENDPOINTS)
        });
    http::finish(router, shared)
}

async fn join(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    if let Some(refusal) = http::forbidden_origin(&headers, &(shared.origins.telemetry)()) {
        return refusal;
    }
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => return no_handshake(&headers, &rejection),
    };
    let Ok(permit) = Arc::clone(&shared.readers).try_acquire_owned() else {
        let message = "as many telemetry readers are connected as may be; try again later";
        let code = StatusCode::SERVICE_UNAVAILABLE;
        let mut response = http::refusal(code, "CONNECTION_LIMIT", message);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        return response;
    };
    // The cursor is taken before the client knows that it is connected: nothing that happens
    // after the handshake is missed.
    let cursor = shared.backlog.follow();
    upgrade
        .protocols([SUBPROTOCOL])
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(TELEMETRY_MESSAGE_BYTES_MAX)
        .max_frame_size(TELEMETRY_MESSAGE_BYTES_MAX)
        .on_upgrade(async move |socket| {
            Reader::new(socket, cursor, shared).run().await;
            drop(permit);
        })
}

/// The answer to a request that is no WebSocket handshake, or a broken one.
fn no_handshake(headers: &HeaderMap, rejection: &WebSocketUpgradeRejection) -> Response {
    if headers.contains_key(UPGRADE) {
        let message = format!("this is no WebSocket handshake (RFC 6455): {rejection}");
        return http::refusal(StatusCode::BAD_REQUEST, "BAD_HANDSHAKE", &message);
    }
    let message = "this port speaks WebSocket: connect with ws://, not with http://; \
                   metrics and status are on the HTTP port";
    let mut response = http::refusal(StatusCode::UPGRADE_REQUIRED, "UPGRADE_REQUIRED", message);
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response
}

/// One connected reader.
struct Reader {
    socket: WebSocket,
    cursor: Cursor,
    shared: Arc<Shared>,
    batch: Vec<Utf8Bytes>,
    heartbeat: Duration,
    /// When the silence of the client is next acted on.
    silent_at: Instant,
    /// Whether it has been pinged since it was last heard.
    pinged: bool,
    /// When the messages it sends began to be counted, and how many they are.
    window: (Instant, u32),
}

impl Reader {
    fn new(socket: WebSocket, cursor: Cursor, shared: Arc<Shared>) -> Reader {
        let now = Instant::now();
        let heartbeat_ms = shared.facts.limits().heartbeat_ms.max(1);
        let heartbeat = Duration::from_millis(u64::from(heartbeat_ms));
        Reader {
            socket,
            cursor,
            shared,
            batch: Vec::new(),
            heartbeat,
            silent_at: now + heartbeat,
            pinged: false,
            window: (now, 0),
        }
    }

    async fn run(mut self) {
        let reason = self.follow().await;
        // The table lists every reason, in the order of the enum.
        self.shared.counts.closes[reason as usize].fetch_add(1, Relaxed);
        let _ = timeout(self.shared.bounds.linger, self.close(reason)).await;
    }

    /// Tells and listens until there is a reason to end.
    async fn follow(&mut self) -> CloseReason {
        let mut stopping = self.shared.stopping.clone();
        loop {
            // What the client said comes first: its pong may be waiting behind our own delay.
            let step = tokio::select! {
                biased;
                () = stopped(&mut stopping) => Err(CloseReason::GoingAway),
                message = self.socket.recv() => self.on_message(message),
                () = sleep_until(self.silent_at) => self.on_silence().await,
                () = self.cursor.grown() => self.tell().await,
            };
            if let Err(reason) = step {
                return reason;
            }
        }
    }

    fn on_message(
        &mut self,
        message: Option<Result<Message, axum::Error>>,
    ) -> Result<(), CloseReason> {
        let message = match message {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Err(reason_of(&error)),
            None => return Err(CloseReason::Lost),
        };
        let was_pinged = self.pinged;
        self.pinged = false;
        self.silent_at = Instant::now() + self.heartbeat;
        match message {
            Message::Close(_) => Err(CloseReason::ByClient),
            Message::Binary(_) => Err(CloseReason::Binary),
            Message::Pong(_) if was_pinged => Ok(()),
            Message::Text(_) | Message::Ping(_) | Message::Pong(_) => self.count(),
        }
    }

    /// Counts a message that was not asked for.
    fn count(&mut self) -> Result<(), CloseReason> {
        let (since, count) = &mut self.window;
        if since.elapsed() >= Duration::from_millis(VIOLATION_WINDOW_MS) {
            (*since, *count) = (Instant::now(), 0);
        }
        *count += 1;
        if *count > TELEMETRY_MESSAGES_MAX { Err(CloseReason::Violations) } else { Ok(()) }
    }

    /// Pings a client that was silent for a heartbeat, and gives up on one that was so for two.
    async fn on_silence(&mut self) -> Result<(), CloseReason> {
        if self.pinged {
            return Err(CloseReason::Silent);
        }
        self.pinged = true;
        self.silent_at += self.heartbeat;
        let ping = Message::Ping(Default::default());
        in_time(self.shared.bounds.send, self.socket.send(ping)).await
    }

    /// Sends the next batch, behind a notice if something before it was missed.
    async fn tell(&mut self) -> Result<(), CloseReason> {
        let missed = self.shared.backlog.take(&mut self.cursor, &mut self.batch);
        if missed > 0 {
            self.shared.counts.missed.fetch_add(missed, Relaxed);
            self.batch.insert(0, telemetry::gap(missed, "too_slow", (self.shared.clock)().wall_us));
        }
        let (socket, batch) = (&mut self.socket, &mut self.batch);
        let all = async {
            for envelope in batch.drain(..) {
                socket.feed(Message::Text(envelope)).await?;
            }
            socket.flush().await
        };
        in_time(self.shared.bounds.send, all).await
    }

    /// Tells the rest if the server ends first, says why, and reads what is still under way until
    /// the client has closed, too.
    async fn close(&mut self, reason: CloseReason) {
        if reason == CloseReason::GoingAway {
            while self.shared.backlog.has_more(&self.cursor) && self.tell().await.is_ok() {}
        }
        if !matches!(reason, CloseReason::ByClient | CloseReason::Lost) {
            let reason = CloseFrame { code: reason.code(), reason: reason.reason().into() };
            if self.socket.send(Message::Close(Some(reason))).await.is_err() {
                return;
            }
        }
        while let Some(Ok(_)) = self.socket.recv().await {}
    }
}

/// Waits for a send, but not for ever.
async fn in_time(
    most: Duration,
    send: impl Future<Output = Result<(), axum::Error>>,
) -> Result<(), CloseReason> {
    match timeout(most, send).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(CloseReason::Lost),
        Err(_) => Err(CloseReason::TooSlow),
    }
}

/// Why a connection ends whose bytes could not be read. The library hides the kind of its error
/// behind a trait object, so its text has to tell; a test watches that it still does.
fn reason_of(error: &axum::Error) -> CloseReason {
    let text = error.to_string();
    if text.contains("too long") {
        CloseReason::TooBig
    } else if text.contains("UTF-8") || text.contains("utf-8") {
        CloseReason::NotUtf8
    } else if text.contains("IO error") || text.contains("without closing handshake") {
        CloseReason::Lost
    } else {
        CloseReason::Protocol
    }
}
