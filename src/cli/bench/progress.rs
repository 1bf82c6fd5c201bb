//! What a person sees while it is measured: on a terminal one line that is drawn again and again,
//! elsewhere a plain line now and then.

use crate::cli::bench::figures::{Unit, grouped, written};
use crate::cli::bench::shared::{Shared, lock};
use crate::cli::bench::timeline::Timeline;
use crate::cli::console::Console;
use crate::cli::failure::Failure;
use std::io::Write;
use std::time::{Duration, Instant};

/// How often a plain line is written.
const PLAIN: Duration = Duration::from_secs(2);
/// How many characters the bar has.
const BAR: usize = 24;

/// The line.
#[derive(Debug)]
pub(super) struct Progress {
    label: String,
    is_drawn: bool,
    next_plain: Instant,
    last: (Instant, u64),
}

impl Progress {
    /// For one round.
    pub(super) fn new(label: String) -> Progress {
        let now = Instant::now();
        Progress { label, is_drawn: false, next_plain: now + PLAIN, last: (now, 0) }
    }

    /// Shows where the round is.
    pub(super) fn show(&mut self, shared: &Shared, console: &mut Console) -> Result<(), Failure> {
        let now = Instant::now();
        if !console.is_terminal && now < self.next_plain {
            return Ok(());
        }
        let text = match shared.timeline.get() {
            None => self.connecting(shared),
            Some(timeline) => self.measuring(shared, timeline, now),
        };
        if console.is_terminal {
            self.is_drawn = true;
            return draw(console, &format!("\r\u{1b}[2K{}", cut(&text)));
        }
        self.next_plain = now + PLAIN;
        console.line(text)?;
        console.flush()
    }

    /// Leaves the terminal's line empty.
    pub(super) fn clear(&mut self, console: &mut Console) -> Result<(), Failure> {
        match std::mem::take(&mut self.is_drawn) {
            true => draw(console, "\r\u{1b}[2K"),
            false => Ok(()),
        }
    }

    fn connecting(&self, shared: &Shared) -> String {
        let (open, all) = (shared.sums().opened, shared.layout.seats.len());
        let share = open as f64 / all.max(1) as f64;
        format!("{} {} {} of {all} connected", self.label, bar(share), grouped(open as f64))
    }

    fn measuring(&mut self, shared: &Shared, timeline: &Timeline, now: Instant) -> String {
        let received = shared.sums().received;
        let passed = now.duration_since(self.last.0).as_secs_f64();
        let rate = received.saturating_sub(self.last.1) as f64 / passed.max(1e-3);
        self.last = (now, received);
        let at_ns = shared.clock.now_ns();
        let done = at_ns.saturating_sub(timeline.start_ns) as f64
            / (timeline.to_ns - timeline.start_ns).max(1) as f64;
        let phase = match at_ns {
            _ if at_ns < timeline.from_ns => "warming up",
            _ if at_ns < timeline.to_ns => "measuring",
            _ => "running dry",
        };
        let mut text = format!("{} {} {phase}", self.label, bar(done));
        if !shared.layout.streams.is_empty() {
            text += &format!(", {} a second", grouped(rate));
        }
        // The last piece is still being filled.
        let pieces = lock(&shared.pieces);
        let piece = pieces.iter().rev().nth(1).or(pieces.last());
        if let Some(piece) = piece.filter(|piece| !piece.latencies.is_empty()) {
            let at =
                |quantile| written(piece.latencies.value_at_quantile(quantile) as f64, Unit::Time);
            text += &format!(", p50 {}, p99 {}", at(0.5), at(0.99));
        }
        text
    }
}

fn draw(console: &mut Console, text: &str) -> Result<(), Failure> {
    console.out.write_all(text.as_bytes()).map_err(|error| Failure::of_output(&error))?;
    console.flush()
}

fn bar(share: f64) -> String {
    let full = (share.clamp(0.0, 1.0) * BAR as f64) as usize;
    format!("[{}{}]", "#".repeat(full), ".".repeat(BAR - full))
}

/// A line that wraps can't be drawn over.
fn cut(text: &str) -> String {
    let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    text.chars().take(columns.unwrap_or(100).max(20) - 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_full_as_they_should_be() {
        for (share, full) in [(-1.0, 0), (0.0, 0), (0.5, 12), (1.0, 24), (7.0, 24)] {
            let bar = bar(share);
            assert_eq!(bar.matches('#').count(), full);
            assert_eq!(bar.len(), BAR + 2);
        }
    }
}
