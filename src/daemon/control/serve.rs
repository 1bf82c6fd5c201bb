//! Accepting for both ports. A client that is slow to ask, slow to read or never does either holds
//! one bounded place for a bounded time, and no one else waits for it.
//!
//! *Invariants*: a connection holds a permit for as long as its socket speaks HTTP; a full port
//! answers 503 and closes at once, so the queue of the kernel never fills with the hopeless.

use super::health::Component;
use super::{Shared, stopped};
use crate::base::limits::{CONTROL_SEND_BUFFER_BYTES, HTTP_HEAD_BYTES_MAX};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use std::io::{ErrorKind, Write};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// How long to wait after `accept` failed: that happens when the process is out of descriptors,
/// and asking again at once would only burn the core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a client gets that finds the port full.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/json\r\n\
    content-length: 106\r\n\
    retry-after: 1\r\n\
    connection: close\r\n\r\n\
    {\"status\":\"error\",\"code\":503,\"error\":\"CONNECTION_LIMIT\",\"message\":\"too many connections; try again later\"}";

/// A port of the control plane.
pub(super) struct Port {
    /// What it is called where it can't accept.
    pub(super) component: Component,
    /// The socket.
    pub(super) listener: TcpListener,
    /// What is there.
    pub(super) router: Router,
    /// A permit for each connection.
    pub(super) sockets: Arc<Semaphore>,
}

/// Serves a port until the control plane stops.
pub(super) async fn serve(port: Port, shared: Arc<Shared>) {
    let Port { component, listener, router, sockets } = port;
    let health = shared.facts.health();
    let mut stopping = shared.stopping.clone();
    loop {
        let accepted = tokio::select! {
            () = stopped(&mut stopping) => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => {
                health.succeed(component, (shared.clock)());
                stream
            }
            // The peer was gone before it was accepted.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                health.fail(component, (shared.clock)(), &error.to_string());
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&sockets).try_acquire_owned() else {
            shared.counts.refused.fetch_add(1, Relaxed);
            refuse(stream);
            continue;
        };
        let (router, sharing) = (router.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            connection(stream, router, &sharing).await;
            drop(permit);
        });
    }
}

/// One connection, until it ends, becomes a WebSocket, or has lived long enough.
async fn connection(stream: TcpStream, router: Router, shared: &Shared) {
    // Answers are small and whole; waiting for more to send would only delay them. If the option
    // can't be set, they are late, not wrong.
    let _ = stream.set_nodelay(true);
    // A reader that does not read must not have the kernel keep megabytes for it.
    let _ = SockRef::from(&stream).set_send_buffer_size(CONTROL_SEND_BUFFER_BYTES);
    let mut stopping = shared.stopping.clone();
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.bounds.head)
        .max_buf_size(HTTP_HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    let mut connection = pin!(connection);
    tokio::select! {
        // Errors are the client's: it hung up, was too slow or spoke no HTTP.
        _ = connection.as_mut() => return,
        () = tokio::time::sleep(shared.bounds.connection) => {}
        () = stopped(&mut stopping) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(shared.bounds.linger, connection).await;
}

/// Says why, as far as the socket takes it at once, and closes.
fn refuse(stream: TcpStream) {
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write(FULL);
    }
}

#[cfg(test)]
mod tests {
    use super::FULL;

    #[test]
    fn the_refusal_is_a_whole_answer() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"], "CONNECTION_LIMIT");
    }
}
