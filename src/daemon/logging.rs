//! What the daemon says about itself, on standard error: for people, or as JSON lines.
//!
//! Nobody who logs waits: lines go through a bounded queue to a thread that writes (`queue`). So
//! whatever ends the process on purpose calls [`flush`] before.
//!
//! *Invariants*: a [`Filter`] that exists can be parsed; colour goes to terminals only; the filter
//! can change while the daemon runs, the format can't.

mod queue;

pub use queue::LogCounts;

use crate::base::limits::LOG_FLUSH_MS;
use queue::LogQueue;
use std::fmt;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line: `timestamp` (RFC 3339), `level`, `target` and the event's fields.
    Json,
}

/// What is said and what is not: a level, or a list of levels for parts of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(String);

impl Filter {
    /// A filter such as `info` or `warn,arqonbus::shard=debug`.
    pub fn parse(text: &str) -> Result<Filter, String> {
        // The library takes a lone word for the name of a part; a misspelt level would silence
        // everything. Here parts always say their level.
        if !text.contains('[')
            && let Some(word) = text.split(',').map(str::trim).find(|word| !is_directive(word))
        {
            return Err(format!(
                "`{word}` is no level; give error, warn, info, debug, trace or off, \
                 or part=level, such as `info,arqonbus::shard=debug`"
            ));
        }
        match EnvFilter::builder().parse(text) {
            Ok(_) => Ok(Filter(text.to_owned())),
            Err(error) => Err(format!("`{text}` is no filter: {error}")),
        }
    }

    /// The filter as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn directives(&self) -> Result<EnvFilter, LoggingError> {
        EnvFilter::builder().parse(&self.0).map_err(|error| LoggingError(error.to_string()))
    }
}

impl Default for Filter {
    fn default() -> Filter {
        Filter("info".to_owned())
    }
}

fn is_directive(word: &str) -> bool {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    word.contains('=') || LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level))
}

/// Why the log can't be set up or changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggingError(String);

impl fmt::Display for LoggingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the log can't be set up: {}", self.0)
    }
}

impl std::error::Error for LoggingError {}

/// The log of this process: what can be changed about it later.
#[derive(Clone, Debug)]
pub struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Logging {
    /// Lets other things be said from now on.
    pub fn set_filter(&self, filter: &Filter) -> Result<(), LoggingError> {
        let directives = filter.directives()?;
        self.filter.reload(directives).map_err(|error| LoggingError(error.to_string()))
    }
}

/// The queue of this process's log.
static QUEUE: OnceLock<LogQueue> = OnceLock::new();

/// Sets up the log of this process, once.
pub fn init(format: Format, filter: &Filter) -> Result<Logging, LoggingError> {
    let failed = |error: io::Error| LoggingError(error.to_string());
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // A descriptor of its own: the lock of `io::stderr` would be held for as long as a write lasts.
    let out = io::stderr().as_fd().try_clone_to_owned().map_err(failed)?;
    let queue = queue::start(queue::Blocking(out), tell_of_dropped).map_err(failed)?;
    let (subscriber, logging) = build(format, filter, colour, queue.clone())?;
    subscriber.try_init().map_err(|error| LoggingError(error.to_string()))?;
    let _ = QUEUE.set(queue);
    Ok(logging)
}

fn tell_of_dropped(lines: u64) {
    tracing::warn!(
        lines,
        "log lines were dropped: standard error was not read fast enough; read it, or lower `log_level`"
    );
}

/// Waits until everything that was logged is written, for a second at most.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(Duration::from_millis(LOG_FLUSH_MS));
    }
}

/// Ends the process as a crash, after what it has logged is written.
pub fn abort() -> ! {
    flush();
    std::process::abort()
}

/// Writes a line whatever the filter says: for what ends the process.
pub fn put_line(line: &str) {
    if let Some(queue) = QUEUE.get() {
        queue.put(format!("{line}\n").as_bytes());
    }
}

/// What became of the lines of this process's log.
pub fn counts() -> Arc<LogCounts> {
    QUEUE.get().map(|queue| Arc::clone(queue.counts())).unwrap_or_default()
}

fn build<W>(
    format: Format,
    filter: &Filter,
    colour: bool,
    writer: W,
) -> Result<(impl Subscriber + Send + Sync + use<W>, Logging), LoggingError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(filter.directives()?);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(colour)
        // The library would print them on standard error by itself, and wait there.
        .log_internal_errors(false);
    let lines = match format {
        Format::Text => lines.boxed(),
        Format::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_ansi(false)
            .boxed(),
    };
    Ok((Registry::default().with(filter).with(lines), Logging { filter: handle }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Page {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
        }
    }

    fn open(format: Format, filter: &str, colour: bool) -> (impl Subscriber, Logging, Page) {
        let page = Page::default();
        let writer = page.clone();
        let filter = Filter::parse(filter).unwrap();
        let (subscriber, logging) = build(format, &filter, colour, move || writer.clone()).unwrap();
        (subscriber, logging, page)
    }

    #[test]
    fn filters_are_levels_or_parts_with_levels() {
        for good in [
            "error",
            "INFO",
            "off",
            "warn,arqonbus=debug",
            "arqonbus::shard=trace, info",
            "[turn{shard=1}]=debug",
        ] {
            assert_eq!(Filter::parse(good).map(|filter| filter.0), Ok(good.to_owned()));
        }
        for (bad, named) in [
            ("", "``"),
            ("inof", "`inof`"),
            ("info,arqonbus", "`arqonbus`"),
            ("arqonbus=loud", "`arqonbus=loud`"),
            ("info,,debug", "``"),
        ] {
            let error = Filter::parse(bad).unwrap_err();
            assert!(error.contains(named), "{bad:?}: {error}");
        }
    }

    #[test]
    fn json_lines_are_flat_and_carry_the_time() {
        let (subscriber, _logging, page) = open(Format::Json, "info", true);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(port = 9100, address = %"127.0.0.1", "listening");
            tracing::debug!("not said");
        });
        let text = page.take();
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "listening");
        assert_eq!(line["port"], 9100);
        assert_eq!(line["address"], "127.0.0.1");
        assert_eq!(line["level"], "INFO");
        line["timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn text_is_coloured_only_if_asked() {
        for colour in [false, true] {
            let (subscriber, _logging, page) = open(Format::Text, "info", colour);
            tracing::subscriber::with_default(subscriber, || tracing::warn!(room = "a", "paused"));
            let text = page.take();
            assert!(text.contains("paused") && text.contains("WARN"), "{text:?}");
            assert_eq!(text.contains('\x1b'), colour, "{text:?}");
        }
    }

    #[test]
    fn the_filter_can_change_later() {
        let (subscriber, logging, page) = open(Format::Text, "warn", false);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("one");
            logging.set_filter(&Filter::parse("info").unwrap()).unwrap();
            tracing::info!("two");
            logging.set_filter(&Filter::parse("off").unwrap()).unwrap();
            tracing::error!("three");
        });
        let text = page.take();
        assert!(!text.contains("one") && text.contains("two") && !text.contains("three"), "{text}");
    }

    #[test]
    fn a_second_log_is_refused_in_words() {
        let filter = Filter::parse("off").unwrap();
        let outcomes: Vec<_> = (0..2).map(|_| init(Format::Text, &filter)).collect();
        let error = outcomes.into_iter().find_map(Result::err).unwrap();
        assert!(error.to_string().starts_with("the log can't be set up"), "{error}");
    }
}
