//! How often a client sent something malformed of late.
//!
//! *Invariants*: a client that never did costs a null pointer; one that did costs the times of its
//! last violations within the window, never more than the limit, which is at most
//! [`MAX_VIOLATIONS_MAX`](crate::base::limits::MAX_VIOLATIONS_MAX).

use crate::base::limits::VIOLATION_WINDOW_MS;
use std::collections::VecDeque;

/// The violations of one client within the window that ends now.
#[derive(Debug, Default)]
pub struct Violations {
    /// When they were, oldest first, on the monotonic clock in milliseconds.
    #[allow(clippy::box_collection, reason = "every session has room for it, few ever need it")]
    times_ms: Option<Box<VecDeque<u64>>>,
}

impl Violations {
    /// Counts one more; true if that makes `max` of them within a minute. 0 is no limit.
    pub fn count(&mut self, now_ms: u64, max: u32) -> bool {
        if max == 0 {
            self.times_ms = None;
            return false;
        }
        let times_ms = self.times_ms.get_or_insert_default();
        let is_past = |&at_ms: &u64| at_ms + VIOLATION_WINDOW_MS <= now_ms;
        while times_ms.front().is_some_and(is_past) {
            times_ms.pop_front();
        }
        times_ms.push_back(now_ms);
        let is_over = times_ms.len() >= max as usize;
        // Whoever goes on after that, or has a lower limit now, costs no more for it.
        while times_ms.len() > max as usize {
            times_ms.pop_front();
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_minute_counts_not_only_one_that_begins_with_a_violation() {
        let mut violations = Violations::default();
        for at_ms in [1, 50_000, 60_000] {
            assert!(!violations.count(at_ms, 4));
        }
        // The first is a minute ago; the other two and these are not.
        assert!(!violations.count(60_001, 4));
        assert!(violations.count(109_999, 4));
        assert!(!violations.count(120_000, 4), "the second and the third are a minute ago");
        for at_ms in (200_000..).step_by(20_000).take(50) {
            assert!(!violations.count(at_ms, 4), "{at_ms}");
        }
    }

    #[test]
    fn what_is_kept_is_bounded_by_the_limit_and_by_the_window() {
        let mut violations = Violations::default();
        let kept = |violations: &Violations| {
            violations.times_ms.as_ref().map_or(0, |times_ms| times_ms.len())
        };
        assert!((0..100).all(|_| !violations.count(1, 0)) && kept(&violations) == 0);
        assert!((0..9).all(|_| !violations.count(1, 10)) && violations.count(1, 10));
        assert!((0..100).all(|_| violations.count(2, 10)) && kept(&violations) == 10);
        assert!(violations.count(3, 5) && kept(&violations) == 5, "a lower limit");
        assert!(!violations.count(200_000, 5) && kept(&violations) == 1);
        assert!(violations.count(200_000, 1));
        assert!(!violations.count(200_000, 0) && kept(&violations) == 0, "no limit any more");
    }
}
