//! Takes some of the listed records, as the options say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::super::error::DatasetError;
use super::super::options::IndexOptions;
use super::classes;
use super::listing::Listing;

/// Keeps the records that the options take, in their order, and makes a fact of each option.
///
/// # Errors
/// When a file of classes or records cannot be read, or names something that is not there.
pub(super) fn apply(listing: &mut Listing, options: &IndexOptions) -> Result<(), DatasetError> {
    let before = listing.records.len();
    if let Some(path) = &options.classes {
        keep_classes(listing, path)?;
    }
    if let Some(path) = &options.records {
        keep_records(listing, path)?;
    }
    if let Some(limit) = options.limit_per_class {
        let mut counts = BTreeMap::new();
        listing.records.retain(|record| {
            let count = counts.entry(record.label).or_insert(0);
            *count += 1;
            *count <= limit
        });
    }
    let mut rules = Vec::new();
    let named = |rule: &str, path: &Path| format!("{rule} {}", path.display());
    rules.extend(options.classes.as_deref().map(|path| named("classes of", path)));
    rules.extend(options.records.as_deref().map(|path| named("records of", path)));
    rules.extend(options.limit_per_class.map(|limit| format!("at most {limit} of a class")));
    if !rules.is_empty() {
        let text = format!("{} of {before}: {}", listing.records.len(), rules.join(", "));
        listing.about.facts.push(("selected".to_owned(), text));
    }
    Ok(())
}

/// Keeps the records of some classes. The order of these in the file gives the labels.
fn keep_classes(listing: &mut Listing, path: &Path) -> Result<(), DatasetError> {
    let wanted = classes::lines(path)?;
    let labels: BTreeMap<&str, u32> = listing.classes.iter().map(String::as_str).zip(0..).collect();
    let mut relabeled = BTreeMap::new();
    let mut words = Vec::new();
    for (line, (name, label)) in (1..).zip(wanted.iter().zip(0..)) {
        let error = || DatasetError::Selection {
            path: path.into(),
            line,
            what: "class",
            name: name.clone(),
        };
        let old = *labels.get(name.as_str()).ok_or_else(error)?;
        if relabeled.insert(old, label).is_some() {
            let what = format!("line {line}: the class {name:?} is named twice; remove the line");
            return Err(DatasetError::Description { path: path.into(), what });
        }
        words.extend(listing.about.words.get(old as usize).cloned());
    }
    listing.records.retain_mut(|record| {
        let new = relabeled.get(&record.label).copied();
        record.label = new.unwrap_or_default();
        new.is_some()
    });
    listing.about.words = words;
    listing.classes = wanted;
    Ok(())
}

/// Keeps the records that a file names.
fn keep_records(listing: &mut Listing, path: &Path) -> Result<(), DatasetError> {
    let wanted = classes::text_lines(path)?;
    let names: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
    listing.records.retain(|record| names.contains(record.name.as_str()));
    let found: BTreeSet<&str> = listing.records.iter().map(|record| record.name.as_str()).collect();
    let missing =
        (1..).zip(&wanted).find(|(_, name)| !name.is_empty() && !found.contains(name.as_str()));
    if let Some((line, name)) = missing {
        let (path, name) = (path.into(), name.clone());
        return Err(DatasetError::Selection { path, line, what: "record", name });
    }
    Ok(())
}
