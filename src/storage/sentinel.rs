//! Where the master is, as sentinels say it, each asked with the sentinels' own login.
//!
//! All sentinels are asked at once, as some may be gone with their whole machine. The first that names
//! a server which says of itself that it is a master is believed; one that was cut off may still name
//! the master of before.
//!
//! *Invariant*: an error names the server that it came from.

use crate::storage::link::{config, of_connecting};
use crate::storage::trouble::{Trouble, Wrong};
use crate::storage::url::RedisUrl;
use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::aio::MultiplexedConnection;
use redis::{Client, ConnectionInfo, FromRedisValue, Value, cmd};
use std::time::Duration;

/// The master of this name, and a connection to it.
pub(super) async fn master(
    url: &RedisUrl,
    name: &str,
    timeout: Duration,
) -> Result<(ConnectionInfo, MultiplexedConnection), Trouble> {
    let servers = url.servers();
    let mut answers: FuturesUnordered<_> =
        servers.iter().map(|sentinel| ask(url, sentinel, name, timeout)).collect();
    let mut troubles = Vec::new();
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(found) => return Ok(found),
            Err(trouble) => troubles.push(trouble),
        }
    }
    Err(joined(troubles))
}

/// Asks one sentinel, and connects to the master that it names.
async fn ask(
    url: &RedisUrl,
    sentinel: &ConnectionInfo,
    name: &str,
    timeout: Duration,
) -> Result<(ConnectionInfo, MultiplexedConnection), Trouble> {
    let of_sentinel =
        |error| of_connecting(error, &format!("the sentinel {}", sentinel.addr()), true);
    let mut connection = connect(sentinel, timeout).await.map_err(of_sentinel)?;
    let mut question = cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let named = within(timeout, question.query_async::<Value>(&mut connection)).await;
    let named = named.map_err(|error| match error.detail() {
        Some(said) if said.contains("unknown command") || said.contains("cluster support") => {
            let what =
                format!("{} is no sentinel; name sentinels, or write redis://", sentinel.addr());
            Trouble::Wrong(Wrong::Url(what))
        }
        _ => of_sentinel(error),
    })?;
    let Ok((host, port)) = <(String, u16)>::from_redis_value(named) else {
        let what = format!(
            "the sentinel {} knows no master {name:?}; correct the name behind the hosts of the URL",
            sentinel.addr()
        );
        return Err(Trouble::Wrong(Wrong::Url(what)));
    };
    let master = url.server(&host, port);
    let what = format!("the master {host}:{port}");
    let of_master = |error| of_connecting(error, &what, false);
    let mut connection = connect(&master, timeout).await.map_err(of_master)?;
    let role = within(timeout, cmd("ROLE").query_async::<Value>(&mut connection)).await;
    let is_master = match role.map_err(of_master) {
        Ok(Value::Array(parts)) => parts
            .into_iter()
            .next()
            .and_then(|role| String::from_redis_value(role).ok())
            .is_some_and(|role| role == "master"),
        Ok(_) => false,
        // A user that may not ask is told by the first write if this is none.
        Err(Trouble::Wrong(Wrong::Permission(_) | Wrong::Refused(_))) => true,
        Err(trouble) => return Err(trouble),
    };
    match is_master {
        true => Ok((master, connection)),
        false => Err(Trouble::Outage(format!(
            "{host}:{port}, which the sentinel {} names, is no master now",
            sentinel.addr()
        ))),
    }
}

async fn connect(
    server: &ConnectionInfo,
    timeout: Duration,
) -> Result<MultiplexedConnection, redis::RedisError> {
    let client = Client::open(server.clone())?;
    client.get_multiplexed_async_connection_with_config(&config(timeout)).await
}

/// Waits for an answer as long as for a connection.
async fn within<T>(
    timeout: Duration,
    answer: impl Future<Output = Result<T, redis::RedisError>>,
) -> Result<T, redis::RedisError> {
    match tokio::time::timeout(timeout, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}

/// What all sentinels said. If one says that waiting changes nothing that counts only while none is
/// merely away: that one may know better.
fn joined(troubles: Vec<Trouble>) -> Trouble {
    let is_lasting = |trouble: &&Trouble| matches!(trouble, Trouble::Wrong(_));
    let lasting = troubles.iter().filter(is_lasting).count();
    if let Some(trouble) = troubles.iter().find(is_lasting)
        && lasting == troubles.len()
    {
        return trouble.clone();
    }
    let mut all: Vec<String> = troubles.iter().map(ToString::to_string).collect();
    all.dedup();
    Trouble::Outage(all.join("; "))
}
