//! No circle between files: if one file uses another, the other does not use the first, directly or
//! through further files. A reader can then take the files of a crate one after another.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::imports::{self, Uses};

#[test]
fn no_files_import_each_other_in_a_circle() {
    let root = crate::root();
    // One circle is found from each of its files, and a file can be in several crates.
    let found: BTreeMap<String, String> = imports::crates(&root)
        .iter()
        .flat_map(|crate_root| circles(&imports::uses(crate_root)))
        .map(|circle| (files(&circle, &root), describe(&circle, &root)))
        .collect();
    let found: Vec<String> = found.into_values().collect();
    assert!(
        found.is_empty(),
        "files that import each other in a circle:\n\n{}",
        found.join("\n\n")
    );
}

/// One step of a circle: a file, the next one, and what it takes from it.
type Step = (PathBuf, PathBuf, Vec<String>);

/// The shortest circle through each file of a crate that is in one.
fn circles(uses: &Uses) -> Vec<Vec<Step>> {
    let starts: BTreeSet<&PathBuf> = uses.keys().map(|(user, _)| user).collect();
    starts.into_iter().filter_map(|start| circle_through(uses, start)).collect()
}

/// The shortest way from a file back to itself, by breadth-first search.
fn circle_through(uses: &Uses, start: &PathBuf) -> Option<Vec<Step>> {
    let mut reached_from: BTreeMap<&PathBuf, &PathBuf> = BTreeMap::new();
    let mut frontier = vec![start];
    while !frontier.is_empty() && !reached_from.contains_key(start) {
        let mut next = Vec::new();
        for (user, used) in uses.keys().filter(|(user, _)| frontier.contains(&user)) {
            if !reached_from.contains_key(used) {
                reached_from.insert(used, user);
                next.push(used);
            }
        }
        frontier = next;
    }
    let mut steps = Vec::new();
    let mut used = start;
    loop {
        let user = *reached_from.get(used)?;
        let names = uses[&(user.clone(), used.clone())].clone();
        steps.push((user.clone(), used.clone(), names));
        if user == start {
            steps.reverse();
            return Some(steps);
        }
        used = user;
    }
}

fn short(path: &Path, root: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

/// The files of a circle in alphabetical order, which identifies it.
fn files(circle: &[Step], root: &Path) -> String {
    let mut files: Vec<String> = circle.iter().map(|(user, ..)| short(user, root)).collect();
    files.sort();
    files.join(" ")
}

/// A line for each file of a circle.
fn describe(circle: &[Step], root: &Path) -> String {
    let steps = circle.iter().map(|(user, used, names)| {
        format!("{} uses {} of {}", short(user, root), names.join(", "), short(used, root))
    });
    steps.collect::<Vec<_>>().join("\n")
}

/// Writes a crate to a temporary folder; the first circle that the check finds in it.
fn circle_in(files: &[(&str, &str)]) -> Option<String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, source) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, source).expect("a file");
    }
    let circles = circles(&imports::uses(&folder.path().join("lib.rs")));
    circles.first().map(|circle| describe(circle, folder.path()))
}

#[test]
fn a_circle_of_three_files_is_found_with_the_names_that_make_it() {
    let found = circle_in(&[
        ("lib.rs", "mod a; mod b; mod c;"),
        ("a.rs", "use crate::b::B; pub struct A;"),
        ("b.rs", "pub struct B; fn f() { super::c::g() }"),
        ("c.rs", "use super::a::{self}; pub fn g() { a::A; }"),
    ]);
    let expected = "a.rs uses crate::b::B of b.rs\nb.rs uses super::c::g of c.rs\n\
                    c.rs uses a::A of a.rs";
    assert_eq!(found.as_deref(), Some(expected));
}

#[test]
fn a_circle_behind_a_facade_is_found() {
    let found = circle_in(&[
        ("lib.rs", "pub mod outer; pub use outer::One;"),
        ("outer/mod.rs", "mod one; mod two; pub use one::One; pub(crate) use two::*;"),
        ("outer/one.rs", "use super::helper; pub struct One;"),
        ("outer/two.rs", "pub fn helper(one: &crate::One) {}"),
    ]);
    let expected = "outer/one.rs uses super::helper of outer/two.rs\n\
                    outer/two.rs uses crate::One of outer/one.rs";
    assert_eq!(found.as_deref(), Some(expected));
}

#[test]
fn a_parent_that_calls_its_child_and_is_called_back_is_a_circle() {
    let files =
        |parent: &'static str| [("lib.rs", parent), ("child.rs", "pub fn f() { super::g() }")];
    assert!(circle_in(&files("mod child; fn g() { child::f() }")).is_some());
    assert!(circle_in(&files("mod child; pub use child::f; fn g() { f() }")).is_some());
    assert!(circle_in(&files("mod child; pub use child::f; fn g() {}")).is_none());
}

#[test]
fn tests_comments_and_other_crates_make_no_circle() {
    let found = circle_in(&[
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "use crate::b::B; pub struct A;"),
        (
            "b.rs",
            "//! Made for crate::a::A.\nuse std::a::A; pub struct B;\n\
             #[cfg(test)]\nmod tests { use crate::a::A; }\n#[cfg(test)]\nuse super::a::A as C;",
        ),
    ]);
    assert_eq!(found, None);
}
