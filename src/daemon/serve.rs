//! `arqonbus serve`: from what was typed to a running node, and from a signal to its end.

use crate::daemon::clock;
use crate::daemon::config::{self, Config, Loaded, Mistake, Reload, ServeArgs};
use crate::daemon::logging::{self, Logging, LoggingError};
use crate::daemon::node::{Listeners, Node, VERSION, listen};
use crate::daemon::pinning::{self, Pinning};
use crate::daemon::signals::{self, Order};
use crate::daemon::storage;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

/// Why the daemon could not run.
#[derive(Debug)]
pub enum ServeError {
    /// The configuration is wrong.
    Config(Vec<Mistake>),
    /// The log could not be set up.
    Logging(LoggingError),
    /// A port could not be opened.
    Listen {
        /// The key it was configured with.
        key: &'static str,
        /// Which.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The storage can't be used.
    Storage(String),
    /// The storage could not do its work any more, while the node ran.
    Ended(String),
    /// The operating system refused a thread, a poll or a signal handler.
    Start(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::Config(mistakes) => {
                for (line, mistake) in mistakes.iter().enumerate() {
                    if line > 0 {
                        writeln!(f)?;
                    }
                    write!(f, "{mistake}")?;
                }
                Ok(())
            }
            ServeError::Logging(error) => write!(f, "the log could not be set up: {error:?}"),
            ServeError::Listen { key, address, error } => {
                write!(f, "{key}: {address} can't be listened on: {error}")?;
                match error.kind() {
                    io::ErrorKind::AddrInUse => write!(
                        f,
                        "; stop the process that uses the port, or choose another one (0 picks a free one)"
                    ),
                    io::ErrorKind::AddrNotAvailable => {
                        write!(f, "; give an address of this machine")
                    }
                    io::ErrorKind::PermissionDenied => {
                        write!(f, "; ports below 1024 need a privilege, choose a higher one")
                    }
                    _ => Ok(()),
                }
            }
            ServeError::Storage(why) | ServeError::Ended(why) => write!(f, "storage: {why}"),
            ServeError::Start(error) => write!(f, "the node could not start: {error}"),
        }
    }
}

impl std::error::Error for ServeError {}

/// Runs a node until a signal ends it. What it has logged is written when this returns, if standard
/// error takes it.
///
/// # Errors
/// If the node could not start; each error says what to do.
pub fn serve(args: &ServeArgs) -> Result<(), ServeError> {
    let outcome = run(args);
    logging::flush();
    outcome
}

fn run(args: &ServeArgs) -> Result<(), ServeError> {
    let loaded = config::load(args, config::environment).map_err(ServeError::Config)?;
    let mut config = loaded.config.clone();
    let logging =
        logging::init(config.log_format, &config.log_level).map_err(ServeError::Logging)?;
    end_on_panic();
    for warning in loaded.warnings.iter().chain(&config::unread_variables()) {
        tracing::warn!("{warning}");
    }
    let clock = clock::start();
    // Before the signals are taken, so that one may end a start that waits for Redis.
    let storage = storage::open(&config, clock()).map_err(ServeError::Storage)?;
    // Before the first thread of the node, so that none is ended by a signal that nobody expects yet.
    let orders = signals::listen(config.drain_timeout_ms).map_err(ServeError::Start)?;
    let listeners = open_ports(&config)?;
    let pinning = pinning::decide(config.pin, config.shards, loaded.host.cores);
    let addresses = addresses(&listeners).map_err(ServeError::Start)?;
    let mut node =
        Node::start(&config, listeners, &pinning, clock, storage).map_err(ServeError::Start)?;
    announce(&loaded, &pinning, addresses);

    loop {
        match orders.next(node.offer()) {
            Some(Order::End(signal)) => {
                match node.ending() {
                    Some(_) => tracing::warn!("draining, as nothing can be stored any more"),
                    None => {
                        let signal = signals::name(signal);
                        tracing::info!(signal, "draining; a second signal ends at once");
                    }
                }
                break;
            }
            Some(Order::Reload) => {
                match config::reload(&config, args, config::environment) {
                    Ok(reload) => config = apply(&mut node, &logging, reload),
                    Err(mistakes) => {
                        for mistake in mistakes {
                            tracing::error!("the new configuration is refused whole: {mistake}");
                        }
                    }
                }
                orders.set_drain_timeout_ms(config.drain_timeout_ms);
            }
            None => {}
        }
    }
    let timeout = Duration::from_millis(u64::from(config.drain_timeout_ms));
    let left = node.drain(timeout, || orders.is_urgent());
    if left > 0 {
        tracing::warn!(connections = left, "the drain ended with connections left");
    }
    let ending = node.ending();
    node.stop();
    tracing::info!("stopped");
    match ending {
        None => Ok(()),
        Some(reason) => Err(ServeError::Ended(reason.to_string())),
    }
}

fn open_ports(config: &Config) -> Result<Listeners, ServeError> {
    let open = |key, address| -> Result<TcpListener, ServeError> {
        listen(address).map_err(|error| ServeError::Listen { key, address, error })
    };
    Ok(Listeners {
        bus: open("listen", config.listen)?,
        telemetry: match config.telemetry {
            true => Some(open("telemetry_listen", config.telemetry_listen)?),
            false => None,
        },
        http: open("http_listen", config.http_listen)?,
    })
}

/// The addresses that are really listened on: a port that was 0 is known now.
fn addresses(listeners: &Listeners) -> io::Result<(SocketAddr, Option<SocketAddr>, SocketAddr)> {
    let telemetry = listeners.telemetry.as_ref().map(TcpListener::local_addr).transpose()?;
    Ok((listeners.bus.local_addr()?, telemetry, listeners.http.local_addr()?))
}

/// Says everything that an operator asks first.
fn announce(
    loaded: &Loaded,
    pinning: &Pinning,
    (bus, telemetry, http): (SocketAddr, Option<SocketAddr>, SocketAddr),
) {
    let Loaded { config, file, host, .. } = loaded;
    let cores = match pinning.cores.is_empty() {
        true => "none".to_owned(),
        false => pinning.cores.iter().map(usize::to_string).collect::<Vec<_>>().join(","),
    };
    tracing::info!(
        version = VERSION,
        node = %config.node,
        config_file = file.as_ref().map(|file| file.display().to_string()),
        shards = config.shards,
        usable_cores = host.cores.usable(),
        pinned_to_cores = cores,
        pinning = pinning.reason,
        storage = config.storage.as_str(),
        "starting"
    );
    let limits = &config.limits;
    tracing::info!(
        max_connections = limits.max_connections,
        file_descriptors = host.descriptors,
        max_message_bytes = limits.max_message_bytes,
        history_size = limits.history_size,
        outbox_bytes = limits.outbox_bytes,
        memory_limit_bytes = limits.memory_limit_bytes,
        heartbeat_ms = limits.heartbeat_ms,
        max_violations = limits.max_violations,
        rate_messages = limits.rate_messages,
        rate_commands = limits.rate_commands,
        "limits"
    );
    announce_roles(config);
    tracing::info!(
        listen = %bus,
        telemetry_listen = telemetry.map(tracing::field::display),
        http_listen = %http,
        "listening"
    );
}

/// Says which rule gives clients their roles.
fn announce_roles(config: &Config) {
    let (roles, why) = config.roles_in_force();
    tracing::info!(role = %roles, allowed_origins = %config.origins_at(config.listen), "{why}");
}

fn apply(node: &mut Node, logging: &Logging, reload: Reload) -> Config {
    for warning in &reload.warnings {
        tracing::warn!("{warning}");
    }
    let mut applied = Vec::new();
    if let Some(limits) = reload.limits {
        node.set_limits(limits);
        applied.push("limits");
    }
    if let Some(level) = &reload.log_level {
        match logging.set_filter(level) {
            Ok(()) => applied.push("log_level"),
            Err(error) => tracing::error!("log_level was not changed: {error:?}"),
        }
    }
    if reload.allowed_origins.is_some() || reload.roles.is_some() {
        node.admit(&reload.config);
        applied.extend(reload.allowed_origins.is_some().then_some("allowed_origins"));
        applied.extend(reload.roles.is_some().then_some("policy.role"));
        announce_roles(&reload.config);
    }
    if reload.drain_timeout_ms.is_some() {
        applied.push("drain_timeout_ms");
    }
    tracing::info!(
        applied = applied.join(","),
        needs_restart = reload.needs_restart.join(","),
        "the configuration was read again"
    );
    reload.config
}

/// A thread that panicked has lost its part of the truth: the process ends, and whoever watches
/// over it starts a clean one. The release profile does that by itself; this does it in any.
fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        // Not by the standard hook, which writes to standard error and waits if nobody reads it.
        let current = std::thread::current();
        let thread = current.name().unwrap_or("unnamed");
        logging::put_line(&format!("thread '{thread}' {panic}"));
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            logging::put_line(&backtrace.to_string());
        }
        tracing::error!(thread, "a thread panicked; the process ends");
        logging::abort();
    }));
}
