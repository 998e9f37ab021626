//! `WebDataset`: the samples of tars. A sample is a run of members with the same key, which is the path
//! up to the first dot of the file's name (`base_plus_ext` of webdataset/tariterators.py).
//!
//! Shards have members that are not samples: a README, a hard link, an image whose label is missing or
//! that cannot be read in place. They are skipped and counted, as timm's reader logs and skips them. A
//! label that is present but malformed is an error, and so are two members of one name, as in webdataset.

use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::super::error::DatasetError;
use super::listing::{Layout, ListedRecord, Listing, Location, SkipCounter};
use super::stray;
use super::tar::{Member, Members};
use crate::store::{MAX_RECORD, RegularFile};

/// Suffixes of images, the preferred ones first.
const IMAGES: [&[u8]; 4] = [b"jpg", b"jpeg", b"png", b"webp"];

/// Largest `.cls` or `.json` file.
const MAX_LABEL: u64 = 16 << 20;

/// Largest `classes.txt`.
const MAX_CLASSES_TXT: u32 = 64 << 20;

/// Without a `classes.txt`, labels must be below this.
const MAX_NUMBERED_CLASSES: u32 = 1 << 20;

const NO_IMAGE: &str = "no image (.jpg, .jpeg, .png or .webp)";
const NO_LABEL: &str = "no label (.cls or .json)";
const SPARSE: &str = "an image that is stored as a sparse file (make the tar without --sparse)";

/// The samples of one shard.
struct Shard {
    name: String,
    size: u64,
    samples: Vec<Sample>,
    skipped: SkipCounter,
}

/// An image with its label.
struct Sample {
    /// Key and suffix.
    name: String,
    label: u32,
    offset: u64,
    length: u32,
}

/// Lists the samples of tars, on rayon's threads.
///
/// # Errors
/// When a tar cannot be read or is malformed, or a label is malformed or has no class.
pub(super) fn list(root: PathBuf, names: Vec<String>) -> Result<Listing, DatasetError> {
    let scan = |name| scan(&root, name);
    let shards: Vec<Shard> =
        names.into_par_iter().map(scan).collect::<Result<_, DatasetError>>()?;
    let mut records = Vec::with_capacity(shards.iter().map(|shard| shard.samples.len()).sum());
    let (mut sizes, mut skipped) = (Vec::with_capacity(shards.len()), SkipCounter::default());
    for (number, shard) in (0..).zip(shards) {
        records.extend(shard.samples.into_iter().map(|sample| ListedRecord {
            name: format!("{}/{}", shard.name, sample.name),
            label: sample.label,
            location: Location::Shard { number, offset: sample.offset, length: sample.length },
        }));
        sizes.push((shard.name, shard.size));
        skipped.merge(shard.skipped);
    }
    let classes = classes(&root, &records)?;
    Ok(Listing { root, layout: Layout::WebDataset, classes, shards: sizes, records, skipped })
}

/// Lists the samples of one tar.
fn scan(root: &Path, name: String) -> Result<Shard, DatasetError> {
    let file = RegularFile::open(&root.join(&name))?;
    let mut members = Members::new(&file);
    let size = file.size();
    let mut shard = Shard { name, size, samples: Vec::new(), skipped: SkipCounter::default() };
    let mut run = Run::default();
    while let Some(member) = members.next_member()? {
        let Some((key, suffix)) = split(&member.name) else { continue };
        if key != run.key {
            let finished = std::mem::replace(&mut run, Run::new(key, member.header));
            finished.finish(&mut members, &mut shard)?;
        }
        let suffix = suffix.to_ascii_lowercase();
        run.add(&suffix, member);
    }
    run.finish(&mut members, &mut shard)?;
    Ok(shard)
}

/// Key and suffix of a member; `None` for hidden files, those without a dot, and `__meta__` files.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let base = name.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    let dot = base + name[base..].iter().position(|&byte| byte == b'.')?;
    let meta = name.starts_with(b"__") && name.ends_with(b"__");
    (dot > base && !meta).then(|| (&name[..dot], &name[dot + 1..]))
}

/// The members of one key.
#[derive(Default)]
struct Run {
    /// Empty before the first run.
    key: Vec<u8>,
    /// Offset of its first header.
    offset: u64,
    /// The image, and the index of its suffix in [`IMAGES`].
    image: Option<(usize, Member)>,
    cls: Option<Member>,
    json: Option<Member>,
    /// Whether two members have the same suffix, so that they are of two samples.
    is_ambiguous: bool,
}

impl Run {
    fn new(key: &[u8], offset: u64) -> Self {
        Self { key: key.to_vec(), offset, ..Self::default() }
    }

    /// Adds a member by its suffix in lower case.
    fn add(&mut self, suffix: &[u8], member: Member) {
        match suffix {
            b"cls" => self.is_ambiguous |= self.cls.replace(member).is_some(),
            b"json" => self.is_ambiguous |= self.json.replace(member).is_some(),
            _ => {
                let Some(rank) = IMAGES.iter().position(|image| suffix == *image) else { return };
                let best = self.image.as_ref().map(|(best, _)| *best);
                self.is_ambiguous |= best == Some(rank);
                if best.is_none_or(|best| rank < best) {
                    self.image = Some((rank, member));
                }
            }
        }
    }

    /// Adds the sample to its shard, or counts it as skipped.
    fn finish(self, members: &mut Members<'_>, shard: &mut Shard) -> Result<(), DatasetError> {
        if self.key.is_empty() {
            return Ok(());
        }
        let sample = || format!("{}/{}", shard.name, String::from_utf8_lossy(&self.key));
        let Some((_, image)) = &self.image else {
            shard.skipped.add(NO_IMAGE, sample);
            return Ok(());
        };
        let Some(label) = self.label(members)? else {
            shard.skipped.add(NO_LABEL, sample);
            return Ok(());
        };
        let error = |what| self.error(members.path(), what);
        if self.is_ambiguous {
            return Err(error(
                "two of its members have the same extension, so that it is not known which label its image has; \
                 rename or remove one",
            ));
        }
        if image.sparse {
            shard.skipped.add(SPARSE, sample);
            return Ok(());
        }
        let length = u32::try_from(image.length).ok().filter(|length| *length <= MAX_RECORD);
        let Some(length) = length else {
            shard.skipped.add(stray::TOO_LARGE, sample);
            return Ok(());
        };
        let Ok(name) = str::from_utf8(&image.name) else {
            shard.skipped.add(stray::NOT_UTF8, sample);
            return Ok(());
        };
        let name = name.trim_start_matches("./").to_owned();
        shard.samples.push(Sample { name, label, offset: image.offset, length });
        Ok(())
    }

    /// The label: the number in `.cls`, or else `label` or `cls` in `.json`. `None` if there is neither
    /// file.
    fn label(&self, members: &mut Members<'_>) -> Result<Option<u32>, DatasetError> {
        let path = members.path();
        let error = |what| self.error(path, what);
        let Some(member) = self.cls.as_ref().or(self.json.as_ref()) else { return Ok(None) };
        if member.sparse {
            return Err(error(
                "its label is stored as a sparse file; make the tar without --sparse",
            ));
        }
        let Some(data) = members.data(member, MAX_LABEL)? else {
            return Err(error(
                "its label file is larger than the limit of 16 MiB; shrink or remove it",
            ));
        };
        let (label, expected) = if self.cls.is_some() {
            let text = str::from_utf8(data).ok();
            let label = text.and_then(|text| text.trim().parse().ok());
            (label, "expected a whole number from 0 in its .cls")
        } else {
            (label_in_json(data), "expected a whole number from 0 as `label` or `cls` in its .json")
        };
        label.map(Some).ok_or_else(|| error(expected))
    }

    fn error(&self, path: &Path, what: &'static str) -> DatasetError {
        let key = String::from_utf8_lossy(&self.key).into_owned();
        DatasetError::Sample { path: path.into(), offset: self.offset, key, what }
    }
}

fn label_in_json(data: &[u8]) -> Option<u32> {
    let value: serde_json::Value = serde_json::from_slice(data).ok()?;
    let label = value.get("label").or_else(|| value.get("cls"))?;
    u32::try_from(label.as_u64()?).ok()
}

/// The lines of `classes.txt` beside the shards, or else the labels as numbers.
fn classes(root: &Path, records: &[ListedRecord]) -> Result<Vec<String>, DatasetError> {
    let path = root.join("classes.txt");
    let last = records.iter().max_by_key(|record| record.label);
    let classes: Vec<String> = if fs::symlink_metadata(&path).is_ok() {
        read_classes(&path)?
    } else {
        let count = last.map_or(0, |record| record.label.saturating_add(1));
        (0..count.min(MAX_NUMBERED_CLASSES)).map(|label| label.to_string()).collect()
    };
    match last {
        Some(record) if record.label as usize >= classes.len() => Err(DatasetError::Label {
            name: record.name.clone(),
            label: record.label,
            classes: classes.len(),
        }),
        _ => Ok(classes),
    }
}

fn read_classes(path: &Path) -> Result<Vec<String>, DatasetError> {
    let mut text = Vec::new();
    RegularFile::open(path)?.read_whole(&mut text, MAX_CLASSES_TXT, "classes.txt")?;
    let malformed = |line, what| DatasetError::Classes { path: path.into(), line, what };
    let text = str::from_utf8(&text).map_err(|error| {
        let valid = &text[..error.valid_up_to()];
        malformed(valid.split(|&byte| byte == b'\n').count(), "it is not UTF-8; convert the file")
    })?;
    let class = |(line, class): (usize, &str)| {
        let blank = "it is blank, so every class behind it would have another label; remove it";
        if class.is_empty() { Err(malformed(line, blank)) } else { Ok(class.to_owned()) }
    };
    (1..).zip(text.trim_end().lines().map(str::trim)).map(class).collect()
}
