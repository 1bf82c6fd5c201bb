//! Whether the shards have cores of their own, at full speed.

use crate::cli::doctor::checks::Case;
use crate::cli::doctor::finding::Verdict;
use crate::cli::machine::CpuList;
use crate::daemon::config::Pin;

/// Clocks that are read without a system call.
const FAST_CLOCKS: [&str; 6] = [
    "tsc",
    "kvm-clock",
    "hyperv_clocksource_tsc_page",
    "arch_sys_counter",
    "riscv_clocksource",
    "timebase",
];
/// Stolen time, in percent, that shows in the slowest deliveries, and that shows everywhere.
const STEAL_PERCENT: [f64; 2] = [1.0, 5.0];

pub(super) fn shards(case: &Case) -> Verdict {
    let (cores, shards) = (case.facts.cpu.for_daemon(), u32::from(case.config.shards));
    let usable = cores.usable();
    if shards > usable {
        return Verdict::warning(
            format!("{shards} shards, but only {usable} threads can run at once"),
            format!("shards = {usable}"),
        );
    }
    let Some(quota) = cores.quota.filter(|_| cores.is_throttled()) else {
        return Verdict::ok(format!("{shards} shards, {usable} cores"));
    };
    let (whole, period_ms) = (quota.time_us / quota.period_us, quota.period_us / 1_000);
    let share = quota.time_us as f64 / quota.period_us as f64;
    let found = format!("a CPU quota of {share:.2} cores in {period_ms} ms, {shards} shards");
    let whole_cores = format!("CPUQuota={}% (or no quota and AllowedCPUs=)", shards * 100);
    match u64::from(shards) <= whole {
        true => Verdict::note(found, format!("{whole_cores} in the unit, if others allow it")),
        false => Verdict::warning(
            format!("{found}: busy shards use it up and stop for the rest of the time"),
            format!("shards = {}, or {whole_cores} in the unit", whole.max(1)),
        ),
    }
}

pub(super) fn hardware_threads(case: &Case) -> Verdict {
    let cpu = &case.facts.cpu;
    let whole = cpu.allowed.len().saturating_sub(cpu.second_threads());
    let shards = usize::from(case.config.shards);
    if cpu.second_threads() == 0 || shards <= whole {
        return Verdict::ok(format!("{shards} shards need not share a core"));
    }
    Verdict::note(
        format!("{shards} shards on {whole} cores: some share one"),
        format!("compare with shards = {whole}; `arqonbus tune` does"),
    )
}

pub(super) fn nodes(case: &Case) -> Verdict {
    let cpu = &case.facts.cpu;
    let is_used = |node: &&CpuList| node.iter().any(|cpu_number| cpu.allowed.contains(cpu_number));
    let used: Vec<_> = cpu.nodes.iter().filter(is_used).collect();
    match used[..] {
        [first, _, ..] if case.config.shards > 1 => Verdict::note(
            format!("the CPUs this process may use are on {} nodes", used.len()),
            format!("one daemon for each node, each on its CPUs: AllowedCPUs={first} in the unit"),
        ),
        _ => Verdict::ok("all shards are on one node"),
    }
}

pub(super) fn pinning(case: &Case) -> Verdict {
    let cores = case.facts.cpu.for_daemon();
    if case.config.pin != Pin::On {
        return Verdict::ok("shards are pinned only where it helps");
    }
    let found = if cores.is_throttled() {
        "shards are pinned inside a CPU quota"
    } else if u32::from(case.config.shards) > cores.affinity {
        "several pinned shards have the same core"
    } else {
        return Verdict::ok("each shard is pinned to a core of its own");
    };
    Verdict::warning(found, "pin = \"auto\"")
}

pub(super) fn spinning(case: &Case) -> Verdict {
    let (spin_us, shards) = (case.config.turn.busy_poll_us, u32::from(case.config.shards));
    let usable = case.facts.cpu.for_daemon().usable();
    match spin_us {
        0 => Verdict::ok("idle shards sleep"),
        _ if shards < usable => {
            Verdict::ok(format!("{shards} shards spin for {spin_us} us, {usable} cores"))
        }
        _ => Verdict::warning(
            format!("{shards} shards spin for {spin_us} us and leave none of {usable} cores free"),
            format!("[turn] busy_poll_us = 0, or shards = {}", usable.saturating_sub(1).max(1)),
        ),
    }
}

pub(super) fn governor(case: &Case) -> Verdict {
    let governors = &case.facts.cpu.governors;
    let fix = "cpupower frequency-set -g performance";
    let found = format!("the governor is {}", governors.join(" and "));
    let has = |names: &[&str]| governors.iter().any(|governor| names.contains(&&**governor));
    if has(&["powersave", "conservative"]) {
        return Verdict::warning(found, fix);
    }
    if has(&["ondemand", "schedutil"]) {
        return Verdict::note(found, fix);
    }
    match governors.is_empty() {
        true => Verdict::ok("the clock rate is not this kernel's to choose"),
        false => Verdict::ok(found),
    }
}

pub(super) fn clock(case: &Case) -> Verdict {
    let kernel = &case.facts.kernel;
    let Some(clock) = kernel.clock_source.as_deref() else {
        return Verdict::ok("the kernel does not tell its clock");
    };
    if FAST_CLOCKS.contains(&clock) {
        return Verdict::ok(format!("{clock}, read without a system call"));
    }
    let fast = kernel.clock_sources.iter().find(|name| FAST_CLOCKS.contains(&&***name));
    let fix = match fast {
        Some(fast) => format!(
            "echo {fast} > /sys/devices/system/clocksource/clocksource0/current_clocksource, and \
             clocksource={fast} on the kernel's command line"
        ),
        None => "another machine type: this one offers no clock that is read fast".to_owned(),
    };
    Verdict::warning(format!("the clock is {clock}"), fix)
}

pub(super) fn neighbours(case: &Case) -> Verdict {
    let (cpu, kernel) = (&case.facts.cpu, &case.facts.kernel);
    let steal = cpu.steal_percent.unwrap_or(0.0);
    let found = format!("{steal} % of the time was stolen by other machines");
    let fix = "CPUs of its own for this machine (a dedicated instance, or pinned virtual CPUs)";
    if steal >= STEAL_PERCENT[1] {
        return Verdict::warning(found, fix);
    }
    if steal >= STEAL_PERCENT[0] {
        return Verdict::note(found, fix);
    }
    let (load, cpus) = (kernel.load_average.first().copied().unwrap_or(0.0), cpu.online.len());
    if cpus > 0 && load > cpus as f64 {
        return Verdict::note(
            format!("{load} threads want to run on {cpus} CPUs: what is measured now is noise"),
            "look with `top` who it is, and measure when they are done",
        );
    }
    Verdict::ok(format!("{found}, the load is {load}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::checks::tests::{assert_verdict, case};
    use crate::cli::doctor::finding::Severity::{Note, Ok, Warning};
    use crate::daemon::cgroup::Quota;

    #[test]
    fn shards_need_the_time_they_may_use() {
        let quota = |time_us| Some(Quota { time_us, period_us: 100_000 });
        for (quota, shards_count, severity, words) in [
            (None, 6, Ok, &["6 shards, 6 cores"][..]),
            (None, 7, Warning, &["shards = 6"]),
            (quota(250_000), 3, Warning, &["2.50 cores", "shards = 2", "CPUQuota=300%"]),
            (quota(250_000), 2, Note, &["CPUQuota=200%"]),
            (quota(50_000), 1, Warning, &["shards = 1", "CPUQuota=100%"]),
            (quota(600_000), 6, Ok, &[]),
        ] {
            let case = case(|facts, config| {
                (facts.cpu.quota, config.shards) = (quota, shards_count);
            });
            assert_verdict(&shards(&case), severity, words);
        }
    }

    #[test]
    fn shared_cores_and_several_nodes_are_told() {
        for (shards, threads, node) in [(1, Ok, Ok), (4, Ok, Note), (6, Note, Note)] {
            let case = case(|_, config| config.shards = shards);
            assert_verdict(&hardware_threads(&case), threads, &[]);
            assert_verdict(&nodes(&case), node, &[]);
        }
        let one_node = case(|facts, _| facts.cpu.allowed = "0-1".parse().unwrap());
        assert_verdict(&nodes(&one_node), Ok, &[]);
    }

    #[test]
    fn pinning_and_spinning_need_free_cores() {
        for (pin, has_quota, shards, severity) in [
            (Pin::Auto, true, 9, Ok),
            (Pin::On, false, 6, Ok),
            (Pin::On, true, 2, Warning),
            (Pin::On, false, 7, Warning),
        ] {
            let case = case(|facts, config| {
                facts.cpu.quota = facts.cpu.quota.filter(|_| has_quota);
                (config.pin, config.shards) = (pin, shards);
            });
            assert_verdict(&pinning(&case), severity, &[]);
        }
        for (busy_poll_us, shards, severity) in [(0, 6, Ok), (50, 2, Ok), (50, 3, Warning)] {
            let case = case(|_, config| {
                (config.turn.busy_poll_us, config.shards) = (busy_poll_us, shards);
            });
            assert_verdict(&spinning(&case), severity, &[]);
        }
    }

    #[test]
    fn the_speed_of_cores_and_clocks_is_judged() {
        for (names, severity) in [
            (&["performance"][..], Ok),
            (&["performance", "powersave"], Warning),
            (&["schedutil"], Note),
            (&[], Ok),
        ] {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            let case = case(|facts, _| facts.cpu.governors = names);
            assert_verdict(&governor(&case), severity, &[]);
        }
        for (name, others, severity, words) in [
            (Some("tsc"), "tsc hpet", Ok, "without a system call"),
            (Some("hpet"), "tsc hpet", Warning, "echo tsc >"),
            (Some("acpi_pm"), "acpi_pm", Warning, "another machine type"),
            (None, "", Ok, ""),
        ] {
            let case = case(|facts, _| {
                facts.kernel.clock_source = name.map(str::to_owned);
                facts.kernel.clock_sources = others.split(' ').map(str::to_owned).collect();
            });
            assert_verdict(&clock(&case), severity, &[words]);
        }
    }

    #[test]
    fn neighbours_are_noticed() {
        for (steal, load, severity) in
            [(0.2, 1.0, Ok), (2.0, 1.0, Note), (9.0, 1.0, Warning), (0.0, 9.0, Note)]
        {
            let case = case(|facts, _| {
                facts.cpu.steal_percent = Some(steal);
                facts.kernel.load_average = vec![load];
            });
            assert_verdict(&neighbours(&case), severity, &[]);
        }
    }
}
