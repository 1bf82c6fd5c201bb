//! One connection to Redis, of whichever kind, and the scripts that are called over it.
//!
//! A connection that failed is thrown away, not mended: what it may still do later is done in the
//! name of an older writer, and refused.
//!
//! *Not here*: timeouts of calls, which the caller knows.

use crate::storage::keys::Keys;
use crate::storage::sentinel;
use crate::storage::settings::Settings;
use crate::storage::together::Masters;
use crate::storage::trouble::{LoginRefused, Trouble, Wrong, check_version, is_passing};
use redis::aio::{MultiplexedConnection, PubSub};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, FromRedisValue, RedisError,
    ServerErrorKind, Value, cmd,
};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// How often the cluster client follows a slot that has moved.
const CLUSTER_RETRIES: u32 = 3;
/// How long the cluster client waits for a server at least, unless an answer has less time.
const CLUSTER_CONNECT_MIN: Duration = Duration::from_millis(500);

/// A connection.
#[derive(Clone)]
pub(super) enum Link {
    /// To one server.
    One(MultiplexedConnection),
    /// To the masters of a cluster; which they are is known where replicas are waited for.
    Many(ClusterConnection, Arc<Masters>),
}

/// A script, by which Redis changes several keys at once.
pub(super) struct Script {
    code: &'static str,
    digest: String,
}

macro_rules! scripts {
    ($($name:ident = $($file:literal),+;)*) => {
        $(pub(super) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!($(include_str!(concat!("scripts/", $file, ".lua"))),+))
        });)*
    };
}

scripts! {
    ALONE = "alone";
    APPEND = "checks", "pages", "stream", "append";
    BURY = "checks", "pages", "order", "bury";
    CHANNEL = "checks", "channel";
    CHANNEL_GONE = "checks", "channel_gone";
    CLAIM = "checks", "claim";
    CLOCK = "clock";
    FREE_IDS = "free_ids";
    FORK = "checks", "pages", "order", "fork";
    HOLD = "hold";
    INDEX = "checks", "index";
    LIST = "checks", "list";
    MAKE = "checks", "pages", "order", "make";
    PAGE = "pages", "page";
    PROBE = "probe";
    REMOVE = "checks", "remove";
    RENEW = "renew";
    REPAIR = "checks", "repair";
    ROOM = "checks", "room";
    SESSIONS = "sessions";
    SWEEP_IDS = "sweep_ids";
    TAKE_IDS = "take_ids";
    SHARE = "share";
    WEIGH = "weigh";
    SUBMIT = "checks", "pages", "stream", "order", "submit";
    SYNC = "checks", "pages", "order", "sync";
    TRIM = "checks", "pages", "stream", "trim";
}

impl Script {
    fn new(code: &'static str) -> Script {
        Script { code, digest: redis::Script::new(code).get_hash().to_owned() }
    }

    /// Tells Redis of it.
    pub(super) async fn load(&self, link: &Link) -> Result<(), RedisError> {
        link.query::<Value>(cmd("SCRIPT").arg("LOAD").arg(self.code)).await.map(drop)
    }

    /// A call of it; what follows the keys are its arguments.
    pub(super) fn call(&self, keys: &[&str]) -> Cmd {
        let mut call = cmd("EVALSHA");
        call.arg(&self.digest).arg(keys.len()).arg(keys);
        call
    }
}

impl Link {
    /// Connects, and looks whether what is there can be worked with.
    pub(super) async fn connect(settings: &Settings) -> Result<Link, Trouble> {
        let url = &settings.url;
        let timeout = share(settings);
        if let Some(master) = url.master() {
            let (_, connection) = sentinel::master(url, master, timeout).await?;
            let link = Link::One(connection);
            link.check().await?;
            return Ok(link);
        }
        let mut trouble = Trouble::Outage("no server is named".to_owned());
        let servers = url.servers();
        for server in &servers {
            match of_server(server.clone(), timeout).await {
                Ok(connection) => {
                    let link = Link::One(connection);
                    let is_cluster = link.check().await?;
                    if !is_cluster && servers.len() > 1 {
                        let sentence = format!(
                            "the URL of Redis names several servers, but {} is not one of a \
                             cluster; name one",
                            server.addr()
                        );
                        return Err(Trouble::Wrong(Wrong::Url(sentence)));
                    }
                    return if is_cluster { of_cluster(settings).await } else { Ok(link) };
                }
                Err(error) => {
                    trouble = of_connecting(error, &format!("Redis at {}", server.addr()), false);
                }
            }
        }
        Err(trouble)
    }

    /// Whether the version is new enough, as far as the server says it; gives whether it is a node of
    /// a cluster.
    async fn check(&self) -> Result<bool, Trouble> {
        if let Some(about) = self.about("server").await? {
            check_version(field(&about, "redis_version").unwrap_or_default())?;
            // Valkey calls it by another name.
            let mode = field(&about, "redis_mode").or_else(|| field(&about, "server_mode"));
            return Ok(mode == Some("cluster"));
        }
        match self.ask::<HashMap<String, Value>>(&cmd("HELLO")).await {
            Ok(about) => {
                let text =
                    |name| about.get(name).and_then(|it| String::from_redis_value_ref(it).ok());
                if text("server").as_deref() == Some("redis") {
                    check_version(&text("version").unwrap_or_default())?;
                }
                Ok(text("mode").as_deref() == Some("cluster"))
            }
            // Then whatever is missing shows by the commands that are tried.
            Err(Trouble::Wrong(_)) => Ok(false),
            Err(trouble) => Err(trouble),
        }
    }

    /// A section of what the server says of itself; `None` if it refuses to.
    async fn about(&self, section: &str) -> Result<Option<String>, Trouble> {
        match self.ask(cmd("INFO").arg(section)).await {
            Ok(about) => Ok(Some(about)),
            Err(Trouble::Wrong(Wrong::Permission(_) | Wrong::Refused(_))) => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }

    /// Tries every command that is needed, on keys and channels as they will be used; what is refused is
    /// named. Nothing stays of it.
    pub(super) async fn probe(&self, settings: &Settings, keys: &Keys) -> Result<(), Trouble> {
        let mut lacks = Vec::<String>::new();
        let channel = if settings.is_shared { keys.probe_channel() } else { String::new() };
        for base in keys.probes() {
            let names = ["string", "hash", "set", "stream"].map(|kind| format!("{base}:{kind}"));
            let mut call = PROBE.call(&names.each_ref().map(String::as_str));
            call.arg(&channel);
            let refused: Vec<(String, String)> = self.run(&PROBE, &call).await?;
            for (command, said) in refused {
                if is_passing(&said) {
                    return Err(Trouble::Outage(said));
                }
                let sentence = format!("{command} ({said})");
                if !lacks.iter().any(|lack| lack.starts_with(&format!("{command} "))) {
                    lacks.push(sentence);
                }
            }
        }
        if settings.replicas > 0
            && let Err(trouble) = self.ask::<Value>(cmd("WAIT").arg(0).arg(1)).await
        {
            match trouble {
                Trouble::Wrong(wrong) => lacks.push(format!("WAIT ({wrong})")),
                other => return Err(other),
            }
        }
        match lacks.is_empty() {
            true => Ok(()),
            false => Err(Trouble::Wrong(Wrong::Lacking(lacks.join(", ")))),
        }
    }

    /// Tells the operator of settings by which Redis may lose what it was given.
    pub(super) async fn warn_of_its_settings(&self) {
        let section = async |name| self.about(name).await.ok().flatten().unwrap_or_default();
        let (memory, disk) = (section("memory").await, section("persistence").await);
        if let Some(policy) = field(&memory, "maxmemory_policy")
            && policy != "noeviction"
            && field(&memory, "maxmemory").is_some_and(|bytes| bytes != "0")
        {
            tracing::warn!(
                policy,
                "Redis deletes keys when its memory is full, and with them what is kept; set \
                 maxmemory-policy noeviction"
            );
        }
        if field(&disk, "aof_enabled") == Some("0") {
            tracing::warn!(
                "Redis keeps no append-only file: what it was given last is gone when it dies; \
                 set appendonly yes"
            );
        }
    }

    /// Sends one command and gives its answer.
    pub(super) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Trouble> {
        Ok(self.query(command).await?)
    }

    /// Calls a script, which is told to Redis first if it does not know it.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        call: &Cmd,
    ) -> Result<T, Trouble> {
        match self.query(call).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                script.load(self).await?;
                self.ask(call).await
            }
            answer => Ok(answer?),
        }
    }

    /// Calls a script that says in a word whether it did it; gives the number it says besides.
    pub(super) async fn change(&self, script: &Script, call: &Cmd) -> Result<u64, Trouble> {
        let (word, number): (String, u64) = self.run(script, call).await?;
        match word.as_str() {
            "done" => Ok(number),
            "fenced" => Err(Trouble::Fenced(number)),
            "missing" => Err(Trouble::Missing),
            _ => Err(Trouble::Outage(format!("a script answered {word:?}"))),
        }
    }

    /// Waits until as many replicas have what was written over this connection as were asked for.
    pub(super) async fn replicate(&self, settings: &Settings) -> Result<(), Trouble> {
        settings.check_replicas(self.ask(&wait_for(settings)).await?)
    }

    /// Looks whether these keys hold what they must, if anything.
    pub(super) async fn require(&self, keys: &[&str], wanted: &'static str) -> Result<(), Trouble> {
        for &key in keys {
            let found: String = self.ask(cmd("TYPE").arg(key)).await?;
            if found != wanted && found != "none" {
                let key = key.to_owned();
                return Err(Trouble::Wrong(Wrong::ForeignKey { key, found, wanted }));
            }
        }
        Ok(())
    }

    /// Which life of which server it is; `None` of a cluster, where there are many, and of a server
    /// that does not say it.
    pub(super) async fn server(&self) -> Option<String> {
        let Link::One(_) = self else { return None };
        let about = self.about("server").await.ok()??;
        field(&about, "run_id").map(str::to_owned)
    }

    async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        match self {
            Link::One(connection) => command.query_async(&mut connection.clone()).await,
            Link::Many(connection, _) => command.query_async(&mut connection.clone()).await,
        }
    }
}

/// Waits until replicas have what was written over the same connection.
pub(super) fn wait_for(settings: &Settings) -> Cmd {
    let mut wait = cmd("WAIT");
    wait.arg(settings.replicas).arg(settings.replicas_timeout_ms);
    wait
}

impl Settings {
    /// Whether so many replicas are enough.
    pub(super) fn check_replicas(&self, count: u32) -> Result<(), Trouble> {
        let wanted = self.replicas;
        match count >= wanted {
            true => Ok(()),
            false => Err(Trouble::Outage(format!(
                "only {count} of {wanted} replicas took the events within {} ms",
                self.replicas_timeout_ms
            ))),
        }
    }
}

/// A line of what Redis says of itself.
fn field<'a>(about: &'a str, name: &str) -> Option<&'a str> {
    about.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// A connection by which one is told what others publish, to any server: in a cluster every node
/// tells what is published at another.
pub(super) async fn ears(settings: &Settings) -> Result<PubSub, Trouble> {
    let url = &settings.url;
    if let Some(master) = url.master() {
        let (server, _) = sentinel::master(url, master, share(settings)).await?;
        return Ok(Client::open(server)?.get_async_pubsub().await?);
    }
    let mut trouble = Trouble::Outage("no server is named".to_owned());
    for server in &url.servers() {
        let ears = async { Client::open(server.clone())?.get_async_pubsub().await };
        let name = format!("Redis at {}", server.addr());
        match tokio::time::timeout(share(settings), ears).await {
            Ok(Ok(ears)) => return Ok(ears),
            Ok(Err(error)) => trouble = of_connecting(error, &name, false),
            Err(_) => trouble = Trouble::Outage(format!("{name} does not answer in time")),
        }
    }
    Err(trouble)
}

/// How long one of the servers of the URL may take before the next one is tried: all have the time of
/// one answer together, since a server may be gone with its whole machine, and then says nothing at all.
fn share(settings: &Settings) -> Duration {
    let whole = Duration::from_millis(settings.commit_timeout_ms);
    match (settings.url.servers().len(), settings.url.master()) {
        // Sentinels are asked all at once.
        (_, Some(_)) | (0 | 1, None) => whole,
        // A share is left for what follows.
        (servers, None) => whole / u32::try_from(servers + 1).unwrap_or(u32::MAX),
    }
}

async fn of_server(
    server: ConnectionInfo,
    timeout: Duration,
) -> Result<MultiplexedConnection, RedisError> {
    let client = Client::open(server)?;
    client.get_multiplexed_async_connection_with_config(&config(timeout)).await
}

/// How long the cluster client may take to connect to a server, of the time of an answer and the share
/// of one server. It connects to all at once and waits for each, also for one whose machine is gone;
/// so it needs no less time if there are many of them.
fn of_each(answer: Duration, share: Duration) -> Duration {
    share.min(answer / 3).max(CLUSTER_CONNECT_MIN).min(answer)
}

async fn of_cluster(settings: &Settings) -> Result<Link, Trouble> {
    let timeout = Duration::from_millis(settings.commit_timeout_ms);
    let client = ClusterClient::builder(settings.url.servers())
        .retries(CLUSTER_RETRIES)
        .connection_timeout(of_each(timeout, share(settings)))
        .response_timeout(timeout)
        .build()?;
    let mut connection = client.get_async_connection().await?;
    let masters = match settings.replicas {
        0 => Masters::default(),
        _ => Masters::read(&mut connection).await,
    };
    Ok(Link::Many(connection, Arc::new(masters)))
}

/// What went wrong while connecting, with the name of the server.
pub(super) fn of_connecting(error: RedisError, server: &str, is_sentinel: bool) -> Trouble {
    match Trouble::from(error) {
        Trouble::Outage(said) => Trouble::Outage(format!("{server}: {said}")),
        Trouble::Lost(said) => Trouble::Lost(format!("{server}: {said}")),
        Trouble::Wrong(Wrong::Login(LoginRefused { said, .. })) => {
            let server = server.to_owned();
            Trouble::Wrong(Wrong::Login(LoginRefused { server, is_sentinel, said }))
        }
        Trouble::Wrong(Wrong::Permission(said)) => {
            Trouble::Wrong(Wrong::Permission(format!("{server}: {said}")))
        }
        Trouble::Wrong(Wrong::Refused(said)) => {
            Trouble::Wrong(Wrong::Refused(format!("{server}: {said}")))
        }
        other => other,
    }
}

/// A connection that waits for an answer as long as the caller does.
pub(super) fn config(timeout: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(timeout))
        .set_response_timeout(None)
        .set_write_backpressure_boundary(WRITE_BUFFER_BYTES)
}

/// The bytes that are gathered before they are written to the socket.
const WRITE_BUFFER_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_client_has_time_to_connect() {
        for (answer_ms, servers, expected_ms) in [
            (2_000, 1, 666),
            (2_000, 3, 500),
            (2_000, 12, 500),
            (300, 12, 300),
            (30_000, 12, 2_307),
        ] {
            let answer = Duration::from_millis(answer_ms);
            let found = of_each(answer, answer / (servers + 1)).as_millis();
            assert_eq!(found, expected_ms, "{answer_ms} {servers}");
        }
    }
}
