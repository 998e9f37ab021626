//! The repository's rules, as tests.

#![expect(clippy::unwrap_used, reason = "a test")]

mod circles;
mod documents;
mod imports;
mod layers;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files under a folder whose names end so, without those that git ignores and golden data.
fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if !["target", ".git", ".venv", "goldens", "__pycache__"].contains(&name) {
                found.extend(files(&path, endings));
            }
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
    found
}

#[test]
fn every_dependency_comes_from_the_registry() {
    let lock = read(&root().join("Cargo.lock"));
    for line in lock.lines().filter(|line| line.starts_with("source")) {
        assert!(line.contains("registry+https://github.com/rust-lang/crates.io-index"), "{line}");
    }
}

#[test]
fn generated_code_is_of_the_current_proto_file() {
    let proto = root().join("proto");
    let hash =
        format!("{:016x}", xxh3_64(&fs::read(proto.join("forebay/v1/forebay.proto")).unwrap()));
    let generated = read(&proto.join("src/gen/forebay.v1.xxh3"));
    let command = "cargo run --manifest-path proto/codegen/Cargo.toml";
    assert_eq!(generated.trim(), hash, "forebay.proto was edited: run `{command}` and commit");
}

/// Opening a pipe blocks, and a device may never end: `forebay_types::file` refuses both.
#[test]
fn files_are_read_by_the_functions_that_refuse_pipes() {
    let crates = [
        "src",
        "server/src",
        "server/remote/src",
        "client/src",
        "client/loadtest/src",
        "client/python/src",
        "client/trainer/src",
        "client/report/src",
        "proto/src",
        "proto/types/src",
    ];
    let opens = ["File::open(", "fs::read(", "fs::read_to_string(", "OpenOptions::"];
    for path in crates.iter().flat_map(|folder| files(&root().join(folder), &[".rs"])) {
        // The functions themselves, and a file that reads only what the kernel writes: /proc and control groups.
        let exempt = ["proto/types/src/file.rs", "proto/types/src/process.rs", "tests.rs"];
        if exempt.iter().any(|exempt| path.ends_with(exempt)) {
            continue;
        }
        let text = read(&path);
        let code = text.split("#[cfg(test)]").next().unwrap();
        for line in code.lines().filter(|line| opens.iter().any(|open| line.contains(open))) {
            // What the kernel writes, and a file that is only opened to be synced.
            let harmless = ["\"/proc/", "sync_all", "RegularFile::open("];
            let harmless = harmless.iter().any(|harmless| line.contains(harmless));
            assert!(harmless, "{}: use forebay_types::file: {line}", path.display());
        }
    }
}

#[test]
fn nothing_is_left_unfinished() {
    let words = ["TO".to_owned() + "DO", "FIX".to_owned() + "ME", "#[ig".to_owned() + "nore"];
    for path in files(&root(), &[".rs", ".toml", ".proto", ".py", ".sh", ".cu"]) {
        let text = read(&path);
        for word in &words {
            assert!(!text.contains(word.as_str()), "{} contains {word}", path.display());
        }
    }
}
