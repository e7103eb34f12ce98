//! Plans, rules and their comparison, without a kernel. With one: tests/guard.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::check::differences;
use super::plan::{Facts, Kept, Named, Place, Plan, Socket, plan};
use super::recall::recall;
use super::rules::{
    Elements, Family, Table, adopting, blocks, changes, comment, list_name, of_user, replacing,
    whole, whose,
};
use crate::config::Ports;
use crate::core::follow::Access;

/// What is known, to be changed by a test.
struct World {
    names: Vec<Named>,
    access: Access,
    sockets: Vec<Socket>,
    ports: Ports,
    others: BTreeMap<(Family, u16), String>,
    kept: BTreeMap<Place, Kept>,
}

impl World {
    fn new() -> Self {
        Self {
            names: Vec::new(),
            access: Access {
                allow: vec![
                    "10.0.3.0/25".into(),
                    "10.0.3.128/25".into(),
                    "fd00:3::/64".into(),
                ],
                ..Access::default()
            },
            sockets: Vec::new(),
            ports: Ports::default(),
            others: BTreeMap::new(),
            kept: BTreeMap::new(),
        }
    }

    fn name(mut self, name: &str, port: u16, uid: Option<u32>) -> Self {
        self.names.push(Named {
            name: name.into(),
            port,
            uid,
        });
        self
    }

    fn socket(mut self, address: Option<&str>, port: u16, uid: u32) -> Self {
        self.sockets.push(Socket {
            place: place(address, port),
            uid: Some(uid),
        });
        self
    }

    fn plan(&self) -> Plan {
        plan(&Facts {
            names: &self.names,
            access: &self.access,
            sockets: &self.sockets,
            ports: &self.ports,
            epmd: &BTreeSet::from([4369]),
            others: &self.others,
            kept: &self.kept,
        })
    }
}

/// An address of either family; none is every IPv4 address.
fn place(address: Option<&str>, port: u16) -> Place {
    let address = address.map(|a| a.parse::<std::net::IpAddr>().unwrap());
    Place {
        family: match address {
            Some(a) if a.is_ipv6() => Family::V6,
            _ => Family::V4,
        },
        address,
        port,
    }
}

fn ranges<'t>(table: &'t Table, set: &str) -> &'t [String] {
    match &table.elements[set] {
        Elements::Ranges(ranges) => ranges,
        Elements::Places(_) => panic!("{set} is a map"),
    }
}

fn places<'t>(table: &'t Table, map: &str) -> &'t BTreeMap<String, String> {
    match &table.elements[map] {
        Elements::Places(places) => places,
        Elements::Ranges(_) => panic!("{map} is a set"),
    }
}

#[test]
fn a_node_is_guarded_where_it_listens_by_its_own_list_or_by_allow() {
    let mut world = World::new()
        .name("api", 9100, Some(1))
        .name("wg_man", 9101, Some(1))
        .socket(None, 9100, 1)
        .socket(Some("10.0.3.5"), 9101, 1)
        .socket(Some("fd00:3::5"), 9101, 1);
    world
        .access
        .nodes
        .insert("wg_man".into(), vec!["10.0.3.0/28".into()]);
    world
        .access
        .nodes
        .insert("absent".into(), vec!["10.0.9.0/28".into()]);
    world.access.deny = vec!["10.0.3.66/32".into()];
    let Plan {
        table, left_alone, ..
    } = world.plan();
    assert_eq!(left_alone, []);
    // Neighbours are one.
    assert_eq!(ranges(&table, "allow4"), ["10.0.3.0/24"]);
    assert_eq!(ranges(&table, "allow6"), ["fd00:3::/64"]);
    assert_eq!(ranges(&table, "deny4"), ["10.0.3.66/32"]);
    assert_eq!(ranges(&table, "node_wg_man_4"), ["10.0.3.0/28"]);
    assert_eq!(ranges(&table, "node_wg_man_6"), [] as [&str; 0]);
    assert_eq!(
        places(&table, "by_port4")["9100"],
        "comment \"user 1: api\" : goto admit4"
    );
    assert_eq!(
        places(&table, "by_address4")["10.0.3.5 . 9101"],
        "comment \"user 1: wg_man\" : goto admit_node_wg_man_4"
    );
    assert_eq!(
        places(&table, "by_address6")["fd00:3::5 . 9101"],
        "comment \"user 1: wg_man\" : goto admit_node_wg_man_6"
    );
    // A list whose node is not there costs nothing.
    assert_eq!(table.lists.len(), 1);
}

#[test]
fn no_port_is_closed_that_is_not_its_holders() {
    for (name, expected) in [
        (
            ("thief", 8080, Some(2)),
            "user 1 listens there, and user 2 registered the name",
        ),
        (("thief", 22, Some(1)), "ssh"),
        (("thief", 4369, Some(1)), "epmd's own"),
        (("unknown", 8080, None), "the kernel does not say"),
    ] {
        let world = World::new()
            .name(name.0, name.1, name.2)
            .socket(None, name.1, 1);
        let Plan {
            kept, left_alone, ..
        } = world.plan();
        assert!(kept.is_empty(), "{name:?}");
        assert!(left_alone[0].why.contains(expected), "{left_alone:?}");
    }
    // Another's socket of the same port at another address opens nothing, and stays open itself.
    let world = World::new()
        .name("api", 9100, Some(1))
        .socket(None, 9100, 1)
        .socket(Some("fd00:3::5"), 9100, 2);
    let Plan {
        kept, left_alone, ..
    } = world.plan();
    assert_eq!(kept.keys().collect::<Vec<_>>(), [&place(None, 9100)]);
    assert_eq!(left_alone, []);
    // Nobody listens: there is nothing to guard, and nothing to say.
    let Plan {
        kept, left_alone, ..
    } = World::new().name("api", 9100, Some(1)).plan();
    assert!(kept.is_empty() && left_alone.is_empty());
}

#[test]
fn what_was_guarded_stays_so_while_the_same_users_socket_listens() {
    let before = World::new()
        .name("api", 9100, Some(1))
        .socket(None, 9100, 1)
        .plan();
    for (world, stays) in [
        (World::new().socket(None, 9100, 1), true),
        (World::new().socket(None, 9100, 2), false),
        (World::new(), false),
        // Its connection has just ended.
        (
            World::new().name("api", 9100, None).socket(None, 9100, 1),
            true,
        ),
    ] {
        let world = World {
            kept: before.kept.clone(),
            ..world
        };
        assert_eq!(
            world.plan().kept == before.kept,
            stays,
            "{:?}",
            world.sockets
        );
    }
}

#[test]
fn ports_of_the_file_leave_out_what_is_something_elses() {
    let mut world = World::new();
    world.ports = [9100..=9109, 9200..=9200, 65_534..=65_535]
        .into_iter()
        .collect();
    for port in [9100, 9105, 9109, 9200] {
        world.others.insert((Family::V4, port), "nginx".into());
    }
    let Plan {
        table, left_alone, ..
    } = world.plan();
    assert_eq!(
        ranges(&table, "ports4"),
        ["9101-9104", "9106-9108", "65534-65535"]
    );
    assert_eq!(
        ranges(&table, "ports6"),
        ["9100-9109", "9200", "65534-65535"]
    );
    assert_eq!(left_alone.len(), 4);
}

#[test]
fn a_change_is_of_elements_and_no_rule_is_touched_but_the_one_that_turns_away() {
    let one = World::new()
        .name("api", 9100, Some(1))
        .socket(None, 9100, 1);
    let before = one.plan().table;
    assert_eq!(changes(&before, &before), [] as [&str; 0]);
    let mut two = one.name("web", 9101, Some(1)).socket(None, 9101, 1);
    assert_eq!(
        changes(&before, &two.plan().table),
        [
            "add element inet hardened_epmd by_port4 { 9101 comment \"user 1: web\" : goto admit4 }\n"
        ]
    );
    let with_two = two.plan().table;
    two.access.allow = vec!["10.9.0.0/16".into()];
    two.access.enforce = false;
    let all = changes(&with_two, &two.plan().table);
    assert_eq!(
        all[0],
        "flush set inet hardened_epmd allow4\nadd element inet hardened_epmd allow4 { 10.9.0.0/16 }\n\
         flush set inet hardened_epmd allow6\n"
    );
    assert!(
        all[1].starts_with("flush chain inet hardened_epmd enforce\n"),
        "{}",
        all[1]
    );
    assert_eq!(all.len(), 2);
    // A list comes with its node, and goes with it.
    two.access
        .nodes
        .insert("web".into(), vec!["10.0.3.0/28".into()]);
    let (off, on) = (two.plan().table, {
        two.access.nodes.clear();
        two.plan().table
    });
    let back = changes(&off, &on).concat();
    assert!(
        back.contains("delete chain inet hardened_epmd admit_node_web_4\n"),
        "{back}"
    );
    let there = changes(&on, &off).concat();
    assert!(there.contains("set node_web_4 {"), "{there}");
    assert!(!there.contains("\tchain input"), "{there}");
}

#[test]
fn no_name_ends_a_comment_or_begins_a_command() {
    let long = "ü".repeat(255);
    for name in [
        "\"",
        "\\",
        "a\"; flush ruleset; \"",
        "}",
        "#",
        "\n",
        "\u{202e}",
        &long,
    ] {
        let text = comment(name);
        let inner = text
            .strip_prefix("comment \"")
            .and_then(|t| t.strip_suffix('"'))
            .unwrap();
        assert!(!inner.contains(['"', '\n']), "{text}");
        assert!(inner.len() <= 120, "{}", inner.len());
        let list = list_name(name);
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        assert!(list.chars().all(plain) && list.len() < 70, "{list}");
    }
    assert_eq!(list_name("wg_man"), "node_wg_man");
    assert_ne!(list_name("ü"), list_name("ö"));
    for (uid, names) in [(Some(7), "api, web"), (None, "api")] {
        assert_eq!(whose(&of_user(uid, names)), (uid, names));
    }
}

/// The table as nft lists it in JSON.
fn listed(table: &Table) -> Vec<Value> {
    let of = |(name, elements): (&String, &Elements)| match elements {
        Elements::Ranges(ranges) => {
            let all: Vec<_> = ranges
                .iter()
                .map(|text| match text.split_once('/') {
                    Some((addr, len)) => {
                        json!({"prefix": {"addr": addr, "len": len.parse::<u8>().unwrap()}})
                    }
                    None => match text.split_once('-') {
                        Some((a, b)) => {
                            json!({"range": [a.parse::<u16>().unwrap(), b.parse::<u16>().unwrap()]})
                        }
                        None => json!(text.parse::<u16>().unwrap()),
                    },
                })
                .collect();
            json!({"set": {"name": name, "elem": all}})
        }
        Elements::Places(places) => {
            let all: Vec<_> = places
                .iter()
                .map(|(key, rest)| {
                    let (says, chain) = rest.rsplit_once(" : goto ").unwrap();
                    let says = says.trim_start_matches("comment \"").trim_end_matches('"');
                    let val = match key.split_once(" . ") {
                        Some((address, port)) => {
                            json!({"concat": [address, port.parse::<u16>().unwrap()]})
                        }
                        None => json!(key.parse::<u16>().unwrap()),
                    };
                    json!([{"elem": {"val": val, "comment": says}}, {"goto": {"target": chain}}])
                })
                .collect();
            json!({"map": {"name": name, "elem": all}})
        }
    };
    table.elements.iter().map(of).collect()
}

fn rules_of(table: &Table) -> String {
    let empty = Table {
        elements: BTreeMap::new(),
        ..table.clone()
    };
    whole(&empty)
}

#[test]
fn what_is_in_force_is_compared_with_what_should_be() {
    let mut world = World::new()
        .name("api", 9100, Some(1))
        .name("wg_man", 9101, Some(1))
        .socket(None, 9100, 1)
        .socket(Some("10.0.3.5"), 9101, 1);
    world
        .access
        .nodes
        .insert("wg_man".into(), vec!["10.0.3.0/28".into()]);
    let plan = world.plan();
    let table = plan.table;
    let (rules, objects) = (rules_of(&table), listed(&table));
    let nothing: [String; 0] = [];
    assert_eq!(differences(&table, &rules, &objects), nothing);
    // As older versions of nft write it, and a host without /etc/protocols.
    let older = rules
        .replace("tcp flags & (syn | ack) == syn", "tcp flags syn / syn,ack")
        .replace("meta l4proto tcp", "meta l4proto 6");
    assert_eq!(differences(&table, &older, &objects), nothing);
    for (what, found) in [
        (
            rules.replace("iif \"lo\" accept", "accept"),
            "chain input lacks: iif \"lo\" accept",
        ),
        (
            rules.replace("chain enforce", "chain other"),
            "there is no chain enforce",
        ),
        (
            rules.replace("goto enforce", "goto enforce\n\t\taccept"),
            "has more than it should",
        ),
    ] {
        let told = differences(&table, &what, &objects).join("\n");
        assert!(told.contains(found), "{found}: {told}");
    }
    let more = World {
        sockets: world.sockets.clone(),
        ..World::new().name("api", 9100, Some(1))
    };
    let other = more.plan().table;
    let told = differences(&table, &rules, &listed(&other)).join("\n");
    assert!(told.contains("by_address4 lacks 10.0.3.5 . 9101"), "{told}");
    assert!(
        told.contains("set node_wg_man_4 holds 0 ranges; expected 1"),
        "{told}"
    );
    // And what a guard before was guarding is known again.
    assert_eq!(recall(&objects, &world.access), plan.kept);
}

#[test]
fn each_block_of_the_whole_is_in_what_adopts_and_replaces() {
    let table = World::new()
        .name("api", 9100, Some(1))
        .socket(None, 9100, 1)
        .plan()
        .table;
    let stale = BTreeSet::from(["node_old_4".to_owned(), "refused4".to_owned()]);
    let chains = BTreeSet::from(["admit_node_old_4".to_owned(), "input".to_owned()]);
    let adopts = adopting(&table, &stale, &chains);
    for block in blocks(&table) {
        assert!(
            adopts.contains(&format!("\t{} {{\n", block.head)),
            "{}",
            block.head
        );
        assert!(
            replacing(&table).contains(&format!("\t{} {{\n", block.head)),
            "{}",
            block.head
        );
    }
    assert!(
        adopts.contains("delete chain inet hardened_epmd admit_node_old_4\n"),
        "{adopts}"
    );
    assert!(
        adopts.ends_with("delete set inet hardened_epmd node_old_4\n"),
        "{adopts}"
    );
    // Who was turned away stays counted.
    assert!(
        !adopts.contains("flush set inet hardened_epmd refused4"),
        "{adopts}"
    );
}
