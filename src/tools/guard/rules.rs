//! The table `inet hardened_epmd` as text for nft: what it is made of, and what takes it from one content to
//! another.
//!
//! Rules never change but for the one that turns away: whatever changes is an element of a set or a map, and
//! those are exchanged where they are. Chains that are made anew come into force before the elements do, so
//! that a table that is replaced as a whole lets strangers in for as long as nft takes. One name has one line,
//! however many networks there are: a packet costs the same. Pure; filled by `plan`, run by `nft`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The table's family and name.
pub(super) const TABLE: &str = "inet hardened_epmd";
/// What says in the table that it is the guard's: the beginning of a set's comment.
pub(super) const MARK: &str = "kept by epmd -guard";
/// Peers that are told apart at once, of each family.
pub(super) const TURNED_AWAY: usize = 1024;
/// The most bytes of a comment that all versions of nft take.
const COMMENT: usize = 120;

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// What the names of its sets and chains end in, or begin with.
    pub(super) const fn digit(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
        }
    }

    const fn ip(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }
}

/// What is in the table beside its rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// Whether who is in no list is turned away, or only counted.
    pub(super) enforce: bool,
    /// The nodes that have lists of their own, by the names of their sets and chains; with the node's name.
    pub(super) lists: BTreeMap<String, String>,
    /// The elements of each set and map.
    pub(super) elements: BTreeMap<String, Elements>,
}

/// What is in a set or a map, as nft reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Elements {
    /// Networks, or ports.
    Ranges(Vec<String>),
    /// Where a node listens, and what is said and done of who connects there.
    Places(BTreeMap<String, String>),
}

/// A set, a map, a counter or a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Its kind and name.
    pub(super) head: String,
    /// What it is.
    definition: Vec<String>,
    /// What it does; empty for all but chains.
    rules: Vec<String>,
}

impl Block {
    fn new(head: impl Into<String>, definition: &[&str], rules: &[&str]) -> Self {
        let owned = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        Self {
            head: head.into(),
            definition: owned(definition),
            rules: owned(rules),
        }
    }

    fn set(name: &str, kind: &str, comment: &str) -> Self {
        let comment = format!("comment \"{comment}\"");
        let definition = [kind, "flags interval", "auto-merge", &comment];
        Self::new(format!("set {name}"), &definition, &[])
    }

    /// Its lines as nft lists them, without elements.
    pub(super) fn lines(&self) -> impl Iterator<Item = &str> {
        self.definition
            .iter()
            .chain(&self.rules)
            .map(String::as_str)
    }

    fn name(&self) -> &str {
        self.head.split_once(' ').map_or("", |(_, name)| name)
    }
}

/// What a node's sets and chains are called: by its name, where nft can write that.
pub(super) fn list_name(node: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if (1..=60).contains(&node.len()) && node.chars().all(plain) {
        format!("node_{node}")
    } else {
        // FNV-1a: the same name is called the same by whoever looks.
        let hash = node.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("name_{hash:016x}")
    }
}

/// The name of a set or chain for one family.
pub(super) fn of(name: &str, family: Family) -> String {
    format!("{name}{}", family.digit())
}

/// A list's own set, or its chain with `admit_` before it.
pub(super) fn list_of(list: &str, family: Family) -> String {
    format!("{list}_{}", family.digit())
}

/// What the comment of a place says: whose socket it is, and with which names.
pub(super) fn of_user(uid: Option<u32>, names: &str) -> String {
    uid.map_or_else(|| names.to_owned(), |uid| format!("user {uid}: {names}"))
}

/// User and names out of such a comment.
pub(super) fn whose(comment: &str) -> (Option<u32>, &str) {
    let parts = comment
        .strip_prefix("user ")
        .and_then(|rest| rest.split_once(": "));
    match parts.and_then(|(uid, names)| Some((uid.parse().ok()?, names))) {
        Some((uid, names)) => (Some(uid), names),
        None => (None, comment),
    }
}

/// A comment of nft's, which has no escapes: what is in `text` can't end it.
pub(super) fn comment(text: &str) -> String {
    let mut text = crate::core::audit::escape_name(text.as_bytes()).replace('"', "'");
    if text.len() > COMMENT {
        let end = (0..=COMMENT - 3)
            .rev()
            .find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or_default());
        text.push_str("...");
    }
    format!("comment \"{text}\"")
}

/// All blocks that there are with these lists.
pub(super) fn blocks(table: &Table) -> Vec<Block> {
    let mut all = vec![Block::new(
        "counter refused",
        &["comment \"connections that access.allow or access.deny does not let in\""],
        &[],
    )];
    for family in Family::ALL {
        all.extend(sets(family));
    }
    all.push(Block::new(
        "chain input",
        &["type filter hook input priority 20; policy accept;"],
        &[
            "iif \"lo\" accept comment \"this host may everything\"",
            "tcp flags & (syn | ack) == syn meta nfproto vmap { ipv4 : jump new4, ipv6 : jump new6 } comment \"a \
             connection that begins\"",
        ],
    ));
    for family in Family::ALL {
        all.extend(chains(family));
    }
    all.push(enforcing(table.enforce));
    for (list, node) in &table.lists {
        all.extend(list_blocks(list, node));
    }
    all
}

fn sets(family: Family) -> [Block; 6] {
    let (digit, ip) = (family.digit(), family.ip());
    let addresses = format!("type ipv{digit}_addr");
    let named = |name: &str| of(name, family);
    let map = |name: &str, kind: &str, comment: &str| {
        let definition = [kind, &format!("comment \"{comment}\"")];
        Block::new(format!("map {}", named(name)), &definition, &[])
    };
    let by_address = format!("{addresses} . inet_service : verdict");
    let sources = format!("typeof {ip} saddr . {ip} daddr . tcp dport");
    let size = format!("size {TURNED_AWAY}");
    let mark = format!("comment \"{MARK}: whom it turned away\"");
    [
        Block::set(&named("allow"), &addresses, "access.allow"),
        Block::set(&named("deny"), &addresses, "access.deny"),
        Block::set(&named("ports"), "type inet_service", "[guard] ports"),
        map(
            "by_address",
            &by_address,
            "nodes that listen on one address",
        ),
        map(
            "by_port",
            "type inet_service : verdict",
            "nodes that listen on every address",
        ),
        Block::new(
            format!("set {}", named("refused")),
            &[
                &sources,
                &size,
                "flags dynamic,timeout",
                "counter",
                "timeout 1m",
                &mark,
            ],
            &[],
        ),
    ]
}

fn chains(family: Family) -> [Block; 3] {
    let (digit, ip) = (family.digit(), family.ip());
    let chain = |name: &str, rules: &[String]| {
        let rules: Vec<_> = rules.iter().map(String::as_str).collect();
        Block::new(format!("chain {name}{digit}"), &[], &rules)
    };
    [
        chain(
            "new",
            &[
                format!("{ip} daddr . tcp dport vmap @by_address{digit}"),
                format!("tcp dport vmap @by_port{digit}"),
                format!("tcp dport @ports{digit} goto admit{digit}"),
            ],
        ),
        chain("admit", &admitting(family, &of("allow", family))),
        chain(
            "refuse",
            &[
                "counter name \"refused\"".to_owned(),
                // Apart from what follows: where the set is full, a rule that has both does nothing.
                format!("update @refused{digit} {{ {ip} saddr . {ip} daddr . tcp dport }}"),
                "goto enforce".to_owned(),
            ],
        ),
    ]
}

fn admitting(family: Family, set: &str) -> [String; 3] {
    let (digit, ip) = (family.digit(), family.ip());
    [
        format!("{ip} saddr @deny{digit} goto refuse{digit}"),
        format!("{ip} saddr @{set} accept"),
        format!("goto refuse{digit}"),
    ]
}

/// What becomes of who is in no list.
fn enforcing(enforce: bool) -> Block {
    let rule = match enforce {
        true => "meta l4proto tcp reject with tcp reset comment \"turned away\"",
        false => "accept comment \"access.enforce = false: counted, and let in\"",
    };
    Block::new("chain enforce", &[], &[rule])
}

/// The sets and chains of one node's own list.
fn list_blocks(list: &str, node: &str) -> Vec<Block> {
    let says = comment(&format!("access.node.{node}.allow"));
    let says = says.trim_start_matches("comment \"").trim_end_matches('"');
    let one = |family: Family| {
        let set = list_of(list, family);
        let rules = admitting(family, &set);
        let rules: Vec<_> = rules.iter().map(String::as_str).collect();
        let addresses = format!("type ipv{}_addr", family.digit());
        [
            Block::set(&set, &addresses, says),
            Block::new(format!("chain admit_{set}"), &[], &rules),
        ]
    };
    Family::ALL.into_iter().flat_map(one).collect()
}

/// The table whole, as nft lists it.
pub(super) fn whole(table: &Table) -> String {
    text(&blocks(table), Some(table))
}

/// What replaces whatever there is by the whole table, for `nft -f`.
pub(super) fn replacing(table: &Table) -> String {
    format!("table {TABLE}\ndelete table {TABLE}\n{}", whole(table))
}

/// Makes the table, or brings one that is there and has these `sets` and `chains` to this content, where it is.
pub(super) fn adopting(
    table: &Table,
    sets: &BTreeSet<String>,
    chains: &BTreeSet<String>,
) -> String {
    let blocks = blocks(table);
    let empty: Vec<_> = blocks
        .iter()
        .map(|block| Block {
            rules: Vec::new(),
            ..block.clone()
        })
        .collect();
    let mut script = text(&empty, None);
    for block in &blocks {
        let (kind, name) = block.head.split_once(' ').unwrap_or_default();
        // Whom it turned away stays counted.
        let is_content = matches!(kind, "chain" | "map") || table.elements.contains_key(name);
        if is_content {
            let _ = writeln!(script, "flush {kind} {TABLE} {name}");
        }
    }
    script.push_str(&text(&blocks, Some(table)));
    let named: BTreeSet<_> = blocks.iter().map(Block::name).collect();
    for chain in chains.iter().filter(|name| !named.contains(name.as_str())) {
        let _ = writeln!(script, "flush chain {TABLE} {chain}");
    }
    for chain in chains.iter().filter(|name| !named.contains(name.as_str())) {
        let _ = writeln!(script, "delete chain {TABLE} {chain}");
    }
    for set in sets.iter().filter(|name| !named.contains(name.as_str())) {
        let _ = writeln!(script, "delete set {TABLE} {set}");
    }
    script
}

/// The transactions that take a table from one content to another; none where they are the same. Lists come
/// first, so that nobody is turned away by those of before.
pub(super) fn changes(before: &Table, after: &Table) -> Vec<String> {
    let mut script = String::new();
    let new = after
        .lists
        .iter()
        .filter(|(list, _)| !before.lists.contains_key(*list));
    let new: Vec<_> = new
        .flat_map(|(list, node)| list_blocks(list, node))
        .collect();
    if !new.is_empty() {
        script.push_str(&text(&new, None));
    }
    let nothing = Elements::Ranges(Vec::new());
    for (name, elements) in &after.elements {
        let old = before.elements.get(name).unwrap_or(&nothing);
        change(&mut script, name, old, elements);
    }
    let gone = || {
        before
            .lists
            .keys()
            .filter(|list| !after.lists.contains_key(*list))
    };
    for list in gone() {
        for family in Family::ALL {
            let set = list_of(list, family);
            let _ = writeln!(
                script,
                "delete chain {TABLE} admit_{set}\ndelete set {TABLE} {set}"
            );
        }
    }
    let mut all = vec![script];
    if before.enforce != after.enforce {
        let block = enforcing(after.enforce);
        all.push(format!(
            "flush chain {TABLE} {}\n{}",
            block.name(),
            text(std::slice::from_ref(&block), None)
        ));
    }
    all.retain(|script| !script.is_empty());
    all
}

fn change(script: &mut String, name: &str, before: &Elements, after: &Elements) {
    let add = |script: &mut String, elements: &[String]| {
        if !elements.is_empty() {
            let _ = writeln!(
                script,
                "add element {TABLE} {name} {{ {} }}",
                elements.join(", ")
            );
        }
    };
    match after {
        Elements::Ranges(_) if before == after => {}
        Elements::Ranges(ranges) => {
            let _ = writeln!(script, "flush set {TABLE} {name}");
            add(script, ranges);
        }
        Elements::Places(places) => {
            let none = BTreeMap::new();
            let old = match before {
                Elements::Places(old) => old,
                Elements::Ranges(_) => &none,
            };
            let gone = old
                .iter()
                .filter(|(key, rest)| places.get(*key) != Some(rest));
            let gone: Vec<_> = gone.map(|(key, _)| key.clone()).collect();
            if !gone.is_empty() {
                let _ = writeln!(
                    script,
                    "delete element {TABLE} {name} {{ {} }}",
                    gone.join(", ")
                );
            }
            let new = places
                .iter()
                .filter(|(key, rest)| old.get(*key) != Some(rest));
            let new: Vec<_> = new.map(|(key, rest)| format!("{key} {rest}")).collect();
            add(script, &new);
        }
    }
}

/// Blocks as nft lists them, with the elements of `table` if that is given.
fn text(blocks: &[Block], table: Option<&Table>) -> String {
    let mut text = format!("table {TABLE} {{\n\tcomment \"{MARK}, see hardened-epmd(8)\"\n");
    for block in blocks {
        let _ = writeln!(text, "\n\t{} {{", block.head);
        for line in block.lines() {
            let _ = writeln!(text, "\t\t{line}");
        }
        let elements = table.and_then(|table| table.elements.get(block.name()));
        let elements = match elements.filter(|_| !block.head.starts_with("chain")) {
            None => Vec::new(),
            Some(Elements::Ranges(ranges)) => ranges.clone(),
            Some(Elements::Places(places)) => {
                let all = places.iter().map(|(key, rest)| format!("{key} {rest}"));
                all.collect()
            }
        };
        if !elements.is_empty() {
            let _ = writeln!(
                text,
                "\t\telements = {{ {} }}",
                elements.join(",\n\t\t\t     ")
            );
        }
        text.push_str("\t}\n");
    }
    text.push_str("}\n");
    text
}
