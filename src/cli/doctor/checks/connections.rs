//! Whether all the connections can be had.

use crate::base::limits::ACCEPT_BACKLOG;
use crate::cli::doctor::checks::Case;
use crate::cli::doctor::finding::Verdict;

/// The ports below which even a modest load generator runs dry.
const CLIENT_PORTS_FEW: u64 = 10_000;

pub(super) fn descriptors(case: &Case) -> Verdict {
    let (limits, needed) = (&case.facts.descriptors, case.config.descriptors_needed());
    let connections = case.config.limits.max_connections;
    if let Some(all) = limits.file_max.filter(|&all| all < needed) {
        return Verdict::problem(
            format!("the whole machine may have {all} open files, {needed} are needed"),
            format!("sysctl -w fs.file-max={}", needed * 2),
        );
    }
    let Some(have) = limits.for_daemon().filter(|&have| have < needed) else {
        return Verdict::ok(format!("enough for {connections} connections ({needed})"));
    };
    let raise = match limits.nr_open.filter(|&most| most < needed) {
        Some(_) => format!("sysctl -w fs.nr_open={needed}, and then "),
        None => String::new(),
    };
    let fix = format!("{raise}LimitNOFILE={needed} in the systemd unit, or ulimit -n {needed}");
    let found = format!("{connections} connections need {needed}, and the daemon gets {have}");
    match case.asks_for_connections {
        true => Verdict::problem(format!("{found}: it will not start"), fix),
        false => Verdict::warning(format!("{found}: it will take fewer connections"), fix),
    }
}

pub(super) fn accept_queue(case: &Case) -> Verdict {
    let wanted = u64::from(ACCEPT_BACKLOG);
    let fix = format!("sysctl -w net.core.somaxconn={wanted}");
    match case.facts.network.somaxconn {
        Some(have) if have < wanted / 4 => {
            Verdict::warning(format!("somaxconn lets only {have} connections wait"), fix)
        }
        Some(have) if have < wanted => {
            Verdict::note(format!("somaxconn is {have}, the daemon asks for {wanted}"), fix)
        }
        _ => Verdict::ok(format!("{wanted} connections may wait to be accepted")),
    }
}

pub(super) fn half_open(case: &Case) -> Verdict {
    let wanted = u64::from(ACCEPT_BACKLOG);
    match case.facts.network.tcp_max_syn_backlog.filter(|&have| have < wanted) {
        Some(have) => Verdict::note(
            format!("tcp_max_syn_backlog is {have}, less than the accept queue of {wanted}"),
            format!("sysctl -w net.ipv4.tcp_max_syn_backlog={}", wanted * 2),
        ),
        None => Verdict::ok("as many may be half open as may wait to be accepted"),
    }
}

pub(super) fn client_ports(case: &Case) -> Verdict {
    let wanted = u64::from(case.config.limits.max_connections);
    let fix = "sysctl -w net.ipv4.ip_local_port_range=\"10000 65535\", and more than one address for \
               more than 55,536 connections";
    match case.facts.network.client_ports() {
        Some(have) if have < CLIENT_PORTS_FEW.min(wanted) => {
            Verdict::warning(format!("one address of this machine has {have} ports"), fix)
        }
        Some(have) if have < wanted => Verdict::note(
            format!(
                "one address of this machine can make {have} connections, {wanted} are allowed"
            ),
            fix,
        ),
        _ => Verdict::ok(format!("enough for {wanted} connections from one address")),
    }
}

pub(super) fn tracking(case: &Case) -> Verdict {
    let network = &case.facts.network;
    let (Some(count), Some(max)) = (network.conntrack_count, network.conntrack_max) else {
        return Verdict::ok("the firewall does not follow connections");
    };
    let connections = u64::from(case.config.limits.max_connections);
    let port = case.config.listen.port();
    let wanted = (connections + count) * 5 / 4;
    let fix = format!(
        "sysctl -w net.netfilter.nf_conntrack_max={wanted}, or leave the bus out: \
         nft add table inet arqonbus; \
         nft add chain inet arqonbus raw '{{ type filter hook prerouting priority raw; }}'; \
         nft add rule inet arqonbus raw tcp dport {port} notrack; \
         nft add chain inet arqonbus out '{{ type filter hook output priority raw; }}'; \
         nft add rule inet arqonbus out tcp sport {port} notrack",
    );
    if count >= max / 10 * 9 {
        return Verdict::problem(format!("{count} of {max} entries are taken"), fix);
    }
    if max < connections + count {
        let found = format!("{max} entries, {count} taken, for {connections} connections");
        return Verdict::warning(found, fix);
    }
    Verdict::ok(format!("{count} of {max} entries are taken"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::checks::tests::{assert_verdict, case};
    use crate::cli::doctor::finding::Severity::{Note, Ok, Problem, Warning};

    #[test]
    fn descriptors_must_do_for_the_connections() {
        for (hard, nr_open, file_max, connections, is_asked, severity, words) in [
            (1_000_000, 1 << 20, 1 << 30, 100_000, true, Ok, &["100000"][..]),
            (4_096, 1 << 20, 1 << 30, 100_000, false, Warning, &["4096", "fewer", "LimitNOFILE="]),
            (4_096, 1 << 20, 1 << 30, 100_000, true, Problem, &["not start", "ulimit -n"]),
            (4_096, 1_000, 1 << 30, 100_000, true, Problem, &["fs.nr_open=", "LimitNOFILE="]),
            (1 << 20, 1 << 20, 5_000, 100_000, false, Problem, &["fs.file-max="]),
        ] {
            let mut case = case(|facts, config| {
                facts.descriptors.hard = Some(hard);
                facts.descriptors.nr_open = Some(nr_open);
                facts.descriptors.file_max = Some(file_max);
                config.limits.max_connections = connections;
            });
            case.asks_for_connections = is_asked;
            assert_verdict(&descriptors(&case), severity, words);
        }
        let unlimited = case(|facts, _| {
            (facts.descriptors.hard, facts.descriptors.nr_open) = (None, None);
        });
        assert_verdict(&descriptors(&unlimited), Ok, &[]);
    }

    #[test]
    fn queues_must_hold_those_who_come_back_at_once() {
        for (have, severity) in [(Some(128), Warning), (Some(1_024), Note), (Some(4_096), Ok)] {
            let case = case(|facts, _| facts.network.somaxconn = have);
            assert_verdict(&accept_queue(&case), severity, &[]);
        }
        for (have, severity) in [(Some(512), Note), (Some(4_096), Ok), (None, Ok)] {
            let case = case(|facts, _| facts.network.tcp_max_syn_backlog = have);
            assert_verdict(&half_open(&case), severity, &[]);
        }
    }

    #[test]
    fn clients_here_need_ports() {
        for (range, connections, severity) in [
            (vec![32_768, 60_999], 100_000, Note),
            (vec![32_768, 60_999], 20_000, Ok),
            (vec![60_000, 60_999], 100_000, Warning),
            (vec![60_000, 60_999], 500, Ok),
            (vec![], 100_000, Ok),
        ] {
            let case = case(|facts, config| {
                facts.network.ip_local_port_range = range;
                config.limits.max_connections = connections;
            });
            assert_verdict(&client_ports(&case), severity, &[]);
        }
    }

    #[test]
    fn tracked_connections_need_entries() {
        for (count, max, severity, words) in [
            (None, None, Ok, &[][..]),
            (Some(10), Some(262_144), Ok, &["10 of 262144"]),
            (Some(10), Some(65_536), Warning, &["nf_conntrack_max=125012", "dport 9100 notrack"]),
            (Some(65_000), Some(65_536), Problem, &["65000 of 65536"]),
        ] {
            let case = case(|facts, _| {
                (facts.network.conntrack_count, facts.network.conntrack_max) = (count, max);
            });
            assert_verdict(&tracking(&case), severity, words);
        }
    }
}
