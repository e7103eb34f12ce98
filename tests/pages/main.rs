//! The manual pages and the completions: the tree holds them, made of the tables of options and keys.
//!
//! `EPMD_TEST_WRITE=1 cargo test --test pages` writes them anew where a table has changed. They are read by the
//! programs that people read them with, and run in the shells.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

#[path = "../common/mod.rs"]
mod common;
mod completions;
mod manual;
mod shells;

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use common::binary::{Epmd, finish};
use hardened_epmd::config::{Invocation, KEYS, OPTIONS, VARIABLES};

/// The files, and what is to be in them.
fn files() -> [(&'static str, String); 5] {
    [
        ("man/hardened-epmd.8", manual::daemon()),
        ("man/epmd.toml.5", manual::settings()),
        ("completions/epmd.bash", completions::bash()),
        ("completions/_epmd", completions::zsh()),
        ("completions/epmd.fish", completions::fish()),
    ]
}

/// A path of the tree.
fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

const PAGES: [&str; 2] = ["man/hardened-epmd.8", "man/epmd.toml.5"];

#[test]
fn the_tree_holds_what_the_tables_say() {
    let write = std::env::var_os("EPMD_TEST_WRITE").is_some();
    for (name, wanted) in files() {
        let there = fs::read_to_string(path(name)).unwrap_or_default();
        if write && there != wanted {
            fs::create_dir_all(path(name).parent().unwrap()).unwrap();
            fs::write(path(name), &wanted).unwrap();
        } else {
            assert!(
                there == wanted,
                "{name} is not what the tables say: EPMD_TEST_WRITE=1 cargo test --test pages writes it anew"
            );
        }
    }
}

/// A page as a terminal of 80 columns shows it.
fn shown(page: &str) -> String {
    let mut man = Command::new("man");
    man.args(["--warnings=all", "-l"]).arg(path(page));
    man.env("MANWIDTH", "80").env("LC_ALL", "C.UTF-8");
    let output = finish(&mut man);
    assert_eq!((output.status, &*output.stderr), (Some(0), ""), "{page}");
    output.stdout
}

#[test]
fn the_pages_are_read_without_a_warning_at_80_columns() {
    for page in PAGES {
        let lint = finish(Command::new("mandoc").args(["-T", "lint"]).arg(path(page)));
        assert_eq!((lint.status, &*lint.stdout), (Some(0), ""), "{page}");
        let mut groff = Command::new("groff");
        groff.args(["-ww", "-man", "-Tutf8", "-z"]).arg(path(page));
        let groff = finish(groff.env("GROFF_NO_SGR", "1"));
        assert_eq!((groff.status, &*groff.stderr), (Some(0), ""), "{page}");
        for line in shown(page).lines() {
            assert!(line.chars().count() <= 80, "{page}: {line}");
        }
    }
}

#[test]
fn the_pages_have_every_option_variable_status_and_key() {
    let plain = |page| shown(page).replace('\u{2212}', "-");
    let page = plain(PAGES[0]);
    for heading in [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "ENVIRONMENT",
        "FILES",
        "SIGNALS",
        "EXIT STATUS",
        "EXAMPLES",
        "SEE ALSO",
    ] {
        assert!(page.contains(&format!("\n{heading}\n")), "{heading}");
    }
    let is_listed = |page: &str, entry: &str| {
        page.lines()
            .any(|line| line.trim_start().starts_with(entry))
    };
    for option in OPTIONS {
        assert!(is_listed(&page, &option.synopsis()), "{option:?}");
    }
    for variable in VARIABLES {
        assert!(is_listed(&page, variable.name), "{variable:?}");
    }
    for status in ["0", "1", "2", "78"] {
        assert!(is_listed(&page, &format!("{status}   ")), "{status}");
    }
    let page = plain(PAGES[1]);
    let (keys, example) = page.split_once("\nEXAMPLE\n").unwrap();
    for key in KEYS {
        let name = key.path.rsplit('.').next().unwrap();
        let entry = format!("{name} = {}", key.example);
        assert!(is_listed(keys, &entry), "{entry}");
        assert!(is_listed(example, &entry), "{entry}");
    }
}

#[test]
fn the_examples_of_the_pages_are_right() {
    for (_, command) in manual::EXAMPLES {
        let words = command.split(' ').skip(1).map(OsString::from);
        assert!(Invocation::parse(words, |_| None).is_ok(), "{command}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("epmd.toml");
    fs::write(&file, manual::example()).unwrap();
    let check = finish(
        Epmd::Ours
            .command()
            .arg("-check_config")
            .arg("-config")
            .arg(&file),
    );
    assert_eq!(check.status, Some(0), "{check:?}");
    // Each of them differs from what is so anyway, so that it shows something.
    let default = finish(Epmd::Ours.command().arg("-check_config"));
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let before = lines(&default.stdout);
    for line in lines(&check.stdout) {
        let is_key = !line.starts_with("relaxed_command_check");
        assert!(!is_key || !before.contains(&line), "{line}");
    }
}
