//! Fuzzing on a stable compiler: every input of the corpus is replayed, and new ones are made of them
//! by a seeded mutation. `make fuzz` runs the same targets under libFuzzer, guided by coverage, where
//! a nightly toolchain is installed; what it finds is put into `corpus/`.
//!
//! `FUZZ_SECONDS=60` gives each target so long instead of a fixed number of inputs; `FUZZ_SEED` chooses
//! where they begin; `FUZZ_TARGET` runs one target alone.

#![allow(clippy::unwrap_used, reason = "a test that can't go on says so by a panic")]

#[allow(dead_code, unused_imports, unused_macros, reason = "each suite uses a part of it")]
#[path = "../common/mod.rs"]
mod common;
mod mutate;
mod nodes;
#[allow(dead_code, reason = "each suite uses a part of it")]
#[path = "../redis/mod.rs"]
mod redis;
mod session;
mod targets;
mod world;

use fastrand::Rng;
use mutate::mutate;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fs};
use targets::{TARGETS, Target};

/// The new inputs for each target where no time is given; real daemons take seconds for each.
const INPUTS: usize = 3_000;
const INPUTS_FOR_DAEMONS: usize = 8;

/// Words that parsers look for, over all formats.
const WORDS: &[&str] = &[
    "\r\n",
    "\r\n\r\n",
    "GET /",
    " HTTP/1.1",
    "Upgrade: websocket\r\n",
    "Origin: null\r\n",
    "Sec-WebSocket-Key: ",
    "?client_id=",
    "&join=a:b",
    "%",
    "\"",
    "{",
    "}",
    "\\ud800",
    "1e999",
    "\"version\":\"1.0\",",
    "null",
    "[limits]\n",
    "[[rooms]]\n",
    "listen = ",
    "redis://",
    "@",
    "#",
    "\u{81}\u{80}",
    "\u{feff}",
];

#[test]
fn the_corpus_and_what_is_made_of_it_break_nothing() {
    let only = env::var("FUZZ_TARGET").ok();
    for &target in TARGETS {
        if only.as_deref().is_none_or(|name| name == target.0) {
            fuzz(target, corpus_of(target.0), INPUTS);
        }
    }
}

#[test]
fn one_daemon_outlives_whole_sessions() {
    fuzz_daemons(("one-node", nodes::one), 0);
}

#[test]
fn two_daemons_and_their_redis_outlive_whole_sessions() {
    fuzz_daemons(("two-nodes", nodes::two), 1);
}

/// Plays every second script of the corpus on real daemons, from the first or the second on, and new ones.
fn fuzz_daemons(target: Target, first: usize) {
    let known = corpus_of("session").into_iter().skip(first).step_by(2).collect();
    fuzz(target, known, INPUTS_FOR_DAEMONS);
}

fn fuzz((name, target): Target, known: Vec<(PathBuf, Vec<u8>)>, inputs_max: usize) {
    for (path, input) in &known {
        let what = || path.display().to_string();
        try_one(name, target, input, what);
    }
    let inputs: Vec<Vec<u8>> = known.into_iter().map(|(_, input)| input).collect();
    let first: u64 = env::var("FUZZ_SEED").map_or(1, |seed| seed.parse().unwrap());
    let time = env::var("FUZZ_SECONDS").ok().map(|s| Duration::from_secs(s.parse().unwrap()));
    let (begun, mut count) = (Instant::now(), 0);
    while time.map_or(count < inputs_max, |time| begun.elapsed() < time) {
        let seed = first + count as u64;
        let input = mutate(&mut Rng::with_seed(seed), &inputs, WORDS);
        try_one(name, target, &input, || format!("FUZZ_TARGET={name} FUZZ_SEED={seed}"));
        count += 1;
    }
    println!("{name}: {} known inputs, {count} new ones from seed {first}", inputs.len());
}

/// Tries an input; one that fails is written to a file, which belongs into the corpus.
fn try_one(name: &str, target: fn(&[u8]), input: &[u8], what: impl Fn() -> String) {
    if catch_unwind(|| target(input)).is_err() {
        let file = env::temp_dir().join(format!("arqonbus-fuzz-{name}"));
        fs::write(&file, input).unwrap();
        panic!("{} fails; the input is in {}", what(), file.display());
    }
}

/// The inputs that are kept for a target.
fn corpus_of(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let known = corpus(&folder);
    assert!(!known.is_empty(), "{} holds no input", folder.display());
    known
}

fn corpus(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}
