//! What the configuration means: every value resolved, checked, and of its own type.
//!
//! *Invariants*: a [`Config`] comes from [`load`](super::load) or from [`Config::defaults`], and
//! nobody changes it afterwards; so a part of the daemon that is given one need not doubt it.

use crate::base::limits::{Limits, TurnLimits};
use crate::broker::durable::Durability;
use crate::broker::policy::{Access, Role, Roles};
use crate::broker::returning::SessionPlan;
use crate::daemon::config::check;
use crate::daemon::config::rooms::{self, RoomSpec};
use crate::daemon::host::Host;
use crate::daemon::logging;
use crate::daemon::memory;
use crate::protocol::command::Persist;
use crate::protocol::names::Name;
use crate::protocol::origin::Origins;
use crate::protocol::session::TOKEN_BYTES;
use crate::storage::{Login, RedisUrl};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Everything the daemon was told, resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where the bus listens; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Where telemetry is listened to; port 0 picks a free one.
    pub telemetry_listen: SocketAddr,
    /// Where health, metrics and status are; port 0 picks a free one.
    pub http_listen: SocketAddr,
    /// What this node is called.
    pub node: Name,
    /// How many shards there are.
    pub shards: u16,
    /// Whether each shard stays on a core of its own.
    pub pin: Pin,
    /// Where history is kept.
    pub storage: Storage,
    /// Where Redis is, if history is kept there.
    pub redis_url: Option<RedisUrl>,
    /// The login of its sentinels, as it is given beside the URL.
    pub redis_sentinel: Login,
    /// What is kept there.
    pub persistence: Persistence,
    /// The web pages that may connect; each port reads it for itself ([`Config::origins_at`]).
    pub allowed_origins: Origins,
    /// Whether telemetry is published, and listened for.
    pub telemetry: bool,
    /// How often `stats` is published.
    pub stats_interval_ms: u32,
    /// How long a drain may take.
    pub drain_timeout_ms: u32,
    /// How the log looks.
    pub log_format: logging::Format,
    /// What the log says.
    pub log_level: logging::Filter,
    /// Whether the room `science` is there from the start.
    pub bootstrap: bool,
    /// What clients are while nobody proves who it is; what holds is in [`Config::access`].
    pub roles: Roles,
    /// The roles that may publish without being joined.
    pub publish_anywhere: Vec<Role>,
    /// What one turn of a shard may take.
    pub turn: TurnLimits,
    /// What clients may use up.
    pub limits: Limits,
    /// The rooms that are there from the start, the hard-coded ones first.
    pub rooms: Vec<RoomSpec>,
}

/// Whether each shard stays on a core of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Pin {
    /// If the machine's cores are this process's own.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// Where history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Storage {
    /// In this process, as long as it lives.
    #[default]
    Memory,
    /// In Redis, beyond the life of this process.
    Redis,
}

/// What a storage beyond memory keeps, and how it is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// What is kept of a room that does not say so itself.
    pub persist: Persist,
    /// What the names of everything kept begin with.
    pub key_prefix: Name,
    /// Whether the nodes that share it are one bus.
    pub many_nodes: bool,
    /// The messages kept of each channel at least; 0 is as many as its history holds.
    pub retention_messages: u32,
    /// Nothing older is kept, in seconds; 0 is no limit.
    pub retention_age_s: u32,
    /// The bytes that may wait for the storage.
    pub backlog_bytes: u64,
    /// How long an ack waits for the storage.
    pub ack_timeout_ms: u32,
    /// The replicas that must have an event before it is safe.
    pub replicas: u32,
    /// How long they are waited for.
    pub replicas_timeout_ms: u32,
    /// How long the session of a client that has gone is kept, in seconds; 0 keeps none.
    pub session_ttl_s: u32,
}

impl Default for Persistence {
    fn default() -> Persistence {
        Persistence {
            persist: Persist::All,
            key_prefix: Name::fixed("arqonbus"),
            many_nodes: false,
            retention_messages: 0,
            retention_age_s: 0,
            backlog_bytes: 256 * 1024 * 1024,
            ack_timeout_ms: 5_000,
            replicas: 0,
            replicas_timeout_ms: 1_000,
            session_ttl_s: 120,
        }
    }
}

impl Persistence {
    /// What the homes have to know of it.
    pub fn durability(&self) -> Durability {
        Durability {
            persist: self.persist,
            retention_messages: self.retention_messages,
            retention_age_ms: u64::from(self.retention_age_s) * 1_000,
            ack_timeout_ms: self.ack_timeout_ms,
            is_shared: self.many_nodes,
        }
    }

    /// How clients return to their sessions, if they can.
    pub fn sessions(&self, random: fn() -> Option<[u8; TOKEN_BYTES]>) -> Option<SessionPlan> {
        let ttl_ms = u64::from(self.session_ttl_s) * 1_000;
        let answer_timeout_ms = u64::from(self.ack_timeout_ms);
        (ttl_ms > 0).then_some(SessionPlan { ttl_ms, answer_timeout_ms, random })
    }
}

impl Storage {
    /// The storage as it stands in `status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Storage::Memory => "memory",
            Storage::Redis => "redis",
        }
    }
}

impl Config {
    /// Where Redis is, with all logins; the error is a sentence.
    pub fn redis(&self) -> Result<Option<RedisUrl>, String> {
        let with_login = |url: RedisUrl| url.with_sentinel_login(self.redis_sentinel.clone());
        self.redis_url.clone().map(with_login).transpose()
    }

    /// What holds on that machine if nobody says anything.
    pub fn defaults(host: &Host) -> Config {
        let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Config {
            listen: local(9100),
            telemetry_listen: local(9101),
            http_listen: local(9102),
            node: host.name.clone(),
            shards: host.cores.shards(),
            pin: Pin::default(),
            storage: Storage::default(),
            redis_url: None,
            redis_sentinel: Login::default(),
            persistence: Persistence::default(),
            allowed_origins: Origins::auto(),
            telemetry: true,
            stats_interval_ms: 10_000,
            drain_timeout_ms: 10_000,
            log_format: logging::Format::default(),
            log_level: logging::Filter::default(),
            bootstrap: true,
            roles: Roles::ByAddress,
            publish_anywhere: Vec::new(),
            turn: TurnLimits::default(),
            limits: Limits {
                memory_limit_bytes: host.memory_bytes.map_or(0, memory::default_limit_bytes),
                ..Limits::default()
            },
            rooms: rooms::hard_coded(true),
        }
    }

    /// The file descriptors it takes to have all the connections that are allowed.
    pub fn descriptors_needed(&self) -> u64 {
        check::descriptors_needed(self.limits.max_connections, self.shards)
    }

    /// Whom the bus lets connect, and as what.
    pub fn access(&self) -> Access {
        Access { origins: self.origins_at(self.listen), roles: self.roles_in_force().0 }
    }

    /// The pages that a port lets in. Each port decides by its own address: what one is open to
    /// opens no other.
    pub fn origins_at(&self, port: SocketAddr) -> Origins {
        self.allowed_origins.for_port(is_loopback(port))
    }

    /// What clients are while no authentication is configured, and why. Nobody is an admin by
    /// address where another machine, or a page that another machine serves, may connect.
    pub fn roles_in_force(&self) -> (Roles, &'static str) {
        let everybody = Roles::Everybody(Role::User);
        match self.roles {
            Roles::Everybody(Role::User) => (everybody, "`policy.role` is user: nobody is admin"),
            Roles::ByAddress if !is_loopback(self.listen) => (
                everybody,
                "no authentication is configured and other machines can connect: nobody is admin",
            ),
            // A reload may meet a port that is still open to more than the file now says.
            _ if !self.origins_at(self.listen).are_local() => (
                everybody,
                "no authentication is configured and pages of other websites may connect: nobody is \
                 admin",
            ),
            Roles::Everybody(Role::Admin) => {
                (self.roles, "`policy.role` is admin: whoever can connect may do everything")
            }
            Roles::ByAddress => (
                self.roles,
                "no authentication is configured and only this machine can connect: its programs and \
                 pages are admin, what a proxy forwards is user; behind a proxy that adds no header \
                 set `policy.role` to user",
            ),
        }
    }

    /// Each port that will be open: its key and its address.
    pub fn listeners(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let telemetry = self.telemetry.then_some(("telemetry_listen", self.telemetry_listen));
        let http = ("http_listen", self.http_listen);
        [("listen", self.listen)].into_iter().chain(telemetry).chain([http])
    }
}

/// Whether only this machine can reach what listens there.
pub fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::origin::Origin;

    #[test]
    fn only_a_bus_that_nobody_else_can_reach_makes_admins() {
        let everybody = Roles::Everybody(Role::User);
        for (listen, roles) in [
            ("127.0.0.1:9100", Roles::ByAddress),
            ("127.9.9.9:1", Roles::ByAddress),
            ("[::1]:9100", Roles::ByAddress),
            ("[::ffff:127.0.0.1]:9100", Roles::ByAddress),
            ("0.0.0.0:9100", everybody),
            ("[::]:9100", everybody),
            ("192.168.1.5:9100", everybody),
        ] {
            let mut config = Config::defaults(&Host::anywhere());
            config.listen = listen.parse().unwrap();
            assert_eq!(config.access().roles, roles, "{listen}");
        }
    }

    #[test]
    fn nobody_is_admin_by_address_where_foreign_pages_may_connect() {
        for (rule, roles) in [
            ("auto", Roles::ByAddress),
            ("loopback", Roles::ByAddress),
            ("http://localhost:3000", Roles::ByAddress),
            ("*", Roles::Everybody(Role::User)),
            ("null", Roles::Everybody(Role::User)),
            ("https://app.example.org", Roles::Everybody(Role::User)),
        ] {
            let mut config = Config::defaults(&Host::anywhere());
            config.allowed_origins = Origins(vec![Origin::parse(rule).unwrap()]);
            // The other ports have no say.
            config.http_listen = "0.0.0.0:9102".parse().unwrap();
            assert_eq!(config.access().roles, roles, "{rule}");
        }
    }
}
