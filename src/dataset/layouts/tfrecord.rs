//! TFRecord: files of `tf.train.Example`, as TF-slim, the TPU scripts and TensorFlow Datasets write them.
//!
//! An image is a range of its record. The checksum of a record's data is verified when the image is
//! read and checked, so that each shard is read once: a record that is damaged is bad.
//!
//! What a record says about others is verified before it is believed, because one flipped bit must not cost more than
//! its record: a label above all others makes classes, a synset that disagrees takes the names from all classes, and
//! many skipped records refuse a dataset.

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
const DAMAGED: &str = "a wrong checksum (CRC-32C) and no label that can be believed";

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
    /// One more than the highest label of a record whose checksum is right.
    classes: u32,
    /// The damaged records whose labels were above that, by their indexes in `records`.
    doubtful: Vec<usize>,
}

/// What records say about each label.
type Synsets = BTreeMap<u32, Noted>;

/// What a record says about its label.
#[derive(Debug)]
struct Noted {
    /// The synset (`n01440764`) and the words; `None` if it has none, or if records disagree.
    synset: Option<(String, String)>,
    /// The record: the shard, and its data.
    number: u32,
    stored: Stored,
}

/// Lists the records of shards, on rayon's threads.
///
/// # Errors
/// When a shard cannot be read or is damaged, or its records have no images or labels.
pub(super) fn list(
    root: PathBuf,
    names: Vec<String>,
    options: &IndexOptions,
) -> Result<Listing, DatasetError> {
    let tfds = tfds::read(&root, options.label_column.as_deref())?;
    let schema = schema(&root, &names, &tfds, options)?;
    let scan = |(number, name)| Scan::new(&root, &schema, number, name).run();
    let numbered: Vec<(u32, String)> = (0..).zip(names).collect();
    let shards: Vec<Shard> =
        numbered.into_par_iter().map(scan).collect::<Result<_, DatasetError>>()?;
    // The names are those of one field.
    let names_of_label = tfds.classes.filter(|_| tfds.label.as_ref() == Some(&schema.label));
    let known = match &names_of_label {
        Some(names) => names.len(),
        None => classes::listed(&root)?.map_or(0, |names| names.len()),
    };
    let highest = shards.iter().map(|shard| shard.classes as usize).max().unwrap_or(0).max(known);
    let mut records = Vec::with_capacity(shards.iter().map(|shard| shard.records.len()).sum());
    let (mut sizes, mut skipped) = (Vec::with_capacity(shards.len()), SkipCounter::default());
    let (mut synsets, mut paths) = (Synsets::new(), Vec::with_capacity(shards.len()));
    for mut shard in shards {
        let mut doubtful = shard.doubtful.iter().copied().peekable();
        for (index, record) in shard.records.into_iter().enumerate() {
            let is_doubtful = doubtful.next_if_eq(&index).is_some();
            if is_doubtful && record.label as usize >= highest {
                shard.skipped.add(DAMAGED, || record.name);
            } else {
                records.push(record);
            }
        }
        skipped.merge(shard.skipped);
        paths.push(root.join(&shard.name));
        sizes.push((shard.name, shard.size));
        for (label, noted) in shard.synsets {
            note(&mut synsets, label, noted, &|noted: &Noted| {
                is_intact(&RegularFile::open(&paths[noted.number as usize])?, &noted.stored)
            })?;
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

/// Notes what a record says about its label. If it disagrees with another one, a damaged one of them is ignored.
fn note(
    synsets: &mut Synsets,
    label: u32,
    noted: Noted,
    is_intact: &dyn Fn(&Noted) -> Result<bool, DatasetError>,
) -> Result<(), DatasetError> {
    match synsets.get_mut(&label) {
        None => drop(synsets.insert(label, noted)),
        Some(known) if known.synset == noted.synset || !is_intact(&noted)? => {}
        Some(known) if is_intact(known)? => known.synset = None,
        Some(known) => *known = noted,
    }
    Ok(())
}

/// Names the classes by the synsets of their records, if every class that has records has one, and
/// returns their words.
fn use_synsets(classes: &mut [String], synsets: Synsets) -> Vec<String> {
    if synsets.is_empty() || synsets.values().any(|noted| noted.synset.is_none()) {
        return Vec::new();
    }
    let mut words = vec![String::new(); classes.len()];
    for (label, Noted { synset, .. }) in synsets {
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

/// What a record holds.
enum Found {
    /// An image, and the synset and words of its label.
    Record(ListedRecord, Option<(String, String)>),
    /// Nothing that can be used, for this reason.
    Skipped(&'static str),
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
        let (synsets, doubtful) = (Synsets::new(), Vec::new());
        let shard = Shard { name, size: 0, records, skipped, synsets, classes: 0, doubtful };
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
                Ok(Found::Record(record, synset)) => {
                    self.add(record, synset, stored, &file)?;
                }
                // What a record says is believed once its checksum is right.
                found if is_intact(&file, &stored)? => {
                    if let Found::Skipped(reason) = found? {
                        self.skip(reason, index);
                    }
                }
                _ => self.skip(DAMAGED, index),
            }
            index += 1;
        }
        Ok(self.shard)
    }

    /// Adds a record. What it says about others is verified.
    fn add(
        &mut self,
        mut record: ListedRecord,
        synset: Option<(String, String)>,
        stored: Stored,
        file: &RegularFile,
    ) -> Result<(), DatasetError> {
        if let Location::Framed { frame, .. } = &mut record.location {
            frame.crc32c = stored.crc32c;
        }
        let label = record.label;
        if label < self.shard.classes || is_intact(file, &stored)? {
            self.shard.classes = self.shard.classes.max(label + 1);
            let noted = Noted { synset, number: self.number, stored };
            note(&mut self.shard.synsets, label, noted, &|noted| is_intact(file, &noted.stored))?;
        } else {
            self.shard.doubtful.push(self.shard.records.len());
        }
        self.shard.records.push(record);
        Ok(())
    }

    /// What a record holds, by its features.
    fn record(
        &self,
        features: &[Feature],
        stored: &Stored,
        index: u64,
        window: &mut Window<'_>,
    ) -> Result<Found, DatasetError> {
        let value = |key: &str| {
            features.iter().find(|feature| feature.key == key).map(|feature| &feature.value)
        };
        let Some(Value::Bytes(image)) = value(&self.schema.image) else {
            return Ok(Found::Skipped(NO_IMAGE));
        };
        let label = match value(&self.schema.label) {
            Some(Value::Int(label)) if *label >= 0 => *label,
            _ => return Ok(Found::Skipped(NO_LABEL)),
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
        Ok(Found::Record(ListedRecord { name, label, location }, synset))
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
