//! What comes from outside: no more crates than there are, and a reason for each that is asked for.
//!
//! Licences, sources, duplicates and bans are cargo-deny's (deny.toml, `tests/run --only deny`).

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

/// Crates of the normal dependency tree, this one included. To raise it is a decision: CONTRIBUTING.md
/// says when a dependency is right.
const MOST_CRATES: usize = 70;

#[test]
fn the_dependency_tree_has_no_more_crates_than_it_had() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "-e", "normal", "--prefix", "none"])
        .args([
            "--target",
            &format!("{}-unknown-linux-gnu", std::env::consts::ARCH),
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let tree = String::from_utf8(output.stdout).unwrap();
    let crates: BTreeSet<_> = tree
        .lines()
        .map(|line| line.trim_end_matches(" (*)"))
        .filter(|line| !line.is_empty())
        .collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(crates.len() > 10, "{errors}");
    assert!(
        crates.len() <= MOST_CRATES,
        "{} crates, and {MOST_CRATES} at most: {crates:#?}",
        crates.len()
    );
}

/// Each stands right under a comment of its own, in Cargo.toml.
#[test]
fn each_dependency_has_its_reason_beside_it() {
    let manifest = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    let mut count = 0;
    let without: Vec<_> = without_a_reason(&manifest, &mut count);
    assert!(without.is_empty(), "no comment above: {without:?}");
    assert!(count > 15, "{count} dependencies");
    // And it sees one that has none.
    let made_up = "[dependencies]\n# Why.\na = \"1\"\nb = \"1\"\n\n[dev-dependencies]\nc = \"1\"\n";
    assert_eq!(without_a_reason(made_up, &mut 0), ["b", "c"]);
}

fn without_a_reason<'a>(manifest: &'a str, count: &mut usize) -> Vec<&'a str> {
    let mut inside = false;
    let mut has_reason = false;
    let mut without = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.contains("dependencies");
        } else if line.starts_with('#') {
            has_reason = true;
            continue;
        } else if let Some((name, _)) = line.split_once(" = ").filter(|_| inside) {
            *count += 1;
            if !has_reason {
                without.push(name);
            }
        }
        has_reason = false;
    }
    without
}
