//! What is measured, as a client sees it: where it is, and what it wants to hear first.

use crate::cli::bench::layout::Layout;
use crate::cli::bench::stencil::{CHANNEL, Filling, Naming, Stencil};
use std::net::SocketAddr;

/// The key of RFC 6455's own example, and the answer that it gives: who knows the answer speaks
/// the protocol, and that is all a key is for.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The answer to [`KEY`].
pub(super) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// The bus's protocol.
    Bus,
    /// The bare relay's: groups in the path, then frames.
    Relay,
}

/// Where to connect, and as whom.
#[derive(Debug, Clone)]
pub(super) struct Site {
    /// What is spoken there.
    pub(super) dialect: Dialect,
    /// Where.
    pub(super) address: SocketAddr,
    /// The `Host` of the request.
    pub(super) host: String,
    /// The path of the URL; `/` if it has none.
    pub(super) path: String,
    /// The query of the URL.
    pub(super) query: String,
    /// A token for the bus.
    pub(super) token: Option<String>,
}

impl Site {
    /// A server that was started here.
    pub(super) fn local(dialect: Dialect, address: SocketAddr) -> Site {
        let (path, query) = ("/".to_owned(), String::new());
        Site { dialect, address, host: address.to_string(), path, query, token: None }
    }

    /// The request by which a connection becomes a client, and joins its groups if it is to.
    pub(super) fn request(
        &self,
        layout: &Layout,
        naming: &Naming,
        conn: u32,
        joins: bool,
    ) -> Vec<u8> {
        let seats: &[u32] = if joins { &layout.seats[conn as usize] } else { &[] };
        let rooms = seats.iter().map(|&group| naming.room(group));
        let target = match self.dialect {
            Dialect::Relay => {
                let rooms = rooms.collect::<Vec<_>>().join(",");
                format!("/{}?publisher=1", if rooms.is_empty() { "idle" } else { &rooms })
            }
            Dialect::Bus => {
                let client = naming.client(conn);
                let mark = if self.query.is_empty() { "" } else { "&" };
                let (path, query) = (&self.path, &self.query);
                let mut target =
                    format!("{path}?{query}{mark}client_id={client}&client_type=service");
                for (place, room) in rooms.enumerate() {
                    target += if place == 0 { "&join=" } else { "," };
                    target += &format!("{room}:{CHANNEL}");
                }
                target
            }
        };
        let mut request = format!(
            "GET {target} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n",
            self.host
        );
        if let Some(token) = &self.token {
            request += &format!("Authorization: Bearer {token}\r\n");
        }
        request += "\r\n";
        request.into_bytes()
    }

    /// The frame of a stream's messages.
    pub(super) fn stencil(
        &self,
        layout: &Layout,
        naming: &Naming,
        filling: &Filling,
        stream: u32,
    ) -> Stencil {
        match self.dialect {
            Dialect::Bus => Stencil::for_bus(layout, naming, filling, stream),
            Dialect::Relay => Stencil::for_relay(layout, naming, filling, stream),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_name_the_rooms_in_their_order() {
        let layout = Layout::rooms(2, 2, 2, 1, 1);
        let naming = Naming::new(&mut fastrand::Rng::with_seed(3));
        let (one, two) = (naming.room(0), naming.room(1));
        let address = "127.0.0.1:9".parse().unwrap();
        let text = |site: &Site| {
            let bytes = site.request(&layout, &naming, 1, true);
            String::from_utf8(bytes).unwrap().lines().next().unwrap().to_owned()
        };
        let relay = Site::local(Dialect::Relay, address);
        assert_eq!(text(&relay), format!("GET /{one},{two}?publisher=1 HTTP/1.1"));
        let bus = Site { query: "a=b".into(), ..Site::local(Dialect::Bus, address) };
        let client = naming.client(1);
        assert_eq!(
            text(&bus),
            format!(
                "GET /?a=b&client_id={client}&client_type=service&join={one}:main,{two}:main HTTP/1.1"
            )
        );
        assert_eq!(tungstenite::handshake::derive_accept_key(KEY.as_bytes()), ACCEPT);
    }
}
