//! Where the bus is and who wants in: what was typed, and what it means.
//!
//! *Invariant*: a [`Target`] names a host and a port that a socket can be opened to without TLS.
//!
//! *Not here*: opening it (`wire`). No sentence made from a target holds its token.

use crate::cli::failure::Failure;
use crate::cli::wire::Secret;
use crate::protocol::command::Address;
use crate::protocol::names::{Name, split_address};
use clap::Args;
use clap::builder::PossibleValuesParser;
use std::time::Duration;
use tungstenite::ClientRequestBuilder;
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::client::Request;
use tungstenite::http::Uri;

/// What every command that talks to a bus takes.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Connection")]
pub(super) struct ConnectArgs {
    /// The bus's WebSocket.
    #[arg(long, env = "ARQONBUS_URL", default_value = "ws://127.0.0.1:9100", global = false)]
    url: String,
    /// A token; it travels as `Authorization: Bearer …`.
    #[arg(long, env = "ARQONBUS_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The client id to take; without one the bus makes one.
    #[arg(long, value_parser = client_id)]
    client_id: Option<Name>,
    /// What kind of client this is.
    #[arg(long, value_parser = PossibleValuesParser::new(["human", "ai-agent", "dashboard", "service"]))]
    client_type: Option<String>,
    /// A name for people.
    #[arg(long)]
    screen_name: Option<String>,
    /// Seconds to wait for a connection, and for an answer.
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    timeout: Duration,
}

/// A bus to connect to.
#[derive(Debug, Clone)]
pub(super) struct Target {
    uri: Uri,
    /// The host, without the brackets of an IPv6 address.
    pub(super) host: String,
    /// The port.
    pub(super) port: u16,
    /// How long a connection, and then each answer, may take.
    pub(super) timeout: Duration,
    token: Option<String>,
    client_id: Option<Name>,
    client_type: Option<String>,
    screen_name: Option<String>,
    /// The session to go on with, which keeps who this client is.
    session: Option<Secret>,
}

impl ConnectArgs {
    /// Nothing but a URL, and perhaps a token.
    pub(super) fn of_url(url: &str, token: Option<String>, timeout: Duration) -> ConnectArgs {
        let (client_id, client_type, screen_name) = (None, None, None);
        ConnectArgs { url: url.into(), token, client_id, client_type, screen_name, timeout }
    }

    /// What was typed, checked.
    pub(super) fn target(&self) -> Result<Target, Failure> {
        let wrong = |why: &str| Failure::Usage(format!("the URL {:?} {why}", self.url));
        let uri: Uri = self
            .url
            .parse()
            .map_err(|_| wrong("can't be read; it looks like ws://127.0.0.1:9100"))?;
        match uri.scheme_str() {
            Some("ws") => {}
            Some("wss") => {
                return Err(wrong(
                    "asks for TLS, which this version does not have; use ws://, \
                     through a tunnel if the way is not your own",
                ));
            }
            _ => return Err(wrong("must begin with ws://")),
        }
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err(wrong("names no host"));
        }
        let port = uri.port_u16().unwrap_or(80);
        let target = Target {
            host,
            port,
            uri,
            timeout: self.timeout,
            token: self.token.clone(),
            client_id: self.client_id.clone(),
            client_type: self.client_type.clone(),
            screen_name: self.screen_name.clone(),
            session: None,
        };
        target.request()?;
        Ok(target)
    }
}

impl Target {
    /// The same bus, to be entered under this client id from now on.
    pub(super) fn with_client_id(mut self, client_id: Name) -> Target {
        self.client_id = Some(client_id);
        self
    }

    /// The same bus, to be entered by this session, or anew.
    pub(super) fn with_session(mut self, session: Option<Secret>) -> Target {
        self.session = session;
        self
    }

    /// Whether it is entered by a session.
    pub(super) fn has_session(&self) -> bool {
        self.session.is_some()
    }

    /// The handshake's request.
    pub(super) fn request(&self) -> Result<Request, Failure> {
        let mut request = ClientRequestBuilder::new(self.uri_with_identity()?);
        if let Some(token) = &self.token {
            request = request.with_header("Authorization", format!("Bearer {token}"));
        }
        request.into_client_request().map_err(|_| {
            Failure::Usage("the URL or the token holds what no HTTP request may hold".into())
        })
    }

    /// Host and port, for sentences.
    pub(super) fn name(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The URL's path and query.
    pub(super) fn path_and_query(&self) -> (&str, &str) {
        (self.uri.path(), self.uri.query().unwrap_or_default())
    }

    fn uri_with_identity(&self) -> Result<Uri, Failure> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        // What a session keeps may not stand beside it.
        let identity = match &self.session {
            Some(Secret(token)) => [("session", Some(token.as_str())), ("", None), ("", None)],
            None => [
                ("client_id", self.client_id.as_deref()),
                ("client_type", self.client_type.as_deref()),
                ("screen_name", self.screen_name.as_deref()),
            ],
        };
        for (key, value) in identity {
            if let Some(value) = value {
                query.append_pair(key, value);
            }
        }
        let ours = query.finish();
        let theirs = self.uri.query().unwrap_or_default();
        let joint = if ours.is_empty() || theirs.is_empty() { "" } else { "&" };
        let mark = if ours.is_empty() && theirs.is_empty() { "" } else { "?" };
        let path = self.uri.path();
        format!("ws://{}{path}{mark}{theirs}{joint}{ours}", self.authority())
            .parse()
            .map_err(|_| Failure::Usage("the URL holds what no HTTP request may hold".into()))
    }

    fn authority(&self) -> &str {
        self.uri.authority().map_or("", |authority| authority.as_str())
    }
}

/// Reads `room:channel`, where the channel may be `*`.
pub(super) fn address(text: &str) -> Result<Address, String> {
    let (room, channel) = split_address(text)
        .ok_or("write it as room:channel, with one colon, such as science:general")?;
    Ok(Address {
        room: Name::parse(room).map_err(|error| format!("the room {error}"))?,
        channel: Name::parse_channel(channel).map_err(|error| format!("the channel {error}"))?,
    })
}

/// Reads `room:channel`, where the channel is one channel.
pub(super) fn channel_address(text: &str) -> Result<Address, String> {
    let address = address(text)?;
    if address.channel.is_every() {
        return Err("name one channel; * stands for all of them".into());
    }
    Ok(address)
}

/// Reads a client id.
pub(super) fn client_id(text: &str) -> Result<Name, String> {
    Name::parse(text).map_err(|error| format!("the client id {error}"))
}

/// The shortest and the longest time that can be waited.
const SECONDS: std::ops::RangeInclusive<f64> = 0.001..=86_400.0;

/// Reads a number of seconds.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let (least, most) = (SECONDS.start(), SECONDS.end());
    text.parse::<f64>()
        .ok()
        .filter(|seconds| SECONDS.contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("give from {least} to {most} seconds, such as 2.5"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        connect: ConnectArgs,
    }

    fn target(arguments: &[&str]) -> Result<Target, Failure> {
        let all = ["test"].into_iter().chain(arguments.iter().copied());
        Typed::try_parse_from(all).unwrap().connect.target()
    }

    #[test]
    fn urls_are_read_or_refused_in_words() {
        for (url, name) in [
            ("ws://127.0.0.1:9100", "127.0.0.1:9100"),
            ("ws://bus.example", "bus.example:80"),
            ("ws://[::1]:9100/", "[::1]:9100"),
            ("ws://bus.example:81/way?x=1", "bus.example:81"),
        ] {
            assert_eq!(target(&["--url", url]).unwrap().name(), name);
        }
        for (url, why) in [
            ("wss://127.0.0.1:9100", "TLS"),
            ("http://127.0.0.1:9100", "ws://"),
            ("127.0.0.1:9100", "ws://"),
            ("", "can't be read"),
            ("ws://:9100", ""),
            ("ws://a b", "can't be read"),
        ] {
            match target(&["--url", url]) {
                Err(Failure::Usage(text)) => assert!(text.contains(why), "{url}: {text}"),
                other => panic!("{url}: {other:?}"),
            }
        }
    }

    #[test]
    fn identity_goes_into_the_query_and_the_token_into_a_header() {
        let target = target(&[
            "--url=ws://127.0.0.1:9100/?a=b",
            "--client-id=ann",
            "--client-type=ai-agent",
            "--screen-name=Ann & Co",
            "--token=s3cret",
        ])
        .unwrap();
        let request = target.request().unwrap();
        let expected = "/?a=b&client_id=ann&client_type=ai-agent&screen_name=Ann+%26+Co";
        assert_eq!(request.uri().path_and_query().unwrap().as_str(), expected);
        assert_eq!(request.headers()["Authorization"], "Bearer s3cret");
        let renamed = target.clone().with_client_id(Name::fixed("bob")).request().unwrap();
        assert!(renamed.uri().query().unwrap().contains("client_id=bob"));
        let again = target.with_session(Some(Secret("t0ken".into())));
        assert_eq!(again.request().unwrap().uri().query(), Some("a=b&session=t0ken"));
        assert!(!format!("{again:?}").contains("t0ken"));
        let anew = again.with_session(None).request().unwrap();
        assert_eq!(anew.uri().path_and_query().unwrap().as_str(), expected);
    }

    #[test]
    fn a_token_that_no_header_may_hold_is_refused_and_not_repeated() {
        match target(&["--url=ws://h", "--token=a\nb"]) {
            Err(Failure::Usage(text)) => assert!(!text.contains("a\nb"), "{text}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn addresses_and_seconds_follow_their_rules() {
        assert!(address("science:general").is_ok());
        assert!(address("science:*").is_ok());
        for bad in ["science", "a:b:c", ":b", "a:", "*:b", "a b:c"] {
            assert!(address(bad).is_err(), "{bad}");
        }
        assert!(channel_address("science:*").is_err());
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["0", "-1", "x", "inf", "nan", "1e300"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
