//! Which web pages may connect.
//!
//! A browser lets any page open a WebSocket to any address, the visitor's own loopback included,
//! and only tells the server which page it is. Without this check every page that a person visits
//! could drive the bus on their machine. What is no browser sends no `Origin`, and a page can't
//! leave it out, so its absence is no reason to refuse.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The origins of web pages that may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Every page, wherever it comes from.
    Any,
    /// Pages that this machine serves itself: `localhost`, 127.0.0.0/8 or `[::1]`, on any port.
    Loopback,
    /// These, each as `scheme://host` or `scheme://host:port`, in any case. The word `null` allows
    /// pages that have no origin, such as local files.
    List(Vec<String>),
}

impl Origins {
    /// Whether a page of this origin may connect.
    pub fn allows(&self, origin: &str) -> bool {
        match self {
            Origins::Any => true,
            Origins::Loopback => is_loopback(origin),
            Origins::List(origins) => origins.iter().any(|one| one.eq_ignore_ascii_case(origin)),
        }
    }
}

fn is_loopback(origin: &str) -> bool {
    let origin = origin.to_ascii_lowercase();
    let Some(authority) = origin.strip_prefix("http://").or(origin.strip_prefix("https://")) else {
        return false;
    };
    // The brackets of an IPv6 address hold colons too, so the port begins after them.
    let (host, port) = match authority.rfind(':').filter(|&at| !authority[at..].contains(']')) {
        Some(at) => (&authority[..at], Some(&authority[at + 1..])),
        None => (authority, None),
    };
    let is_port =
        |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    if !port.is_none_or(is_port) {
        return false;
    }
    let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match in_brackets {
        Some(address) => address.parse() == Ok(Ipv6Addr::LOCALHOST),
        None => host == "localhost" || host.parse().is_ok_and(|host: Ipv4Addr| host.is_loopback()),
    }
}

#[cfg(test)]
mod tests {
    use super::Origins;

    #[test]
    fn loopback_is_this_machine_alone() {
        for good in [
            "http://localhost",
            "https://LOCALHOST:3000",
            "http://127.0.0.1:9102",
            "http://127.8.9.10",
            "http://[::1]",
            "HTTPS://[::1]:65535",
        ] {
            assert!(Origins::Loopback.allows(good), "{good}");
        }
        for bad in [
            "",
            "null",
            "localhost",
            "ws://localhost",
            "file://localhost",
            "http://",
            "http://:80",
            "http://localhost.evil.example",
            "http://evil.example",
            "http://localhost@evil.example",
            "http://localhost:80@evil.example",
            "http://evil.example/http://localhost",
            "http://localhost/",
            "http://localhost:",
            "http://localhost:+80",
            "http://localhost:65536",
            "http://localhost:80:80",
            "http://127.1",
            "http://127.0.0.1.evil.example",
            "http://128.0.0.1",
            "http://0.0.0.0",
            "http://[::2]",
            "http://[::1",
            "http://::1",
            "http://[::1]evil.example",
        ] {
            assert!(!Origins::Loopback.allows(bad), "{bad}");
        }
    }

    #[test]
    fn a_list_is_exact_but_for_case() {
        let list =
            Origins::List(vec!["https://App.example".to_owned(), "http://b:8080".to_owned()]);
        for (origin, allowed) in [
            ("https://app.example", true),
            ("HTTP://B:8080", true),
            ("http://app.example", false),
            ("https://app.example:443", false),
            ("https://app.example.evil", false),
            ("http://b", false),
            ("http://localhost", false),
            ("null", false),
        ] {
            assert_eq!(list.allows(origin), allowed, "{origin}");
        }
        assert!(Origins::List(vec!["null".to_owned()]).allows("null"));
        assert!(Origins::Any.allows("null"));
        assert!(Origins::Any.allows("https://anything.example"));
    }
}
