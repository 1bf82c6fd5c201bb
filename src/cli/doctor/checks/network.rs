//! Whether the network's own work leaves the shards alone.

use crate::cli::doctor::checks::Case;
use crate::cli::doctor::finding::Verdict;
use crate::cli::machine::{CpuList, Interface};

/// What the kernel's memory for sockets should have for each connection.
const SOCKET_BYTES: u64 = 8 * 1024;
const PAGE_BYTES: u64 = 4 * 1024;

pub(super) fn socket_memory(case: &Case) -> Verdict {
    let connections = u64::from(case.config.limits.max_connections);
    let [low, pressure, high] = case.facts.network.tcp_mem[..] else {
        return Verdict::ok("the kernel does not tell its limit");
    };
    let (bytes, wanted) =
        (high.saturating_mul(PAGE_BYTES), connections * SOCKET_BYTES / PAGE_BYTES);
    if high >= wanted {
        return Verdict::ok(format!("{} MiB for all sockets", bytes >> 20));
    }
    Verdict::note(
        format!(
            "{} MiB for all sockets, {} bytes for each of {connections}",
            bytes >> 20,
            bytes / connections
        ),
        format!("sysctl -w net.ipv4.tcp_mem=\"{low} {} {wanted}\"", pressure.max(wanted / 4 * 3)),
    )
}

pub(super) fn idle_restart(case: &Case) -> Verdict {
    match case.facts.network.tcp_slow_start_after_idle {
        Some(value) if value != 0 => Verdict::note(
            "tcp_slow_start_after_idle is on",
            "sysctl -w net.ipv4.tcp_slow_start_after_idle=0",
        ),
        _ => Verdict::ok("connections keep their rate while they are idle"),
    }
}

pub(super) fn redis_clock(case: &Case) -> Verdict {
    let clock = match &case.redis_clock {
        None => return Verdict::ok("no Redis is configured"),
        Some(Err(why)) => {
            return Verdict::note(
                format!("Redis did not say what its clock shows: {why}"),
                "start Redis, or correct redis_url, and run doctor again",
            );
        }
        Some(Ok(clock)) => clock,
    };
    let (apart_ms, within_ms) =
        (clock.ahead_us.unsigned_abs() / 1_000, clock.within_us.div_ceil(1_000));
    let way = if clock.ahead_us < 0 { "behind" } else { "ahead of" };
    let found = format!(
        "this machine's clock is {apart_ms} ms {way} that of Redis, give or take {within_ms}"
    );
    match clock.is_apart() {
        true => Verdict::warning(found, "timedatectl set-ntp true, on both machines"),
        false => Verdict::ok(found),
    }
}

pub(super) fn interrupts(case: &Case) -> Verdict {
    let cpus = case.facts.cpu.online.len();
    let cards: Vec<&Interface> = case.facts.interfaces.iter().filter(|card| card.is_up).collect();
    if cards.is_empty() || cpus < 2 {
        return Verdict::ok("no network card's interrupts compete with a shard");
    }
    let crowded = cards.iter().find_map(|card| Some((card, crowded_cpu(card)?)));
    if let Some((card, cpu)) = crowded {
        let number = card.interrupts.last().map_or(0, |interrupt| interrupt.number);
        return Verdict::warning(
            format!("all interrupts of {} are served by CPU {cpu}", card.name),
            format!(
                "irqbalance, or echo {} > /proc/irq/{number}/smp_affinity_list",
                case.facts.cpu.online
            ),
        );
    }
    match cards.iter().find(|card| card.rx_queues == 1 && !card.has_rps) {
        Some(card) => Verdict::note(
            format!("{} receives into one queue, so one CPU receives for all", card.name),
            format!(
                "echo {} > /sys/class/net/{}/queues/rx-0/rps_cpus, or ethtool -L {} combined {cpus}",
                mask(&case.facts.cpu.online),
                card.name,
                card.name
            ),
        ),
        None => Verdict::ok("received packets are spread over CPUs"),
    }
}

/// The one CPU that serves every interrupt of a card with several, if there is one.
fn crowded_cpu(card: &Interface) -> Option<u32> {
    let busy: Vec<_> = card.interrupts.iter().filter(|interrupt| interrupt.count > 0).collect();
    let only = busy.first()?.cpus.first()?;
    let is_alone = |list: &CpuList| list.len() == 1 && list.contains(only);
    (busy.len() > 1 && busy.iter().all(|interrupt| is_alone(&interrupt.cpus))).then_some(only)
}

/// A set of CPUs as the kernel reads masks: groups of 32 bits, the highest first.
fn mask(cpus: &CpuList) -> String {
    let groups = cpus.iter().max().unwrap_or(0) / 32;
    let words: Vec<String> = (0..=groups)
        .rev()
        .map(|group| {
            let bits = cpus.iter().filter(|cpu| cpu / 32 == group);
            format!("{:x}", bits.fold(0_u32, |word, cpu| word | 1 << (cpu % 32)))
        })
        .collect();
    words.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::checks::tests::{assert_verdict, case};
    use crate::cli::doctor::finding::Severity::{Note, Ok, Warning};
    use crate::storage::ClockReading;

    #[test]
    fn clocks_that_differ_are_told_with_the_way_to_mend_it() {
        let reading = |ahead_us| ClockReading { ahead_us, within_us: 400 };
        for (clock, severity, words) in [
            (None, Ok, "no Redis"),
            (Some(Result::Ok(reading(-3_000))), Ok, "3 ms behind"),
            (Some(Result::Ok(reading(2_000_000))), Warning, "2000 ms ahead of"),
            (Some(Err("refused".to_owned())), Note, "refused"),
        ] {
            let mut case = case(|_, _| {});
            case.redis_clock = clock;
            assert_verdict(&redis_clock(&case), severity, &[words]);
        }
    }

    #[test]
    fn sockets_need_memory_of_the_kernel() {
        for (pages, severity, words) in [
            (vec![], Ok, ""),
            (vec![1, 2, 200_000], Ok, "781 MiB"),
            (vec![1, 2, 1_000], Note, "tcp_mem=\"1 150000 200000\""),
        ] {
            let case = case(|facts, _| facts.network.tcp_mem = pages);
            assert_verdict(&socket_memory(&case), severity, &[words]);
        }
        for (value, severity) in [(Some(1), Note), (Some(0), Ok), (None, Ok)] {
            let case = case(|facts, _| facts.network.tcp_slow_start_after_idle = value);
            assert_verdict(&idle_restart(&case), severity, &[]);
        }
    }

    #[test]
    fn interrupts_should_not_meet_on_one_cpu() {
        let spread = case(|_, _| {});
        assert_verdict(&interrupts(&spread), Ok, &[]);
        let crowded = case(|facts, _| {
            for interrupt in &mut facts.interfaces[0].interrupts {
                interrupt.cpus = "3".parse().unwrap();
            }
        });
        assert_verdict(&interrupts(&crowded), Warning, &["CPU 3", "/proc/irq/41/", "0-7"]);
        let narrow = case(|facts, _| facts.interfaces[0].rx_queues = 1);
        assert_verdict(&interrupts(&narrow), Note, &["echo ff >", "eth0/queues/rx-0/rps_cpus"]);
        let none = case(|facts, _| facts.interfaces.clear());
        assert_verdict(&interrupts(&none), Ok, &[]);
    }

    #[test]
    fn masks_are_written_as_the_kernel_reads_them() {
        for (list, expected) in [("0-1", "3"), ("0,33", "2,1"), ("32-63", "ffffffff,0")] {
            assert_eq!(mask(&list.parse().unwrap()), expected, "{list}");
        }
    }
}
