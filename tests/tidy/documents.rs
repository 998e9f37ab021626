//! Documents: what they name exists, and their lines are short enough to read.

use super::{files, read, root};

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

/// Flags of programs that are not forebay's, in documents for its users.
const OTHER_FLAGS: &[&str] = &[
    "--aa",
    "--bench",
    "--bucket",
    "--build-arg",
    "--features",
    "--install",
    "--interpolation",
    "--interrupts",
    "--latency",
    "--matrix",
    "--minutes",
    "--profile",
    "--recursive",
    "--release",
    "--rounds",
    "--standin",
    "--target",
    "--test",
    "--workspace",
];

/// README, the pages for users, and the page of `deploy/`.
fn pages() -> Vec<std::path::PathBuf> {
    let mut pages = files(&root().join("docs"), &[".md"]);
    pages.extend(["README.md", "deploy/README.md"].map(|page| root().join(page)));
    pages
}

#[test]
fn documents_name_flags_that_exist() {
    let help = read(&root().join("docs/flags.md"));
    let exists = |flag: &str| {
        let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '-');
        OTHER_FLAGS.contains(&flag)
            || help.match_indices(flag).any(|(at, _)| ends(&help[at + flag.len()..]))
    };
    for page in pages() {
        let text = read(&page);
        let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        for word in text.split(|c| !is_part(c)) {
            let is_flag = word.len() > 3 && word.starts_with("--") && !word.starts_with("---");
            assert!(!is_flag || exists(word), "{} names {word}", page.display());
        }
    }
}

#[test]
fn lines_of_documents_are_short() {
    let mut long = Vec::new();
    let mut pages = pages();
    pages.extend(
        ["ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "tests/goldens/README.md"]
            .map(|page| root().join(page)),
    );
    for page in pages {
        let limit = if page == root().join("README.md") { 120 } else { 160 };
        for (number, line) in read(&page).lines().enumerate() {
            if line.chars().count() > limit && !line.contains("https://") {
                long.push(format!("{}:{}: over {limit} columns", page.display(), number + 1));
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}
