//! The URL of Redis, read by one parser: the parts that it gives are what is dialled, what is logged
//! and what is compared.
//!
//! *Invariants*: a [`RedisUrl`] that exists names at least one server; neither its `Display` nor its
//! `Debug`, nor an error about it, shows a password; its `Display` is made of what is dialled, never
//! of the text that was given.
//!
//! *Not here*: connecting (`link`).

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};
use std::fmt;

/// The port of Redis, and then of its sentinels.
const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26_379;
/// What stands for a password.
const MASK: &str = "***";
/// What a URL can't hold in a user, a password or the name of a master.
const ENCODED: &AsciiSet =
    &CONTROLS.add(b' ').add(b'#').add(b'%').add(b'/').add(b':').add(b'?').add(b'@').add(b'&');

/// Where Redis is:
///
/// | URL | what it means |
/// |---|---|
/// | `redis://[user:password@]host[:port][/database]` | one server, or any node of a cluster |
/// | `redis://host:port,host:port` | nodes of a cluster |
/// | `redis+sentinel://[user:password@]host:port,host:port/master[/database]` | sentinels; user and password are the master's |
/// | `redis+sentinel://…?sentinel_user=user&sentinel_password=password` | the login of the sentinels |
/// | `rediss://…`, `rediss+sentinel://…` | the same over TLS |
///
/// In a user or a password `%`, `/`, `?`, `#`, `@` and white space are percent-encoded.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    is_tls: bool,
    /// Host, without brackets, and port.
    hosts: Vec<(String, u16)>,
    /// The login of the Redis servers.
    login: Login,
    database: u32,
    sentinel: Option<Sentinel>,
}

/// A user and a password, each if it was given.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// The user; without one it is the default user.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
}

/// The sentinels, where the hosts are theirs.
#[derive(Clone, PartialEq, Eq)]
struct Sentinel {
    /// The master that they are asked for.
    master: String,
    login: Login,
}

/// Why a text is no [`RedisUrl`]: a sentence without the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlError(String);

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UrlError {}

fn error<T>(sentence: impl Into<String>) -> Result<T, UrlError> {
    Err(UrlError(sentence.into()))
}

impl RedisUrl {
    /// Reads a URL.
    pub fn parse(text: &str) -> Result<RedisUrl, UrlError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return error("the URL of Redis has no scheme; write redis://host:port");
        };
        let (is_tls, is_sentinel) = match scheme {
            "redis" => (false, false),
            "rediss" => (true, false),
            "redis+sentinel" => (false, true),
            "rediss+sentinel" => (true, true),
            // It is not quoted: of a text without a scheme the password might stand here.
            _ => {
                let known = "redis, rediss, redis+sentinel or rediss+sentinel";
                return error(format!("the scheme of the URL of Redis must be {known}"));
            }
        };
        if rest.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return error(
                "the URL of Redis holds white space or a control character; in a user or a \
                 password write a space as %20",
            );
        }
        let (authority, path, query) = split(rest)?;
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (read_login(login)?, hosts),
            None => (Login::default(), authority),
        };
        let default_port = if is_sentinel { SENTINEL_PORT } else { REDIS_PORT };
        let hosts =
            hosts.split(',').map(|host| read_host(host, default_port)).collect::<Result<_, _>>()?;
        let (master, database) = match is_sentinel {
            false => (None, path),
            true => match path.split_once('/').unwrap_or((path, "")) {
                ("", _) => {
                    let form = "redis+sentinel://host:port/master";
                    return error(format!(
                        "the URL names no master for its sentinels; write {form}"
                    ));
                }
                (master, database) => (Some(decode(master, "the master")?), database),
            },
        };
        let database = match database {
            "" => 0,
            number => match number.parse::<u32>() {
                Ok(number) if number <= i32::MAX as u32 => number,
                _ => {
                    return error(
                        "the database in the URL of Redis must be a number, such as /0; in a \
                         password write / as %2F",
                    );
                }
            },
        };
        let sentinel_login = read_query(query, is_sentinel)?;
        let sentinel = master.map(|master| Sentinel { master, login: sentinel_login });
        Ok(RedisUrl { is_tls, hosts, login, database, sentinel })
    }

    /// The same with a login for the sentinels, as it is given beside the URL; the error is a sentence.
    pub fn with_sentinel_login(mut self, login: Login) -> Result<RedisUrl, String> {
        if login == Login::default() {
            return Ok(self);
        }
        let Some(sentinel) = &mut self.sentinel else {
            return Err("a login for sentinels is given, but the URL of Redis names none; write \
                        redis+sentinel://host:port/master, or leave the login out"
                .into());
        };
        if sentinel.login != Login::default() {
            return Err(
                "the login of the sentinels stands in the URL of Redis and beside it; give \
                        it once"
                    .into(),
            );
        }
        sentinel.login = login;
        Ok(self)
    }

    /// The servers that the URL names: of Redis, or its sentinels.
    pub(super) fn servers(&self) -> Vec<ConnectionInfo> {
        self.hosts
            .iter()
            .map(|(host, port)| match &self.sentinel {
                None => self.server(host, *port),
                Some(Sentinel { login, .. }) => connection(self.is_tls, host, *port, login, 0),
            })
            .collect()
    }

    /// A server of Redis, such as the master that a sentinel has named.
    pub(super) fn server(&self, host: &str, port: u16) -> ConnectionInfo {
        connection(self.is_tls, host, port, &self.login, self.database)
    }

    /// The master that sentinels are asked for.
    pub(super) fn master(&self) -> Option<&str> {
        self.sentinel.as_ref().map(|sentinel| &*sentinel.master)
    }

    /// The number of the database.
    pub(super) fn database(&self) -> i64 {
        self.database.into()
    }
}

/// How to connect to a server.
fn connection(is_tls: bool, host: &str, port: u16, login: &Login, database: u32) -> ConnectionInfo {
    let host = host.to_owned();
    let addr = match is_tls {
        false => ConnectionAddr::Tcp(host, port),
        true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
    };
    let mut redis = RedisConnectionInfo::default().set_db(database.into());
    if let Some(user) = &login.user {
        redis = redis.set_username(user);
    }
    if let Some(password) = &login.password {
        redis = redis.set_password(password);
    }
    match addr.into_connection_info() {
        Ok(info) => info.set_redis_settings(redis),
        Err(error) => unreachable!("an address is all that there is to know: {error}"),
    }
}

/// The three parts of what follows the scheme. The first ends at the first `/`, `?` or `#`; if an `@`
/// follows there, such a character stands in a login, and where the host begins can't be said.
fn split(rest: &str) -> Result<(&str, &str, &str), UrlError> {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    if rest.contains('@') {
        let found = &rest[..1];
        return error(format!(
            "the URL of Redis has {found} before an @, and may be read in two ways; in a user or a \
             password write {found} as {}, and @ anywhere but before the host as %40",
            code(found)
        ));
    }
    if rest.contains('#') {
        return error(
            "the URL of Redis has a #, which means nothing here; in a user or a password write # \
             as %23",
        );
    }
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    Ok((authority, path.strip_prefix('/').unwrap_or(path), query))
}

/// How a character is percent-encoded.
fn code(found: &str) -> String {
    found.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn read_login(login: &str) -> Result<Login, UrlError> {
    if login.contains('@') {
        return error(
            "the URL of Redis has more than one @; in a user or a password write @ as %40",
        );
    }
    let (user, password) = match login.split_once(':') {
        Some((user, password)) => (user, Some(decode(password, "the password")?)),
        None => (login, None),
    };
    let user = (!user.is_empty()).then(|| decode(user, "the user")).transpose()?;
    Ok(Login { user, password })
}

/// A part of the URL without its percent-encoding.
fn decode(text: &str, what: &str) -> Result<String, UrlError> {
    let mut parts = text.split('%');
    parts.next();
    let is_code =
        |part: &str| part.len() >= 2 && part.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    if !parts.all(is_code) {
        return error(format!(
            "{what} in the URL of Redis has a % that begins no code of two digits; write % as %25"
        ));
    }
    match percent_decode_str(text).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => error(format!("{what} in the URL of Redis is encoded, but not as UTF-8")),
    }
}

/// One of the hosts.
fn read_host(text: &str, default_port: u16) -> Result<(String, u16), UrlError> {
    let form = "redis://user:password@host:port";
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((host, port)) = rest.split_once(']') else {
                return error("a host in the URL of Redis has a bracket that does not close");
            };
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return error("a host in the URL of Redis has brackets, but is no IPv6 address");
            }
            match port.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if port.is_empty() => (host, None),
                None => {
                    return error("a host in the URL of Redis goes on behind its brackets");
                }
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return error("the URL of Redis names no host; write redis://host:port");
    }
    if port.is_some_and(|port| port.contains(':')) {
        return error(format!(
            "the host in the URL of Redis has more than one colon; write {form}, and an IPv6 \
             address in brackets"
        ));
    }
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    // It is not quoted: where the host was forgotten the password stands here.
    if !text.starts_with('[') && !host.bytes().all(is_good) {
        return error(format!(
            "a host in the URL of Redis holds what no name of a host may hold; write {form}"
        ));
    }
    if matches!(host, "0.0.0.0" | "::") {
        return error(format!(
            "{host} is no host that can be connected to; name one, such as 127.0.0.1"
        ));
    }
    let port = match port {
        None => default_port,
        Some(port) => match port.parse::<u16>() {
            Ok(number) if number > 0 && !port.starts_with('+') => number,
            _ => {
                return error(format!(
                    "the port of a host in the URL of Redis is no number from 1 to 65535; write \
                     {form}"
                ));
            }
        },
    };
    Ok((host.to_owned(), port))
}

fn read_query(query: &str, is_sentinel: bool) -> Result<Login, UrlError> {
    let mut login = Login::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let into = match key {
            "sentinel_user" => &mut login.user,
            "sentinel_password" => &mut login.password,
            // It is not quoted: it may be the rest of a password.
            _ => {
                return error(
                    "the URL of Redis has a ? with what means nothing here; sentinel_user and \
                     sentinel_password may follow it, and in a user or a password write ? as %3F",
                );
            }
        };
        if !is_sentinel {
            return error(format!(
                "{key} is for sentinels; write redis+sentinel://host:port/master, or leave it out"
            ));
        }
        if into.replace(decode(value, key)?).is_some() {
            return error(format!("{key} stands twice in the URL of Redis"));
        }
    }
    Ok(login)
}

impl fmt::Display for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_deref().unwrap_or_default();
        write!(f, "{}", utf8_percent_encode(user, ENCODED))?;
        if self.password.is_some() {
            write!(f, ":{MASK}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({self})")
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = if self.is_tls { "s" } else { "" };
        let sentinel = if self.sentinel.is_some() { "+sentinel" } else { "" };
        write!(f, "redis{tls}{sentinel}://")?;
        if self.login != Login::default() {
            write!(f, "{}@", self.login)?;
        }
        for (at, (host, port)) in self.hosts.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            match host.contains(':') {
                true => write!(f, "{comma}[{host}]:{port}")?,
                false => write!(f, "{comma}{host}:{port}")?,
            }
        }
        if let Some(Sentinel { master, .. }) = &self.sentinel {
            write!(f, "/{}", utf8_percent_encode(master, ENCODED))?;
        }
        if self.database > 0 {
            write!(f, "/{}", self.database)?;
        }
        let Some(Sentinel { login, .. }) = &self.sentinel else { return Ok(()) };
        let mut mark = '?';
        if let Some(user) = &login.user {
            write!(f, "{mark}sentinel_user={}", utf8_percent_encode(user, ENCODED))?;
            mark = '&';
        }
        if login.password.is_some() {
            write!(f, "{mark}sentinel_password={MASK}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Where a URL leads: each address that is dialled.
    fn dialled(url: &RedisUrl) -> Vec<String> {
        url.servers().iter().map(|server| server.addr().to_string()).collect()
    }

    #[test]
    fn good_urls_are_shown_as_they_are_dialled_without_their_password() {
        for (url, servers, shown) in [
            ("redis://localhost", "localhost:6379", "redis://localhost:6379"),
            ("redis://localhost/", "localhost:6379", "redis://localhost:6379"),
            ("redis://:se%20cret@h:1/2", "h:1", "redis://:***@h:1/2"),
            ("redis://:secret%23x%2F@h", "h:6379", "redis://:***@h:6379"),
            ("rediss://ann:secret@h", "h:6379", "rediss://ann:***@h:6379"),
            ("rediss://ann@h:1", "h:1", "rediss://ann@h:1"),
            ("redis://a%40b:se:cret@h:1", "h:1", "redis://a%40b:***@h:1"),
            (
                "redis://ann:secret@a:1,b:2,[::1]:3",
                "a:1 b:2 ::1:3",
                "redis://ann:***@a:1,b:2,[::1]:3",
            ),
            ("redis://[::1]", "::1:6379", "redis://[::1]:6379"),
            (
                "redis+sentinel://:secret@a,b:2/main/1",
                "a:26379 b:2",
                "redis+sentinel://:***@a:26379,b:2/main/1",
            ),
            (
                "redis+sentinel://a/main?sentinel_user=s&sentinel_password=secret%26",
                "a:26379",
                "redis+sentinel://a:26379/main?sentinel_user=s&sentinel_password=***",
            ),
        ] {
            let parsed = RedisUrl::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(dialled(&parsed).join(" "), servers, "{url}");
            assert_eq!(parsed.to_string(), shown);
            assert!(!format!("{parsed:?} {:?}", parsed.login).contains("secret"));
        }
    }

    #[test]
    fn each_server_gets_its_own_login() {
        let login = |info: &ConnectionInfo| {
            let redis = info.redis_settings();
            (redis.username().map(str::to_owned), redis.password().map(str::to_owned), redis.db())
        };
        let some = |text: &str| Some(text.to_owned());
        let url = "redis+sentinel://m:a%23b@a/main/3?sentinel_user=s&sentinel_password=p%40";
        let url = RedisUrl::parse(url).unwrap();
        assert_eq!(url.master(), Some("main"));
        assert_eq!(login(&url.servers()[0]), (some("s"), some("p@"), 0));
        assert_eq!(login(&url.server("10.0.0.1", 6379)), (some("m"), some("a#b"), 3));
        let url = RedisUrl::parse("redis+sentinel://:pw@a/main").unwrap();
        assert_eq!(login(&url.servers()[0]), (None, None, 0), "the master's is not theirs");
        let beside = Login { user: None, password: some("pw2") };
        let url = url.with_sentinel_login(beside.clone()).unwrap();
        assert_eq!(login(&url.servers()[0]), (None, some("pw2"), 0));
        assert!(url.with_sentinel_login(beside.clone()).unwrap_err().contains("once"));
        let plain = RedisUrl::parse("redis://h").unwrap();
        assert!(plain.clone().with_sentinel_login(beside).unwrap_err().contains("redis+sentinel"));
        assert!(plain.with_sentinel_login(Login::default()).is_ok());
        assert_ne!(
            RedisUrl::parse("redis://:a@h").unwrap(),
            RedisUrl::parse("redis://:b@h").unwrap()
        );
    }

    #[test]
    fn bad_urls_are_refused_in_a_sentence_without_their_password() {
        for (url, word) in [
            ("", "scheme"),
            ("localhost:6379", "scheme"),
            ("http://secret@h", "scheme"),
            ("redis://", "host"),
            ("redis://:secret@", "host"),
            ("redis://:secret@:6379", "host"),
            ("redis://:secret@a:1,,b:2", "host"),
            ("redis://:secret@h:port", "port"),
            ("redis://:secret@h:70000", "port"),
            ("redis://:secret@h:0", "port"),
            ("redis://:secret@h:+1", "port"),
            ("redis://ann:secret", "port"),
            ("redis://ann:secret/0", "port"),
            ("redis://ann:secret:6379", "host"),
            ("redis://:secret@0.0.0.0", "host"),
            ("redis://:secret@[::1", "bracket"),
            ("redis://:secret@[h]", "IPv6"),
            ("redis://:secret@[::1]x", "bracket"),
            ("redis://:secret@h/main", "database"),
            ("redis://:secret@h/-1", "database"),
            ("redis://:secret@h/0/1", "database"),
            ("redis+sentinel://:secret@h", "master"),
            // Each character that must be encoded is named with its code.
            ("redis://localhost:21907#x@127.0.0.1:21900/0", "# as %23"),
            ("redis://:sec#ret@h", "# as %23"),
            ("redis://:sec/ret@h/0", "/ as %2F"),
            ("redis://:sec?ret@h", "? as %3F"),
            ("redis://:secret@x@h", "@ as %40"),
            ("redis://:secret@x@h/0", "@ as %40"),
            ("redis://:secret%@h", "% as %25"),
            ("redis://:secret%zz@h", "% as %25"),
            ("redis://:secret%c3%28@h", "UTF-8"),
            ("redis://:sec ret@h", "%20"),
            ("redis://:secret@h\n", "white space"),
            ("redis://h/0#secret", "# as %23"),
            ("rediss://h#insecure", "# as %23"),
            ("redis://h?secret", "? as %3F"),
            ("redis://h?protocol=resp3", "sentinel_password"),
            ("redis://h?sentinel_password=secret", "redis+sentinel"),
            ("redis+sentinel://h/m?sentinel_password=secret&sentinel_password=2", "twice"),
            ("redis+sentinel://h/m?sentinel_password=sec@ret", "%40"),
        ] {
            let error = RedisUrl::parse(url).err().unwrap_or_else(|| panic!("{url}")).to_string();
            assert!(error.contains(word), "{url}: {error}");
            assert!(!error.contains("secret") && !error.contains("ret@"), "{error}");
        }
    }

    proptest! {
        /// Whatever is typed: what is shown leads where the URL leads, and can be read again.
        #[test]
        fn what_is_shown_leads_where_the_url_leads(
            text in r"(redis|rediss|redis\+sentinel)://[a-c:/?#@%,0-9\[\].]{0,24}"
        ) {
            if let Ok(url) = RedisUrl::parse(&text) {
                let again = RedisUrl::parse(&url.to_string());
                let again = again.unwrap_or_else(|error| panic!("{text} {url}: {error}"));
                prop_assert_eq!(dialled(&again), dialled(&url));
                prop_assert_eq!(again.to_string(), url.to_string());
                prop_assert_eq!(again.database(), url.database());
            }
        }

        /// A password that is encoded as a whole comes out as it went in.
        #[test]
        fn an_encoded_password_is_any_password(password in "\\PC{1,20}") {
            let encoded: String = password.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let url = RedisUrl::parse(&format!("redis://:{encoded}@h")).unwrap();
            let server = &url.servers()[0];
            prop_assert_eq!(server.redis_settings().password(), Some(&*password));
        }
    }
}
