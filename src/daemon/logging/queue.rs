//! The queue between the threads that log and standard error, and the thread that writes it out.
//!
//! Standard error may be a pipe that nobody reads, or reads slowly. A thread that wrote there itself
//! would stop with it: a shard, or the one that hears signals. So whoever logs only puts a line into
//! a bounded queue, which never waits; one thread writes. A line that finds no room is dropped and
//! counted, and the writer says how many once it can write again.
//!
//! Written here rather than taken from `tracing-appender`, because that one bounds lines and not
//! bytes, can't be flushed before the process aborts, and tells nobody of a failed write.
//!
//! *Invariants*: nothing here waits for standard error but the writer and [`LogQueue::flush`], which has a
//! deadline; a line is written whole or counted as dropped; the bytes of all lines that wait are
//! below [`LOG_QUEUE_BYTES`] and a line.

use crate::base::limits::{LOG_QUEUE_BYTES, LOG_QUEUE_LINES};
use crossbeam_channel::{Receiver, Sender};
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tracing_subscriber::fmt::MakeWriter;

/// How often a flush looks whether it is done.
const FLUSH_LOOK: Duration = Duration::from_millis(1);

/// What became of the lines.
#[derive(Debug, Default)]
pub struct LogCounts {
    /// Lines that found no room, or could not be written.
    pub dropped: AtomicU64,
    failed_write: Mutex<Option<String>>,
}

impl LogCounts {
    /// Why the last line was not written; nothing if it was.
    pub fn failed_write(&self) -> Option<String> {
        self.failed_write.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_failed_write(&self, why: Option<String>) {
        *self.failed_write.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}

/// The end of the queue that lines are put into.
#[derive(Clone, Debug)]
pub(super) struct LogQueue {
    lines: Sender<Box<[u8]>>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes of the lines that wait.
    bytes: AtomicUsize,
    /// Lines that were put in.
    queued: AtomicU64,
    /// Lines that were taken out and written, or dropped.
    done: AtomicU64,
    counts: Arc<LogCounts>,
}

/// Starts the writer. `notice` is called by its thread when lines were dropped and others can be
/// written again, with how many were.
pub(super) fn start(
    out: impl Write + Send + 'static,
    notice: impl Fn(u64) + Send + 'static,
) -> io::Result<LogQueue> {
    let (lines, taken) = crossbeam_channel::bounded(LOG_QUEUE_LINES);
    let state = Arc::new(State::default());
    let writer = Writer { lines: taken, state: Arc::clone(&state), out, noticed: 0 };
    thread::Builder::new().name("log".to_owned()).spawn(move || writer.run(notice))?;
    Ok(LogQueue { lines, state })
}

impl LogQueue {
    /// Puts a line in, or drops it. Never waits.
    pub(super) fn put(&self, line: &[u8]) {
        let state = &self.state;
        let is_full = state.bytes.fetch_add(line.len(), Relaxed) >= LOG_QUEUE_BYTES;
        state.queued.fetch_add(1, SeqCst);
        if is_full || self.lines.try_send(line.into()).is_err() {
            state.bytes.fetch_sub(line.len(), Relaxed);
            state.counts.dropped.fetch_add(1, Relaxed);
            state.done.fetch_add(1, SeqCst);
        }
    }

    /// Waits until every line that was put in is written, but not beyond `timeout`.
    pub(super) fn flush(&self, timeout: Duration) {
        let until = Instant::now() + timeout;
        let wanted = self.state.queued.load(SeqCst);
        while self.state.done.load(SeqCst) < wanted && Instant::now() < until {
            thread::sleep(FLUSH_LOOK);
        }
    }

    pub(super) fn counts(&self) -> &Arc<LogCounts> {
        &self.state.counts
    }
}

/// Each event of the log is written in one piece.
impl Write for LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for LogQueue {
    type Writer = LogQueue;

    fn make_writer(&'w self) -> LogQueue {
        self.clone()
    }
}

struct Writer<W> {
    lines: Receiver<Box<[u8]>>,
    state: Arc<State>,
    out: W,
    /// The dropped lines that were told of.
    noticed: u64,
}

impl<W: Write> Writer<W> {
    fn run(mut self, notice: impl Fn(u64)) {
        while let Ok(line) = self.lines.recv() {
            let counts = &self.state.counts;
            self.state.bytes.fetch_sub(line.len(), Relaxed);
            match self.out.write_all(&line) {
                Ok(()) => counts.set_failed_write(None),
                Err(error) => {
                    counts.dropped.fetch_add(1, Relaxed);
                    counts.set_failed_write(Some(error.to_string()));
                }
            }
            self.state.done.fetch_add(1, SeqCst);
            self.tell_of_dropped(&notice);
        }
    }

    /// Only when the queue has emptied: before that, the notice might find no room itself.
    fn tell_of_dropped(&mut self, notice: impl Fn(u64)) {
        let counts = &self.state.counts;
        let dropped = counts.dropped.load(Relaxed);
        if dropped > self.noticed && self.lines.is_empty() && counts.failed_write().is_none() {
            notice(dropped - self.noticed);
            self.noticed = dropped;
        }
    }
}

/// A descriptor that is written to without a lock that others might wait for, and whole even if it
/// belongs to a pipe that someone else has made non-blocking.
pub(super) struct Blocking<F>(pub(super) F);

impl<F: AsFd> Write for Blocking<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(&self.0, bytes) {
                Err(rustix::io::Errno::AGAIN) => self.await_room()?,
                result => return Ok(result?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<F: AsFd> Blocking<F> {
    fn await_room(&self) -> io::Result<()> {
        match poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None) {
            Ok(_) => Ok(()),
            Err(error) if io::Error::from(error).kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    /// A queue into a stream whose reader may not read, and what the writer tells of drops.
    fn queue() -> (LogQueue, UnixStream, Receiver<u64>) {
        let (out, reader) = UnixStream::pair().unwrap();
        // As a parent process may do with the pipe that it shares.
        out.set_nonblocking(true).unwrap();
        let (tell, told) = crossbeam_channel::unbounded();
        let queue = start(Blocking(out), move |dropped| tell.send(dropped).unwrap()).unwrap();
        (queue, reader, told)
    }

    #[test]
    fn nobody_waits_for_a_reader_that_does_not_read_and_drops_are_told_once() {
        let (queue, mut reader, told) = queue();
        let line = [b'x'; 1_024];
        let count = 4 * LOG_QUEUE_BYTES / line.len();
        for _ in 0..count {
            queue.put(&line);
        }
        let dropped = queue.counts().dropped.load(Relaxed);
        assert!(dropped > 0, "four times what fits");
        assert!(queue.state.bytes.load(Relaxed) <= LOG_QUEUE_BYTES + line.len());
        // A flush gives up.
        queue.flush(Duration::from_millis(20));
        let thread = thread::spawn(move || {
            let mut bytes = 0;
            let mut buffer = [0; 4_096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                bytes += count;
            }
            bytes as u64
        });
        assert_eq!(told.recv().unwrap(), dropped, "as soon as there is room again");
        queue.flush(Duration::from_secs(60));
        assert!(told.is_empty(), "once");
        drop(queue);
        let lines = thread.join().unwrap() / line.len() as u64;
        assert_eq!(lines + dropped, count as u64, "every line was written whole or counted");
    }

    #[test]
    fn short_lines_are_bounded_by_their_number() {
        let (queue, _reader, _told) = queue();
        // What the socket holds is out of the queue.
        for _ in 0..4 * LOG_QUEUE_LINES {
            queue.put(b"\n");
        }
        assert!(queue.lines.len() <= LOG_QUEUE_LINES);
        assert!(queue.counts().dropped.load(Relaxed) > 0);
    }

    #[test]
    fn a_reader_that_left_is_known_and_costs_nothing() {
        let (queue, reader, told) = queue();
        queue.put(b"one\n");
        queue.flush(Duration::from_secs(60));
        assert_eq!(queue.counts().failed_write(), None);
        drop(reader);
        for _ in 0..9 {
            queue.put(b"more\n");
        }
        queue.flush(Duration::from_secs(60));
        assert_eq!(queue.counts().dropped.load(Relaxed), 9);
        assert!(queue.counts().failed_write().unwrap().contains("roken pipe"));
        assert!(told.is_empty(), "there is nobody to tell");
    }
}
