//! Lists come in pages, which together give every row once, and cost what their rows cost.

use super::*;
use crate::broker::census::RowsWanted;

/// A bus on which nobody is hindered.
fn free() -> Bus {
    Bus::new(Limits { rate_commands: 0, ..Limits::default() }, PublishAnywhere::default())
}

/// All rows of a list, page after page; `meanwhile` happens between them.
fn all(
    bus: &mut Bus,
    client: &Client,
    (name, address, key): (&str, &str, &str),
    limit: usize,
    mut meanwhile: impl FnMut(&mut Bus, usize),
) -> Vec<String> {
    let (mut rows, mut cursor) = (Vec::new(), json!(null));
    for page in 0.. {
        assert!(page < 200, "it goes on");
        let parameters = json!({"limit": limit, "cursor": cursor});
        let result = bus.done(client, name, address, parameters);
        let of_page = result[key].as_array().unwrap();
        assert!(of_page.len() <= limit);
        let name =
            |row: &Value| row["name"].as_str().or(row["client_id"].as_str()).unwrap().to_owned();
        rows.extend(of_page.iter().map(name));
        cursor = result["cursor"].clone();
        if cursor.is_null() {
            break;
        }
        meanwhile(bus, page);
    }
    rows
}

#[test]
fn pages_of_rooms_channels_and_clients_give_every_row_once() {
    let mut bus = free();
    let ann = bus.connect(0, "ann");
    for number in 0..25 {
        bus.join(&ann, &format!("room{number:02}:c"));
        bus.join(&ann, &format!("hall:c{number:02}"));
    }
    let names: Vec<&'static str> =
        (0..12).map(|number| &*format!("client{number:02}").leak()).collect();
    let clients: Vec<Client> =
        names.iter().enumerate().map(|(at, name)| bus.connect(at as u16 % 3, name)).collect();
    for limit in [1, 7, 26, 1_000] {
        // What comes and goes meanwhile may be missing; what is there all the time is not.
        let rooms = all(&mut bus, &ann, ("list_rooms", "*:*", "rooms"), limit, |bus, page| {
            let address = format!("aroom{page}:c");
            bus.join(&ann, &address);
            bus.done(&ann, "leave_channel", &address, json!({}));
        });
        let lasting: Vec<&String> = rooms.iter().filter(|name| name.starts_with("room")).collect();
        assert_eq!(lasting.len(), 25, "{limit}: {rooms:?}");
        assert!(rooms.is_sorted() && rooms.windows(2).all(|pair| pair[0] != pair[1]));
        let channels =
            all(&mut bus, &ann, ("list_channels", "hall:*", "channels"), limit, |_, _| {});
        assert_eq!(channels.len(), 25);
        assert!(channels.is_sorted());
        let mut gone = clients.iter();
        let found = all(&mut bus, &ann, ("list_clients", "*:*", "clients"), limit, |_, _| {
            gone.next();
        });
        assert_eq!(found.len(), 13, "{limit}");
        assert!(found.is_sorted());
    }
}

#[test]
fn pages_of_participants_give_every_member_once() {
    let mut bus = free();
    let ann = bus.connect(0, "ann");
    bus.join(&ann, "r:c");
    let mut clients = Vec::new();
    for number in 0..60 {
        let name: &'static str = format!("client{number:03}").leak();
        let client = bus.connect(number % 3, name);
        // By name, by the whole room, or by both.
        if number % 3 != 1 {
            bus.join(&client, "r:c");
        }
        if number % 3 != 0 {
            bus.join(&client, "r:*");
        }
        clients.push(client);
    }
    let info = bus.done(&ann, "channel_info", "r:c", json!({}));
    assert_eq!((&info["participant_count"], &info["cursor"]), (&json!(61), &json!(null)));
    let listed = all(&mut bus, &ann, ("channel_info", "r:c", "participants"), 1_000, |_, _| {});
    assert!(listed.is_sorted(), "all of them are in order");
    for limit in [1, 9, 50, 61] {
        let mut rows =
            all(&mut bus, &ann, ("channel_info", "r:c", "participants"), limit, |_, _| {});
        rows.sort();
        assert_eq!(rows, listed, "{limit}");
    }
    // Half of them go while the pages are read.
    let mut going = clients.iter().step_by(2).collect::<Vec<_>>();
    let rows = all(&mut bus, &ann, ("channel_info", "r:c", "participants"), 10, |bus, _| {
        (0..5).filter_map(|_| going.pop()).for_each(|client| bus.disconnect(client));
    });
    for client in clients.iter().skip(1).step_by(2) {
        assert_eq!(rows.iter().filter(|row| *row == client.id).count(), 1, "{}", client.id);
    }
}

#[test]
fn a_question_costs_what_its_page_costs_however_large_the_bus_is() {
    let limits = Limits { rate_commands: 0, max_joins_per_client: 10_000, ..Limits::default() };
    let mut bus = Bus::new(limits, PublishAnywhere::default());
    let ann = bus.connect(0, "ann");
    let card = bus.edges[0].session(ann.conn).unwrap().card.clone();
    let wanted = RowsWanted { limit: 10, ..RowsWanted::first() };
    let mut costs = Vec::new();
    for number in 0..400 {
        bus.join(&ann, &format!("room{number}:c"));
        if number == 60 || number == 399 {
            let mut told = Told::default();
            let rows = bus.homes[1].rooms_part(&card, &wanted, &mut told);
            assert_eq!(rows.rows.len(), 10);
            costs.push(told.work.spent());
        }
    }
    assert_eq!(costs[0], costs[1], "ten rows are ten rows");
    // A page is bounded in bytes as well: a room with many channels is a long row.
    for number in 0..150 {
        bus.join(&ann, &format!("room1:channel-with-a-long-name-{number}"));
    }
    let wanted = RowsWanted { bytes: 4_096, ..RowsWanted::first() };
    for home in &bus.homes {
        let rows = home.rooms_part(&card, &wanted, &mut Told::default());
        let bytes: usize =
            rows.rows.iter().map(|row| serde_json::to_string(row).unwrap().len()).sum();
        assert!(rows.rows.len() == 1 || bytes <= wanted.bytes, "{bytes}");
    }
}

#[test]
fn a_cursor_of_another_server_or_list_is_refused() {
    let mut bus = free();
    let ann = bus.connect(0, "ann");
    let bob = bus.connect(1, "bob");
    [&ann, &bob].into_iter().for_each(|client| bus.join(client, "r:c"));
    let page = bus.done(&ann, "channel_info", "r:c", json!({"limit": 1}));
    let cursor = page["cursor"].as_str().unwrap().to_owned();
    for (name, address) in [("channel_info", "r:d"), ("list_rooms", "*:*"), ("list_clients", "*:*")]
    {
        let refused = bus.command(&ann, name, address, json!({"cursor": cursor}));
        assert_eq!(
            (&refused["code"], &refused["field"]),
            (&json!(400), &json!("parameters.cursor"))
        );
    }
    let mut other = Bus::seeded(Limits::default(), PublishAnywhere::default(), 77);
    let eve = other.connect(0, "eve");
    other.join(&eve, "r:c");
    let refused = other.command(&eve, "channel_info", "r:c", json!({"cursor": cursor}));
    assert_eq!((&refused["code"], &refused["field"]), (&json!(400), &json!("parameters.cursor")));
}
