//! Joins the parts of a dataset in a bucket to its index.

use std::path::Path;

use super::super::build;
use super::super::digest;
use super::super::error::DatasetError;
use super::super::index::{self, Contents, EntryPointsFile, Index, IndexedRecord, NameRange};
use super::super::layouts::{self, About, Layout, Listing, Naming, Selectable, SkipCounter};
use super::super::options::IndexOptions;
use super::place::RemotePlace;
use super::source::Found;
use crate::store::Object;

/// A record of a part.
struct Joined<'p> {
    /// Number of the shard.
    shard: u32,
    part: &'p Index,
    /// Number of the record in the part.
    id: usize,
    name: &'p str,
    label: u32,
    /// The reason why it is bad, if it is.
    reason: Option<&'p str>,
}

impl Selectable for Joined<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn label(&self) -> u32 {
        self.label
    }

    fn set_label(&mut self, label: u32) {
        self.label = label;
    }
}

/// Joins the indexes of the shards to one, of the records that the options take.
///
/// # Errors
/// When the shards do not belong together, nothing is left of them, or the index cannot be written.
pub(super) fn join(
    (place, options): (&RemotePlace, &IndexOptions),
    found: &Found,
    parts: &[Index],
    file: &Path,
) -> Result<(), DatasetError> {
    let mut classes = classes(&parts.iter().map(Part::of).collect::<Vec<_>>())
        .map_err(|why| DatasetError::NotADataset { path: place.address(), why })?;
    let mut about = about(parts, classes.len());
    let layout = parts[0].layout;
    if parts.iter().any(|part| part.layout != layout) {
        let why = "its shards are of different formats".to_owned();
        return Err(DatasetError::NotADataset { path: place.address(), why });
    }
    let (mut joined, mut skipped) = (Vec::new(), SkipCounter::default());
    for (shard, part) in (0..).zip(parts) {
        let mut reasons = part.bad.iter();
        for id in 0..part.len() {
            let record = part.record(id);
            let reason =
                if record.good { None } else { reasons.next().map(|(_, why)| why.as_str()) };
            let (name, label) = (part.name(&record), record.label);
            joined.push(Joined { shard, part, id, name, label, reason });
        }
        for skip in &part.skipped {
            skipped.add_all(skip);
        }
    }
    layouts::select(&mut joined, &mut classes, &mut about, options)?;
    build::check_skipped(&place.address(), joined.len(), &skipped, options)?;
    let mut entry_points = EntryPointsFile::create(index::folder_of(file))?;
    let mut records = Vec::with_capacity(joined.len());
    for Joined { shard, part, id, name, label, reason } in joined {
        let points = entry_points.push(part.entry_points(id).unwrap_or_default())?;
        let record = part.record(id);
        let record = index::Record { label, shard, name: NameRange::default(), ..record };
        records.push(IndexedRecord { name, record, points, packed: part.packed(id), reason });
    }
    if layout == Layout::Mds {
        // Each shard has told its own.
        about.facts.retain(|(name, _)| name != layouts::COST);
        let packed = records.iter().map(|record| (record.packed, record.record.length));
        about.facts.extend(layouts::cost(packed).map(|cost| (layouts::COST.to_owned(), cost)));
    }
    let size = |shard: &Object| (found.name(shard).to_owned(), shard.size);
    let sizes: Vec<(String, u64)> = found.shards.iter().map(size).collect();
    let tags: Vec<String> = found.shards.iter().map(|shard| shard.tag.clone()).collect();
    let contents = Contents {
        digest: digest::of(&classes, records.iter().map(|record| (record.name, &record.record))),
        layout,
        shards: &sizes,
        tags: &tags,
        classes: &classes,
        skipped: &skipped.finish(),
        about: &about,
        records,
    };
    index::write(file, &contents.sections(), Some(entry_points))?;
    Ok(())
}

/// A fact of parts: where the names of their classes are from.
const NAMING: &str = "class names";

/// Notes in a part where the names of its classes are from.
pub(super) fn note_naming(listing: &mut Listing) {
    listing.about.facts.push((NAMING.to_owned(), listing.naming.word().to_owned()));
}

/// The classes of a part.
struct Part<'p> {
    shard: &'p str,
    naming: Naming,
    classes: &'p [String],
}

impl<'p> Part<'p> {
    fn of(part: &'p Index) -> Self {
        let fact = part.about.facts.iter().find(|(name, _)| name == NAMING);
        let naming = fact.and_then(|(_, word)| Naming::from_word(word)).unwrap_or_default();
        Self { shard: &part.shards[0].0, naming, classes: &part.classes }
    }
}

/// The classes of all shards. A shard whose labels are numbers does not know of those above its own, and may not know
/// the names of classes of which it has no records: it has their numbers. A shard whose labels are text has the classes
/// of its own records, so that a label of two shards is the same only if its name is, even where that is a numeral.
///
/// # Errors
/// Why the shards do not belong together.
fn classes(parts: &[Part<'_>]) -> Result<Vec<String>, String> {
    let with_classes = || parts.iter().filter(|part| !part.classes.is_empty());
    let text = with_classes().find(|part| part.naming == Naming::Texts);
    let other = with_classes().find(|part| part.naming != Naming::Texts);
    if let (Some(text), Some(other)) = (text, other) {
        return Err(format!(
            "the labels of {} are text, and those of {} are numbers; index them as two datasets",
            text.shard, other.shard
        ));
    }
    // `None`: no shard has named the class, so its label is its name.
    let mut classes: Vec<Option<&String>> = Vec::new();
    for part in with_classes() {
        let is_numbered = part.naming == Naming::Numbers;
        for (label, name) in part.classes.iter().enumerate() {
            let name = Some(name).filter(|name| !is_numbered || name.parse() != Ok(label));
            match classes.get_mut(label) {
                None => classes.push(name),
                Some(known) if name.is_none() || *known == name => {}
                Some(known) if known.is_none() => *known = name,
                Some(_) => {
                    return Err(format!(
                        "its shards have different classes, such as {}; index them apart, or, where they are \
                         named after what a shard has, have all of them in each",
                        part.shard
                    ));
                }
            }
        }
    }
    let name = |(label, name): (usize, Option<&String>)| match name {
        Some(name) => name.clone(),
        None => label.to_string(),
    };
    Ok(classes.into_iter().enumerate().map(name).collect())
}

/// What is shown about all shards: the words of classes that any of them has, and the facts that all of them share.
fn about(parts: &[Index], classes: usize) -> About {
    let mut words = vec![String::new(); classes];
    for part in parts {
        for (known, word) in words.iter_mut().zip(&part.about.words) {
            if known.is_empty() {
                known.clone_from(word);
            }
        }
    }
    if words.iter().all(String::is_empty) {
        words.clear();
    }
    let (first, others) = parts.split_first().expect("there is a shard");
    let is_shared =
        |fact: &&(String, String)| others.iter().all(|other| other.about.facts.contains(fact));
    let is_shown = |fact: &&(String, String)| fact.0 != NAMING && is_shared(fact);
    About { words, facts: first.about.facts.iter().filter(is_shown).cloned().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(parts: &[(Naming, &[&str])]) -> Result<Vec<String>, String> {
        let names: Vec<Vec<String>> = parts
            .iter()
            .map(|(_, names)| names.iter().map(|name| (*name).to_owned()).collect())
            .collect();
        let parts: Vec<Part<'_>> = parts
            .iter()
            .zip(&names)
            .map(|((naming, _), classes)| Part { shard: "x-1.parquet", naming: *naming, classes })
            .collect();
        classes(&parts)
    }

    #[test]
    fn classes_that_are_numbers_get_the_names_that_other_shards_know() {
        use Naming::{List, Numbers};
        let known = joined(&[(Numbers, &["0", "n2"]), (Numbers, &["n1", "1", "2"])]);
        assert_eq!(known.unwrap(), ["n1", "n2", "2"]);
        assert_eq!(joined(&[(Numbers, &["0"]), (List, &["a", "b"])]).unwrap(), ["a", "b"]);
        assert_eq!(joined(&[(Numbers, &[]), (Numbers, &["0", "1"])]).unwrap(), ["0", "1"]);
        joined(&[(Numbers, &["n1"]), (Numbers, &["n2"])]).unwrap_err();
    }

    #[test]
    fn classes_that_are_text_are_never_joined_by_their_label_alone() {
        use Naming::{List, Numbers, Texts};
        // Each of them is the class 0 of its shard.
        let refused = joined(&[(Texts, &["0"]), (Texts, &["1"])]).unwrap_err();
        assert!(refused.contains("different classes, such as x-1.parquet"), "{refused}");
        joined(&[(Texts, &["0", "2"]), (Texts, &["0", "1"])]).unwrap_err();
        joined(&[(List, &["1", "0"]), (List, &["0", "1"])]).unwrap_err();
        assert_eq!(joined(&[(Texts, &["0", "7"]), (Texts, &["0", "7"])]).unwrap(), ["0", "7"]);
        assert_eq!(joined(&[(Texts, &["0", "7"]), (Numbers, &[])]).unwrap(), ["0", "7"]);
        let refused = joined(&[(Texts, &["0"]), (Numbers, &["0"])]).unwrap_err();
        assert!(refused.contains("are text, and those of x-1.parquet are numbers"), "{refused}");
    }
}
