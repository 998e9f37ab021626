//! The repository's rules, as tests.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files under a folder that git would track, by ending.
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

/// The names under `[dependencies]` of a package.
fn dependencies(package: &str) -> BTreeSet<String> {
    let manifest = read(&root().join(package).join("Cargo.toml"));
    let mut inside = false;
    let mut names = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if inside && let Some((name, _)) = line.split_once(['.', ' ', '=']) {
            names.insert(name.to_owned());
        }
    }
    names
}

#[test]
fn packages_import_only_what_the_design_allows() {
    // Every crate may import the shared plain values, which import nothing.
    let shared = "forebay-types";
    let allowed: [(&str, &[&str]); 7] = [
        ("proto/types", &[]),
        ("proto", &[]),
        (".", &[]),
        ("server", &["forebay", "forebay-proto"]),
        ("client", &["forebay-proto"]),
        ("client/loadtest", &["forebay-client"]),
        ("client/trainer", &["forebay", "forebay-client"]),
    ];
    for (package, allowed) in allowed {
        let ours: Vec<String> = dependencies(package)
            .into_iter()
            .filter(|name| name.starts_with("forebay") && name != shared)
            .collect();
        assert_eq!(ours, allowed, "forebay packages that {package} depends on");
    }
}

#[test]
fn the_pipeline_knows_no_network_and_no_command_line() {
    let dependencies = dependencies(".");
    for name in ["tokio", "tonic", "prost", "clap", "tracing-subscriber", "anyhow"] {
        assert!(!dependencies.contains(name), "{name}");
    }
}

#[test]
fn no_stage_imports_another_stage() {
    let stages = ["dataset", "order", "decode", "resize", "augment", "batch", "mix"];
    // The index holds what decoding found: the verdict on each record and its header.
    let exceptions = [("dataset", "decode")];
    for stage in stages {
        let (file, folder) = (format!("src/{stage}.rs"), root().join("src").join(stage));
        let paths =
            if folder.is_dir() { files(&folder, &[".rs"]) } else { vec![root().join(file)] };
        for path in paths {
            let text = read(&path);
            for other in stages.iter().chain(&["pipeline"]).filter(|other| **other != stage) {
                let imports = text.contains(&format!("crate::{other}::"))
                    || text.contains(&format!("use crate::{other}"));
                let allowed = exceptions.contains(&(stage, *other));
                assert!(!imports || allowed, "{} imports {other}", path.display());
            }
        }
    }
}

#[test]
fn only_the_plan_draws() {
    for path in files(&root().join("src"), &[".rs"]) {
        let draws = read(&path).contains("rand_chacha") || read(&path).contains("rand_core");
        assert!(!draws || path.ends_with("src/plan/draws.rs"), "{} draws", path.display());
    }
}

#[test]
fn only_the_gpu_module_sees_cudarc() {
    let sources = ["src", "server", "proto"].map(|folder| files(&root().join(folder), &[".rs"]));
    for path in sources.concat() {
        let sees = read(&path).contains("cudarc::");
        assert!(!sees || path.starts_with(root().join("src/gpu")), "{}", path.display());
    }
}

#[test]
fn every_dependency_comes_from_the_registry() {
    let lock = read(&root().join("Cargo.lock"));
    for line in lock.lines().filter(|line| line.starts_with("source")) {
        assert!(line.contains("registry+https://github.com/rust-lang/crates.io-index"), "{line}");
    }
    for banned in ["openssl", "openssl-sys", "protobuf-src"] {
        assert!(!lock.contains(&format!("name = \"{banned}\"\n")), "{banned}");
    }
}

#[test]
fn nothing_is_left_unfinished() {
    let words = ["TO".to_owned() + "DO", "FIX".to_owned() + "ME", "#[ig".to_owned() + "nore"];
    for path in files(&root(), &[".rs", ".toml", ".proto", ".py", ".sh", ".cu"]) {
        let text = read(&path);
        for word in &words {
            assert!(!text.contains(word.as_str()), "{} holds {word}", path.display());
        }
    }
}

#[test]
fn documents_name_files_that_exist() {
    // Words in backticks that look like a path of the repository, in the documents at the root.
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
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
