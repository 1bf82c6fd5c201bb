//! The report: what was counted, as a table that a person reads and that is read back to compare.

use std::fmt;
use std::fmt::Write;
use std::fs;
use std::process::Command;

/// Where the figures are kept, from the repository's root.
const FILE: &str = "benches/perf.txt";
/// By how much the instructions of an input may grow before the check fails. The same program
/// gives the same count within a tenth of a percent.
pub(crate) const GROWTH_MAX_PERCENT: f64 = 3.0;

/// What was counted.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) instructions: Vec<Instructions>,
    pub(crate) system_calls: Vec<SystemCalls>,
}

/// What a message of an input costs in instructions.
pub(crate) struct Instructions {
    pub(crate) input: String,
    pub(crate) per_message: f64,
    /// How many deliveries a message makes; 0 if it is none that is delivered.
    pub(crate) deliveries: usize,
    /// How often it touches memory that is not in a small cache.
    pub(crate) misses: f64,
    pub(crate) about: String,
}

/// What a message costs in system calls of its shard.
pub(crate) struct SystemCalls {
    pub(crate) input: String,
    pub(crate) per_message: f64,
    pub(crate) deliveries: usize,
    /// Of each kind, by name.
    pub(crate) kinds: String,
}

/// The figures that are committed: input and cost of one message.
#[derive(Default)]
pub(crate) struct Committed {
    rows: Vec<(String, f64)>,
}

impl Report {
    /// The figures of the last commit.
    pub(crate) fn committed() -> Committed {
        let shown = Command::new("git").args(["show", &format!("HEAD:{FILE}")]).output();
        let text = shown.ok().filter(|shown| shown.status.success()).map(|shown| shown.stdout);
        let text = String::from_utf8(text.unwrap_or_default()).unwrap_or_default();
        let row = |line: &str| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.replace(',', "").parse().ok()?))
        };
        Committed { rows: text.lines().filter_map(row).collect() }
    }

    /// Writes the figures where they are committed.
    pub(crate) fn keep(&self) {
        fs::write(FILE, self.to_string()).expect("make runs this where the repository's root is");
        eprintln!("{FILE} is written");
    }

    /// The table with the change of each row.
    pub(crate) fn compared_with(&self, committed: &Committed) -> String {
        let mut table = String::new();
        for line in self.to_string().lines() {
            let mut words = line.split_whitespace();
            let change = match (words.next(), words.next()) {
                (Some(input), Some(figure)) => committed.change(input, figure),
                _ => None,
            };
            let change = change.map_or(String::new(), |percent| format!("{percent:+8.1} %"));
            writeln!(table, "{change:10} {line}").expect("a string takes everything");
        }
        table
    }

    /// The inputs whose instructions grew by more than they may.
    pub(crate) fn grown_since(&self, committed: &Committed) -> Vec<String> {
        let rows = self.instructions.iter().map(|row| (&row.input, row.per_message));
        let grown = rows.filter_map(|(input, now)| {
            let percent = committed.percent(input, now)?;
            (percent > GROWTH_MAX_PERCENT).then(|| format!("{input} {percent:+.1} %"))
        });
        grown.collect()
    }
}

impl Committed {
    fn percent(&self, input: &str, now: f64) -> Option<f64> {
        let (_, before) = self.rows.iter().find(|(known, _)| known == input)?;
        Some((now / before - 1.0) * 100.0)
    }

    fn change(&self, input: &str, figure: &str) -> Option<f64> {
        self.percent(input, figure.replace(',', "").parse().ok()?)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Instructions of the engine for one message, and misses of a data cache of 32 KiB,"
        )?;
        writeln!(f, "counted by callgrind ({})\n", compiler())?;
        writeln!(
            f,
            "{:16} {:>10} {:>12} {:>8}   what",
            "input", "a message", "a delivery", "misses"
        )?;
        for row in &self.instructions {
            let message = format!("{:.0}", row.per_message);
            let delivery = per_delivery(row.per_message, row.deliveries, 0);
            let misses = format!("{:.0}", row.misses);
            let (input, about) = (&row.input, &row.about);
            writeln!(f, "{input:16} {message:>10} {delivery:>12} {misses:>8}   {about}")?;
        }
        writeln!(f, "\nSystem calls of the shard's thread for one message, counted by strace\n")?;
        writeln!(f, "{:16} {:>10} {:>12}   which", "input", "a message", "a delivery")?;
        for row in &self.system_calls {
            let message = format!("{:.2}", row.per_message);
            let delivery = per_delivery(row.per_message, row.deliveries, 2);
            writeln!(f, "{:16} {message:>10} {delivery:>12}   {}", row.input, row.kinds)?;
        }
        Ok(())
    }
}

fn per_delivery(per_message: f64, deliveries: usize, digits: usize) -> String {
    match deliveries {
        0 => "-".to_owned(),
        deliveries => format!("{:.digits$}", per_message / deliveries as f64),
    }
}

/// The compiler's version, on which counts depend.
fn compiler() -> String {
    let output = Command::new("rustc").arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}
