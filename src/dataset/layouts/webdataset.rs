//! `WebDataset`: the samples of tars. A sample is a run of members with the same key, which is the path
//! up to the first dot of the file's name (`base_plus_ext` of webdataset/tariterators.py).
//!
//! timm writes `_info.json` beside the shards: the shards of each split, and the key of labels in `.json`
//! members, where `.cls` has other ones.
//!
//! Shards have members that are not samples: a README, a hard link, an image whose label is missing or
//! that cannot be read in place. They are skipped and counted, as timm's reader logs and skips them. A
//! label that is present but malformed is an error, and so are two members of one name, as in webdataset.

use std::path::Path;

use rayon::prelude::*;

use super::super::error::DatasetError;
use super::super::options::{IndexOptions, LabelSource};
use super::classes;
use super::info::info;
use super::listing::{About, Layout, ListedRecord, Listing, Location, SkipCounter};
use super::source::Source;
use super::stray;
use super::tar::{Member, Members};
use crate::store::{MAX_RECORD, RegularFile};

/// Suffixes of images, the preferred ones first.
const IMAGES: [&[u8]; 4] = [b"jpg", b"jpeg", b"png", b"webp"];

/// Largest `.cls` or `.json` file.
const MAX_LABEL: u64 = 16 << 20;

const NO_IMAGE: &str = "no image (.jpg, .jpeg, .png or .webp)";
const NO_LABEL: &str = "no label (.cls or .json)";
const NEGATIVE: &str = "a negative label";

/// The samples of one shard.
struct Shard {
    name: String,
    size: u64,
    samples: Vec<Sample>,
    skipped: SkipCounter,
    /// Whether labels are from `.cls`, and whether from `.json`.
    of_cls: bool,
    of_json: bool,
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
pub(super) fn list(source: Source, options: &IndexOptions) -> Result<Listing, DatasetError> {
    let Source { root, shards: names, split, .. } = source;
    let described = match (&options.label, &split) {
        (None, Some(_)) => info(&root)?,
        _ => None,
    };
    let of_split = described.zip(split).and_then(|(info, split)| info.split(&split)?.label());
    let labels = options.label.clone().or(of_split);
    let scan = |name| scan(&root, name, labels.as_ref());
    let shards: Vec<Shard> =
        names.into_par_iter().map(scan).collect::<Result<_, DatasetError>>()?;
    let is_mixed =
        shards.iter().any(|shard| shard.of_cls) && shards.iter().any(|shard| shard.of_json);
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
    let (classes, naming) = classes::listed_or_numbered(&root, &records)?;
    let mut about = About::default();
    if let Some(LabelSource::Json(key)) = &labels {
        about = about.fact("labels", format!("{key} of .json"));
    } else if is_mixed {
        about = about.fact("labels", "of .cls, and of .json where a sample has no .cls");
    }
    Ok(Listing {
        root,
        layout: Layout::WebDataset,
        classes,
        naming,
        shards: sizes,
        records,
        skipped,
        about,
    })
}

/// Lists the samples of one tar.
fn scan(root: &Path, name: String, labels: Option<&LabelSource>) -> Result<Shard, DatasetError> {
    let file = RegularFile::open(&root.join(&name))?;
    let mut members = Members::new(&file);
    let size = file.size();
    let (samples, skipped) = (Vec::new(), SkipCounter::default());
    let mut shard = Shard { name, size, samples, skipped, of_cls: false, of_json: false };
    let mut run = Run::default();
    while let Some(member) = members.next_member()? {
        let Some((key, suffix)) = split(&member.name) else { continue };
        if key != run.key {
            let finished = std::mem::replace(&mut run, Run::new(key, member.header));
            finished.finish(&mut members, labels, &mut shard)?;
        }
        let suffix = suffix.to_ascii_lowercase();
        run.add(&suffix, member);
    }
    run.finish(&mut members, labels, &mut shard)?;
    Ok(shard)
}

/// Key and suffix of a member; `None` for hidden files, those without a dot, and `__meta__` files.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let base = name.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    let dot = base + name[base..].iter().position(|&byte| byte == b'.')?;
    let meta = name.starts_with(b"__") && name.ends_with(b"__");
    (dot > base && !meta).then(|| (&name[..dot], &name[dot + 1..]))
}

/// What the label file of a sample says.
enum Label {
    /// There is none.
    Missing,
    /// A number that means that there is no label.
    Negative,
    Class(u32),
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
    fn finish(
        mut self,
        members: &mut Members<'_>,
        labels: Option<&LabelSource>,
        shard: &mut Shard,
    ) -> Result<(), DatasetError> {
        if self.key.is_empty() {
            return Ok(());
        }
        match labels {
            Some(LabelSource::Json(_)) => self.cls = None,
            Some(LabelSource::Cls) => self.json = None,
            None => {}
        }
        let sample = || format!("{}/{}", shard.name, String::from_utf8_lossy(&self.key));
        let Some((_, image)) = &self.image else {
            shard.skipped.add(NO_IMAGE, sample);
            return Ok(());
        };
        let label = match self.label(members, labels)? {
            Label::Missing => {
                shard.skipped.add(NO_LABEL, sample);
                return Ok(());
            }
            Label::Negative => {
                shard.skipped.add(NEGATIVE, sample);
                return Ok(());
            }
            Label::Class(label) => label,
        };
        let error = |what| self.error(members.path(), what);
        if self.is_ambiguous {
            return Err(error(
                "two of its members have the same extension, so that it is not known which label its image has; \
                 rename or remove one",
            ));
        }
        if image.sparse {
            shard.skipped.add(stray::SPARSE, sample);
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
        let is_cls = self.cls.is_some();
        (shard.of_cls, shard.of_json) = (shard.of_cls || is_cls, shard.of_json || !is_cls);
        Ok(())
    }

    /// The label: the number in `.cls`, or else `label` or `cls` in `.json`, or the key that the options
    /// name. timm skips those that are negative at that key.
    fn label(
        &self,
        members: &mut Members<'_>,
        labels: Option<&LabelSource>,
    ) -> Result<Label, DatasetError> {
        let path = members.path();
        let error = |what| self.error(path, what);
        let Some(member) = self.cls.as_ref().or(self.json.as_ref()) else {
            return Ok(Label::Missing);
        };
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
        if let Some(LabelSource::Json(key)) = labels {
            let expected = "expected a whole number at the key of --label in its .json";
            let number = number_at(data, key).ok_or_else(|| error(expected))?;
            return match u32::try_from(number) {
                Ok(label) => Ok(Label::Class(label)),
                Err(_) if number < 0 => Ok(Label::Negative),
                Err(_) => Err(error(expected)),
            };
        }
        let (label, expected) = if self.cls.is_some() {
            let text = str::from_utf8(data).ok();
            let label = text.and_then(|text| text.trim().parse().ok());
            (label, "expected a whole number from 0 in its .cls")
        } else {
            (label_in_json(data), "expected a whole number from 0 as `label` or `cls` in its .json")
        };
        label.map(Label::Class).ok_or_else(|| error(expected))
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

/// The number at a key; dots lead into objects, unless the key exists as it is.
fn number_at(data: &[u8], key: &str) -> Option<i64> {
    let value: serde_json::Value = serde_json::from_slice(data).ok()?;
    if let Some(flat) = value.get(key) {
        return flat.as_i64();
    }
    key.split('.').try_fold(&value, |inner, part| inner.get(part))?.as_i64()
}
