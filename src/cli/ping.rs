//! `arqonbus ping`: how long a question to the bus and its answer take.
//!
//! It measures the `ping` command, which goes the way of every message: through the socket, the
//! shard and its parser. A WebSocket ping would be answered by less.

use crate::cli::ask::{Asker, with_bus};
use crate::cli::console::Console;
use crate::cli::failure::Failure;
use crate::cli::target::{ConnectArgs, seconds};
use clap::Args;
use serde_json::json;
use std::time::{Duration, Instant};

/// What `ping` takes.
#[derive(Args, Debug)]
pub(super) struct PingArgs {
    /// How many pings.
    #[arg(long, short, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Seconds between them.
    #[arg(long, short, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    interval: Duration,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Pings, and prints each round trip and their least, mean and greatest.
pub(super) fn run(args: &PingArgs, console: &mut Console) -> Result<(), Failure> {
    with_bus(&args.connect, console, |bus, console| {
        let mut trips = Vec::new();
        let outcome = ping(args, bus, console, &mut trips);
        if let Some(summary) = summary(&trips) {
            console.line(summary)?;
            console.flush()?;
        }
        outcome
    })
}

fn ping(
    args: &PingArgs,
    bus: &mut Asker,
    console: &mut Console,
    trips: &mut Vec<Duration>,
) -> Result<(), Failure> {
    for number in 1..=args.count {
        let start = Instant::now();
        bus.ask(console, None, "ping", json!({}))?;
        let trip = start.elapsed();
        trips.push(trip);
        console.line(format!("pong {number}: {:.3} ms", millis(trip)))?;
        console.flush()?;
        if number < args.count {
            bus.pause(console, start + args.interval)?;
        }
    }
    Ok(())
}

fn summary(trips: &[Duration]) -> Option<String> {
    let (least, greatest) = (trips.iter().min()?, trips.iter().max()?);
    let mean = trips.iter().map(|trip| millis(*trip)).sum::<f64>() / trips.len() as f64;
    Some(format!(
        "{} answered, min/avg/max = {:.3}/{mean:.3}/{:.3} ms",
        trips.len(),
        millis(*least),
        millis(*greatest)
    ))
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_least_mean_and_greatest() {
        let trips = [1_000, 2_000, 6_000].map(Duration::from_micros);
        let expected = "3 answered, min/avg/max = 1.000/3.000/6.000 ms";
        assert_eq!(summary(&trips).unwrap(), expected);
        assert_eq!(summary(&[]), None);
    }
}
