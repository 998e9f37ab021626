//! The allowed imports between packages, and between the stages of the pipeline.

use std::collections::BTreeSet;
use std::path::Path;

use crate::{files, imports, read, root};

/// The stages of the pipeline, in the order in which a sample passes them.
const STAGES: [&str; 8] =
    ["store", "dataset", "order", "decode", "resize", "augment", "batch", "mix"];

/// The stages that a part of `src/` may import; parts that are not listed may import none.
const MAY_IMPORT: [(&str, &[&str]); 5] = [
    // They run the stages.
    ("make", &STAGES),
    ("pipeline", &STAGES),
    // It says what a microbatch is made of, and touches no pixels.
    ("explain", &["dataset", "order"]),
    // The index holds what decoding found: the verdict on each record and its header.
    ("dataset", &["store", "decode"]),
    // It wraps the errors of the stages.
    ("error", &["dataset", "decode", "store"]),
];

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
    // Every package may import the shared plain values, which import nothing.
    let shared = "forebay-types";
    let allowed: [(&str, &[&str]); 10] = [
        ("proto/types", &[]),
        ("proto", &[]),
        (".", &[]),
        ("server", &["forebay", "forebay-proto", "forebay-remote", "forebay-report"]),
        ("server/remote", &["forebay"]),
        ("client", &["forebay-proto"]),
        ("client/report", &[]),
        ("client/loadtest", &["forebay-client", "forebay-report"]),
        // It has the commands, too.
        (
            "client/python",
            &["forebay", "forebay-client", "forebay-loadtest", "forebay-server", "forebay-trainer"],
        ),
        ("client/trainer", &["forebay", "forebay-client", "forebay-report"]),
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
fn the_pipeline_depends_on_no_network_and_no_command_line() {
    let dependencies = dependencies(".");
    for name in ["tokio", "tonic", "prost", "clap", "tracing-subscriber", "anyhow"] {
        assert!(!dependencies.contains(name), "{name}");
    }
}

#[test]
fn no_stage_imports_another_stage_and_only_make_and_pipeline_import_all() {
    let source = root().join("src");
    for ((user, used), names) in imports::uses(&source.join("lib.rs")) {
        let (from, to) = (part(&user, &source), part(&used, &source));
        let allowed = MAY_IMPORT.iter().find(|(part, _)| *part == from);
        let allowed = allowed.map_or(&[][..], |(_, stages)| stages);
        let wrong = from != to && STAGES.contains(&to.as_str()) && !allowed.contains(&to.as_str());
        assert!(!wrong, "{} imports {} of {to}", user.display(), names.join(", "));
    }
}

#[test]
fn stages_do_not_know_who_runs_them() {
    let source = root().join("src");
    for ((user, used), names) in imports::uses(&source.join("lib.rs")) {
        let (from, to) = (part(&user, &source), part(&used, &source));
        let wrong = STAGES.contains(&from.as_str())
            && ["make", "pipeline", "schedule", "explain"].contains(&to.as_str());
        assert!(!wrong, "{} imports {} of {to}", user.display(), names.join(", "));
    }
}

/// The part of a crate that a file belongs to: a folder directly under `src`, or a file there.
fn part(file: &Path, source: &Path) -> String {
    let inside = file.strip_prefix(source).expect("a file of the crate");
    let first = inside.components().next().expect("a name").as_os_str();
    first.to_string_lossy().trim_end_matches(".rs").to_owned()
}

#[test]
fn only_the_plan_draws_random_numbers() {
    for path in files(&root().join("src"), &[".rs"]) {
        let draws = read(&path).contains("rand_chacha") || read(&path).contains("rand_core");
        assert!(!draws || path.ends_with("src/plan/random.rs"), "{} draws", path.display());
    }
}

#[test]
fn only_the_gpu_module_calls_cudarc() {
    let sources = ["src", "server", "proto"].map(|folder| files(&root().join(folder), &[".rs"]));
    for path in sources.concat() {
        let calls = read(&path).contains("cudarc::");
        assert!(!calls || path.starts_with(root().join("src/gpu")), "{}", path.display());
    }
}
