//! Counts instructions with callgrind, which runs the program on a processor of its own and so
//! gives the same totals whatever else the machine does.

use crate::inputs::Input;
use crate::report::Instructions;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The functions whose instructions are counted, with those of all that they call.
const COUNTED: [&str; 3] = ["*::Bus::deliver", "*::Bus::connect", "*::Bus::disconnect"];
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
    Instructions {
        input: input.name.to_owned(),
        per_message: total(&run(input, Detail::Functions)) as f64 / input.counted as f64,
        deliveries: input.deliveries(),
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
        Detail::Functions => &[],
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

fn total(out: &Path) -> u64 {
    let text = fs::read_to_string(out).expect("callgrind has written its file");
    let line = text.lines().find_map(|line| line.strip_prefix("totals: ")).expect("it has totals");
    line.trim().parse().expect("a total is a number")
}
