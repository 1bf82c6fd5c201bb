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
/// How many lines of a profile are worth a look.
const PROFILE_LINES: usize = 60;

/// The instructions of one message of an input.
pub(crate) fn count(input: &Input) -> Instructions {
    eprintln!("{}: {}", input.name, input.about);
    Instructions {
        input: input.name.to_owned(),
        per_message: total(&run(input)) as f64 / input.counted as f64,
        deliveries: input.deliveries(),
        about: input.about.to_owned(),
    }
}

/// Shows where the instructions of an input go: of each function by itself, and with what it calls.
pub(crate) fn profile(input: &Input) {
    let out = run(input);
    for inclusive in ["no", "yes"] {
        let shown = Command::new("callgrind_annotate")
            .args([&format!("--inclusive={inclusive}"), "--auto=no", "--threshold=100"])
            .arg(&out)
            .output()
            .expect("callgrind_annotate comes with valgrind");
        println!("\n{} messages, inclusive: {inclusive}", input.counted);
        let text = String::from_utf8_lossy(&shown.stdout);
        let rows = text.lines().skip_while(|line| !line.contains("PROGRAM TOTALS"));
        rows.take(PROFILE_LINES).for_each(|line| println!("{line}"));
    }
}

/// Runs an input under callgrind; gives the file that it writes.
fn run(input: &Input) -> PathBuf {
    let program = env::current_exe().expect("this program is somewhere");
    let folder = program.with_file_name("perf.out");
    fs::create_dir_all(&folder).expect("the build folder can be written to");
    let out = folder.join(input.name);
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet"])
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
