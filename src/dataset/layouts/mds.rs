//! MDS: the shards of `MosaicML` Streaming, plain or compressed by Zstandard.
//!
//! ```text
//! index.json  the shards, with the name, encoding and size of each column
//! shard       samples n u32, offsets u32[n + 1], the columns as JSON, samples
//! sample      length u32 of each column without a fixed size, the columns
//! ```
//!
//! A compressed shard is one page (`dataset::unpack`): a record costs what is before it in the shard. Where a shard is
//! there in both forms, the plain one is read.

use std::collections::BTreeMap;
use std::fs;
use std::iter;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use rayon::prelude::*;
use serde::Deserialize;

use super::super::error::DatasetError;
use super::super::options::IndexOptions;
use super::super::unpack::{self, Codec, MAX_PAGE, Packed};
use super::listing::{About, Layout, ListedRecord, Listing, Location, SkipCounter};
use super::source::Source;
use super::window::{Input, Window};
use super::{classes, split, stray};
use crate::store::{MAX_RECORD, RegularFile};

/// Largest `index.json`.
const MAX_INDEX: u32 = 256 << 20;

/// Longest label that is written as text.
const MAX_TEXT: u64 = 32;

/// Names of images and labels where the encodings of columns do not tell.
const IMAGES: [&str; 6] = ["image", "img", "jpg", "jpeg", "png", "x"];
const LABELS: [&str; 6] = ["label", "labels", "class", "cls", "target", "y"];

/// What reading all records of a compressed shard may decompress: this many bytes for each that it has, and what any may
/// have; and what it may decompress to at all. They bound the time and memory that a hostile shard takes.
const MAX_UNPACKED: u64 = 1 << 16;
const SMALL_UNPACKED: u64 = 1 << 30;
const MAX_RATIO: u64 = 4096;
const SMALL_SHARD: u64 = 1 << 20;

const NO_LABEL: &str = "a negative label";

/// `index.json`.
#[derive(Debug, Deserialize)]
struct Index {
    shards: Vec<Shard>,
}

/// A shard in `index.json`.
#[derive(Debug, Deserialize)]
struct Shard {
    format: String,
    samples: u32,
    raw_data: File,
    zip_data: Option<File>,
    compression: Option<String>,
    column_names: Vec<String>,
    column_encodings: Vec<String>,
    column_sizes: Vec<Option<u32>>,
}

#[derive(Debug, Deserialize)]
struct File {
    basename: String,
    bytes: u64,
}

impl Shard {
    /// The file that is read: the plain one, unless only the compressed one is there.
    fn stored(&self, is_there: impl Fn(&str) -> bool) -> Stored<'_> {
        match &self.zip_data {
            Some(zip) if !is_there(&self.raw_data.basename) => {
                Stored { file: zip, is_compressed: true }
            }
            _ => Stored { file: &self.raw_data, is_compressed: false },
        }
    }
}

/// The file of a shard.
struct Stored<'s> {
    file: &'s File,
    is_compressed: bool,
}

/// Recognizes the layout at a folder by its `index.json`, or by those in the folders of its splits.
///
/// # Errors
/// When a split must be selected, or the shards are of a kind that is not read.
pub(super) fn find(path: &Path, split: Option<&str>) -> Result<Option<Source>, DatasetError> {
    if let Some(index) = read_index(path)? {
        if split.is_some() {
            split::choose(path, [], split)?;
        }
        let shards = shard_names(path, &index, is_there(path))?;
        return Ok(Some(Source::shards(Layout::Mds, path, shards)));
    }
    let mut found = Vec::new();
    for name in split::all() {
        if let Some(index) = read_index(&path.join(name))? {
            found.push((name, index));
        }
    }
    if found.is_empty() {
        return Ok(None);
    }
    let chosen = split::choose(path, found.iter().map(|(name, _)| *name), split)?;
    let (name, index) =
        found.iter().find(|(name, _)| Some(*name) == chosen).expect("one of them was chosen");
    let root = path.join(name);
    let shards = shard_names(&root, index, is_there(&root))?;
    Ok(Some(Source::shards(Layout::Mds, root, shards).with_split(chosen)))
}

/// The `index.json` of a folder; `None` if it has none, or one of something else.
fn read_index(root: &Path) -> Result<Option<Index>, DatasetError> {
    let path = root.join("index.json");
    if fs::symlink_metadata(&path).is_err() {
        return Ok(None);
    }
    let mut text = Vec::new();
    RegularFile::open(&path)?.read_whole(&mut text, MAX_INDEX, "index.json")?;
    Ok(serde_json::from_slice(&text).ok())
}

/// The files of the shards that an `index.json` in a bucket names; `None` if it is one of something else. `is_there`
/// says which files the folder has.
///
/// # Errors
/// When the shards are of a kind that is not read.
pub(in crate::dataset) fn shards_of_index(
    root: &Path,
    text: &[u8],
    is_there: impl Fn(&str) -> bool,
) -> Result<Option<Vec<String>>, DatasetError> {
    let index = serde_json::from_slice(text).ok();
    index.map(|index| shard_names(root, &index, is_there)).transpose()
}

fn is_there(root: &Path) -> impl Fn(&str) -> bool {
    |name| fs::symlink_metadata(root.join(name)).is_ok()
}

/// The files of the shards, which must all be there and be read in place.
fn shard_names(
    root: &Path,
    index: &Index,
    is_there: impl Fn(&str) -> bool,
) -> Result<Vec<String>, DatasetError> {
    let refused = |path: &Path, why: String| DatasetError::NotADataset { path: path.into(), why };
    let file = root.join("index.json");
    if index.shards.is_empty() {
        return Err(refused(&file, "it names no shards; restore it".to_owned()));
    }
    let name = |shard: &Shard| {
        if shard.format != "mds" {
            let why = format!("its shards have the format {}; expected mds", shard.format);
            return Err(refused(&file, why));
        }
        let Stored { file: stored, is_compressed } = shard.stored(&is_there);
        let (name, plain) = (&stored.basename, &shard.raw_data.basename);
        let is_inside = |name: &str| {
            let mut parts = Path::new(name).components();
            !name.is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
        };
        if let Some(name) = [name, plain].into_iter().find(|name| !is_inside(name)) {
            return Err(refused(&file, format!("the shard {name:?} is outside of the folder")));
        }
        let compression = shard.compression.as_deref().unwrap_or("an unknown method");
        let method = compression.split(':').next().unwrap_or_default();
        if is_compressed && method != "zstd" {
            let why = format!(
                "it is compressed by {method}, and only zstd can be read in place; decompress all shards to {plain} \
                 and its like"
            );
            return Err(refused(&root.join(name), why));
        }
        Ok(name.clone())
    };
    index.shards.iter().map(name).collect()
}

/// Lists the samples of shards, on rayon's threads: all of a dataset on disk, and one of those in a bucket.
///
/// # Errors
/// When a shard cannot be read or is damaged, or its columns have no images or labels.
pub(super) fn list(
    root: PathBuf,
    names: Vec<String>,
    options: &IndexOptions,
) -> Result<Listing, DatasetError> {
    let missing = |name: &str| DatasetError::Missing { path: root.join(name) };
    let index = read_index(&root)?.ok_or_else(|| missing("index.json"))?;
    let mut by_name: BTreeMap<&str, &Shard> = BTreeMap::new();
    for shard in &index.shards {
        let files = iter::once(&shard.raw_data).chain(&shard.zip_data);
        by_name.extend(files.map(|file| (file.basename.as_str(), shard)));
    }
    let shard = |name: &String| by_name.get(name.as_str()).copied().ok_or_else(|| missing(name));
    let shards = names.iter().map(shard).collect::<Result<Vec<_>, DatasetError>>()?;
    let scan = |(number, shard): (u32, &Shard)| {
        let mut skipped = SkipCounter::default();
        let scan = Scan::new(&root, shard, number, options)?;
        let (records, size) = scan.run(&root, &mut skipped)?;
        Ok((records, size, skipped))
    };
    let columns = shards.first().map(|first| Columns::of(&root, first, options)).transpose()?;
    let numbered: Vec<_> = (0..).zip(shards).collect();
    let shards = numbered.into_par_iter().map(scan).collect::<Result<Vec<_>, DatasetError>>()?;
    let (mut records, mut sizes, mut skipped) = (Vec::new(), Vec::new(), SkipCounter::default());
    for (name, (shard, size, skips)) in names.into_iter().zip(shards) {
        records.extend(shard);
        sizes.push((name, size));
        skipped.merge(skips);
    }
    let (classes, naming) = classes::listed_or_numbered(&root, &records)?;
    let columns = columns.ok_or_else(|| missing("index.json"))?;
    let names = &index.shards[0].column_names;
    let (image, label) = (&names[columns.image], &names[columns.label]);
    let mut about =
        About::default().fact("columns", format!("image {image}, label {label} from 0"));
    let packed = |record: &ListedRecord| match record.location {
        Location::Packed { length, packed, .. } => (Some(packed), length),
        _ => (None, 0),
    };
    if let Some(cost) = cost(records.iter().map(packed)) {
        about = about.fact(COST, cost);
    }
    Ok(Listing {
        root,
        layout: Layout::Mds,
        classes,
        shards: sizes,
        records,
        skipped,
        about,
        naming,
    })
}

/// The fact that says what records of compressed shards cost.
pub(in crate::dataset) const COST: &str = "compression";

/// What records of compressed shards cost, for people, by the compressed ranges that they are in and their lengths. `None`
/// if there are none.
pub(in crate::dataset) fn cost(
    records: impl Iterator<Item = (Option<Packed>, u32)>,
) -> Option<String> {
    let unpacked = |(packed, length): (Option<Packed>, u32)| {
        packed.map(|packed| u64::from(packed.skip) + u64::from(length))
    };
    let (count, sum) =
        records.filter_map(unpacked).fold((0_u64, 0), |(count, sum), of| (count + 1, sum + of));
    let mean = sum.checked_div(count)? as f64 / f64::from(1 << 20);
    Some(format!(
        "zstd: a shuffled epoch decompresses {mean:.1} MiB for each record; decompress all shards (zstd -d) to avoid it"
    ))
}

/// The columns of images and labels.
#[derive(Clone, Copy, Debug)]
struct Columns {
    image: usize,
    label: usize,
}

impl Columns {
    fn of(root: &Path, shard: &Shard, options: &IndexOptions) -> Result<Self, DatasetError> {
        let path = || root.join("index.json");
        let Shard { column_names: names, column_encodings: encodings, column_sizes: sizes, .. } =
            shard;
        if names.len() != encodings.len() || names.len() != sizes.len() {
            let what = "its lists of columns have different lengths; restore it".to_owned();
            return Err(DatasetError::Description { path: path(), what });
        }
        let columns: Vec<String> =
            names.iter().zip(encodings).map(|(name, kind)| format!("{name} ({kind})")).collect();
        let missing = |what: &str| DatasetError::Columns {
            path: path(),
            missing: what.to_owned(),
            columns: columns.clone(),
        };
        let column = |named: Option<&str>, usual: &[&str], fits: fn(&str) -> bool| {
            if let Some(named) = named {
                return names.iter().position(|name| name == named);
            }
            let fitting = || (0..names.len()).filter(|index| fits(&encodings[*index]));
            let by_name = usual.iter().find_map(|usual| fitting().find(|i| names[*i] == *usual));
            by_name.or_else(|| fitting().next().filter(|_| fitting().count() == 1))
        };
        let is_image = |encoding: &str| {
            matches!(encoding, "jpeg" | "png" | "bytes" | "pil") || encoding.starts_with("jpeg:")
        };
        let image = column(options.image_column.as_deref(), &IMAGES, is_image)
            .ok_or_else(|| missing("column of images (jpeg, png or bytes)"))?;
        if !is_image(&encodings[image]) || encodings[image] == "pil" {
            let encoding = &encodings[image];
            let why = format!(
                "its column {} has the encoding {encoding}, which is not an image file; write the images as \
                 jpeg, png or bytes",
                names[image]
            );
            return Err(DatasetError::NotADataset { path: root.into(), why });
        }
        let is_number =
            |encoding: &str| number_of_bytes(encoding).is_some() || encoding == "str_int";
        let label = column(options.label_column.as_deref(), &LABELS, is_number)
            .filter(|label| is_number(&encodings[*label]))
            .ok_or_else(|| {
                missing("column of labels (int, int8 to int64, uint8 to uint64 or str_int)")
            })?;
        Ok(Self { image, label })
    }
}

/// Bytes of an encoding of whole numbers.
fn number_of_bytes(encoding: &str) -> Option<u64> {
    Some(match encoding {
        "int8" | "uint8" => 1,
        "int16" | "uint16" => 2,
        "int32" | "uint32" => 4,
        "int" | "int64" | "uint64" => 8,
        _ => return None,
    })
}

/// Lists the samples of one shard.
struct Scan<'s> {
    path: PathBuf,
    shard: &'s Shard,
    number: u32,
    columns: Columns,
}

impl<'s> Scan<'s> {
    fn new(
        root: &Path,
        shard: &'s Shard,
        number: u32,
        options: &IndexOptions,
    ) -> Result<Self, DatasetError> {
        let columns = Columns::of(root, shard, options)?;
        Ok(Self { path: root.join(&shard.raw_data.basename), shard, number, columns })
    }

    fn error(&self, offset: u64, what: impl Into<String>) -> DatasetError {
        DatasetError::Shard { path: self.path.clone(), offset, what: what.into() }
    }

    /// Lists the samples. Returns them with the size of the shard's file.
    fn run(
        mut self,
        root: &Path,
        skipped: &mut SkipCounter,
    ) -> Result<(Vec<ListedRecord>, u64), DatasetError> {
        let Stored { file: stored, is_compressed } = self.shard.stored(is_there(root));
        self.path = root.join(&stored.basename);
        let file = RegularFile::open(&self.path)?;
        if file.size() != stored.bytes {
            let (found, expected) = (file.size(), stored.bytes);
            return Err(self.error(
                found,
                format!("the shard has {found} bytes, and index.json says {expected}; restore it"),
            ));
        }
        if !is_compressed {
            let location = |offset, length| Location::Shard { number: self.number, offset, length };
            return Ok((self.samples(Input::File(&file), &location, skipped)?, file.size()));
        }
        let plain = self.decompressed(&file)?;
        let small = |bytes: u64| u32::try_from(bytes).expect("a page is bounded");
        let (number, page) = (self.number, small(plain.len() as u64));
        let stored = small(file.size());
        let location = |start: u64, length| {
            let packed = Packed { codec: Codec::Zstd { page }, stored, skip: small(start) };
            Location::Packed { number, offset: 0, length, packed }
        };
        let records = self.samples(Input::Memory(&plain, &self.path), &location, skipped)?;
        let unpacked = (records.len() as u64).saturating_mul(page.into());
        if unpacked > file.size().saturating_mul(MAX_UNPACKED).max(SMALL_UNPACKED) {
            let what = format!(
                "reading each of its samples would decompress {unpacked} bytes in all; decompress the shard (zstd -d)"
            );
            return Err(self.error(0, what));
        }
        Ok((records, file.size()))
    }

    /// Decompresses the shard.
    fn decompressed(&self, file: &RegularFile) -> Result<Vec<u8>, DatasetError> {
        let (stored, bytes) = (file.size(), self.shard.raw_data.bytes);
        if stored.max(bytes) > MAX_PAGE as u64 {
            let what = format!(
                "the shard has {bytes} bytes, and at most 1 GiB can be decompressed in place; decompress it (zstd -d)"
            );
            return Err(self.error(0, what));
        }
        let damaged = |what: &str| self.error(0, format!("the shard {what}; restore it"));
        if bytes > stored * MAX_RATIO + SMALL_SHARD {
            let what = "claims to be more than 4096 times as long as its compressed bytes";
            return Err(damaged(what));
        }
        let page = u32::try_from(bytes).expect("bounded");
        let (mut compressed, mut plain) = (Vec::new(), Vec::new());
        compressed.resize(usize::try_from(stored).expect("bounded"), 0);
        file.read_at(0, &mut compressed)?;
        unpack::decompress(Codec::Zstd { page }, &compressed, &mut plain)
            .ok_or_else(|| damaged("does not decompress to what index.json says"))?;
        Ok(plain)
    }

    /// Lists the samples of a shard that is not compressed, or not any more.
    fn samples(
        &self,
        input: Input<'_>,
        location: &dyn Fn(u64, u32) -> Location,
        skipped: &mut SkipCounter,
    ) -> Result<Vec<ListedRecord>, DatasetError> {
        let Shard { samples, raw_data, .. } = self.shard;
        let (mut offsets, mut data) = (Window::new(input), Window::new(input));
        let size = data.size();
        let head = 4 * (u64::from(*samples) + 2);
        if head > size || word(&mut offsets, 0)? != *samples {
            let what = format!("index.json says that it has {samples} samples; restore it");
            return Err(self.error(0, what));
        }
        let mut records = Vec::with_capacity(*samples as usize);
        for sample in 0..*samples {
            let at = 4 * (u64::from(sample) + 1);
            let range = u64::from(word(&mut offsets, at)?)..u64::from(word(&mut offsets, at + 4)?);
            if range.start < head || range.end < range.start || range.end > size {
                return Err(self.error(at, "this sample is outside of the shard; restore it"));
            }
            let (image, label) = self.columns(&mut data, range.clone())?;
            let name = format!("{}/{sample}", raw_data.basename);
            let Some(label) = label else {
                skipped.add(NO_LABEL, || name);
                continue;
            };
            let length = image.end - image.start;
            let length = u32::try_from(length).ok().filter(|length| *length <= MAX_RECORD);
            let Some(length) = length else {
                skipped.add(stray::TOO_LARGE, || name);
                continue;
            };
            records.push(ListedRecord { name, label, location: location(image.start, length) });
        }
        Ok(records)
    }

    /// The range of a sample's image, and its label; `None` if that is negative.
    fn columns(
        &self,
        data: &mut Window<'_>,
        sample: Range<u64>,
    ) -> Result<(Range<u64>, Option<u32>), DatasetError> {
        let sizes = &self.shard.column_sizes;
        let variable = sizes.iter().filter(|size| size.is_none()).count() as u64;
        let mut at = sample.start + 4 * variable;
        let outside =
            || self.error(sample.start, "a column is outside of its sample; restore the shard");
        if at > sample.end {
            return Err(outside());
        }
        let mut ranges = Vec::with_capacity(sizes.len());
        let mut length_at = sample.start;
        for size in sizes {
            let size = if let Some(size) = size {
                *size
            } else {
                length_at += 4;
                word(data, length_at - 4)?
            };
            let end = Some(at + u64::from(size)).filter(|end| *end <= sample.end);
            let end = end.ok_or_else(outside)?;
            ranges.push(at..end);
            at = end;
        }
        let (image, label) =
            (ranges[self.columns.image].clone(), ranges[self.columns.label].clone());
        let encoding = &self.shard.column_encodings[self.columns.label];
        let length = label.end - label.start;
        let malformed = || {
            self.error(
                label.start,
                format!("this label is not a class from 0, as {encoding}; fix it"),
            )
        };
        if length > MAX_TEXT || number_of_bytes(encoding).is_some_and(|bytes| bytes != length) {
            return Err(malformed());
        }
        let bytes = data.read(label.start, length)?;
        let value = if encoding == "str_int" {
            str::from_utf8(bytes).ok().and_then(|text| text.trim().parse().ok())
        } else {
            Some(whole_number(bytes, !encoding.starts_with('u')))
        };
        match value {
            Some(value) if value < 0 => Ok((image, None)),
            Some(value) => {
                let label =
                    u32::try_from(value).ok().filter(|l| *l < classes::MAX_NUMBERED_CLASSES);
                Ok((image, Some(label.ok_or_else(malformed)?)))
            }
            None => Err(malformed()),
        }
    }
}

/// A little-endian number of at most 8 bytes.
fn whole_number(bytes: &[u8], signed: bool) -> i128 {
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let value = u64::from_le_bytes(wide);
    let bits = 8 * bytes.len();
    if signed && bits > 0 && value >> (bits - 1) & 1 == 1 {
        return i128::from(value) - (1_i128 << bits);
    }
    value.into()
}

/// A number of 4 bytes that is within the file.
fn word(window: &mut Window<'_>, at: u64) -> Result<u32, DatasetError> {
    let bytes = window.read(at, 4)?;
    Ok(u32::from_le_bytes(bytes.try_into().expect("4 bytes were read")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_width_are_read() {
        assert_eq!(whole_number(&[0xFF], true), -1);
        assert_eq!(whole_number(&[0xFF], false), 255);
        assert_eq!(whole_number(&[0xFE, 0xFF], true), -2);
        assert_eq!(whole_number(&7_i64.to_le_bytes(), true), 7);
        assert_eq!(whole_number(&(-9_i64).to_le_bytes(), true), -9);
        assert_eq!(whole_number(&[0xFF; 8], false), i128::from(u64::MAX));
    }
}
