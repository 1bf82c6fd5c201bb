//! `arqonbus bench` as a person or a script runs it: short runs with few clients. None of this is
//! about speed.

use super::common::program::{Ended, Process, run_command};
use super::common::{Daemon, daemon::program};
use rustix::process::Signal;
use serde_json::Value;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// `bench` with these words; a short run, if they don't say how long.
fn bench(words: &str) -> Command {
    let mut command = program();
    command.arg("bench").args(words.split(' ')).args(["--warmup", "0.1"]);
    if !words.contains("--duration") {
        command.args(["--duration", "0.3"]);
    }
    command
}

/// A file for a report, and the directory that goes with it.
fn file(name: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    (directory, path)
}

/// Runs it to its end; gives that and its report.
#[track_caller]
fn report_of(mut command: Command) -> (Ended, Value) {
    let (_directory, path) = file("report.json");
    command.arg("--json").arg(&path);
    let ended = run_command(command, "");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    (ended, serde_json::from_str(&text).unwrap())
}

fn round(report: &Value) -> &Value {
    &report["sides"][0]["rounds"][0]
}

fn target(bus: SocketAddr) -> String {
    format!("--target ws://{bus}")
}

#[test]
fn every_scenario_runs_and_checks_every_message() {
    for words in [
        "fanout --rooms 2 --members 5 --publishers 2 --in-flight 4",
        "fanout --members 6 --rate 500 --payload 300",
        "fanout --members 9 --publishers 3 --in-flight 5 --client-threads 2",
        "fanout --members 5 --in-flight 3 --shards 2 --rounds 2",
        "pairs --pairs 3",
        "pairs --pairs 3 --client-threads 3 --payload 52",
        "rooms --rooms 20 --members 3 --connections 10 --publishers 2",
        "rooms --rooms 8 --members 2 --connections 5 --rate 400 --client-threads 2",
        "slow --members 6 --publishers 1 --slow 2",
        "storm --rooms 2 --members 6 --rate 300",
        "mix --rooms 2 --members 4 --publishers 1 --rate 200 --requests 100",
    ] {
        let (ended, report) = report_of(bench(words));
        let round = round(&report);
        assert_eq!(ended.status.code(), Some(0), "{words}: {ended:?}");
        assert_eq!(report["is_partial"], false, "{words}");
        assert!(round["delivered"].as_u64() > Some(0), "{words}: {round}");
        for check in ["lost", "doubled", "reordered", "wrong"] {
            assert_eq!(round["checks"][check], 0, "{words}: {round}");
        }
        for figure in ["rate", "p50", "p99", "max", "cpu", "calls", "memory", "client-busy"] {
            assert!(round["figures"][figure].is_number(), "{words} has no {figure}: {round}");
        }
        assert!(report["host"]["kernel"]["release"].is_string(), "{report}");
        assert!(ended.stdout.contains("0 lost, 0 doubled, 0 reordered"), "{ended:?}");
    }
}

#[test]
fn the_first_lines_say_how_latency_counts() {
    let closed = run_command(bench("pairs --pairs 1"), "").ok();
    assert!(closed.lines().nth(1).unwrap().starts_with("closed model"), "{closed}");
    let open = run_command(bench("pairs --pairs 1 --rate 50"), "").ok();
    assert!(open.lines().nth(1).unwrap().contains("coordinated omission corrected"), "{open}");
}

#[test]
fn idle_connections_are_counted_and_weighed() {
    let (ended, report) = report_of(bench("idle --connections 50"));
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let figures = &round(&report)["figures"];
    for figure in ["connects", "conn-memory", "conn-cpu"] {
        assert!(figures[figure].is_number(), "{figures}");
    }
}

#[test]
fn everybody_recovers_from_a_storm() {
    let (_, report) = report_of(bench("storm --rooms 1 --members 9 --rate 400 --client-threads 2"));
    let round = round(&report);
    assert!(round["figures"]["recovery"].as_f64() > Some(0.0), "{round}");
    let note = round["notes"][0].as_str().unwrap();
    assert!(note.starts_with("8 fell, 8 have everything again"), "{note}");
}

#[test]
fn who_stops_reading_is_told_what_is_missing() {
    let command = bench(
        "slow --members 4 --publishers 1 --slow 1 --payload 4000 --in-flight 64 --duration 3",
    );
    let (ended, report) = report_of(command);
    let round = round(&report);
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert_eq!(round["violations"], serde_json::json!([]), "{round}");
    let note = round["notes"][0].as_str().unwrap();
    assert!(note.starts_with("1 members stopped reading"), "{note}");
}

#[test]
fn a_mixed_load_has_every_answer_checked() {
    let command = bench("mix --rooms 2 --members 5 --rate 300 --requests 400 --duration 1");
    let (ended, report) = report_of(command);
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let chores = round(&report)["chores"].as_array().unwrap();
    assert_eq!(chores.len(), 7);
    let answered: u64 = chores.iter().map(|chore| chore["count"].as_u64().unwrap()).sum();
    assert!(answered > 0, "{chores:?}");
}

#[test]
fn a_bus_that_runs_is_measured_with_its_costs() {
    let daemon = Daemon::start(&[]);
    let words = format!("fanout --members 5 {} --http {}", target(daemon.bus), daemon.http);
    let (ended, report) = report_of(bench(&words));
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let figures = &round(&report)["figures"];
    for figure in ["cpu", "cores", "calls", "memory"] {
        assert!(figures[figure].is_number(), "{figure}: {figures}");
    }
    // Without a word about its HTTP port there is nothing that could be believed.
    let (_, report) = report_of(bench(&format!("fanout --members 5 {}", target(daemon.bus))));
    assert!(round(&report)["figures"]["rate"].is_number());
    assert!(round(&report)["figures"]["calls"].is_null());
    daemon.stop();
}

#[test]
fn a_bus_that_runs_can_be_measured_again_with_the_same_seed() {
    let daemon = Daemon::start(&[]);
    let words = format!("rooms --rooms 9 --connections 9 {}", target(daemon.bus));
    // Its rooms still hold what the first run sent: the same ids would be taken for repeats.
    for _ in 0..2 {
        let (ended, report) = report_of(bench(&words));
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        assert!(round(&report)["figures"]["rate"].as_f64().unwrap() > 0.0);
    }
    daemon.stop();
}

#[test]
fn a_target_that_can_not_be_measured_is_told_why() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let daemon = Daemon::start(&["--max-connections", "3"]);
    for (words, code, why) in [
        (target(nobody), 3, "cannot connect"),
        (target(daemon.http), 1, "is not a bus"),
        (target(daemon.bus), 1, "refuses the load"),
        ("--target ws://192.0.2.1:9100".to_owned(), 2, "--allow-remote"),
        ("--target http://127.0.0.1:9100".to_owned(), 2, "ws://"),
        (format!("{} --server-pid 4000000000", target(daemon.bus)), 2, "no process"),
        (format!("{} --http {nobody}", target(daemon.bus)), 3, "/status"),
    ] {
        let ended = run_command(bench(&format!("fanout --members 5 {words}")), "");
        assert_eq!(ended.status.code(), Some(code), "{words}: {ended:?}");
        assert!(ended.stderr.contains(why), "{words}: {ended:?}");
    }
    daemon.stop();
}

#[test]
fn impossible_numbers_are_refused_with_the_range() {
    for (words, why) in [
        ("fanout --members 1", "2..=18000"),
        ("fanout --duration 0", "from 0.1 to 3600"),
        ("fanout --rate -5", "from 1 to 100000000"),
        ("fanout --rate 0", "from 1 to 100000000"),
        ("fanout --payload 51", "52..=1000000"),
        ("idle --connections 900000", "ulimit"),
        ("fanout --timeout 0", "from 0.001 to 86400"),
        ("slow --members 5 --slow 9", "from 1 to 3 --publishers"),
        ("fanout --fail-if p99>5", "needs a unit"),
        ("fanout --rate-sweep 9..3", "lower"),
        ("preset none", "there are room, deep"),
    ] {
        let ended = run_command(bench(words), "");
        assert_eq!(ended.status.code(), Some(2), "{words}: {ended:?}");
        assert!(ended.stderr.contains(why), "{words}: {ended:?}");
    }
}

#[test]
fn a_bus_that_dies_leaves_a_partial_report() {
    let mut daemon = Daemon::start(&[]).expect_errors();
    let (_directory, path) = file("report.json");
    let mut command = bench(&format!("fanout --members 5 --duration 60 {}", target(daemon.bus)));
    command.arg("--json").arg(&path);
    let mut process = Process::spawn(command);
    // The first line about its progress: by then it measures.
    while !process.line().contains("measuring") {}
    daemon.signal(Signal::TERM);
    daemon.wait();
    let ended = process.wait();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("ended"), "{ended:?}");
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(report["is_partial"], true);
    assert!(round(&report)["figures"]["rate"].as_f64() > Some(0.0), "{report}");
    assert_eq!(round(&report)["checks"]["lost"], 0, "what was on its way is not lost");
}

#[test]
fn a_run_that_measured_nothing_leaves_partial_reports_too() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let full = Daemon::start(&["--max-connections", "30"]);
    let sweep = "pairs --pairs 30 --rate-sweep 100,200";
    for (scenario, words, code, rounds, why) in [
        ("pairs --pairs 30", target(nobody), 3, 0, "cannot connect"),
        ("idle --connections 60", target(full.bus), 1, 1, "refuses the load"),
        (sweep, target(full.bus), 1, 1, "refuses the load"),
        (sweep, "--serve-arg=--nonsense".to_owned(), 1, 0, "refuses what --serve-arg gives it"),
    ] {
        let (directory, csv) = file("report.csv");
        let page = directory.path().join("report.html");
        let mut command = bench(&format!("{scenario} {words}"));
        command.arg("--csv").arg(&csv).arg("--html").arg(&page);
        let (ended, report) = report_of(command);
        assert_eq!(ended.status.code(), Some(code), "{words}: {ended:?}");
        assert!(ended.stderr.contains(why), "{words}: {ended:?}");
        assert_eq!(report["is_partial"], true, "{report}");
        assert!(report["troubles"][0].as_str().unwrap().contains(why), "{report}");
        assert_eq!(report["sides"][0]["rounds"].as_array().unwrap().len(), rounds, "{report}");
        if rounds > 0 {
            assert!(round(&report)["trouble"].as_str().unwrap().contains(why), "{report}");
            let note = round(&report)["notes"][0].as_str().unwrap();
            assert!(note.ends_with("of 60 connections were opened"), "{report}");
        }
        let page = std::fs::read_to_string(page).unwrap();
        assert!(page.contains("<b>Partial:</b>") && page.contains(why), "{page}");
        assert!(std::fs::read_to_string(csv).unwrap().starts_with("scenario,"));
    }
    full.stop();
}

#[test]
fn a_bus_that_dies_before_anything_is_measured_leaves_a_partial_report() {
    for (words, phase) in [
        ("idle --connections 20 --duration 60", "] measuring"),
        ("fanout --members 5 --duration 1 --warmup 60", "] warming up"),
        ("slow --members 5 --publishers 1 --slow 1 --duration 1 --warmup 60", "] warming up"),
    ] {
        let mut daemon = Daemon::start(&[]).expect_errors();
        let (_directory, path) = file("report.json");
        let mut command = program();
        command.arg("bench").args(format!("{words} {}", target(daemon.bus)).split(' '));
        command.arg("--json").arg(&path);
        let mut process = Process::spawn(command);
        while !process.line().contains(phase) {}
        daemon.signal(Signal::TERM);
        daemon.wait();
        let ended = process.wait();
        assert_eq!(ended.status.code(), Some(1), "{words}: {ended:?}");
        let report: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(report["is_partial"], true, "{report}");
        assert!(round(&report)["trouble"].as_str().unwrap().contains("ended"), "{report}");
        assert!(round(&report)["figures"]["rate"].is_null(), "{report}");
    }
}

#[test]
fn a_bus_that_hangs_is_told_and_nothing_counts_as_lost() {
    let silence = "a new connection got no answer within 2s";
    for (words, why) in [
        ("fanout --members 5", "answers no more: for 2s nothing came"),
        ("idle --connections 5", "answers no more: a new connection"),
    ] {
        let daemon = Daemon::start(&[]);
        let words = format!("{words} --duration 3 --timeout 2 {}", target(daemon.bus));
        let (_directory, path) = file("report.json");
        let mut command = bench(&words);
        command.arg("--json").arg(&path);
        let mut process = Process::spawn(command);
        while !process.line().contains("measuring") {}
        daemon.signal(Signal::STOP);
        let ended = process.wait();
        daemon.signal(Signal::CONT);
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert!(ended.stderr.contains(why) && ended.stderr.contains(silence), "{ended:?}");
        let report: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(report["is_partial"], true, "{report}");
        assert!(report["troubles"][0].as_str().unwrap().contains("answers no more"), "{report}");
        assert_eq!(round(&report)["checks"]["lost"], 0, "{report}");
        daemon.stop();
    }
}

#[test]
fn ctrl_c_ends_it_in_order_with_what_there_is() {
    let (_directory, path) = file("report.json");
    let mut command = bench("fanout --members 5 --duration 60");
    command.arg("--json").arg(&path);
    let mut process = Process::spawn(command);
    while !process.line().contains("measuring") {}
    process.signal(Signal::INT);
    let ended = process.wait();
    assert_eq!(ended.status.code(), Some(130), "{ended:?}");
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(report["is_partial"], true);
    assert!(round(&report)["delivered"].as_u64() > Some(0), "{report}");
}

#[test]
fn thresholds_set_the_exit_code() {
    for (conditions, code) in
        [(&["p99>600s", "lost>0"][..], 0), (&["p99>600s", "rate<90M"], 1), (&["recovery>1s"], 1)]
    {
        let mut command = bench("pairs --pairs 2");
        for condition in conditions {
            command.args(["--fail-if", condition]);
        }
        let ended = run_command(command, "");
        assert_eq!(ended.status.code(), Some(code), "{conditions:?}: {ended:?}");
        assert_eq!(ended.stderr.contains("not accepted"), code == 1, "{ended:?}");
    }
}

#[test]
fn a_sweep_finds_the_highest_rate_that_is_borne() {
    let command = bench("fanout --members 5 --rate-sweep 1k,2k --knee-p99 30s");
    let (ended, report) = report_of(command);
    let rounds = report["sides"][0]["rounds"].as_array().unwrap();
    assert!(rounds.len() >= 2, "{ended:?}");
    // A machine that is busy with other things may be behind with even that.
    match report["sides"][0]["knee"].as_f64() {
        Some(knee) => {
            assert_eq!(ended.status.code(), Some(0), "{ended:?}");
            assert!((1_000.0..=2_000.0).contains(&knee), "{ended:?}");
            assert!(ended.stdout.contains("the knee is at"), "{ended:?}");
            let is_highest = knee == 2_000.0;
            assert_eq!(report["sides"][0]["is_at_least"], is_highest, "{ended:?}");
            let words = "the knee is at least 2,000 deliveries a second";
            assert_eq!(ended.stdout.contains(words), is_highest, "{ended:?}");
        }
        None => {
            assert_eq!(ended.status.code(), Some(1), "{ended:?}");
            assert!(ended.stdout.contains("not borne: "), "{ended:?}");
        }
    }
    let hopeless = bench("fanout --members 5 --rate-sweep 100,200 --knee-p99 1ns");
    let ended = run_command(hopeless, "");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("no rate of the sweep was borne"), "{ended:?}");
}

#[test]
fn a_sweep_that_ends_early_keeps_what_was_measured() {
    let in_first_try = ("--duration 60", "] measuring");
    let in_second_try = ("--duration 3 --knee-p99 1ns", "not borne: p99 is");
    for ((words, line), dies, code, why, failed) in [
        (in_first_try, true, 3, "cannot connect", "ended"),
        (in_first_try, false, 130, "", "it was stopped"),
        (in_second_try, false, 130, "", "p99 is"),
    ] {
        let daemon = Daemon::start(&[]);
        let words = format!("fanout --members 5 --rate-sweep 100,200 {words}");
        let (_directory, path) = file("report.json");
        let mut command = bench(&format!("{words} {}", target(daemon.bus)));
        command.arg("--json").arg(&path);
        let mut process = Process::spawn(command);
        while !process.line().contains(line) {}
        let ended = match dies {
            // It is not there for the second try.
            true => {
                daemon.kill();
                process.wait()
            }
            false => {
                process.signal(Signal::INT);
                let ended = process.wait();
                daemon.stop();
                ended
            }
        };
        assert_eq!(ended.status.code(), Some(code), "{ended:?}");
        assert!(ended.stderr.contains(why), "{ended:?}");
        let report: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(report["is_partial"], true, "{report}");
        assert_eq!(report["sides"][0]["rounds"].as_array().unwrap().len(), 1, "{report}");
        let step = &round(&report)["step"];
        assert_eq!(step["rate"], 100.0, "{report}");
        assert!(step["failed"].as_str().unwrap().contains(failed), "{report}");
        assert!(round(&report)["figures"]["rate"].as_f64() > Some(0.0), "{report}");
    }
}

#[test]
fn the_page_and_the_table_of_values_need_nothing_else() {
    let (directory, page) = file("report.html");
    let csv = directory.path().join("report.csv");
    let mut command = bench("fanout --members 5 --rounds 2");
    command.arg("--html").arg(&page).arg("--csv").arg(&csv);
    run_command(command, "").ok();
    let page = std::fs::read_to_string(page).unwrap();
    assert_eq!(page.matches("<svg").count(), 3, "percentiles, throughput, latency over time");
    assert!(page.contains("prefers-color-scheme:dark"));
    for foreign in ["http://", "https://", "<script", "@import", "src="] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    let csv = std::fs::read_to_string(csv).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 4, "{csv}");
    assert!(lines[0].starts_with("scenario,side,round,asked,rate,p50"), "{csv}");
    assert!(lines[3].starts_with("fanout,arqonbus,median,"), "{csv}");
    for fact in ["trouble", "host-processor", "host-kernel", "host-memory"] {
        assert!(lines[0].split(',').any(|column| column == fact), "{fact}: {csv}");
    }
    // A comma within quotes ends no cell.
    let columns = |line: &str| {
        line.split('"').step_by(2).map(|bare| bare.matches(',').count()).sum::<usize>()
    };
    assert!(lines.iter().all(|line| columns(line) == columns(lines[0])), "{csv}");
}

#[test]
fn two_reports_are_compared_and_differences_named() {
    let directory = tempfile::tempdir().unwrap();
    let paths = ["one.json", "other.json"].map(|name| directory.path().join(name));
    for (path, pairs) in paths.iter().zip(["2", "3"]) {
        let mut command = bench(&format!("pairs --pairs {pairs}"));
        command.arg("--json").arg(path);
        run_command(command, "").ok();
    }
    let mut command = program();
    command.args(["bench", "compare"]).args(&paths);
    let text = run_command(command, "").ok();
    assert!(text.contains("plans differ") && text.contains("connections 4 and 6"), "{text}");
    assert!(text.contains("deliveries a second"), "{text}");
    assert!(text.contains("take this with care: the plans differ"), "{text}");
    let partial = std::fs::read_to_string(&paths[0]).unwrap();
    let partial = partial.replace("\"is_partial\": false", "\"is_partial\": true");
    let paths = [&paths[0], &directory.path().join("partial.json")];
    std::fs::write(paths[1], partial).unwrap();
    let mut command = program();
    command.args(["bench", "compare"]).args(paths);
    let text = run_command(command, "").ok();
    assert!(text.contains("partial.json is partial"), "{text}");
    assert!(!text.contains("plans differ"), "{text}");
    let mut command = program();
    command.args(["bench", "compare"]).arg(paths[0]).arg(directory.path().join("none.json"));
    let ended = run_command(command, "");
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
}

#[test]
fn a_report_that_can_not_be_written_is_refused_before_the_run() {
    let directory = tempfile::tempdir().unwrap();
    let kept = directory.path().join("kept.json");
    std::fs::write(&kept, "kept").unwrap();
    let (new, nowhere) = (directory.path().join("new.csv"), directory.path().join("none/x.html"));
    let mut run = bench("fanout --members 5");
    run.arg("--json").arg(&kept).arg("--csv").arg(&new).arg("--html").arg(&nowhere);
    let mut tune = program();
    tune.args(["tune", "--quick", "--out"]).arg(kept.join("x.toml"));
    let mut tune_page = program();
    tune_page.args(["tune", "--quick", "--out"]).arg(directory.path().join("new/x.toml"));
    tune_page.arg("--html").arg(&nowhere);
    for command in [run, tune, tune_page] {
        let ended = run_command(command, "");
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
        assert!(ended.stderr.contains("can't be written"), "{ended:?}");
        assert_eq!(ended.stdout, "", "nothing was begun");
    }
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), "kept");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left behind");
}

#[test]
fn a_report_that_can_not_be_written_in_the_end_hides_nothing_else() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (words, code, is_measured) in
        [("--fail-if p99>600s".to_owned(), 1, true), (target(nobody), 3, false)]
    {
        let (_directory, csv) = file("report.csv");
        let mut command = bench(&format!("fanout --members 5 {words}"));
        // It can be opened, and is always full.
        command.args(["--json", "/dev/full"]).arg("--csv").arg(&csv);
        let ended = run_command(command, "");
        assert_eq!(ended.status.code(), Some(code), "{words}: {ended:?}");
        assert!(ended.stderr.contains("/dev/full can't be written"), "{words}: {ended:?}");
        assert_eq!(ended.stderr.contains("cannot connect"), !is_measured, "{words}: {ended:?}");
        assert_eq!(ended.stdout.contains("0 lost, 0 doubled"), is_measured, "{words}: {ended:?}");
        let csv = std::fs::read_to_string(csv).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
        assert!(csv.starts_with("scenario,"), "{words}: {csv}");
    }
}

#[test]
fn presets_are_listed() {
    let mut command = program();
    command.args(["bench", "preset", "list"]);
    let text = run_command(command, "").ok();
    assert_eq!(text.lines().count(), 9, "{text}");
}

#[test]
fn a_server_that_can_not_be_started_is_told() {
    for (words, parts) in [
        (
            // All of what the daemon says, and who is to blame.
            "fanout --members 5 --serve-arg=--nonsense",
            &["refuses what --serve-arg gives it, `--nonsense`", "unexpected argument", "Usage:"][..],
        ),
        (
            "fanout --members 5 --serve-arg=--shards=0 --serve-arg=--pin=off",
            &["refuses what --serve-arg gives it, `--shards=0 --pin=off`", "must be 1 to 256"],
        ),
        (
            "fanout --members 5 --serve-arg=--listen=127.0.0.1:0",
            &["refuses what --serve-arg gives it", "'--listen <ADDRESS>' cannot be used multiple"],
        ),
        ("fanout --members 5 --rounds 1 --relay /nonexistent/relay", &["cannot start"]),
        ("fanout --members 5 --rounds 1 --relay /bin/false", &["/bin/false could not start"]),
    ] {
        let ended = run_command(bench(words), "");
        assert_eq!(ended.status.code(), Some(1), "{words}: {ended:?}");
        for part in parts {
            assert!(ended.stderr.contains(part), "{words}: {part} in {ended:?}");
        }
        assert!(ended.stderr.lines().all(|line| line.starts_with("arqonbus:")), "{ended:?}");
    }
}
