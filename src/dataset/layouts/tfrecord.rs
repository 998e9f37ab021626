//! TFRecord: files of `tf.train.Example`, as TF-slim, the TPU scripts and TensorFlow Datasets write them.
//!
//! An image is a range of its record. The checksum of a record's data is verified when the image is
//! read and checked, so that each shard is read once: a record that is damaged is bad.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::super::error::DatasetError;
use super::super::options::IndexOptions;
use super::classes;
use super::listing::{About, Frame, Layout, ListedRecord, Listing, Location, Naming, SkipCounter};
use super::protobuf::{Feature, Value, features};
use super::tfds::{self, Tfds};
use super::tfrecord_file::{Records, Stored, is_intact};
use super::window::{Input, Window};
use crate::store::RegularFile;

/// Longest name and synset that are read.
const MAX_TEXT: u64 = 4096;

/// Highest label, so that one wrong record does not make a list of billions of classes.
const MAX_LABEL: u32 = (1 << 20) - 1;

/// The fields of TF-slim and the TPU scripts, whose labels begin at 1.
const SLIM_IMAGE: &str = "image/encoded";
const SLIM_LABEL: &str = "image/class/label";

const NO_IMAGE: &str = "no single image";
const NO_LABEL: &str = "no single label, or a negative one";
const DAMAGED: &str = "a wrong checksum (CRC-32C) and no label that can be read";

/// Whether a file is a TFRecord by its name: `train-00000-of-01024`, `x.tfrecord`, `x.tfrecords-00001-of-00002`.
pub(super) fn is_name(name: &str) -> bool {
    let base = name.rsplit('/').next().unwrap_or(name);
    let is_digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_numbered = || {
        let (rest, count) = base.rsplit_once("-of-")?;
        let (_, number) = rest.rsplit_once('-')?;
        Some(is_digits(number) && is_digits(count))
    };
    let has_ending = |ending: &str| {
        base.split_once(ending)
            .is_some_and(|(_, rest)| rest.is_empty() || rest.starts_with(['-', 's']))
    };
    let is_index = base.ends_with(".forebay");
    !is_index && (has_ending(".tfrecord") || has_ending(".tfrec") || is_numbered().unwrap_or(false))
}

/// How the fields of the records are called, and what their labels mean.
#[derive(Debug)]
struct Schema {
    image: String,
    label: String,
    /// The label of the first class.
    offset: u32,
    /// What decided that.
    writer: &'static str,
}

/// The records of one shard.
struct Shard {
    name: String,
    size: u64,
    records: Vec<ListedRecord>,
    skipped: SkipCounter,
    synsets: Synsets,
}

/// The synset (`n01440764`) and the words of each label that has a record; `None` if records disagree.
type Synsets = BTreeMap<u32, Option<(String, String)>>;

/// Lists the records of shards, on rayon's threads.
///
/// # Errors
/// When a shard cannot be read or is damaged, or its records have no images or labels.
pub(super) fn list(
    root: PathBuf,
    names: Vec<String>,
    options: &IndexOptions,
) -> Result<Listing, DatasetError> {
    let tfds = tfds::read(&root)?;
    let schema = schema(&root, &names, &tfds, options)?;
    let scan = |(number, name)| Scan::new(&root, &schema, number, name).run();
    let numbered: Vec<(u32, String)> = (0..).zip(names).collect();
    let shards: Vec<Shard> =
        numbered.into_par_iter().map(scan).collect::<Result<_, DatasetError>>()?;
    let mut records = Vec::with_capacity(shards.iter().map(|shard| shard.records.len()).sum());
    let (mut sizes, mut skipped) = (Vec::with_capacity(shards.len()), SkipCounter::default());
    let mut synsets = Synsets::new();
    for shard in shards {
        records.extend(shard.records);
        sizes.push((shard.name, shard.size));
        skipped.merge(shard.skipped);
        for (label, synset) in shard.synsets {
            note(&mut synsets, label, synset.as_ref());
        }
    }
    let Schema { label, offset, writer, .. } = &schema;
    let first = if *offset == 0 { "from 0".to_owned() } else { format!("minus {offset}") };
    let mut about = About::default().fact("labels", format!("{label}, {first} ({writer})"));
    let (classes, naming) = if let Some(classes) = names_of_label {
        classes::check_labels(&records, classes.len())?;
        (classes, Naming::List)
    } else {
        let (mut classes, naming) = classes::listed_or_numbered(&root, &records)?;
        about.words = use_synsets(&mut classes, synsets);
        (classes, naming)
    };
    let (layout, shards) = (Layout::TfRecord, sizes);
    Ok(Listing { root, layout, classes, naming, shards, records, skipped, about })
}

/// Notes the synset of a record, unless others of its label have another one.
fn note(synsets: &mut Synsets, label: u32, synset: Option<&(String, String)>) {
    let known = synsets.entry(label).or_insert_with(|| synset.cloned());
    if known.as_ref() != synset {
        *known = None;
    }
}

/// Names the classes by the synsets of their records, if every class that has records has one, and
/// returns their words.
fn use_synsets(classes: &mut [String], synsets: Synsets) -> Vec<String> {
    if synsets.is_empty() || synsets.values().any(Option::is_none) {
        return Vec::new();
    }
    let mut words = vec![String::new(); classes.len()];
    for (label, synset) in synsets {
        let (wnid, text) = synset.expect("checked above");
        let label = label as usize;
        if classes[label].parse() == Ok(label) {
            classes[label] = wnid;
        }
        words[label] = text;
    }
    if words.iter().all(String::is_empty) { Vec::new() } else { words }
}

/// Finds out how the fields are called: as the options say, as TensorFlow Datasets says, or as in the
/// first record.
fn schema(
    root: &Path,
    names: &[String],
    tfds: &Tfds,
    options: &IndexOptions,
) -> Result<Schema, DatasetError> {
    let mut keys = Vec::new();
    for name in names {
        let file = RegularFile::open(&root.join(name))?;
        if let Some(first) = Records::new(&file).next_record()? {
            let mut window = Window::new(Input::File(&file));
            keys =
                features(&mut window, first.data)?.into_iter().map(|feature| feature.key).collect();
            break;
        }
    }
    let has = |key: &str| keys.iter().any(|found| found == key);
    let (image, label, writer) = if let (Some(image), Some(label)) = (&tfds.image, &tfds.label) {
        (image.as_str(), label.as_str(), "TensorFlow Datasets")
    } else if has(SLIM_IMAGE) {
        (SLIM_IMAGE, SLIM_LABEL, "TF-slim")
    } else {
        ("image", "label", "TensorFlow Datasets")
    };
    let label = options.label_column.as_deref().unwrap_or(label);
    let (offset, writer) = match (options.label_offset, &options.label_column) {
        (Some(offset), _) => (offset, "--label-offset"),
        (None, Some(_)) if label != SLIM_LABEL => (0, "--label-column"),
        (None, _) => (u32::from(label == SLIM_LABEL), writer),
    };
    let image = options.image_column.clone().unwrap_or_else(|| image.to_owned());
    let schema = Schema { image, label: label.to_owned(), offset, writer };
    if !keys.is_empty()
        && let Some(missing) = [&schema.image, &schema.label].into_iter().find(|key| !has(key))
    {
        let path = root.join(&names[0]);
        let missing = format!("feature {missing:?}");
        return Err(DatasetError::Columns { path, missing, columns: keys });
    }
    Ok(schema)
}

/// Lists the records of one shard.
struct Scan<'s> {
    root: &'s Path,
    schema: &'s Schema,
    number: u32,
    shard: Shard,
}

impl<'s> Scan<'s> {
    fn new(root: &'s Path, schema: &'s Schema, number: u32, name: String) -> Self {
        let (records, skipped) = (Vec::new(), SkipCounter::default());
        let shard = Shard { name, size: 0, records, skipped, synsets: Synsets::new() };
        Self { root, schema, number, shard }
    }

    fn run(mut self) -> Result<Shard, DatasetError> {
        let file = RegularFile::open(&self.root.join(&self.shard.name))?;
        self.shard.size = file.size();
        let mut records = Records::new(&file);
        let mut index = 0_u64;
        while let Some(mut stored) = records.next_record()? {
            let found = features(&mut records.window, stored.data.clone())
                .and_then(|features| self.record(&features, &stored, index, &mut records.window));
            records.pass(&mut stored)?;
            match found {
                Ok(Some(mut record)) => {
                    if let Location::Framed { frame, .. } = &mut record.location {
                        frame.crc32c = stored.crc32c;
                    }
                    self.shard.records.push(record);
                }
                Ok(None) => {}
                // What a record says is believed once its checksum is right.
                Err(error) if is_intact(&file, &stored)? => return Err(error),
                Err(_) => self.skip(DAMAGED, index),
            }
            index += 1;
        }
        Ok(self.shard)
    }

    /// A record by its features; `None` if it is skipped.
    fn record(
        &mut self,
        features: &[Feature],
        stored: &Stored,
        index: u64,
        window: &mut Window<'_>,
    ) -> Result<Option<ListedRecord>, DatasetError> {
        let value = |key: &str| {
            features.iter().find(|feature| feature.key == key).map(|feature| &feature.value)
        };
        let Some(Value::Bytes(image)) = value(&self.schema.image) else {
            self.skip(NO_IMAGE, index);
            return Ok(None);
        };
        let label = match value(&self.schema.label) {
            Some(Value::Int(label)) if *label >= 0 => *label,
            _ => {
                self.skip(NO_LABEL, index);
                return Ok(None);
            }
        };
        let mut text = |key: &str| match value(key) {
            Some(Value::Bytes(text)) if text.end - text.start <= MAX_TEXT => {
                let bytes = window.read(text.start, text.end - text.start)?;
                Ok(str::from_utf8(bytes).ok().filter(|text| !text.is_empty()).map(str::to_owned))
            }
            _ => Ok::<_, DatasetError>(None),
        };
        let name = match text("image/filename")? {
            None => text("file_name")?,
            name => name,
        };
        let synset = text("image/class/synset")?;
        let words = text("image/class/text")?.unwrap_or_default();
        let name = name.unwrap_or_else(|| index.to_string());
        let name = format!("{}/{name}", self.shard.name);
        let offset = self.schema.offset;
        let first = i64::from(offset);
        let label = label.checked_sub(first).and_then(|label| u32::try_from(label).ok());
        let Some(label) = label.filter(|label| *label <= MAX_LABEL) else {
            return Err(DatasetError::Shard {
                path: window.path().into(),
                offset: stored.data.start,
                what: format!(
                    "{name} has a label that is not in {offset} to {}; fix it, or set the label of the first \
                     class (--label-offset)",
                    MAX_LABEL + offset
                ),
            });
        };
        let synset = synset.map(|synset| (synset, words));
        note(&mut self.shard.synsets, label, synset.as_ref());
        let within = |range: &Range<u64>| {
            u32::try_from(range.end - range.start).expect("at most the limit of a record")
        };
        let frame = Frame { offset: stored.data.start, length: within(&stored.data), crc32c: 0 };
        let location = Location::Framed {
            number: self.number,
            offset: image.start,
            length: within(image),
            frame,
        };
        Ok(Some(ListedRecord { name, label, location }))
    }

    fn skip(&mut self, reason: &'static str, index: u64) {
        let name = &self.shard.name;
        self.shard.skipped.add(reason, || format!("{name}/{index}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tfrecords_are_recognized() {
        for name in [
            "train-00000-of-01024",
            "imagenet2012-train.tfrecord-00000-of-01024",
            "a/x.tfrecord",
            "x.tfrecords",
            "x.tfrec",
        ] {
            assert!(is_name(name), "{name}");
        }
        for name in
            ["train-0-of-10", "x.tar", "x.tfrecorded", "x.tfrecord.gz", "part-of-x", "x.idx"]
        {
            assert!(!is_name(name), "{name}");
        }
    }
}
