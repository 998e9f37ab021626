//! Patterns that name several tars: `train-{000000..000146}.tar`, `p*/s.tar`, `t-[01].tar`.
//!
//! Braces name every tar, so that a missing one is an error. `*`, `?` and `[...]` match the tars that
//! exist, within one part of the path; as in a shell, they do not match a leading dot.

use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};

use super::super::error::DatasetError;
use super::directory::{self, utf8};

/// Most names that braces expand to.
const MAX_EXPANDED: usize = 1_000_000;

pub(in crate::dataset) const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// Splits a path before its first part with a special character. `None` if it has none, or if the path
/// exists as it is: special characters are allowed in names.
pub(super) fn split(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let parts: Vec<_> = path.components().collect();
    let is_special = |text: &str| text.contains(['*', '?', '[', '{']);
    let first = parts.iter().position(|part| is_special(&part.as_os_str().to_string_lossy()))?;
    if path.exists() {
        return None;
    }
    let folder: PathBuf = parts[..first].iter().collect();
    let folder = if first == 0 { PathBuf::from(".") } else { folder };
    Some((folder, parts[first..].iter().collect()))
}

/// The files below a folder that a pattern names, relative to the folder and sorted.
///
/// # Errors
/// When the pattern is malformed, names a file that does not exist, or matches none.
pub(super) fn expand(folder: &Path, pattern: &Path) -> Result<Vec<String>, DatasetError> {
    let text = utf8(folder, pattern.as_os_str())?;
    let mut names = Vec::new();
    for name in expand_braces(&text) {
        if name.contains(['*', '?', '[']) {
            match_parts(folder, "", &name, &mut names)?;
        } else if folder.join(&name).exists() {
            names.push(name);
        } else {
            return Err(DatasetError::Missing { path: folder.join(name) });
        }
    }
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Err(DatasetError::Missing { path: folder.join(pattern) });
    }
    Ok(names)
}

/// Adds the files that match `rest`, whose parts before are `prefix` (empty, or ending in `/`).
fn match_parts(
    folder: &Path,
    prefix: &str,
    rest: &str,
    names: &mut Vec<String>,
) -> Result<(), DatasetError> {
    let (part, rest) = rest.split_once('/').map_or((rest, None), |(part, rest)| (part, Some(rest)));
    if !part.contains(['*', '?', '[']) {
        let name = format!("{prefix}{part}");
        if let Some(rest) = rest {
            return match_parts(folder, &(name + "/"), rest, names);
        }
        names.extend(folder.join(&name).is_file().then_some(name));
        return Ok(());
    }
    let pattern = Pattern::new(part).map_err(|error| DatasetError::NotADataset {
        path: folder.join(format!("{prefix}{part}")),
        why: format!("malformed pattern: {error}"),
    })?;
    let parent = folder.join(prefix);
    if !parent.is_dir() {
        return Ok(());
    }
    for (name, is_folder) in directory::entries(&parent)? {
        let text = name.to_string_lossy();
        // An index lies beside the files that it is of, and may match their pattern.
        let is_index = text.ends_with(".forebay");
        if is_folder != rest.is_some() || is_index || !pattern.matches_with(&text, OPTIONS) {
            continue;
        }
        let name = format!("{prefix}{}", utf8(&parent, &name)?);
        match rest {
            Some(rest) => match_parts(folder, &(name + "/"), rest, names)?,
            None => names.push(name),
        }
    }
    Ok(())
}

/// Expands each `{a..b}` (numbers, padded to the width of `a`) or `{a,b}` of a pattern. From the first braces
/// of another form on, and if there would be too many names, it stays as it is.
pub(in crate::dataset) fn expand_braces(pattern: &str) -> Vec<String> {
    let (mut names, mut rest) = (vec![String::new()], pattern);
    while let Some((before, braces)) = rest.split_once('{')
        && let Some((inside, after)) = braces.split_once('}')
        && let Some(parts) = alternatives(inside)
    {
        if names.len().saturating_mul(parts.len()) > MAX_EXPANDED {
            return vec![pattern.to_owned()];
        }
        let with_parts = |name: &String| -> Vec<String> {
            parts.iter().map(|part| format!("{name}{before}{part}")).collect()
        };
        names = names.iter().flat_map(with_parts).collect();
        rest = after;
    }
    for name in &mut names {
        name.push_str(rest);
    }
    names
}

fn alternatives(inside: &str) -> Option<Vec<String>> {
    let Some((first, last)) = inside.split_once("..") else {
        return Some(inside.split(',').map(str::to_owned).collect());
    };
    let (from, to) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
    let width = first.len();
    let few = from <= to && ((to - from) as usize) < MAX_EXPANDED;
    few.then(|| (from..=to).map(|number| format!("{number:0width$}")).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn braces_name_each_shard() {
        assert_eq!(expand_braces("a-{08..10}.tar"), ["a-08.tar", "a-09.tar", "a-10.tar"]);
        assert_eq!(expand_braces("{x,y}/{1..2}"), ["x/1", "x/2", "y/1", "y/2"]);
        assert_eq!(expand_braces("{9..8}.tar"), ["{9..8}.tar"]);
        assert_eq!(expand_braces("plain.tar"), ["plain.tar"]);
        assert_eq!(expand_braces("{1..2}-{x..y}-{1..2}"), ["1-{x..y}-{1..2}", "2-{x..y}-{1..2}"]);
        assert_eq!(expand_braces("a{1,2"), ["a{1,2"]);
        let bomb = "{0..9999}".repeat(8);
        assert_eq!(expand_braces(&bomb), [bomb]);
        assert_eq!(expand_braces(&"{a}".repeat(20_000)), ["a".repeat(20_000)]);
    }

    #[test]
    fn wildcards_match_files_in_any_part_of_the_path() {
        let root = tempfile::tempdir().unwrap();
        for name in ["p0/s.tar", "p1/s.tar", "p1/.s.tar", "p1/t-0.tar", "p1/t-10.tar", "q/x.tar"] {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let matched = |pattern: &str| {
            let (folder, pattern) = split(&root.path().join(pattern)).unwrap();
            assert_eq!(folder, root.path());
            expand(&folder, &pattern).unwrap()
        };
        assert_eq!(matched("p{0..1}/s.tar"), ["p0/s.tar", "p1/s.tar"]);
        assert_eq!(matched("p*/s.tar"), ["p0/s.tar", "p1/s.tar"]);
        assert_eq!(matched("*/?.tar"), ["p0/s.tar", "p1/s.tar", "q/x.tar"]);
        assert_eq!(matched("p[1-9]/t-?.tar"), ["p1/t-0.tar"]);
        assert_eq!(matched("p1*/t-*.tar"), ["p1/t-0.tar", "p1/t-10.tar"]);
        assert_eq!(matched("p1*/*"), ["p1/s.tar", "p1/t-0.tar", "p1/t-10.tar"]);
    }

    #[test]
    fn a_path_that_exists_is_no_pattern() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("images [2012]");
        fs::create_dir(&folder).unwrap();
        assert_eq!(split(&folder), None);
        assert_eq!(split(Path::new("plain/train")), None);
        let pattern = split(Path::new("t-*.tar"));
        assert_eq!(pattern, Some((PathBuf::from("."), PathBuf::from("t-*.tar"))));
    }
}
