//! The documents against the tree and the binary: what they name is there, what they show parses and runs.
//!
//! Stands beside the tests that the documents' words come from; here nothing is served.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that fails is a test that fails"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use hardened_epmd::config::{OPTIONS, options_markdown, settings_markdown};

/// Lines that README may have: it is read by who does not know yet whether to stay.
const README_LINES: usize = 150;

/// A document: its path in the tree, and its text.
struct Document {
    path: String,
    text: String,
}

/// A fenced block, with the line on which it begins.
struct Block {
    at: String,
    language: String,
    text: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn documents() -> Vec<Document> {
    let mut documents = Vec::new();
    for folder in ["", "docs/"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if name.ends_with(".md") && name != "CHANGELOG.md" {
                documents.push(Document {
                    path: format!("{folder}{name}"),
                    text: fs::read_to_string(&path).unwrap(),
                });
            }
        }
    }
    documents.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(documents.len() >= 9, "{} documents", documents.len());
    documents
}

impl Document {
    fn named(path: &str) -> Self {
        let found = documents().into_iter().find(|it| it.path == path);
        found.unwrap_or_else(|| panic!("no {path}"))
    }

    /// Its fenced blocks, and what is outside of them.
    fn taken_apart(&self) -> (Vec<Block>, String) {
        let mut blocks: Vec<Block> = Vec::new();
        let mut prose = String::new();
        let mut is_inside = false;
        for (number, line) in (1..).zip(self.text.lines()) {
            if let Some(language) = line.strip_prefix("```") {
                if !is_inside {
                    blocks.push(Block {
                        at: format!("{}:{number}", self.path),
                        language: language.to_owned(),
                        text: String::new(),
                    });
                }
                is_inside = !is_inside;
            } else if is_inside {
                let block = blocks.last_mut().unwrap();
                block.text.push_str(line);
                block.text.push('\n');
            } else {
                prose.push_str(line);
                prose.push('\n');
            }
        }
        assert!(!is_inside, "{}: a block has no end", self.path);
        (blocks, prose)
    }

    fn blocks(&self, language: &str) -> Vec<Block> {
        let (mut blocks, _) = self.taken_apart();
        blocks.retain(|block| block.language == language);
        blocks
    }

    /// What stands in backquotes outside of blocks.
    fn quoted(&self) -> Vec<String> {
        let prose = self.taken_apart().1.replace('\n', " ");
        prose
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    }
}

/// Blocks of all documents in this language, of which there are some.
fn all_blocks(language: &str) -> Vec<Block> {
    let blocks: Vec<_> = documents()
        .iter()
        .flat_map(|it| it.blocks(language))
        .collect();
    assert!(!blocks.is_empty(), "no block of {language}");
    blocks
}

/// The shell's lines of all documents: of what is typed, what stands behind `$ `.
fn commands() -> Vec<(String, String)> {
    let typed = all_blocks("console").into_iter().map(|block| {
        let lines = block
            .text
            .lines()
            .filter_map(|line| line.strip_prefix("$ "));
        (block.at.clone(), lines.collect::<Vec<_>>().join("\n"))
    });
    let scripts = all_blocks("sh")
        .into_iter()
        .map(|block| (block.at, block.text));
    typed.chain(scripts).collect()
}

/// One run of the binary, with nothing of this process's environment.
fn epmd(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_epmd"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn the_readme_is_short() {
    let readme = Document::named("README.md");
    let lines = readme.text.lines().count();
    assert!(
        lines <= README_LINES,
        "README.md has {lines} lines, and may have {README_LINES}"
    );
}

#[test]
fn every_option_that_a_command_gives_to_epmd_exists() {
    let mut count = 0;
    let mut lines: Vec<(String, String)> = commands();
    for document in documents() {
        let quoted = document.quoted();
        lines.extend(
            quoted
                .into_iter()
                .map(|quoted| (document.path.clone(), quoted)),
        );
    }
    for (at, line) in lines
        .iter()
        .flat_map(|(at, text)| text.lines().map(move |line| (at, line)))
    {
        for option in options_of_epmd(line) {
            count += 1;
            assert!(is_an_option(option), "{at}: epmd has no -{option}: {line}");
        }
    }
    assert!(count > 20, "{count} options");
    // And one that there is not is seen.
    let made_up = "sudo -u nobody /usr/bin/epmd -prot 4370 | grep -v x; epmd -names";
    assert_eq!(options_of_epmd(made_up), ["prot", "names"]);
    assert!(!is_an_option("prot"));
}

fn is_an_option(name: &str) -> bool {
    OPTIONS
        .iter()
        .any(|it| it.name == name || it.short == Some(name))
}

/// The options in a line that are epmd's: what stands behind it, up to the end of the command.
fn options_of_epmd(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut is_epmds = false;
    for word in line.split_whitespace() {
        let ends = word.ends_with(';');
        let word = word.trim_end_matches([';', ',', ')']);
        if matches!(word, "|" | "&&" | "||" | "#") {
            is_epmds = false;
        } else if word == "epmd" || word.ends_with("/epmd") {
            is_epmds = true;
        } else if let Some(option) = word
            .trim_start_matches('[')
            .strip_prefix('-')
            .filter(|_| is_epmds)
        {
            let option = option.split('=').next().unwrap();
            if option.starts_with(|c: char| c.is_ascii_alphabetic()) {
                found.push(option);
            }
        } else if word.starts_with("systemctl") || word.starts_with("journalctl") {
            is_epmds = false;
        }
        is_epmds &= !ends;
    }
    // `systemctl status epmd -l` and the like are systemd's.
    if line.contains("systemctl ") || line.contains("journalctl ") {
        found.clear();
    }
    found
}

#[test]
fn every_option_and_every_key_is_in_the_tables() {
    let document = Document::named("docs/configuration.md");
    let rows = |begin: &str, end: &str| -> BTreeSet<String> {
        let (_, behind) = document.text.split_once(begin).unwrap();
        let (table, _) = behind.split_once(end).unwrap();
        let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
        rows.map(|row| row.split('`').next().unwrap().to_owned())
            .collect()
    };
    // What -check_config prints are the keys, with those of the command line alone.
    let keys = rows("<!-- settings -->", "<!-- end of settings -->");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("epmd.toml");
    fs::write(
        &file,
        "[access.node.NAME]\nallow = []\n[names.node.NAME]\nusers = []\n",
    )
    .unwrap();
    let output = epmd(folder.path(), &["-config", "epmd.toml", "-check_config"]);
    let printed: BTreeSet<_> = text(&output.stdout)
        .lines()
        .filter_map(|line| Some(line.split_once(": ")?.0.to_owned()))
        .filter(|key| !matches!(&**key, "file" | "relaxed_command_check"))
        .collect();
    assert_eq!(keys, printed);
    // The rows are the tables' own.
    for (of, wanted) in [
        ("settings", settings_markdown()),
        ("options", options_markdown()),
    ] {
        let (_, behind) = document
            .text
            .split_once(&format!("<!-- {of} -->\n"))
            .unwrap();
        let (shown, _) = behind.split_once(&format!("<!-- end of {of} -->")).unwrap();
        if std::env::var_os("EPMD_TEST_WRITE").is_some() {
            let path = root().join(&document.path);
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, text.replace(shown, &wanted)).unwrap();
        } else {
            assert_eq!(
                shown, wanted,
                "{of}: EPMD_TEST_WRITE=1 cargo test --test documents writes the table anew"
            );
        }
    }
}

#[test]
fn every_example_of_the_file_is_a_good_one() {
    for block in all_blocks("toml") {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("epmd.toml"), &block.text).unwrap();
        let output = epmd(folder.path(), &["-config", "epmd.toml", "-check_config"]);
        assert_eq!(output.status.code(), Some(0), "{}: {output:?}", block.at);
    }
}

/// The mistake that README shows is told as README shows it.
#[test]
fn the_mistake_that_is_shown_is_told_so() {
    let begin = "$ epmd -config bad.toml -check_config\n";
    let blocks = all_blocks("console");
    let shown = blocks
        .iter()
        .find_map(|it| it.text.strip_prefix(begin))
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let line = shown.lines().nth(1).unwrap().trim();
    fs::write(
        folder.path().join("bad.toml"),
        format!("[access]\n{line}\n"),
    )
    .unwrap();
    let output = epmd(folder.path(), &["-config", "bad.toml", "-check_config"]);
    assert_eq!(
        (text(&output.stderr).as_str(), output.status.code()),
        (shown, Some(78))
    );
}

#[test]
fn every_json_parses() {
    for block in all_blocks("json") {
        for line in block.text.lines() {
            let parsed = serde_json::from_str::<serde_json::Value>(line);
            assert!(parsed.is_ok(), "{}: {parsed:?}", block.at);
        }
    }
}

#[test]
fn every_command_is_one_that_a_shell_understands() {
    for (at, script) in commands() {
        let output = Command::new("bash")
            .args(["-n", "-c", &script])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{at}: {}", text(&output.stderr));
    }
}

#[test]
fn every_link_leads_somewhere() {
    let mut count = 0;
    for document in documents() {
        let (_, prose) = document.taken_apart();
        for link in prose
            .split("](")
            .skip(1)
            .filter_map(|it| it.split(')').next())
        {
            if link.contains("://") {
                continue;
            }
            count += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let folder = root().join(&document.path);
            let path = match file {
                "" => folder.clone(),
                file => folder.parent().unwrap().join(file),
            };
            assert!(path.exists(), "{}: no {link}", document.path);
            if !anchor.is_empty() {
                let anchors = anchors(&fs::read_to_string(&path).unwrap());
                assert!(
                    anchors.contains(anchor),
                    "{}: no {link} in {anchors:?}",
                    document.path
                );
            }
        }
    }
    assert!(count > 20, "{count} links");
}

/// The names by which headings are linked to.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let words = line.trim_start_matches('#').trim().to_lowercase();
            let kept = words
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

/// Paths of this tree that are named anywhere: by their folder, or because the tree is all that has them.
#[test]
fn every_file_that_is_named_exists() {
    const FOLDERS: [&str; 7] = [
        "src/", "tests/", "docs/", "systemd/", "benches/", "fuzz/", "release/",
    ];
    let mut count = 0;
    for document in documents() {
        let words = document
            .text
            .split(|c: char| c.is_whitespace() || "`()[],;:\"'|".contains(c));
        for word in words {
            let word = word.trim_end_matches('.');
            if FOLDERS.iter().any(|folder| word.starts_with(folder)) {
                count += 1;
                let word = word.split(['#', '*', '{']).next().unwrap();
                assert!(root().join(word).exists(), "{}: no {word}", document.path);
            }
        }
    }
    assert!(count > 40, "{count} paths");
    // The plan's short names are of src, or of a room of it.
    let plan = Document::named("docs/architecture.md");
    let places = ["src", "src/daemon/server"].map(|it| root().join(it));
    let files = plan
        .text
        .split(|c: char| c.is_whitespace() || "`()[],;:".contains(c));
    for file in files.filter(|it| it.ends_with(".rs")) {
        let exists =
            places.iter().any(|place| place.join(file).exists()) || root().join(file).exists();
        assert!(exists, "docs/architecture.md: no {file}");
    }
}

/// What the plan calls `Type::function` is in the tree.
#[test]
fn every_function_of_the_plan_exists() {
    let plan = Document::named("docs/architecture.md").text;
    let mut sources = String::new();
    read_all(&root().join("src"), &mut sources);
    let mut count = 0;
    for word in plan.split(|c: char| c.is_whitespace() || "`()[],;".contains(c)) {
        let Some((kind, function)) = word.split_once("::") else {
            continue;
        };
        if kind.starts_with(char::is_uppercase) {
            count += 1;
            assert!(sources.contains(&format!("fn {function}")), "{word}");
            let is_there = ["struct", "enum", "trait"]
                .iter()
                .any(|it| sources.contains(&format!("{it} {kind}")));
            assert!(is_there, "{word}");
        }
    }
    assert!(count >= 6, "{count} functions");
}

fn read_all(path: &Path, text: &mut String) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            read_all(&entry.unwrap().path(), text);
        }
    } else if path.extension().is_some_and(|it| it == "rs") {
        text.push_str(&fs::read_to_string(path).unwrap());
    }
}

/// Every test that the threat model names is there: by its file and its name, or by its name alone
/// where it is of the same file as the one before.
#[test]
fn the_threat_model_names_tests_that_exist() {
    let document = Document::named("docs/threat-model.md");
    let mut sources = String::new();
    let mut count = 0;
    for quoted in document.quoted() {
        let mut name = &*quoted;
        if let Some((file, test)) = quoted.split_once(": ") {
            name = test;
            sources = String::new();
            let path = match file.strip_prefix("src/") {
                Some(_) => root().join(file),
                None => root().join("tests").join(file),
            };
            assert!(path.exists(), "{file}");
            read_all(&path, &mut sources);
        }
        // A setting, an option or a function of OTP has no such form.
        if name.matches('_').count() >= 3 && name != "inet_dist_use_interface" {
            assert!(sources.contains(&format!("fn {name}(")), "{name}");
            count += 1;
        }
    }
    assert!(count > 40, "{count} tests are named");
}
