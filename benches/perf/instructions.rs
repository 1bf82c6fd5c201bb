//! Counts instructions with callgrind, which runs the program on a processor of its own and so
//! gives the same totals whatever else the machine does. That processor has a cache, too: what is
//! not in it is counted as a miss, which tells how much memory a message touches.

use crate::inputs::Input;
use crate::report::Instructions;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The functions whose instructions are counted, with those of all that they call.
const COUNTED: [&str; 3] = ["*::Bus::deliver", "*::Bus::connect", "*::Bus::disconnect"];
/// The cache, whatever the machine's own is.
const CACHE: [&str; 4] =
    ["--cache-sim=yes", "--I1=32768,8,64", "--D1=32768,8,64", "--LL=33554432,16,64"];
/// Where counting begins, when the input is in its steady state.
const BEGIN: &str = "*::inputs::steady";

/// How much callgrind is to write.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// The cost of functions.
    Functions,
    /// The cost of every address.
    Addresses,
}

/// The instructions of one message of an input.
pub(crate) fn count(input: &Input) -> Instructions {
    eprintln!("{}: {}", input.name, input.about);
    let out = fs::read_to_string(run(input, Detail::Functions)).expect("callgrind has written it");
    let names = row(&out, "events: ").expect("it says what was counted");
    let totals = row(&out, "totals: ").expect("it has totals");
    let total = |wanted: &str| {
        let at = names.iter().position(|name| *name == wanted).expect("it was counted");
        totals[at].parse::<f64>().expect("a total is a number")
    };
    let counted = input.counted as f64;
    Instructions {
        input: input.name.to_owned(),
        per_message: total("Ir") / counted,
        deliveries: input.deliveries(),
        misses: (total("D1mr") + total("D1mw")) / counted,
        about: input.about.to_owned(),
    }
}

/// Runs an input under callgrind; gives the file that it writes.
pub(crate) fn run(input: &Input, detail: Detail) -> PathBuf {
    let program = env::current_exe().expect("this program is somewhere");
    let folder = program.with_file_name("perf.out");
    fs::create_dir_all(&folder).expect("the build folder can be written to");
    let out = folder.join(input.name);
    let details: &[&str] = match detail {
        Detail::Functions => &CACHE,
        Detail::Addresses => &["--dump-instr=yes", "--compress-strings=no", "--compress-pos=no"],
    };
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet"])
        .args(details)
        .args(COUNTED.map(|name| format!("--toggle-collect={name}")))
        .arg(format!("--zero-before={BEGIN}"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(&program)
        .args(["drive", input.name])
        // Otherwise the allocator gives memory back by the clock.
        .env("MIMALLOC_PURGE_DELAY", "-1")
        .stdin(Stdio::null())
        .output()
        .expect("valgrind is installed");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} failed:\n{log}", input.name);
    out
}

/// The words of the line that begins like this.
fn row<'a>(out: &'a str, head: &str) -> Option<Vec<&'a str>> {
    let line = out.lines().find_map(|line| line.strip_prefix(head))?;
    Some(line.split_whitespace().collect())
}
