//! The rooms of src/lib.rs, held to by the `use` lines and paths of every file under src.
//!
//! core <- config <- daemon and tools (neither knows the other) <- main.rs, with `sys`, `diag` and `exit`
//! beside them. core knows no socket, clock, environment, file and nothing asynchronous; and no two files use
//! each other. Test code is left out: it may look at whatever it tests.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// What a room may use of the crate; itself always.
const ROOMS: [(&str, &[&str]); 8] = [
    ("core", &[]),
    ("config", &["core", "exit"]),
    ("daemon", &["core", "config", "diag", "sys", "exit"]),
    ("tools", &["core", "config", "diag", "sys", "exit"]),
    (
        "main",
        &["core", "config", "daemon", "tools", "diag", "sys", "exit"],
    ),
    ("diag", &[]),
    ("sys", &[]),
    ("exit", &[]),
];

/// What core has no business with, by the beginning of a path, and where that belongs.
const NOT_IN_CORE: [(&str, &str); 14] = [
    ("tokio", "what waits is daemon's"),
    ("hyper", "what serves HTTP is daemon's"),
    ("socket2", "sockets are daemon's, or tools'"),
    ("nix", "system calls are daemon's, or sys's"),
    ("libc", "system calls are sys's"),
    ("std::net::TcpStream", "sockets are daemon's, or tools'"),
    ("std::net::TcpListener", "sockets are daemon's"),
    ("std::net::UdpSocket", "sockets are daemon's, or tools'"),
    ("std::os::unix::net", "sockets are daemon's, or tools'"),
    (
        "std::time::Instant",
        "time is an argument; the clock is daemon's",
    ),
    ("std::env", "the environment is config's"),
    ("std::fs", "files are config's, or daemon's"),
    ("std::process", "processes are daemon's, or tools'"),
    ("std::thread", "threads are daemon's"),
];

/// As [`NOT_IN_CORE`], for what no path shows: a function of a type that core may have as a value, and
/// words of the language.
const NOT_SAID_IN_CORE: [(&[&str], &str); 4] = [
    (
        &["SystemTime", ":", ":", "now"],
        "time is an argument; the clock is daemon's",
    ),
    (
        &["Instant", ":", ":", "now"],
        "time is an argument; the clock is daemon's",
    ),
    (&["async"], "what waits is daemon's"),
    (&[".", "await"], "what waits is daemon's"),
];

/// A tree of source files: its path below src, and its text.
type Tree = BTreeMap<String, String>;

#[test]
fn the_tree_keeps_to_its_rooms() {
    let offences = offences(&tree());
    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
}

#[test]
fn no_two_files_use_each_other() {
    let circles = circles(&tree());
    assert!(circles.is_empty(), "\n{}\n", circles.join("\n"));
}

/// A room that is new needs a row in [`ROOMS`], and its place in src/lib.rs.
#[test]
fn every_room_has_its_place_in_the_plan() {
    let known: BTreeSet<_> = ROOMS.iter().map(|(room, _)| *room).collect();
    let tree = tree();
    let found: BTreeSet<_> = tree.keys().map(|file| room(file)).collect();
    let found: BTreeSet<_> = found.into_iter().filter(|room| *room != "lib").collect();
    assert_eq!(found, known);
    assert!(tree.len() > 50, "{} files", tree.len());
}

/// The checker over small trees, each with one offence or none: what it would say.
#[test]
fn each_kind_of_offence_is_seen() {
    let daemon = "pub mod server; pub fn run() {}";
    let kinds: &[(&str, &str, &str)] = &[
        // Where, what stands there, what is said of it.
        (
            "core/a.rs",
            "use crate::config::Settings;",
            "core must not use config",
        ),
        (
            "core/a.rs",
            "fn f() { crate::daemon::run() }",
            "core must not use daemon",
        ),
        (
            "core/a.rs",
            "use super::super::tools::client;",
            "core must not use tools",
        ),
        (
            "core/a.rs",
            "pub use crate::{exit, core::b};",
            "core must not use exit",
        ),
        (
            "config/a.rs",
            "use crate::daemon::run;",
            "config must not use daemon",
        ),
        (
            "daemon/a.rs",
            "use crate::tools::client;",
            "daemon must not use tools",
        ),
        (
            "daemon/server/a.rs",
            "fn f() { super::super::super::tools::x() }",
            "daemon must not use tools",
        ),
        (
            "tools/a.rs",
            "use crate::daemon::{self, run};",
            "tools must not use daemon",
        ),
        (
            "tools/a.rs",
            "use {crate::daemon as d, std::fmt};",
            "tools must not use daemon",
        ),
        ("sys.rs", "use crate::core::b;", "sys must not use core"),
        (
            "exit.rs",
            "fn f() -> crate::config::Errors { todo!() }",
            "exit must not use config",
        ),
        ("core/a.rs", "use tokio::sync::Notify;", "tokio"),
        (
            "core/a.rs",
            "use std::net::{IpAddr, TcpStream};",
            "std::net::TcpStream",
        ),
        ("core/a.rs", "fn f(s: &::socket2::Socket) {}", "socket2"),
        (
            "core/a.rs",
            "use std::{fmt, os::unix::net::UnixStream};",
            "std::os::unix::net",
        ),
        ("core/a.rs", "use nix::unistd::getuid;", "nix"),
        (
            "core/a.rs",
            "use std::time; fn f() { time::Instant::now(); }",
            "std::time::Instant",
        ),
        (
            "core/a.rs",
            "use std::time::SystemTime; fn f() { SystemTime::now(); }",
            "SystemTime::now",
        ),
        ("core/a.rs", "fn f() { std::env::var(\"X\"); }", "std::env"),
        ("core/a.rs", "use std as s; use std::fs;", "std::fs"),
        ("core/a.rs", "use std::*;", "all of std"),
        ("core/a.rs", "async fn f() {}", "async"),
        ("core/a.rs", "fn f() { g().await }", ".await"),
        // None of these is one.
        (
            "core/a.rs",
            "use std::net::IpAddr; use std::time::{Duration, SystemTime};",
            "",
        ),
        (
            "core/a.rs",
            "// use tokio::sync::Notify;\n/* use crate::daemon; /* */ */",
            "",
        ),
        (
            "core/a.rs",
            "const A: &str = \"async crate::daemon::run std::fs\";",
            "",
        ),
        (
            "core/a.rs",
            "const A: &str = r#\"use \" crate::daemon\"#; const B: char = '\"';",
            "",
        ),
        (
            "core/a.rs",
            "#[cfg(test)] mod tests { use crate::config::Settings; use std::fs; }",
            "",
        ),
        ("core/a.rs", "#[cfg(test)]\nuse std::fs;\nuse super::b;", ""),
        (
            "core/a.rs",
            "pub(in crate::core) fn f<'a>(b: &'a str) {}",
            "",
        ),
        (
            "daemon/a.rs",
            "use tokio::sync::Notify; use crate::{config, core::b, sys};",
            "",
        ),
        ("main.rs", "use hardened_epmd::{daemon, tools};", ""),
    ];
    for (file, text, expected) in kinds {
        let mut tree = Tree::from([
            ("core/mod.rs".to_owned(), "pub mod a; pub mod b;".to_owned()),
            ("core/b.rs".to_owned(), String::new()),
            ("daemon/mod.rs".to_owned(), daemon.to_owned()),
        ]);
        tree.insert((*file).to_owned(), (*text).to_owned());
        let said = offences(&tree);
        match *expected {
            "" => assert!(said.is_empty(), "{file}: {text}: {said:?}"),
            expected => {
                assert_eq!(said.len(), 1, "{file}: {text}: {said:?}");
                assert!(said[0].contains(expected), "{file}: {text}: {said:?}");
                assert!(said[0].starts_with(&format!("src/{file}:1: ")), "{said:?}");
            }
        }
    }
}

/// The same for circles.
#[test]
fn each_kind_of_circle_is_seen() {
    let kinds: &[(&[(&str, &str)], bool)] = &[
        // By crate::, by super::, by an inline path.
        (
            &[
                ("core/a.rs", "use crate::core::b::B;"),
                ("core/b.rs", "use super::a::A;"),
            ],
            true,
        ),
        (
            &[
                ("core/a.rs", "fn f() { super::b::f() }"),
                ("core/b.rs", "use super::{a, c};"),
            ],
            true,
        ),
        // What a parent gives out again is the child's.
        (
            &[
                ("core/mod.rs", "mod a; mod b; pub use a::A;"),
                ("core/a.rs", "use super::b::B;"),
                ("core/b.rs", "use super::A;"),
            ],
            true,
        ),
        // A parent that has something of its own and uses the child, which uses that.
        (
            &[
                ("core/mod.rs", "mod a; use a::A; pub struct M(A);"),
                ("core/a.rs", "use super::M;"),
            ],
            true,
        ),
        // A constant of the parent's, whose functions the child does not use.
        (
            &[
                (
                    "core/mod.rs",
                    "mod a; pub use a::A; pub const LIMIT: u8 = 1;",
                ),
                ("core/a.rs", "use super::LIMIT;"),
            ],
            false,
        ),
        (
            &[
                ("core/a.rs", "use super::b::B;"),
                ("core/b.rs", "use super::c::C;"),
            ],
            false,
        ),
        (
            &[
                ("core/a.rs", "use super::b::B;"),
                (
                    "core/b.rs",
                    "#[cfg(test)] mod tests { use crate::core::a; }",
                ),
            ],
            false,
        ),
    ];
    for (files, is_circle) in kinds {
        let mut tree = Tree::from([
            (
                "core/mod.rs".to_owned(),
                "pub mod a; pub mod b; pub mod c;".to_owned(),
            ),
            ("core/c.rs".to_owned(), String::new()),
        ]);
        tree.extend(
            files
                .iter()
                .map(|(file, text)| ((*file).to_owned(), (*text).to_owned())),
        );
        let said = circles(&tree);
        assert_eq!(!said.is_empty(), *is_circle, "{files:?}: {said:?}");
    }
}

/// The files of this tree.
fn tree() -> Tree {
    fn walk(folder: &Path, below: &str, tree: &mut Tree) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{below}{}", path.file_name().unwrap().to_str().unwrap());
            if path.is_dir() {
                walk(&path, &format!("{name}/"), tree);
            } else if is_ours(&name) {
                tree.insert(name, fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut tree = Tree::new();
    walk(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        "",
        &mut tree,
    );
    tree
}

/// Rust, and not a file of tests (`tests.rs` and what is in a folder `tests`, which are under
/// `#[cfg(test)]`).
fn is_ours(file: &str) -> bool {
    let is_rust = Path::new(file).extension().is_some_and(|it| it == "rs");
    is_rust && !file.ends_with("tests.rs") && !file.contains("tests/")
}

/// The room of a file: its first folder, or its own name.
fn room(file: &str) -> &str {
    let first = file.split('/').next().unwrap();
    first.strip_suffix(".rs").unwrap_or(first)
}

/// What a file breaks, each as a line of its own.
fn offences(tree: &Tree) -> Vec<String> {
    let mut said = Vec::new();
    for (file, text) in tree {
        let room = room(file);
        let tokens = tokens(text);
        let Some((_, may)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            continue;
        };
        let mut seen = BTreeSet::new();
        let mut say = |line: usize, what: String| {
            if seen.insert(what.clone()) {
                said.push(format!("src/{file}:{line}: {what}"));
            }
        };
        for path in paths(tree, file, &tokens) {
            if let Some(other) = path.of_crate()
                && ROOMS.iter().any(|(name, _)| *name == other)
                && other != room
                && !may.contains(&other)
            {
                let may = may.join(", ");
                say(
                    path.line,
                    format!(
                        "{room} must not use {other} (it may use: {}). What both need belongs in core; \
                         what main can lend is given as a function",
                        if may.is_empty() {
                            "nothing of the crate"
                        } else {
                            &may
                        }
                    ),
                );
            }
            if room != "core" {
                continue;
            }
            let text = path.segments.join("::");
            if text == "std::*" {
                say(
                    path.line,
                    "core takes in all of std: name what it needs".to_owned(),
                );
            }
            for (forbidden, belongs) in NOT_IN_CORE {
                if text == forbidden || text.starts_with(&format!("{forbidden}::")) {
                    say(path.line, format!("core has no {forbidden}: {belongs}"));
                }
            }
        }
        if room == "core" {
            for (words, belongs) in NOT_SAID_IN_CORE {
                let found = tokens.windows(words.len()).find(|here| {
                    here.iter()
                        .zip(words)
                        .all(|(token, word)| token.text == *word)
                });
                // A path has been told of by its type already.
                if let Some(here) = found
                    && words[0] != "Instant"
                {
                    say(
                        here[0].line,
                        format!("core has no {}: {belongs}", words.concat()),
                    );
                }
            }
        }
    }
    said
}

/// Pairs of files that use each other.
fn circles(tree: &Tree) -> Vec<String> {
    let mut uses: BTreeSet<(&str, String)> = BTreeSet::new();
    for (file, text) in tree {
        for path in paths(tree, file, &tokens(text)) {
            if let Some(other) = home(tree, &path)
                && other != *file
            {
                uses.insert((file, other));
            }
        }
    }
    uses.iter()
        .filter(|(one, other)| *one < other.as_str() && uses.contains(&(other, (*one).to_owned())))
        .map(|(one, other)| {
            format!(
                "src/{one} and src/{other} use each other: move what both need into a file that neither \
                 of them is"
            )
        })
        .collect()
}

/// The file in which that which a path names is defined, as far as a file of ours is named; what a
/// parent only declares or gives out again is its child's. None where it is a constant or a type
/// alias of a parent, which is no more than a word.
fn home(tree: &Tree, path: &Used) -> Option<String> {
    let mut segments = path.segments.clone();
    if segments.first().map(String::as_str) != Some("crate") || path.gives_out {
        return None;
    }
    segments.remove(0);
    for _ in 0..8 {
        let (file, depth) = (0..=segments.len())
            .rev()
            .find_map(|depth| Some((module_file(tree, &segments[..depth])?, depth)))?;
        let Some(item) = segments.get(depth) else {
            return Some(file); // the module itself
        };
        let tokens = tokens(&tree[&file]);
        // Given out again from elsewhere: go there.
        let given = paths(tree, &file, &tokens)
            .into_iter()
            .find(|given| given.by_use && &given.name == item);
        match given {
            Some(given) if given.segments.first().is_some_and(|it| it == "crate") => {
                let rest = segments.split_off(depth + 1);
                segments = given.segments[1..].to_vec();
                segments.extend(rest);
            }
            Some(_) => return None, // another crate's
            None => {
                let is_a_word = tokens
                    .windows(2)
                    .any(|two| matches!(&*two[0].text, "const" | "static") && &two[1].text == item);
                return (!is_a_word).then_some(file);
            }
        }
    }
    None
}

/// The file of a module.
fn module_file(tree: &Tree, module: &[String]) -> Option<String> {
    if module.is_empty() {
        return None;
    }
    let path = module.join("/");
    [format!("{path}.rs"), format!("{path}/mod.rs")]
        .into_iter()
        .find(|file| tree.contains_key(file))
}

/// The module that a file is.
fn module_of(file: &str) -> Vec<String> {
    let path = file.strip_suffix(".rs").unwrap();
    let path = path.strip_suffix("/mod").unwrap_or(path);
    match path {
        "lib" | "main" => Vec::new(),
        path => path.split('/').map(str::to_owned).collect(),
    }
}

/// A path that a file has in it.
#[derive(Debug)]
struct Used {
    /// From the crate's root (`crate`) or another crate's name on.
    segments: Vec<String>,
    /// What it is called here.
    name: String,
    /// It is a `use` line's.
    by_use: bool,
    /// And a public one's.
    gives_out: bool,
    line: usize,
}

impl Used {
    /// The room that it leads into, where it leads into one.
    fn of_crate(&self) -> Option<&str> {
        let first = self.segments.first()?;
        (first == "crate").then(|| self.segments.get(1).map(String::as_str))?
    }
}

/// All paths of two segments and more, those of `use` lines taken apart, and those that begin with what a
/// `use` line brought in completed by it.
fn paths(tree: &Tree, file: &str, tokens: &[Token]) -> Vec<Used> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut is_public = false;
    while at < tokens.len() {
        match &*tokens[at].text {
            "use" => {
                let end = (at..tokens.len())
                    .find(|i| tokens[*i].text == ";")
                    .unwrap_or(tokens.len());
                use_tree(&tokens[at + 1..end], &[], is_public, &mut found);
                at = end;
            }
            "pub" => {
                is_public = true;
                at += 1;
                // pub(in crate::daemon) uses nothing.
                if tokens.get(at).is_some_and(|it| it.text == "(") {
                    while at < tokens.len() && tokens[at].text != ")" {
                        at += 1;
                    }
                    at += 1;
                }
                continue;
            }
            text if is_word(text) && (at == 0 || tokens[at - 1].text != ".") => {
                let line = tokens[at].line;
                let mut segments = vec![text.to_owned()];
                while at + 3 < tokens.len()
                    && tokens[at + 1].text == ":"
                    && tokens[at + 2].text == ":"
                    && is_word(&tokens[at + 3].text)
                {
                    segments.push(tokens[at + 3].text.clone());
                    at += 3;
                }
                if segments.len() > 1 {
                    let name = segments[segments.len() - 1].clone();
                    found.push(Used {
                        segments,
                        name,
                        by_use: false,
                        gives_out: false,
                        line,
                    });
                }
            }
            _ => {}
        }
        is_public = false;
        at += 1;
    }
    complete(tree, file, found)
}

/// Makes each path begin with `crate` or another crate's name.
fn complete(tree: &Tree, file: &str, mut found: Vec<Used>) -> Vec<Used> {
    let here = module_of(file);
    let brought: BTreeMap<String, Vec<String>> = found
        .iter()
        .filter(|used| used.by_use)
        .map(|used| (used.name.clone(), used.segments.clone()))
        .filter(|(name, segments)| Some(name) != segments.first())
        .collect();
    for used in &mut found {
        if let Some(whole) = brought.get(&used.segments[0]) {
            used.segments.splice(0..1, whole.iter().cloned());
        }
        let segments = &mut used.segments;
        // A module below this one.
        let below = [&here[..], &segments[..1]].concat();
        if module_file(tree, &below).is_some_and(|child| child != file) {
            segments.splice(0..0, ["crate".to_owned()].into_iter().chain(here.clone()));
        }
        let mut base = here.clone();
        let mut is_relative = false;
        while let Some(first) = segments.first() {
            match first.as_str() {
                "self" => {}
                "super" => {
                    base.pop();
                }
                _ => break,
            }
            is_relative = true;
            segments.remove(0);
        }
        if is_relative {
            let rest = std::mem::take(segments);
            segments.push("crate".to_owned());
            segments.extend(base);
            segments.extend(rest);
        }
        if segments.last().is_some_and(|it| it == "self") {
            segments.pop();
        }
    }
    found
}

/// The paths of what stands behind `use`, with its braces opened.
fn use_tree(tokens: &[Token], before: &[String], gives_out: bool, found: &mut Vec<Used>) {
    let mut segments = before.to_vec();
    let mut at = 0;
    let line = tokens.first().map_or(0, |it| it.line);
    while at < tokens.len() {
        match &*tokens[at].text {
            ":" => at += 1,
            "{" => {
                let mut depth = 0;
                let mut start = at + 1;
                for (i, token) in tokens.iter().enumerate().skip(at) {
                    match &*token.text {
                        "{" => depth += 1,
                        "}" => depth -= 1,
                        _ => {}
                    }
                    if (token.text == "," && depth == 1) || depth == 0 {
                        if start < i {
                            use_tree(&tokens[start..i], &segments, gives_out, found);
                        }
                        start = i + 1;
                    }
                    if depth == 0 {
                        return;
                    }
                }
                return;
            }
            "as" => break,
            text => {
                segments.push(text.to_owned());
                at += 1;
            }
        }
    }
    if segments.last().is_some_and(|it| it == "self") && segments.len() > 1 {
        segments.pop();
    }
    let name = match tokens.get(at).map(|it| &*it.text) {
        Some("as") => tokens.get(at + 1).map(|it| it.text.clone()),
        _ => segments.last().cloned(),
    };
    found.push(Used {
        segments,
        name: name.unwrap_or_default(),
        by_use: true,
        gives_out,
        line,
    });
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// A word or a sign of the source.
#[derive(Debug)]
struct Token {
    text: String,
    line: usize,
}

/// The source without its comments, strings and characters, and without what is `#[cfg(test)]`.
fn tokens(source: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let chars: Vec<char> = source.chars().collect();
    let mut line = 1;
    let mut at = 0;
    let is = |at: usize, c: char| chars.get(at) == Some(&c);
    while at < chars.len() {
        let start = at;
        match chars[at] {
            '/' if is(at + 1, '/') => {
                while at < chars.len() && chars[at] != '\n' {
                    at += 1;
                }
            }
            '/' if is(at + 1, '*') => {
                let mut depth = 0;
                while at < chars.len() {
                    if chars[at] == '/' && is(at + 1, '*') {
                        depth += 1;
                        at += 2;
                    } else if chars[at] == '*' && is(at + 1, '/') {
                        depth -= 1;
                        at += 2;
                        if depth == 0 {
                            break;
                        }
                    } else {
                        at += 1;
                    }
                }
            }
            '"' => at = behind_string(&chars, at),
            // A character, or a lifetime.
            '\'' if is(at + 1, '\\') => {
                at += 3;
                while at < chars.len() && chars[at] != '\'' {
                    at += 1;
                }
                at += 1;
            }
            '\'' if is(at + 2, '\'') => at += 3,
            '\'' => at += 1,
            c if c.is_alphanumeric() || c == '_' => {
                while at < chars.len() && (chars[at].is_alphanumeric() || chars[at] == '_') {
                    at += 1;
                }
                let word: String = chars[start..at].iter().collect();
                let raw = matches!(&*word, "r" | "br" | "cr");
                if raw && (is(at, '"') || (is(at, '#') && (is(at + 1, '#') || is(at + 1, '"')))) {
                    at = behind_raw_string(&chars, at);
                } else if !(is(at, '"') && matches!(&*word, "b" | "c")) {
                    tokens.push(Token { text: word, line });
                }
            }
            c if c.is_whitespace() => at += 1,
            c => {
                let text = c.to_string();
                tokens.push(Token { text, line });
                at += 1;
            }
        }
        line += chars[start..at.min(chars.len())]
            .iter()
            .filter(|c| **c == '\n')
            .count();
    }
    without_tests(tokens)
}

fn behind_string(chars: &[char], mut at: usize) -> usize {
    at += 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn behind_raw_string(chars: &[char], mut at: usize) -> usize {
    let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
    at += hashes + 1;
    while at < chars.len() {
        let ends = chars[at] == '"'
            && chars[at + 1..]
                .iter()
                .take(hashes)
                .filter(|c| **c == '#')
                .count()
                == hashes;
        at += 1;
        if ends {
            return at + hashes;
        }
    }
    at
}

/// Leaves out each item that stands behind `#[cfg(test)]`.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    let mut last: Vec<Token> = Vec::new();
    while let Some(token) = tokens.next() {
        last.push(token);
        if last.len() == MARK.len() && last.iter().zip(MARK).all(|(one, it)| one.text == it) {
            last.clear();
            let mut depth = 0;
            for token in tokens.by_ref() {
                match &*token.text {
                    "{" | "[" | "(" => depth += 1,
                    "}" | "]" | ")" => depth -= 1,
                    _ => {}
                }
                if depth == 0 && matches!(&*token.text, "}" | ";") {
                    break;
                }
            }
        } else if last.len() == MARK.len() {
            kept.push(last.remove(0));
        }
    }
    kept.extend(last);
    kept
}
