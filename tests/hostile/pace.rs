//! How long an attack goes on, and how much of a core it may take.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// One attack's clock. An attack asks [`Pace::goes_on`] before each step, and keeps its steps short.
pub(crate) struct Pace {
    began: Instant,
    end: Instant,
    is_stopped: AtomicBool,
    /// The share of one core that this process may take.
    share: Option<f64>,
    /// What the process had taken when the attack began.
    cpu_before: Duration,
}

impl Pace {
    /// An attack that ends after `time` at the latest.
    pub(crate) fn lasting(time: Duration) -> Pace {
        let began = Instant::now();
        let (share, cpu_before) = (None, cpu_time());
        Pace { began, end: began + time, is_stopped: AtomicBool::new(false), share, cpu_before }
    }

    /// The same, for a process that takes no more than `share` of one core.
    pub(crate) fn with_share(mut self, share: f64) -> Pace {
        self.share = Some(share);
        self
    }

    /// Ends the attack after its current step.
    pub(crate) fn stop(&self) {
        self.is_stopped.store(true, SeqCst);
    }

    /// Whether there is to be another step; sleeps first if the process has taken more than its share.
    pub(crate) fn goes_on(&self) -> bool {
        if let Some(share) = self.share {
            let used = cpu_time().saturating_sub(self.cpu_before).as_secs_f64();
            let ahead = used / share - self.began.elapsed().as_secs_f64();
            if ahead > 0.0 {
                std::thread::sleep(Duration::from_secs_f64(ahead.min(1.0)));
            }
        }
        !self.is_stopped.load(SeqCst) && Instant::now() < self.end
    }

    /// Sleeps for a while, and no longer than the attack goes on.
    pub(crate) fn rest(&self, time: Duration) {
        let until = (Instant::now() + time).min(self.end);
        while !self.is_stopped.load(SeqCst)
            && let Some(left) = until.checked_duration_since(Instant::now())
        {
            std::thread::sleep(left.min(Duration::from_millis(20)));
        }
    }
}

/// The processor time that this process has taken, its threads included.
fn cpu_time() -> Duration {
    // The kernel counts in ticks of 10 ms there, which is fine for an average.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold spaces; user and system time are fields 14 and 15.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().unwrap_or_default())
        .sum();
    Duration::from_millis(ticks * 10)
}
