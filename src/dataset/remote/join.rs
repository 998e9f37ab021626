//! Joins the parts of a dataset in a bucket to its index.

use std::path::Path;

use super::super::build;
use super::super::digest;
use super::super::error::DatasetError;
use super::super::index::{self, Contents, EntryPointsFile, Index, IndexedRecord, NameRange};
use super::super::layouts::{self, About, Selectable, SkipCounter};
use super::super::options::IndexOptions;
use super::place::RemotePlace;
use super::source;
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
    shards: &[Object],
    parts: &[Index],
    file: &Path,
) -> Result<(), DatasetError> {
    let mut classes = classes(place, parts)?;
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
    let sizes: Vec<(String, u64)> =
        shards.iter().map(|shard| (source::name_of(&shard.key).to_owned(), shard.size)).collect();
    let tags: Vec<String> = shards.iter().map(|shard| shard.tag.clone()).collect();
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

/// The classes of all shards. A shard whose labels are numbers does not know of those above its own, and may not know
/// the names of classes of which it has no records: it has their numbers.
fn classes(place: &RemotePlace, parts: &[Index]) -> Result<Vec<String>, DatasetError> {
    let is_number = |name: &str, label: usize| name.parse() == Ok(label);
    let mut classes: Vec<String> = Vec::new();
    for part in parts {
        for (label, name) in part.classes.iter().enumerate() {
            match classes.get_mut(label) {
                None => classes.push(name.clone()),
                Some(known) if known == name || is_number(name, label) => {}
                Some(known) if is_number(known, label) => known.clone_from(name),
                Some(_) => {
                    let (shard, _) = &part.shards[0];
                    let why = format!(
                        "its shards have different classes, such as {shard}; index them apart, or, where they are \
                         named after what a shard has, have all of them in each"
                    );
                    return Err(DatasetError::NotADataset { path: place.address(), why });
                }
            }
        }
    }
    Ok(classes)
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
    About { words, facts: first.about.facts.iter().filter(is_shared).cloned().collect() }
}
