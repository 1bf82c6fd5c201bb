//! `list_clients` tells of all nodes, and says which of them have not answered.

use super::World;
use crate::base::ids::ShardId;
use crate::base::limits::GATHER_DEADLINE_MS;
use crate::broker::census::RowsWanted;
use crate::broker::lane::PendingRef;
use crate::protocol::views::ClientRow;
use serde_json::{Value, json};

fn ids(result: &Value) -> Vec<String> {
    let clients = result["clients"].as_array().unwrap().iter();
    let id = |row: &Value| row["client_id"].as_str().or(row.as_str()).unwrap().to_owned();
    clients.map(id).collect()
}

#[test]
fn the_clients_of_all_nodes_are_listed_by_name() {
    let mut world = World::new(3);
    let bob = world.nodes[1].connect(0, "bob");
    let ann = world.nodes[0].connect(2, "ann");
    world.nodes[2].connect(1, "dan");
    world.nodes[1].connect(1, "cat");
    world.settle();
    world.nodes[0].join(&ann, "r:c");
    world.settle();
    let list = |world: &mut World, parameters: Value| {
        let payload = json!({"command": "list_clients", "response_format": parameters});
        let id = world.nodes[1].say(&bob, "command", "*:*", payload, json!({}));
        world.settle();
        world.nodes[1].reply(&bob, &id).map(|reply| reply["result"].clone())
    };
    let full = list(&mut world, json!("full")).unwrap();
    assert_eq!(ids(&full), ["ann", "bob", "cat", "dan"]);
    assert_eq!((&full["count"], &full["more"]), (&json!(4), &json!(false)));
    assert_eq!(full.get("unanswered_nodes"), None);
    let of_ann = &full["clients"][0];
    assert_eq!((&of_ann["subscriptions"], &of_ann["shard"]), (&json!(["r:c"]), &json!(2)));
    let keys = |row: &Value| row.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(of_ann), keys(&full["clients"][1]), "whether it is here or there");
    assert_eq!(ids(&list(&mut world, json!("brief")).unwrap()), ["ann", "bob", "cat", "dan"]);
    // One does not answer: it is waited for as long as for a shard, and named.
    world.store.borrow_mut().nodes[2].is_late = true;
    assert_eq!(list(&mut world, json!("full")), None);
    world.pass(GATHER_DEADLINE_MS);
    let heard = world.nodes[1].heard(&bob);
    let short = &heard.last().unwrap()["payload"]["result"];
    assert_eq!(ids(short), ["ann", "bob", "cat"]);
    assert_eq!((&short["count"], &short["unanswered_nodes"]), (&json!(3), &json!(["n2"])));
    // What it says later nobody asks for any more.
    world.set_late(2, false);
    assert!(world.nodes[1].heard(&bob).is_empty());
    assert_eq!(ids(&list(&mut world, json!("brief")).unwrap()).len(), 4);
    // A node that can't reach the others lists its own, and says so.
    world.cut_off(1);
    assert_eq!(list(&mut world, json!("full")), None);
    world.pass(GATHER_DEADLINE_MS);
    let heard = world.nodes[1].heard(&bob);
    let own = &heard.last().unwrap()["payload"]["result"];
    assert_eq!(
        (ids(own), &own["unanswered_nodes"]),
        (vec!["bob".into(), "cat".into()], &json!(["n0", "n2"]))
    );
}

#[test]
fn an_answer_to_a_peer_is_as_long_as_it_may_be_and_says_where_it_ends() {
    let mut world = World::new(1);
    for name in ["ann", "bob", "cat", "dan", "eve", "fay"] {
        world.nodes[0].connect(0, name);
    }
    let reply_to = PendingRef { shard: ShardId(1), pending: 7 };
    let edge = &world.nodes[0].edges[0];
    let whole = edge.clients_for_peer(reply_to, &RowsWanted::first());
    let rows = &whole.part.rows;
    assert_eq!((rows.rows.len(), rows.count, &rows.last), (6, 6, &None));
    assert_eq!((whole.shard, whole.shards, whole.reply_to), (0, super::super::SHARDS, reply_to));
    let here = edge.clients_part(&RowsWanted::first());
    let one = here.rows.iter().map(ClientRow::bytes).max().unwrap();
    let length = |row: &ClientRow| serde_json::to_string(row).unwrap().len();
    assert!(
        rows.rows.iter().all(|row| length(row) <= one),
        "a row is no longer than it is taken for"
    );
    let bytes = one * usize::from(super::super::SHARDS);
    for (bytes, count) in [(3 * bytes, 3), (bytes, 1), (0, 1)] {
        let wanted = RowsWanted { bytes, ..RowsWanted::first() };
        let rows = edge.clients_for_peer(reply_to, &wanted).part.rows;
        assert_eq!((rows.rows.len(), rows.count), (count, 6), "{bytes}");
        assert_eq!(rows.last.as_ref(), Some(rows.rows[count - 1].client_id()));
    }
}
