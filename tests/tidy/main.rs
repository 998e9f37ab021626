//! The repository's rules, as tests.

#![expect(clippy::unwrap_used, reason = "a test")]

mod circles;
mod imports;
mod layers;

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

#[test]
fn documents_name_files_that_exist() {
    // Words in backticks that look like a path of the repository.
    let documents = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "docs/guarantees.md",
        "docs/threats.md",
    ];
    for document in documents {
        let text = read(&root().join(document));
        for word in text.split('`').skip(1).step_by(2) {
            let is_path = word.contains('/')
                && !word.contains([' ', '<', '{', '*', ':', '$', '|', '='])
                && ["src/", "proto/", "server/", "client/", "tests/", "deploy/", ".ci/"]
                    .iter()
                    .any(|top| word.starts_with(top));
            assert!(!is_path || root().join(word).exists(), "{document} names {word}");
        }
    }
}

#[test]
fn guarantees_and_threats_name_tests_that_exist() {
    let sources: Vec<String> = files(&root(), &[".rs"]).iter().map(|path| read(path)).collect();
    for document in ["docs/guarantees.md", "docs/threats.md"] {
        let text = read(&root().join(document));
        for word in text.split('`').skip(1).step_by(2) {
            let is_name = word.matches('_').count() >= 3
                && word.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
            let definition = format!("fn {word}(");
            let exists = || sources.iter().any(|source| source.contains(&definition));
            assert!(!is_name || exists(), "{document} names {word}");
        }
    }
}
