//! History and recovery: pages as they are asked for, and after a break every missed message or an
//! honest no (protocol, section 5).

use crate::common::{Client, Daemon, EndOnDrop, eventually, on_shards};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

on_shards! { recovery_is_exact_while_others_publish history_is_paged_as_it_is_asked_for }

const ADDRESS: &str = "science:general";

fn numbers(page: &Value) -> Vec<u64> {
    let messages = page["messages"].as_array().unwrap().iter();
    messages.map(|message| message["metadata"]["sequence"].as_u64().unwrap()).collect()
}

fn history_is_paged_as_it_is_asked_for(daemon: Daemon) {
    let mut ann = daemon.client_with(&format!("client_id=ann&join={ADDRESS}"));
    let epoch = ann.join(ADDRESS)["epoch"].clone();
    let empty = ann.command("history", json!({"channel": ADDRESS}));
    assert_eq!(
        (&empty["messages"], &empty["first"], &empty["last"]),
        (&json!([]), &json!(null), &json!(null))
    );
    let odd = "{ \"n\":1e2,\t\"u\":\"\\u0041\" }";
    let mut event = ann.envelope("event", ADDRESS, json!({}));
    event["metadata"] = json!({"mine": [1]});
    ann.send_text(event.to_string().replace("\"payload\":{}", &format!("\"payload\":{odd}")));
    for n in 2..=120 {
        ann.publish(ADDRESS, json!({"n": n}));
    }
    ann.publish_acked(ADDRESS, json!({"n": 121}));
    let mut page = |mut parameters: Value| {
        parameters["channel"] = ADDRESS.into();
        let page = ann.command("history", parameters);
        assert_eq!(page["epoch"], epoch);
        let sequences = numbers(&page);
        assert_eq!(page["first"], json!(sequences.iter().min()));
        assert_eq!(page["last"], json!(sequences.iter().max()));
        for message in page["messages"].as_array().unwrap() {
            assert_eq!(message["metadata"]["replayed"], true, "history is marked as such");
        }
        (sequences, page["more"] == true, page)
    };
    let range = |from: u64, to: u64| (from..=to).collect::<Vec<u64>>();
    let (sequences, more, _) = page(json!({}));
    assert_eq!((sequences, more), (range(72, 121), true), "the newest fifty, oldest first");
    let (sequences, more, _) = page(json!({"limit": 1000}));
    assert_eq!((sequences, more), (range(1, 121), false));
    let (sequences, more, _) = page(json!({"limit": 3, "order": "desc"}));
    assert_eq!((sequences, more), (vec![121, 120, 119], true));
    let (sequences, more, _) = page(json!({"limit": 3, "before": 3}));
    assert_eq!((sequences, more), (vec![1, 2], false));
    let (sequences, more, _) = page(json!({"after": 119}));
    assert_eq!((sequences, more), (vec![120, 121], false));
    let (sequences, ..) = page(json!({"after": 10, "before": 13}));
    assert_eq!(sequences, [11, 12]);
    let (sequences, more, _) = page(json!({"after": 500}));
    assert_eq!((sequences, more), (vec![], false));
    // Page by page, forward and backward, comes to the same as all at once.
    let (mut forward, mut after) = (Vec::new(), 0);
    loop {
        let (sequences, more, _) = page(json!({"after": after, "limit": 17}));
        after = *sequences.last().unwrap();
        forward.extend(sequences);
        if !more {
            break;
        }
    }
    assert_eq!(forward, range(1, 121));
    let (mut backward, mut before) = (Vec::new(), 1_000);
    loop {
        let (sequences, more, _) = page(json!({"before": before, "limit": 17, "order": "desc"}));
        before = *sequences.last().unwrap();
        backward.extend(sequences);
        if !more {
            break;
        }
    }
    backward.reverse();
    assert_eq!(backward, range(1, 121));
    // By time.
    let (.., all) = page(json!({"limit": 1000}));
    let time = all["messages"][60]["timestamp"].clone();
    let (sequences, ..) = page(json!({"since": time, "limit": 1000}));
    assert!(sequences.contains(&61) && *sequences.last().unwrap() == 121);
    assert!(sequences[0] <= 61);
    let (sequences, ..) = page(json!({"until": time, "limit": 1000}));
    assert!(sequences.contains(&61) && sequences[0] == 1);
    let (sequences, more, _) = page(json!({"until": "2001-01-01T00:00:00Z"}));
    assert_eq!((sequences, more), (vec![], false));
    // Byte for byte, with all that was sent.
    let first = &all["messages"][0];
    assert_eq!(first["metadata"], json!({"mine": [1], "sequence": 1, "replayed": true}));
    assert_eq!(first["payload"]["u"], "A");
    ann.assert_quiet();
}

/// Goes and comes back again and again, each time with the last it has seen.
fn recovery_is_exact_while_others_publish(daemon: Daemon) {
    const RETURNS: usize = 12;
    let is_over = AtomicBool::new(false);
    let mut observer = daemon.client_with(&format!("client_id=observer&join={ADDRESS}"));
    thread::scope(|scope| {
        let publishers: Vec<_> = (0..3)
            .map(|n| daemon.client_with(&format!("client_id=p{n}&join={ADDRESS}")))
            .map(|mut publisher| {
                let is_over = &is_over;
                scope.spawn(move || {
                    // In bursts, each of which is safe before the next: no more than the ring
                    // holds is published between two looks at the clock.
                    while !is_over.load(Relaxed) {
                        for _ in 0..10 {
                            publisher.publish(ADDRESS, json!({}));
                        }
                        publisher.publish_acked(ADDRESS, json!({}));
                        publisher.drain_for(Duration::from_millis(10));
                        publisher.forget();
                    }
                })
            })
            .collect();
        let end = EndOnDrop(&is_over);
        let mut seen: Vec<u64> = Vec::new();
        let mut member = daemon.client_with("client_id=member");
        let mut epoch = member.join(ADDRESS);
        seen.push(epoch["sequence"].as_u64().unwrap());
        for turn in 0..RETURNS {
            for _ in 0..(turn * 7) % 23 {
                seen.push(member.event().sequence());
            }
            // A clean goodbye, or none at all.
            match turn % 2 {
                0 => drop(member),
                _ => member.close(),
            }
            member = daemon.client_with("");
            let recover = json!({"epoch": epoch["epoch"], "sequence": seen.last()});
            let view = member.join_with(ADDRESS, json!({"recover": recover}));
            assert_eq!(view["recovered"], true, "{view}");
            let missed = view["missed"].as_u64().unwrap();
            assert_eq!(missed, view["sequence"].as_u64().unwrap() - seen.last().unwrap());
            for _ in 0..missed {
                let event = member.event();
                assert!(event.is_replayed(), "what was missed comes first: {}", event.text);
                seen.push(event.sequence());
            }
            let live = member.event();
            assert!(!live.is_replayed(), "{}", live.text);
            seen.push(live.sequence());
            epoch = view;
        }
        drop(end);
        let gaps: Vec<_> = seen.windows(2).filter(|pair| pair[1] != pair[0] + 1).collect();
        assert_eq!(gaps, Vec::<&[u64]>::new(), "no gap, no double, no disorder");
        for publisher in publishers {
            publisher.join().unwrap();
        }
    });
    // Whoever stayed saw all of it.
    let last = observer.join(ADDRESS)["sequence"].as_u64().unwrap();
    let heard: Vec<u64> =
        observer.events(last as usize).iter().map(|event| event.sequence()).collect();
    assert_eq!(heard, (1..=last).collect::<Vec<_>>());
}

#[test]
fn what_cannot_be_recovered_is_not_begun() {
    let daemon =
        Daemon::start(&["--shards", "2", "--history-size", "5", "--empty-channel-ttl-ms", "50"]);
    let mut ann = daemon.client("ann");
    let epoch = ann.join("lab:a")["epoch"].clone();
    for n in 1..=9 {
        ann.publish_acked("lab:a", json!({"n": n}));
    }
    let mut bob = daemon.client("bob");
    for (epoch, sequence, reason) in [
        (epoch.clone(), 3, "history_overrun"),
        (epoch.clone(), 0, "history_overrun"),
        (epoch.clone(), 10, "unknown_sequence"),
        (json!("0123456789abcdef"), 9, "epoch_changed"),
        (json!("no epoch at all"), 0, "epoch_changed"),
    ] {
        let view =
            bob.join_with("lab:a", json!({"recover": {"epoch": epoch, "sequence": sequence}}));
        assert_eq!((&view["recovered"], &view["missed"]), (&json!(false), &json!(0)), "{view}");
        assert_eq!(view["reason"], reason, "{view}");
        assert_eq!(view["sequence"], 9, "from where it goes on");
        bob.assert_quiet();
        bob.leave("lab:a");
    }
    // The oldest that is still whole.
    let view = bob.join_with("lab:a", json!({"recover": {"epoch": epoch, "sequence": 4}}));
    assert_eq!((&view["recovered"], &view["missed"]), (&json!(true), &json!(5)));
    assert_eq!(bob.events(5).iter().map(|e| e.sequence()).collect::<Vec<_>>(), [5, 6, 7, 8, 9]);
    let refused = bob.refused(
        "join_channel",
        json!({"channel": "lab:a", "recover": {"epoch": epoch, "sequence": 4}}),
    );
    assert_eq!(refused.what(), (409, "ALREADY_JOINED"));
    // The channel's next life.
    bob.leave("lab:a");
    ann.leave("lab:a");
    eventually("the channel to go", || {
        let channels = ann.ask("list_channels", json!({"room": "lab"}));
        channels.map_or(true, |list| !list.to_string().contains("\"a\"")).then_some(())
    });
    let view = bob.join_with("lab:a", json!({"recover": {"epoch": epoch, "sequence": 9}}));
    assert_eq!((&view["recovered"], &view["reason"]), (&json!(false), &json!("epoch_changed")));
    assert_eq!(view["sequence"], 0);
    bob.assert_quiet();
}

#[test]
fn replayed_messages_are_byte_for_byte_and_marked() {
    let daemon = Daemon::with_shards(2);
    let mut ann = daemon.client_with(&format!("client_id=ann&join={ADDRESS}"));
    let epoch = ann.join(ADDRESS)["epoch"].clone();
    let mut witness = daemon.client_with(&format!("client_id=witness&join={ADDRESS}"));
    let odd =
        "{ \"n\":1e2,\t\"u\":\"\\u0041\\ud83d\\ude00\" ,\"big\":123456789012345678901234567890}";
    let event = ann.envelope("event", ADDRESS, json!({}));
    ann.send_text(event.to_string().replace("\"payload\":{}", &format!("\"payload\":{odd}")));
    let live = witness.event();
    assert_eq!(live.payload_text(), odd);
    let mut late: Client = daemon.client("late");
    late.join_with(ADDRESS, json!({"recover": {"epoch": epoch, "sequence": 0}}));
    let replayed = late.event();
    assert_eq!(replayed.payload_text(), odd);
    assert_eq!(replayed["metadata"], json!({"sequence": 1, "replayed": true}));
    for key in ["id", "from", "timestamp", "room", "channel", "type", "version"] {
        assert_eq!(replayed[key], live[key], "{key}");
    }
}

#[test]
fn a_bus_without_history_still_counts() {
    let daemon = Daemon::start(&["--shards", "2", "--history-size", "0"]);
    let mut ann = daemon.client_with(&format!("client_id=ann&join={ADDRESS}"));
    let epoch = ann.join(ADDRESS)["epoch"].clone();
    for n in 1..=3 {
        assert_eq!(ann.publish_acked(ADDRESS, json!({})), n);
    }
    assert_eq!(ann.command("history", json!({"channel": ADDRESS}))["messages"], json!([]));
    let mut bob = daemon.client("bob");
    let view = bob.join_with(ADDRESS, json!({"recover": {"epoch": epoch, "sequence": 2}}));
    assert_eq!((&view["recovered"], &view["reason"]), (&json!(false), &json!("history_overrun")));
    bob.leave(ADDRESS);
    let view = bob.join_with(ADDRESS, json!({"recover": {"epoch": epoch, "sequence": 3}}));
    assert_eq!(
        (&view["recovered"], &view["missed"]),
        (&json!(true), &json!(0)),
        "nothing was missed"
    );
}

#[test]
fn a_channel_keeps_no_more_bytes_than_it_may() {
    let limits = ["--shards", "2", "--max-message-bytes", "100000", "--history-bytes", "1000000"];
    let daemon = Daemon::start(&limits);
    let mut ann = daemon.client_with(&format!("client_id=ann&join={ADDRESS}"));
    for _ in 0..30 {
        ann.publish_acked(ADDRESS, json!({"t": "x".repeat(90_000)}));
    }
    let kept = ann.command("channel_info", json!({"channel": ADDRESS}))["history"].clone();
    assert_eq!((&kept["first_sequence"], &kept["last_sequence"]), (&json!(20), &json!(30)));
    let page = ann.command("history", json!({"channel": ADDRESS, "limit": 1_000}));
    assert_eq!(numbers(&page), (20..=30).collect::<Vec<u64>>());
}

#[test]
fn who_fills_the_memory_of_the_node_loses_first() {
    let limits = [
        "--shards",
        "1",
        "--history-bytes",
        "4000000",
        "--history-bytes-total",
        "6000000",
        "--outbox-bytes",
        "8000000",
    ];
    let daemon = Daemon::start(&limits);
    let mut quiet = daemon.client_with("client_id=quiet&join=home:quiet");
    for n in 0..100 {
        quiet.publish_acked("home:quiet", json!({"n": n}));
    }
    let mut loud = daemon.client_with("client_id=loud&join=home:a,home:b,home:c");
    for n in 0..30 {
        for channel in ["home:a", "home:b", "home:c"] {
            loud.publish_acked(channel, json!({"n": n, "t": "x".repeat(200_000)}));
        }
    }
    let kept = |client: &mut Client, channel: &str| {
        let info = client.command("channel_info", json!({"channel": channel}));
        let sequence = |key: &str| info["history"][key].as_u64().unwrap();
        sequence("last_sequence") - sequence("first_sequence") + 1
    };
    assert_eq!(kept(&mut quiet, "home:quiet"), 100, "a small channel keeps all it has");
    let of_loud: u64 =
        ["home:a", "home:b", "home:c"].iter().map(|channel| kept(&mut loud, channel)).sum();
    assert!((15..=29).contains(&of_loud), "{of_loud} messages of 200 kB in 6 MB");
    eventually("the meters to be published", || {
        let bytes = daemon.metric("arqonbus_shard_history_bytes", "");
        let shed = daemon.metric("arqonbus_shard_history_shed_total", "");
        (bytes > 3_000_000.0 && bytes <= 6_000_000.0 && shed > 0.0).then_some(())
    });
}
