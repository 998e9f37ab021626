//! What an index says about its records as a whole: the digest of their content, and what may be a
//! mistake.

use forebay_types::Digest;

use super::index::Index;
use super::layouts::split_in_name;

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
    let mut splits: Vec<&str> =
        index.shards.iter().filter_map(|(name, _)| split_in_name(name)).collect();
    if index.shards.is_empty() {
        let classes = index.classes.iter();
        splits = classes.filter_map(|name| split_in_name(name).filter(|s| s == name)).collect();
    }
    splits.sort_unstable();
    splits.dedup();
    if splits.len() > 1 {
        let splits = splits.join(", ");
        found.push(format!("several splits are one dataset: {splits}; select one by --split"));
    }
    found
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

fn examples<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = if names.len() > EXAMPLES { ", ..." } else { "" };
    let names: Vec<&str> = names.take(EXAMPLES).collect();
    names.join(", ") + more
}
