//! What a message costs in instructions and in system calls, for fixed inputs.
//!
//! Time is noise on a busy machine; these counts are the same on every run, or nearly so, and grow
//! when the code gets worse. `perf` measures, shows the change against the figures that are
//! committed, and writes `benches/perf.txt`; `perf check` measures and fails if instructions grew by
//! more than a few percent. `perf drive INPUT` is what runs under callgrind, and `perf profile
//! INPUT` shows where one input's instructions go.
//!
//! Instructions are those of the engine, from the bytes that a socket gave to the bytes for every
//! socket, without the kernel and without the poll loop around it, and only those of the steady
//! state: after the clients are there and every history is full.

mod common;
#[path = "perf/inputs.rs"]
mod inputs;
#[path = "perf/instructions.rs"]
mod instructions;
#[path = "perf/profile.rs"]
mod profile;
#[path = "perf/report.rs"]
mod report;
#[path = "perf/system_calls.rs"]
mod system_calls;

use report::{GROWTH_MAX_PERCENT, Report};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => measure(true),
        ["check"] => measure(false),
        ["drive", input] => {
            inputs::find(input).drive();
            ExitCode::SUCCESS
        }
        ["profile", input] => {
            profile::show(inputs::find(input));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: perf [check | profile INPUT | drive INPUT]");
            ExitCode::FAILURE
        }
    }
}

fn measure(is_to_be_kept: bool) -> ExitCode {
    let committed = Report::committed();
    let mut report = Report::default();
    for input in inputs::ALL {
        report.instructions.push(instructions::count(input));
    }
    report.system_calls = system_calls::count_all();
    print!("{}", report.compared_with(&committed));
    if is_to_be_kept {
        report.keep();
        return ExitCode::SUCCESS;
    }
    let grown = report.grown_since(&committed);
    if grown.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "Instructions grew by more than {GROWTH_MAX_PERCENT} %: {}. If they are worth it, run \
         `make perf` and commit benches/perf.txt with the reason.",
        grown.join(", ")
    );
    ExitCode::FAILURE
}
