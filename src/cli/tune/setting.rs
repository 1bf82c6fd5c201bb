//! A setting that is tried: what the daemon is told, and how far it is from the defaults.
//!
//! *Invariant*: whatever a setting holds is within the ranges of the configuration.

use crate::base::limits::{LANE_SLOTS, SHARDS_MAX, TurnLimits};
use crate::daemon::config::Pin;
use crate::daemon::host::Cores;
use crate::daemon::pinning;

/// The times a shard may spin that are tried, in microseconds.
const SPINS_US: [u32; 4] = [0, 20, 100, 500];
/// What a turn may take from a lane.
const LANE_BUDGETS: [u32; 3] = [128, 1_024, LANE_SLOTS as u32];
/// What a turn may read from a socket.
const READ_BUDGETS: [u32; 3] = [32 * 1_024, 128 * 1_024, 512 * 1_024];

/// What the daemon is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// How many shards.
    pub(super) shards: u16,
    /// Whether they are pinned.
    pub(super) pin: Pin,
    /// How a turn ends and what it may take.
    pub(super) turn: TurnLimits,
}

/// One key of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// The TOML table, empty for none.
    pub(super) table: &'static str,
    /// The key in it.
    pub(super) key: &'static str,
    /// The value, as TOML.
    pub(super) value: String,
}

impl Setting {
    /// What holds if nobody says anything.
    pub(super) fn default_on(cores: Cores) -> Setting {
        Setting { shards: cores.shards(), pin: Pin::default(), turn: TurnLimits::default() }
    }

    /// Whether its shards are pinned, in a word.
    pub(super) fn pin_word(&self) -> &'static str {
        match self.pin {
            Pin::Auto => "auto",
            Pin::On => "on",
            Pin::Off => "off",
        }
    }

    /// Its keys.
    pub(super) fn lines(&self) -> Vec<Line> {
        let line = |table, key, value: String| Line { table, key, value };
        let TurnLimits { busy_poll_us, read_budget_bytes, lane_budget } = self.turn;
        vec![
            line("", "shards", self.shards.to_string()),
            line("", "pin", format!("\"{}\"", self.pin_word())),
            line("turn", "busy_poll_us", busy_poll_us.to_string()),
            line("turn", "read_budget_bytes", read_budget_bytes.to_string()),
            line("turn", "lane_budget", lane_budget.to_string()),
        ]
    }

    /// The keys that are not as in `other`.
    pub(super) fn differences(&self, other: &Setting) -> Vec<Line> {
        let lines = self.lines().into_iter().zip(other.lines());
        lines.filter(|(mine, theirs)| mine != theirs).map(|(mine, _)| mine).collect()
    }

    /// How much simpler settings come first: fewer keys to set, fewer shards, less spinning.
    pub(super) fn weight(&self, default: &Setting) -> (usize, u16, u32) {
        (self.differences(default).len(), self.shards, self.turn.busy_poll_us)
    }

    /// The flags of `serve`.
    pub(super) fn flags(&self) -> Vec<String> {
        let flag = |line: Line| {
            format!("--{}={}", line.key.replace('_', "-"), line.value.trim_matches('"'))
        };
        self.lines().into_iter().map(flag).collect()
    }

    /// What it is, in a few words: shards and pinning, and whatever else is not the default.
    pub(super) fn label(&self, default: &Setting) -> String {
        let plural = if self.shards == 1 { "" } else { "s" };
        let mut label = format!("{} shard{plural}, pin {}", self.shards, self.pin_word());
        for line in self.differences(default).iter().filter(|line| line.table == "turn") {
            label += &format!(", {} {}", line.key, line.value);
        }
        label
    }
}

/// What is tried around a setting, step by step: the setting itself is always among it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// How many shards, pinned or not.
    Shards,
    /// How long they spin.
    Spin,
    /// What a turn may take from other shards, and read from a socket.
    Batches,
}

impl Step {
    /// All of them, the coarsest first.
    pub(super) const ALL: [Step; 3] = [Step::Shards, Step::Spin, Step::Batches];

    /// What it decides, in words.
    pub(super) fn about(self) -> &'static str {
        match self {
            Step::Shards => "shards and pinning",
            Step::Spin => "spinning before sleep",
            Step::Batches => "batch limits of a turn",
        }
    }

    /// What is tried. `shards_max` leaves the clients their cores.
    pub(super) fn candidates(self, best: Setting, cores: Cores, shards_max: u16) -> Vec<Setting> {
        let mut found = vec![best];
        let turn = |turn| Setting { turn, ..best };
        match self {
            Step::Shards => found.extend(shard_counts(shards_max).into_iter().flat_map(|shards| {
                pins(shards, cores).into_iter().map(move |pin| Setting { shards, pin, ..best })
            })),
            Step::Spin => found.extend(
                SPINS_US.map(|busy_poll_us| turn(TurnLimits { busy_poll_us, ..best.turn })),
            ),
            Step::Batches => {
                // One shard has nobody to take anything from.
                if best.shards > 1 {
                    let lanes =
                        LANE_BUDGETS.map(|lane_budget| TurnLimits { lane_budget, ..best.turn });
                    found.extend(lanes.map(turn));
                }
                found.extend(
                    READ_BUDGETS.map(|read_budget_bytes| {
                        turn(TurnLimits { read_budget_bytes, ..best.turn })
                    }),
                );
            }
        }
        let mut unique: Vec<Setting> = Vec::new();
        for setting in found {
            if !unique.contains(&setting) {
                unique.push(setting);
            }
        }
        unique
    }
}

/// Powers of two, the most, and one less than that.
fn shard_counts(most: u16) -> Vec<u16> {
    let most = most.clamp(1, SHARDS_MAX);
    let powers = (0..9).map(|power| 1 << power);
    let mut counts: Vec<u16> = powers.chain([most - 1, most]).collect();
    counts.retain(|&count| (1..=most).contains(&count));
    counts.sort_unstable();
    counts.dedup();
    counts
}

/// `auto`, and whatever it would not do.
fn pins(shards: u16, cores: Cores) -> [Pin; 2] {
    match pinning::decide(Pin::Auto, shards, cores).cores.is_empty() {
        true => [Pin::Auto, Pin::On],
        false => [Pin::Auto, Pin::Off],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CORES: Cores = Cores { affinity: 2, quota: None };

    #[test]
    fn shard_counts_are_sparse_and_end_with_the_most() {
        for (most, expected) in [
            (0, &[1][..]),
            (1, &[1]),
            (2, &[1, 2]),
            (6, &[1, 2, 4, 5, 6]),
            (64, &[1, 2, 4, 8, 16, 32, 63, 64]),
        ] {
            assert_eq!(shard_counts(most), expected, "{most}");
        }
    }

    #[test]
    fn steps_try_the_best_so_far_and_change_one_thing() {
        let best = Setting::default_on(CORES);
        for step in Step::ALL {
            let tried = step.candidates(best, CORES, 2);
            assert_eq!(tried[0], best, "{step:?}");
            assert!(tried.len() > 2);
            for (index, setting) in tried.iter().enumerate() {
                assert!(!tried[..index].contains(setting), "{setting:?} twice");
                let changed = setting.differences(&best).len();
                assert!(changed <= if step == Step::Shards { 2 } else { 1 }, "{setting:?}");
            }
        }
        let alone = Setting { shards: 1, ..best };
        let tried = Step::Batches.candidates(alone, CORES, 2);
        assert!(tried.iter().all(|it| it.turn.lane_budget == best.turn.lane_budget));
    }

    #[test]
    fn a_setting_is_flags_and_words() {
        let default = Setting::default_on(CORES);
        let mut setting = Setting { shards: 1, pin: Pin::Off, ..default };
        setting.turn.busy_poll_us = 50;
        assert_eq!(
            setting.flags(),
            [
                "--shards=1",
                "--pin=off",
                "--busy-poll-us=50",
                "--read-budget-bytes=131072",
                "--lane-budget=1024"
            ]
        );
        assert_eq!(setting.label(&default), "1 shard, pin off, busy_poll_us 50");
        assert_eq!(default.label(&default), "2 shards, pin auto");
        assert!(default.weight(&default) < setting.weight(&default));
    }
}
