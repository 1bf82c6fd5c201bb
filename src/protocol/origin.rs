//! Which web pages may connect.
//!
//! A browser lets any page open a WebSocket to any address, the visitor's own loopback included,
//! and only tells the server which page it is. Without this check every page that a person visits
//! could drive the bus on their machine. What is no browser sends no `Origin`, and a page can't
//! leave it out, so its absence is no reason to refuse.

use std::fmt;
use std::net::IpAddr;

/// The origins that are let in: what any of these rules lets in, so without a rule none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origins(pub Vec<Origin>);

/// One rule of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `*`: every origin.
    Any,
    /// `loopback`: pages that this machine itself serves.
    Loopback,
    /// This one: scheme, host and port, in lower case, without the scheme's own port.
    Exact(String),
}

impl Origins {
    /// Every origin.
    pub fn any() -> Origins {
        Origins(vec![Origin::Any])
    }

    /// Only pages of this machine.
    pub fn loopback() -> Origins {
        Origins(vec![Origin::Loopback])
    }

    /// The rules, in the order they were given.
    pub fn rules(&self) -> &[Origin] {
        &self.0
    }

    /// Whether a page of that `Origin` header is let in.
    pub fn allows(&self, header: &str) -> bool {
        self.0.iter().any(|rule| match rule {
            Origin::Any => true,
            Origin::Loopback => is_loopback(header),
            Origin::Exact(origin) => normal(header) == *origin,
        })
    }
}

impl Origin {
    /// A rule: `*`, `loopback`, or an origin such as `https://app.example.org`.
    pub fn parse(text: &str) -> Result<Origin, String> {
        match text {
            "*" => return Ok(Origin::Any),
            "loopback" => return Ok(Origin::Loopback),
            _ => {}
        }
        let wrong = |why: &str| {
            Err(format!(
                "`{text}` is no origin, {why}; give scheme://host or scheme://host:port, \
                 `loopback`, or `*` for every origin"
            ))
        };
        let Some((scheme, rest)) = text.split_once("://") else {
            return wrong("it has no `://`");
        };
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'.' | b'-'));
        if !is_scheme {
            return wrong("its scheme is none");
        }
        if rest.contains(['/', '?', '#']) {
            return wrong("it goes on behind the host");
        }
        if rest.contains('@') || rest.contains('*') || !rest.bytes().all(|b| b.is_ascii_graphic()) {
            return wrong("its host is none");
        }
        match host_and_port(rest) {
            Some((host, _)) if !host.is_empty() => Ok(Origin::Exact(normal(text))),
            _ => wrong("its host or its port is none"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Any => "*",
            Origin::Loopback => "loopback",
            Origin::Exact(origin) => origin,
        })
    }
}

/// An origin as browsers write it: in lower case, without the port that the scheme implies.
fn normal(origin: &str) -> String {
    let origin = origin.to_ascii_lowercase();
    let implied = match origin.split_once("://") {
        Some(("http", _)) => ":80",
        Some(("https", _)) => ":443",
        _ => return origin,
    };
    match origin.strip_suffix(implied) {
        Some(without) => without.to_owned(),
        None => origin,
    }
}

fn is_loopback(origin: &str) -> bool {
    let origin = origin.to_ascii_lowercase();
    let Some(("http" | "https", rest)) = origin.split_once("://") else {
        return false;
    };
    let Some((host, _)) = host_and_port(rest) else {
        return false;
    };
    if host == "localhost" || host.ends_with(".localhost") {
        return true;
    }
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    address.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
}

/// Splits `host`, `host:port`, `[v6]` or `[v6]:port`; `None` if what follows the host is no port.
fn host_and_port(rest: &str) -> Option<(&str, Option<u16>)> {
    let end = if rest.starts_with('[') {
        rest.find(']')? + 1
    } else {
        rest.find(':').unwrap_or(rest.len())
    };
    let (host, port) = rest.split_at_checked(end)?;
    match port.strip_prefix(':') {
        // A sign is no part of a port, though it is one of a number.
        Some(port) if port.starts_with('+') => None,
        Some(port) => Some((host, Some(port.parse().ok()?))),
        None => port.is_empty().then_some((host, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_origins_and_nothing_more() {
        for (good, shown) in [
            ("*", "*"),
            ("loopback", "loopback"),
            ("https://App.Example.org", "https://app.example.org"),
            ("https://a.org:443", "https://a.org"),
            ("http://a.org:443", "http://a.org:443"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("tauri://localhost", "tauri://localhost"),
        ] {
            assert_eq!(Origin::parse(good).map(|origin| origin.to_string()), Ok(shown.to_owned()));
        }
        for bad in [
            "",
            "a.org",
            "null",
            "https://",
            "https://a.org/",
            "https://a.org/path",
            "https://*.a.org",
            "https://me@a.org",
            "https://a.org:port",
            "https://a.org:99999",
            "https://a b",
            "https://[::1",
            "ht tp://a",
            "://a",
        ] {
            assert!(Origin::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn loopback_lets_in_pages_of_this_machine_only() {
        for (origin, expected) in [
            ("http://localhost", true),
            ("http://LOCALHOST:3000", true),
            ("https://app.localhost:8443", true),
            ("http://127.0.0.1:9102", true),
            ("http://127.8.9.1", true),
            ("http://[::1]:80", true),
            ("http://localhost.evil.org", false),
            ("http://127.0.0.1.evil.org", false),
            ("http://evillocalhost", false),
            ("http://192.168.0.1", false),
            ("file://localhost", false),
            ("null", false),
            ("", false),
            ("http://[::1", false),
            ("http://[]é", false),
            ("http://localhost:x", false),
            ("localhost", false),
            ("ws://localhost", false),
            ("http://", false),
            ("http://:80", false),
            ("http://localhost@evil.example", false),
            ("http://localhost:80@evil.example", false),
            ("http://evil.example/http://localhost", false),
            ("http://localhost/", false),
            ("http://localhost:", false),
            ("http://localhost:+80", false),
            ("http://localhost:65536", false),
            ("http://localhost:80:80", false),
            ("http://127.1", false),
            ("http://0.0.0.0", false),
            ("http://::1", false),
            ("http://[::1]evil.example", false),
        ] {
            assert_eq!(Origins::loopback().allows(origin), expected, "{origin}");
        }
    }

    #[test]
    fn exact_origins_match_as_browsers_write_them() {
        let origins = Origins(vec![
            Origin::parse("https://a.org").unwrap(),
            Origin::parse("http://b.org:8080").unwrap(),
        ]);
        for (origin, expected) in [
            ("https://a.org", true),
            ("https://A.org:443", true),
            ("http://a.org", false),
            ("https://a.org:8443", false),
            ("https://a.org.evil.org", false),
            ("http://b.org:8080", true),
            ("http://b.org", false),
            ("null", false),
        ] {
            assert_eq!(origins.allows(origin), expected, "{origin}");
        }
        assert!(Origins::any().allows("null"));
        assert!(!Origins(Vec::new()).allows("https://a.org"));
    }
}
