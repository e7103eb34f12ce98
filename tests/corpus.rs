//! Every input of the fuzz targets' seed corpora, passed again without a fuzzer.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod fuzzing;

use std::fs;
use std::path::Path;

/// Runs `target` with each file of its folder.
fn replay(target: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let folder = folder.join(target);
    let mut inputs: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    for input in inputs {
        // Said by the test harness where the target panics.
        println!("{}", input.display());
        fuzzing::run(target, &fs::read(&input).unwrap());
    }
}

#[test]
fn wire() {
    replay("wire");
}

#[test]
fn access() {
    replay("access");
}

#[test]
fn config() {
    replay("config");
}

#[test]
fn connection() {
    replay("connection");
}

#[test]
fn record() {
    replay("record");
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let mut targets = fuzzing::TARGETS.map(|(name, _)| name);
    targets.sort_unstable();
    for folder in ["fuzz/corpus", "fuzz/fuzz_targets"] {
        let mut names: Vec<_> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort_unstable();
        assert_eq!(names, targets, "{folder}");
    }
}
