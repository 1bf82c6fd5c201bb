//! What is measured: a bus that runs somewhere, or servers that are started for each round.

use crate::cli::bench::args::CommonArgs;
use crate::cli::bench::counters;
use crate::cli::bench::round::Watched;
use crate::cli::bench::server::{RelayCounts, Server};
use crate::cli::bench::site::{Dialect, Site};
use crate::cli::bench::vitals;
use crate::cli::failure::Failure;
use crate::cli::target::ConnectArgs;
use serde::Deserialize;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

/// How far the HTTP port is from the bus's, where nobody has moved one of them.
const HTTP_PORT_STEP: u16 = 2;

/// A server, ready to be measured.
#[derive(Debug)]
pub(super) struct Aim {
    /// Where it is.
    pub(super) site: Site,
    /// Where its counts are.
    pub(super) watched: Watched,
    /// Its process, if it was started here.
    server: Option<Server>,
}

#[derive(Deserialize)]
struct StatusBody {
    pid: Option<u32>,
    listen: ListenBody,
}

#[derive(Deserialize)]
struct ListenBody {
    bus: SocketAddr,
}

impl Aim {
    /// A daemon that is started.
    pub(super) fn at_daemon(args: &[String], common: &CommonArgs) -> Result<Aim, Failure> {
        Ok(Aim::at(Server::daemon(args, common.daemon_cpus.as_ref())?))
    }

    /// A relay that is started.
    pub(super) fn at_relay(program: &Path, common: &CommonArgs) -> Result<Aim, Failure> {
        Ok(Aim::at(Server::relay(program, common.daemon_cpus.as_ref())?))
    }

    fn at(server: Server) -> Aim {
        let watched = Watched { pid: Some(server.pid()), http: server.http };
        Aim { site: server.site.clone(), watched, server: Some(server) }
    }

    /// A bus that runs.
    pub(super) fn at_target(url: &str, common: &CommonArgs) -> Result<Aim, Failure> {
        let token = common.token.clone();
        let target = ConnectArgs::of_url(url, token.clone(), common.timeout).target()?;
        let addresses: Vec<SocketAddr> = (target.host.as_str(), target.port)
            .to_socket_addrs()
            .map(Iterator::collect)
            .map_err(|error| unreachable(&target.name(), &error.to_string()))?;
        let remote = addresses.iter().find(|address| !address.ip().is_loopback());
        if let Some(remote) = remote.filter(|_| !common.allow_remote) {
            return Err(Failure::Usage(format!(
                "{} is not this machine ({}): a load like this can put a bus, and the network on \
                     the way, out of service. If both are yours to do so, say --allow-remote",
                target.name(),
                remote.ip()
            )));
        }
        let address = first_that_answers(&addresses, common.timeout)
            .map_err(|why| unreachable(&target.name(), &why))?;
        let (path, query) = target.path_and_query();
        let site = Site {
            dialect: Dialect::Bus,
            address,
            host: target.name(),
            path: path.into(),
            query: query.into(),
            token,
        };
        let watched = watched(address, common)?;
        Ok(Aim { site, watched, server: None })
    }

    /// How a server that was started ended, if it did so by itself.
    pub(super) fn has_ended(&mut self) -> Option<String> {
        self.server.as_mut().and_then(Server::has_ended)
    }

    /// Ends a server that was started; gives what a relay counted.
    pub(super) fn let_go(self) -> Option<RelayCounts> {
        self.server.and_then(Server::stop)
    }
}

fn unreachable(name: &str, why: &str) -> Failure {
    Failure::Unreachable(format!("cannot connect to {name}: {why}"))
}

fn first_that_answers(addresses: &[SocketAddr], patience: Duration) -> Result<SocketAddr, String> {
    let mut why = "the host has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(address, patience) {
            Ok(_) => return Ok(*address),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

/// Where a target's counts are. A status is believed if it is of the bus at the target's port.
fn watched(bus: SocketAddr, common: &CommonArgs) -> Result<Watched, Failure> {
    let http = match &common.http {
        Some(typed) => {
            let wrong = || Failure::Usage(format!("--http {typed:?} is no HOST:PORT"));
            Some(typed.to_socket_addrs().map_err(|_| wrong())?.next().ok_or_else(wrong)?)
        }
        None => {
            let port = bus.port().checked_add(HTTP_PORT_STEP);
            port.map(|port| SocketAddr::new(bus.ip(), port)).filter(|_| bus.ip().is_loopback())
        }
    };
    let status = http
        .and_then(|http| counters::get(http, "/status"))
        .and_then(|text| serde_json::from_str::<StatusBody>(&text).ok())
        .filter(|status| status.listen.bus.port() == bus.port());
    if let (None, Some(typed)) = (&status, &common.http) {
        return Err(Failure::Unreachable(format!(
            "the bus at {bus} does not tell its /status at {typed}"
        )));
    }
    let told = status.as_ref().and_then(|status| status.pid).filter(|_| bus.ip().is_loopback());
    let pid = common.server_pid.or(told);
    if common.server_pid.is_some() && pid.and_then(vitals::of_process).is_none() {
        return Err(Failure::Usage("--server-pid is no process of this machine".into()));
    }
    Ok(Watched { pid, http: http.filter(|_| status.is_some()) })
}
