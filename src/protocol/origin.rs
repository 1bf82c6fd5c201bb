//! Which web pages may connect.
//!
//! A browser lets any page open a WebSocket to any address, the visitor's own loopback included,
//! and only tells the server which page it is. Without this check every page that a person visits
//! could drive the bus on their machine. What is no browser sends no `Origin`, and a page can't
//! leave it out, so its absence is no reason to refuse.
//!
//! *Invariants*: what a refusal advises to add is a rule that [`Origin::parse`] takes and that lets
//! the refused page in; [`Origin::Auto`] never lets in more than [`Origin::Loopback`] before it is
//! resolved for a port.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

/// The origins that are let in: what any of these rules lets in, so without a rule none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origins(pub Vec<Origin>);

/// The longest origin that a refusal repeats. (A host name has at most 253 characters.)
const ECHO_BYTES_MAX: usize = 300;

/// One rule of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `auto`: `loopback` on a port that only this machine can reach, `*` on any other.
    Auto,
    /// `*`: every origin.
    Any,
    /// `loopback`: pages that this machine itself serves.
    Loopback,
    /// `null`: pages without an origin of their own, such as files and sandboxed frames.
    Null,
    /// This one: scheme, host and port, in lower case, without the scheme's own port.
    Exact(String),
}

impl Origins {
    /// Every origin.
    pub fn any() -> Origins {
        Origins(vec![Origin::Any])
    }

    /// What each port's own address calls for.
    pub fn auto() -> Origins {
        Origins(vec![Origin::Auto])
    }

    /// Only pages of this machine.
    pub fn loopback() -> Origins {
        Origins(vec![Origin::Loopback])
    }

    /// The rules, in the order they were given.
    pub fn rules(&self) -> &[Origin] {
        &self.0
    }

    /// The rules for one port: `auto` becomes what the port's address calls for.
    pub fn for_port(&self, is_loopback: bool) -> Origins {
        let resolve = |rule: &Origin| match rule {
            Origin::Auto if is_loopback => Origin::Loopback,
            Origin::Auto => Origin::Any,
            other => other.clone(),
        };
        Origins(self.0.iter().map(resolve).collect())
    }

    /// Whether only pages that this machine serves are let in.
    pub fn are_local(&self) -> bool {
        self.0.iter().all(|rule| match rule {
            Origin::Auto | Origin::Loopback => true,
            Origin::Any | Origin::Null => false,
            Origin::Exact(origin) => is_loopback(origin),
        })
    }

    /// Whether a page of that `Origin` header is let in.
    pub fn allows(&self, header: &str) -> bool {
        self.0.iter().any(|rule| match rule {
            Origin::Any => true,
            Origin::Auto | Origin::Loopback => is_loopback(header),
            Origin::Null => header == "null",
            Origin::Exact(origin) => normal(header) == *origin,
        })
    }

    /// Whether a rule other than `*` lets a page of that `Origin` header in.
    pub fn name(&self, header: &str) -> bool {
        let without_any = self.0.iter().filter(|rule| **rule != Origin::Any).cloned();
        Origins(without_any.collect()).allows(header)
    }

    /// Whether the `Host` header of a request names this machine, or a host whose pages are let in.
    /// Any other name leads here only because somebody's DNS says so (DNS rebinding).
    pub fn allow_host(&self, host: &str) -> bool {
        is_loopback_host(host)
            || self.allows(&format!("http://{host}"))
            || self.allows(&format!("https://{host}"))
    }
}

/// Why a page of that `Origin` header is refused, and what lets it in.
pub fn refusal(header: &str) -> Cow<'static, str> {
    if header == "null" {
        return "pages without an origin (files, sandboxed frames) may not connect; serve the page \
                over HTTP and add its origin to the server's `allowed_origins`, or add `null`, which \
                lets in the sandboxed frames of every website"
            .into();
    }
    if header.len() > ECHO_BYTES_MAX || Origin::parse(header).is_err() {
        return "the Origin header holds no origin such as a browser sends; leave the header out if \
                the client is no browser"
            .into();
    }
    format!(
        "web pages of the origin `{header}` may not connect; if they should, add `{header}` to the \
         server's `allowed_origins`"
    )
    .into()
}

/// Whether a `Host` header names this machine: `localhost`, a name below it, or a loopback address,
/// with or without a port.
pub fn is_loopback_host(host: &str) -> bool {
    host_and_port(host).is_some_and(|(host, _)| is_loopback_name(&host.to_ascii_lowercase()))
}

impl fmt::Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, rule) in self.0.iter().enumerate() {
            write!(f, "{}{rule}", if number == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl Origin {
    /// A rule: `auto`, `*`, `loopback`, `null`, or an origin such as `https://app.example.org`.
    pub fn parse(text: &str) -> Result<Origin, String> {
        match text {
            "auto" => return Ok(Origin::Auto),
            "*" => return Ok(Origin::Any),
            "loopback" => return Ok(Origin::Loopback),
            "null" => return Ok(Origin::Null),
            // What some web views send for a page that is a file.
            "file://" => return Ok(Origin::Exact(text.to_owned())),
            _ => {}
        }
        let wrong = |why: &str| {
            Err(format!(
                "`{text}` is no origin, {why}; give scheme://host or scheme://host:port, \
                 `loopback`, `null`, `auto`, or `*` for every origin"
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
            Origin::Auto => "auto",
            Origin::Any => "*",
            Origin::Loopback => "loopback",
            Origin::Null => "null",
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
    host_and_port(rest).is_some_and(|(host, _)| is_loopback_name(host))
}

/// Whether a host in lower case, without a port, is this machine.
fn is_loopback_name(host: &str) -> bool {
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
            ("auto", "auto"),
            ("loopback", "loopback"),
            ("null", "null"),
            ("file://", "file://"),
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
            "NULL",
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

    #[test]
    fn auto_is_decided_by_each_ports_own_address() {
        let page = "https://a.org";
        let rules = Origins(vec![Origin::Auto, Origin::parse("https://b.org").unwrap()]);
        assert!(!rules.for_port(true).allows(page) && rules.for_port(false).allows(page));
        assert!(rules.for_port(true).allows("https://b.org"));
        assert!(!rules.allows(page), "not before it is resolved");
    }

    #[test]
    fn only_rules_for_this_machine_are_local() {
        for (rule, is_local) in [
            ("loopback", true),
            ("http://localhost:3000", true),
            ("http://[::1]", true),
            ("*", false),
            ("null", false),
            ("https://a.org", false),
            ("tauri://localhost", false),
        ] {
            let rules = Origins(vec![Origin::Loopback, Origin::parse(rule).unwrap()]);
            assert_eq!(rules.are_local(), is_local, "{rule}");
        }
        assert!(Origins::auto().for_port(true).are_local());
        assert!(!Origins::auto().for_port(false).are_local());
    }

    #[test]
    fn what_a_refusal_advises_lets_the_page_in() {
        let long = format!("https://{}.example", "a".repeat(240));
        for header in [
            "null",
            "https://App.example.org:8443",
            "chrome-extension://abcdefgh",
            "capacitor://localhost",
            "file://",
            "http://[2001:db8::1]:80",
            &long,
        ] {
            assert!(!Origins::loopback().allows(header), "{header}");
            let advice = refusal(header);
            assert!(advice.contains(&format!("add `{header}`")), "{advice}");
            let rule = Origin::parse(header).unwrap();
            assert!(Origins(vec![rule]).allows(header), "{header}");
        }
        let longer = format!("https://{}.example", "é".repeat(2_000));
        for header in ["", "a.org", "https://a.org/path", "https://*.a.org", &longer] {
            let advice = refusal(header);
            assert!(advice.contains("leave the header out") && advice.len() < 300, "{advice}");
        }
    }

    #[test]
    fn hosts_are_this_machine_or_allowed_origins() {
        let rules = Origins(vec![Origin::parse("https://bus.example.org").unwrap()]);
        for (host, expected) in [
            ("localhost", true),
            ("LOCALHOST:9102", true),
            ("app.localhost", true),
            ("127.0.0.1:9102", true),
            ("[::1]:9102", true),
            ("bus.example.org", true),
            ("bus.example.org:443", true),
            ("bus.example.org:9102", false),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("192.168.0.1:9102", false),
            ("", false),
            ("127.0.0.1@evil.example", false),
        ] {
            assert_eq!(rules.allow_host(host), expected, "{host}");
        }
        assert!(Origins::any().allow_host("evil.example"));
    }
}
