//! Takes some of the records that were found, as the options say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::super::error::DatasetError;
use super::super::options::IndexOptions;
use super::classes;
use super::listing::{About, ListedRecord};

/// A record that may be taken or not.
pub(in crate::dataset) trait Selectable {
    fn name(&self) -> &str;
    fn label(&self) -> u32;
    fn set_label(&mut self, label: u32);
}

impl Selectable for ListedRecord {
    fn name(&self) -> &str {
        &self.name
    }

    fn label(&self) -> u32 {
        self.label
    }

    fn set_label(&mut self, label: u32) {
        self.label = label;
    }
}

/// Keeps the records that the options take, in their order, and makes a fact of it.
///
/// # Errors
/// When a file of classes or records cannot be read, or names something that is not there.
pub(in crate::dataset) fn apply<R: Selectable>(
    records: &mut Vec<R>,
    classes: &mut Vec<String>,
    about: &mut About,
    options: &IndexOptions,
) -> Result<(), DatasetError> {
    let before = records.len();
    if let Some(path) = &options.classes {
        keep_classes(records, classes, about, path)?;
    }
    if let Some(path) = &options.records {
        keep_records(records, path)?;
    }
    if let Some(limit) = options.limit_per_class {
        let mut counts = BTreeMap::new();
        records.retain(|record| {
            let count = counts.entry(record.label()).or_insert(0);
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
        let text = format!("{} of {before}: {}", records.len(), rules.join(", "));
        about.facts.push(("selected".to_owned(), text));
    }
    Ok(())
}

/// Keeps the records of some classes. The order of these in the file gives the labels.
fn keep_classes<R: Selectable>(
    records: &mut Vec<R>,
    classes: &mut Vec<String>,
    about: &mut About,
    path: &Path,
) -> Result<(), DatasetError> {
    let wanted = classes::lines(path)?;
    let labels: BTreeMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
    let mut known = BTreeSet::new();
    let repeated: BTreeSet<&str> =
        classes.iter().map(String::as_str).filter(|name| !known.insert(*name)).collect();
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
        if repeated.contains(name.as_str()) {
            let what = format!(
                "line {line}: the dataset has several classes of the name {name:?}, and it is not known which \
                 one is meant; give the classes different names in the dataset"
            );
            return Err(DatasetError::Description { path: path.into(), what });
        }
        if relabeled.insert(old, label).is_some() {
            let what = format!("line {line}: the class {name:?} is named twice; remove the line");
            return Err(DatasetError::Description { path: path.into(), what });
        }
        words.extend(about.words.get(old as usize).cloned());
    }
    records.retain_mut(|record| {
        let new = relabeled.get(&record.label()).copied();
        record.set_label(new.unwrap_or_default());
        new.is_some()
    });
    about.words = words;
    *classes = wanted;
    Ok(())
}

/// Keeps the records that a file names.
fn keep_records<R: Selectable>(records: &mut Vec<R>, path: &Path) -> Result<(), DatasetError> {
    let wanted = classes::text_lines(path)?;
    let names: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
    records.retain(|record| names.contains(record.name()));
    let found: BTreeSet<&str> = records.iter().map(Selectable::name).collect();
    let missing =
        (1..).zip(&wanted).find(|(_, name)| !name.is_empty() && !found.contains(name.as_str()));
    if let Some((line, name)) = missing {
        let (path, name) = (path.into(), name.clone());
        return Err(DatasetError::Selection { path, line, what: "record", name });
    }
    Ok(())
}
