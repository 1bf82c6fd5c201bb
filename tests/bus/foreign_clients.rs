//! Clients of other makers: programs on Python's `websockets` and Node's `ws` show that the bus
//! speaks the protocol as these libraries understand it, not only as our own test client does.
//!
//! Each program in `tests/clients` shows one thing and decides by its own assertions; here it gets
//! a daemon, and its exit code is looked at. The libraries are in the folder that
//! `ARQONBUS_TEST_CLIENTS` names, or in `target/test-clients`, where they are installed at need.

use crate::common::Daemon;
use crate::common::daemon::without_environment;
use crate::common::program::run_command;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Names the folder where the libraries are.
const FOLDER_VARIABLE: &str = "ARQONBUS_TEST_CLIENTS";

/// Makes of each program two tests, with one and with four shards.
macro_rules! programs {
    ($($language:ident: $($program:ident)+;)+) => {
        /// Language and name of every program.
        const PROGRAMS: &[(&str, &str)] =
            &[$($((stringify!($language), stringify!($program)),)+)+];

        $(mod $language {$(
            mod $program {
                use crate::foreign_clients::run;

                #[test]
                fn on_one_shard() {
                    run(stringify!($language), stringify!($program), "1");
                }

                #[test]
                fn on_four_shards() {
                    run(stringify!($language), stringify!($program), "4");
                }
            }
        )+})+
    };
}

programs! {
    python: talk recovery commands frames refusals telemetry threads;
    node: talk recovery frames refusals telemetry;
}

#[test]
fn every_program_is_run() {
    for (language, ending) in [("python", "py"), ("node", "mjs")] {
        let files = folder_of(language).read_dir().unwrap().map(|file| file.unwrap().path());
        let mut names: Vec<String> = files
            .filter(|path| path.extension().is_some_and(|found| found == ending))
            .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .filter(|name| name != "bus")
            .collect();
        let mut run: Vec<&str> =
            PROGRAMS.iter().filter(|(of, _)| *of == language).map(|(_, name)| *name).collect();
        names.sort_unstable();
        run.sort_unstable();
        assert_eq!(names, run, "{language}");
    }
}

/// Runs a program on a daemon of its own.
#[track_caller]
fn run(language: &str, name: &str, shards: &str) {
    let libraries = libraries();
    // The one that looks for pings is to see some; nothing else shall depend on being quick.
    let heartbeat = if name == "frames" { "1000" } else { "25000" };
    let daemon = Daemon::start(&["--shards", shards, "--heartbeat-ms", heartbeat]);
    let (interpreter, ending) = match language {
        "python" => (libraries.join("python/bin/python"), "py"),
        _ => (PathBuf::from("node"), "mjs"),
    };
    let mut command = without_environment(Command::new(interpreter));
    command
        .env(FOLDER_VARIABLE, libraries)
        // The folder of the programs is no place for what the interpreter compiles.
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg(folder_of(language).join(name).with_extension(ending))
        .arg(format!("ws://{}", daemon.bus))
        .arg(format!("ws://{}", daemon.telemetry))
        .arg(format!("http://{}", daemon.http));
    let ended = run_command(command, "");
    assert!(ended.status.success(), "{}: {}{}", ended.status, ended.stdout, ended.stderr);
    assert_eq!(ended.stderr, "", "a library warns of something");
}

fn folder_of(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(language)
}

/// The folder of the libraries, which are there.
fn libraries() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        if let Some(folder) = std::env::var_os(FOLDER_VARIABLE) {
            let folder = PathBuf::from(folder);
            assert!(are_in(&folder), "{FOLDER_VARIABLE} is {folder:?}, where no libraries are");
            return folder;
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = root.join("target/test-clients");
        if !are_in(&folder) {
            let status = Command::new(root.join("tests/clients/install")).arg(&folder).status();
            assert!(status.is_ok_and(|status| status.success()), "they can't be installed");
        }
        folder
    })
}

fn are_in(folder: &Path) -> bool {
    ["python/bin/python", "node/node_modules/ws"].iter().all(|path| folder.join(path).exists())
}
