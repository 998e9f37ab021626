//! What an index says about its records as a whole: the digest of their content, and what may be a
//! mistake.
//!
//! Contents of records are compared by their checksums and lengths. They take 24 bytes of memory for each record of one
//! dataset; others are only walked.

use std::path::{Path, PathBuf};

use forebay_types::Digest;

use super::index::Index;
use super::layouts::{Layout, other_splits, split_in_name};

/// Records of which at most this many are named.
const EXAMPLES: usize = 3;

/// What a record holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Content {
    checksum: u64,
    length: u32,
    label: u32,
    id: u32,
}

/// The contents of all records, sorted.
fn contents(index: &Index) -> Vec<Content> {
    let content = |id| {
        let record = index.record(id);
        let (checksum, length, label) = (record.checksum, record.length, record.label);
        Content { checksum, length, label, id: u32::try_from(id).unwrap_or(u32::MAX) }
    };
    let mut contents: Vec<Content> = (0..index.len()).map(content).collect();
    contents.sort_unstable();
    contents
}

/// The digest of the records' labels, lengths and checksums, without their names, their order and the
/// names of the classes.
pub(super) fn content(index: &Index) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"forebay content 1");
    for Content { checksum, length, label, .. } in contents(index) {
        hasher.update(&checksum.to_le_bytes());
        hasher.update(&length.to_le_bytes());
        hasher.update(&label.to_le_bytes());
    }
    Digest(*hasher.finalize().as_bytes())
}

/// What may be a mistake, a sentence each. `counts` are the records of each class.
pub(super) fn of(index: &Index, counts: &[u64]) -> Vec<String> {
    let mut found = Vec::new();
    duplicates(index, &mut found);
    let empty: Vec<&String> = index
        .classes
        .iter()
        .zip(counts)
        .filter(|(_, count)| **count == 0)
        .map(|(c, _)| c)
        .collect();
    if !empty.is_empty() {
        let examples = examples(empty.iter().map(|class| class.as_str()));
        found.push(format!("{} classes have no records: {examples}", empty.len()));
    }
    mixed_classes(index, counts, &mut found);
    if let Some((label, name)) = numbers_as_text(index) {
        found.push(format!(
            "the classes are numbers in the order of text, so that the label of {name} is {label}; store the labels as \
             numbers, or name the classes"
        ));
    }
    let mut splits: Vec<&str> =
        index.shards.iter().filter_map(|(name, _)| split_in_name(name)).collect();
    if index.shards.is_empty() {
        let classes = index.classes.iter();
        splits = classes.filter_map(|name| split_in_name(name).filter(|s| s == name)).collect();
    }
    splits.sort_unstable();
    splits.dedup();
    if let ([split], [_], []) = (&splits[..], &index.classes[..], &index.shards[..]) {
        found.push(format!(
            "the only class is called {split}; for what is in it, select the split by --split"
        ));
    }
    if splits.len() > 1 {
        let splits = splits.join(", ");
        found.push(format!("several splits are one dataset: {splits}; select one by --split"));
    }
    found
}

/// The first class that is a number and not its own label, of labels that are text. The folders of an `ImageFolder` are
/// in this order everywhere.
fn numbers_as_text(index: &Index) -> Option<(usize, &str)> {
    let are_numbers = index.classes.iter().all(|name| name.parse::<u32>().is_ok());
    if !are_numbers || matches!(index.layout, Layout::ImageFolder | Layout::Kaggle | Layout::Ilsvrc)
    {
        return None;
    }
    let named = index.classes.iter().map(String::as_str).enumerate();
    let mut others = named.filter(|(label, name)| name.parse() != Ok(*label));
    let sorted =
        index.classes.iter().map(|name| name.parse::<u32>().unwrap_or_default()).is_sorted();
    others.next().filter(|_| !sorted)
}

fn duplicates(index: &Index, found: &mut Vec<String>) {
    let contents = contents(index);
    let groups = || {
        contents
            .chunk_by(|a, b| (a.checksum, a.length) == (b.checksum, b.length))
            .filter(|group| group.len() > 1)
    };
    let name = |content: &Content| {
        let record = index.record(content.id as usize);
        index.name(&record).to_owned()
    };
    let pair = |a: &Content, b: &Content| format!("{} = {}", name(a), name(b));
    let copies: usize = groups().map(|group| group.len() - 1).sum();
    if copies > 0 {
        let examples = groups().take(EXAMPLES).map(|group| pair(&group[0], &group[1]));
        let examples: Vec<String> = examples.collect();
        found.push(format!("{copies} records are copies of others: {}", examples.join(", ")));
    }
    // A group is sorted by label.
    let ends = |group: &[Content]| (group[0], group[group.len() - 1]);
    let conflicts = || groups().map(ends).filter(|(first, last)| first.label != last.label);
    let count = conflicts().count();
    if count > 0 {
        let examples: Vec<String> =
            conflicts().take(EXAMPLES).map(|(first, last)| pair(&first, &last)).collect();
        found.push(format!("{count} images have several labels: {}", examples.join(", ")));
    }
}

/// Names of classes that are numbers beside others that are not, such as labels of two kinds in one column.
fn mixed_classes(index: &Index, counts: &[u64], found: &mut Vec<String>) {
    let used = index.classes.iter().zip(counts).filter(|(_, count)| **count > 0);
    let (numbers, names): (Vec<&str>, Vec<&str>) =
        used.map(|(name, _)| name.as_str()).partition(|name| name.parse::<i64>().is_ok());
    if let (Some(number), Some(name)) = (numbers.first(), names.first()) {
        found.push(format!(
            "labels are of two kinds: {} classes are numbers, such as {number}, and {} are names, such as {name}",
            numbers.len(),
            names.len()
        ));
    }
}

/// The images that a dataset has in common with other splits of its path whose indexes lie beside its own, a sentence for
/// each of these splits.
pub(super) fn across_splits(index: &Index, path: &Path, index_dir: Option<&Path>) -> Vec<String> {
    let others = other_splits(path, index_dir);
    if others.is_empty() {
        return Vec::new();
    }
    let contents = contents(index);
    let compare = |(split, file): (String, PathBuf)| match Index::open(&file) {
        Ok(other) => {
            let found =
                [other_classes(index, &other, &split), common(index, &contents, &other, &split)];
            found.into_iter().flatten().collect()
        }
        Err(error) => vec![format!("the split {split} cannot be compared: {error}")],
    };
    others.into_iter().flat_map(compare).collect()
}

/// The first label that is another class in a split, as a sentence if there is one.
fn other_classes(index: &Index, other: &Index, split: &str) -> Option<String> {
    let mut pairs = index.classes.iter().zip(&other.classes).enumerate();
    let (label, (own, theirs)) = pairs.find(|(_, (own, theirs))| own != theirs)?;
    Some(format!(
        "the split {split} has other classes: the label {label} is {own} here and {theirs} there"
    ))
}

/// The records of a split that are in a dataset, too, as a sentence if there are any.
fn common(index: &Index, contents: &[Content], other: &Index, split: &str) -> Option<String> {
    let key = |content: &Content| (content.checksum, content.length);
    let (mut count, mut examples) = (0_u64, Vec::new());
    for id in 0..other.len() {
        let record = other.record(id);
        let wanted = (record.checksum, record.length);
        let at = contents.partition_point(|content| key(content) < wanted);
        let Some(own) = contents.get(at).filter(|content| key(content) == wanted) else { continue };
        count += 1;
        if examples.len() < EXAMPLES {
            let own = index.record(own.id as usize);
            examples.push(format!("{} = {}", other.name(&record), index.name(&own)));
        }
    }
    let examples = examples.join(", ");
    (count > 0)
        .then(|| format!("{count} records of the split {split} are in this one, too: {examples}"))
}

fn examples<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = if names.len() > EXAMPLES { ", ..." } else { "" };
    let names: Vec<&str> = names.take(EXAMPLES).collect();
    names.join(", ") + more
}
