//! Parquet files with a column of images and one of labels, as the `datasets` library writes them.
//!
//! ```text
//!   footer: columns, row groups     columns: which are the images and the labels, names of the classes
//!                 \                  /
//!          chunk of a column in a row group
//!                      |
//!      pages: header, levels, values (plain, or indexes of a dictionary)
//!                      |
//!      places: the range of the file that each image is in
//! ```
//!
//! A row without an image or a label is skipped and counted, as in other layouts.

mod columns;
mod fault;
mod files;
mod footer;
mod hybrid;
mod manifest;
mod page;
mod places;
mod thrift;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use self::columns::{Chosen, ManifestColumns, check_offset};
use self::fault::Fault;
use self::footer::{Footer, Type};
use self::page::Buffers;
use self::places::Image;
use super::super::error::DatasetError;
use super::super::options::IndexOptions;
use super::classes::{self, Label};
use super::listing::{About, Layout, ListedRecord, Listing, Location, Naming, SkipCounter};
use super::source::Source;
use crate::store::RegularFile;

pub(in crate::dataset) use files::is_parquet;
pub(super) use files::{nested, select};

/// Longest name of an image that becomes part of its record's name.
const MAX_NAME: usize = 4096;

/// What reading all images of a row group may decompress: this many bytes for each that its pages have, and what any
/// may have. Pages of photos have a few hundred; the limit bounds the time that a hostile file takes.
const MAX_UNPACKED: u64 = 1 << 16;
const SMALL_UNPACKED: u64 = 1 << 30;

/// Most bytes that the names of a file's images have together, in times of the file: a dictionary may claim many more than
/// it has.
const MAX_NAMES: u64 = 16;

const NO_IMAGE: &str = "no image (null, or a path without bytes)";
const NO_LABEL: &str = "no label (null)";
const NEGATIVE: &str = "a negative label";

/// A file with its footer.
struct Shard {
    name: String,
    file: RegularFile,
    footer: Footer,
    chosen: Chosen,
    /// Bytes that the names of its images have, so far.
    names: AtomicU64,
}

/// A row with an image and a label.
struct Row {
    name: String,
    label: Label,
    image: Image,
    /// Its number in its file.
    number: u64,
}

/// A file whose columns are not chosen yet.
struct Opened {
    name: String,
    file: RegularFile,
    footer: Footer,
}

/// Lists the rows of files, on rayon's threads.
///
/// # Errors
/// When a file cannot be read or is malformed, its columns are not known, or a label has no class.
pub(super) fn list(source: Source, options: &IndexOptions) -> Result<Listing, DatasetError> {
    let open = |name: &String| open(&source.root, name);
    let mut opened: Vec<Opened> =
        source.shards.par_iter().map(open).collect::<Result<_, DatasetError>>()?;
    for Opened { file, footer, .. } in &opened {
        let columns = ManifestColumns::find(footer, options);
        let Some(columns) = columns.map_err(|fault| fault.of(file.path()))? else { continue };
        if opened.len() > 1 || source.list.is_none() {
            let what = format!(
                "its column `{}` names image files; such a manifest is a dataset by itself: index it by its own path on a disk",
                footer.columns[columns.path].path
            );
            return Err(Fault::text(what).of(file.path()));
        }
        return manifest::list(&source, file, footer, columns, options);
    }
    let Source { root, split, list, .. } = source;
    // The name of a file that was named for itself must say the split, as those of others.
    if let (Some(path), Some(split)) = (&list, &split) {
        let names = opened.iter().map(|opened| opened.name.clone()).collect();
        let selected = select(path, names, Some(split))?;
        opened.retain(|opened| selected.contains(&opened.name));
    }
    let choose = |opened| choose(opened, options);
    let shards: Vec<Shard> = opened.into_iter().map(choose).collect::<Result<_, DatasetError>>()?;
    // A file may have many row groups, and a dataset may be one file.
    let groups: Vec<(usize, usize, u64)> = shards.iter().enumerate().flat_map(groups).collect();
    let read = |buffers: &mut Buffers, (shard, group, first): (usize, usize, u64)| {
        let rows = rows(&shards[shard], group, first, buffers);
        rows.map_err(|fault| fault.of(shards[shard].file.path()))
    };
    let read: Vec<(Vec<Row>, SkipCounter)> = groups
        .par_iter()
        .map_init(Buffers::default, |buffers, group| read(buffers, *group))
        .collect::<Result<_, DatasetError>>()?;
    let classes = class_names(&shards, &read)?;
    let mut records = Vec::with_capacity(read.iter().map(|(rows, _)| rows.len()).sum());
    let mut skipped = SkipCounter::default();
    let labels = Labels {
        first: options.label_offset.unwrap_or(0),
        classes: classes.as_ref().map(|(classes, _)| Classes {
            count: classes.len(),
            labels: classes.iter().map(String::as_str).zip(0..).collect(),
        }),
    };
    for ((shard, ..), (rows, counts)) in groups.iter().zip(read) {
        let number = u32::try_from(*shard).expect("the index has 32 bits for it");
        for row in rows {
            records.push(record(&shards[*shard], number, row, &labels)?);
        }
        skipped.merge(counts);
    }
    let first = labels.first;
    drop(labels);
    let (classes, naming) = match classes {
        Some(named) => named,
        None => classes::listed_or_numbered(&root, &records)?,
    };
    let about = About::default().fact("columns", columns_of(&shards[0], first));
    let sizes = shards.into_iter().map(|shard| (shard.name, shard.file.size())).collect();
    let layout = Layout::Parquet;
    let shards = sizes;
    Ok(Listing { root, layout, classes, naming, shards, records, skipped, about })
}

/// The columns of a file, for people.
fn columns_of(Shard { footer, chosen, .. }: &Shard, first: u32) -> String {
    let (image, label) = (&footer.columns[chosen.image].path, &footer.columns[chosen.label]);
    let from = match label.kind {
        Type::BYTE_ARRAY => "as text".to_owned(),
        _ => format!("from {first}"),
    };
    format!("image {image}, label {} {from}", label.path)
}

fn open(root: &Path, name: &str) -> Result<Opened, DatasetError> {
    let file = RegularFile::open(&root.join(name))?;
    let footer = Footer::read(&file).map_err(|fault| fault.of(file.path()))?;
    Ok(Opened { name: name.to_owned(), file, footer })
}

/// Chooses the columns of a file.
fn choose(opened: Opened, options: &IndexOptions) -> Result<Shard, DatasetError> {
    let Opened { name, file, footer } = opened;
    let chosen = Chosen::find(&footer, options).map_err(|fault| fault.of(file.path()))?;
    check_offset(&footer.columns[chosen.label], options).map_err(|fault| fault.of(file.path()))?;
    Ok(Shard { name, file, footer, chosen, names: AtomicU64::new(0) })
}

/// The row groups of a shard: its number, theirs, and that of their first row.
fn groups((number, shard): (usize, &Shard)) -> impl Iterator<Item = (usize, usize, u64)> + '_ {
    let groups = shard.footer.groups.iter().enumerate();
    groups.scan(0, move |row, (group, found)| {
        let first = *row;
        *row += found.rows;
        Some((number, group, first))
    })
}

/// Reads the rows of a row group.
fn rows(
    shard: &Shard,
    number: usize,
    first: u64,
    buffers: &mut Buffers,
) -> Result<(Vec<Row>, SkipCounter), Fault> {
    let Shard { name, file, footer, chosen, .. } = shard;
    let group = &footer.groups[number];
    let at = |column: usize| {
        let path = &footer.columns[column].path;
        move |fault: Fault| fault.at(format!("row group {number}, column `{path}`"))
    };
    let of = |column: usize| (&footer.columns[column], &group.chunks[column], group.rows);
    let (column, chunk, count) = of(chosen.label);
    let labels = values::labels(file, column, chunk, count, buffers).map_err(at(chosen.label))?;
    let names = match chosen.name {
        Some(index) => {
            let (column, chunk, count) = of(index);
            values::texts(file, column, chunk, count, buffers).map_err(at(index))?
        }
        None => vec![None; labels.len()],
    };
    let lengths = names.iter().flatten().map(|given| given.len());
    let bytes: u64 = lengths.filter(|length| *length <= MAX_NAME).map(|length| length as u64).sum();
    if shard.names.fetch_add(bytes, Ordering::Relaxed) + bytes > file.size() * MAX_NAMES {
        return Err(
            "the names of its images have more than 16 times its bytes; shorten them".into()
        );
    }
    let (column, chunk, count) = of(chosen.image);
    let images = values::images(file, column, chunk, count, buffers).map_err(at(chosen.image))?;
    check_unpacked(&images, chunk.end - chunk.start).map_err(at(chosen.image))?;
    let (mut rows, mut skipped) = (Vec::with_capacity(images.len()), SkipCounter::default());
    for ((row, image), (label, given)) in (first..).zip(images).zip(labels.into_iter().zip(names)) {
        let record_name = || match &given {
            Some(given) if (1..=MAX_NAME).contains(&given.len()) => format!("{name}/{given}"),
            _ => format!("{name}/{row}"),
        };
        match (image, label) {
            (None, _) => skipped.add(NO_IMAGE, record_name),
            (Some(_), None) => skipped.add(NO_LABEL, record_name),
            // Files of test images have -1 instead of labels.
            (Some(_), Some(Label::Number(number))) if number < 0 => {
                skipped.add(NEGATIVE, record_name);
            }
            (Some(image), Some(label)) => {
                rows.push(Row { name: record_name(), label, image, number: row });
            }
        }
    }
    Ok((rows, skipped))
}

/// Bounds the bytes that are decompressed for all images of a row group: for each of them its whole page, where that is
/// compressed by ZSTD or gzip.
fn check_unpacked(images: &[Option<Image>], stored: u64) -> Result<(), Fault> {
    let of = |image: &Image| image.packed.map_or(0, |packed| packed.unpacked(image.length) as u64);
    let unpacked: u64 = images.iter().flatten().map(of).fold(0, u64::saturating_add);
    if unpacked <= stored.saturating_mul(MAX_UNPACKED).max(SMALL_UNPACKED) {
        return Ok(());
    }
    Err(Fault::text(format!(
        "its images are in so large pages that reading each of them would decompress {unpacked} bytes in all; write \
         smaller pages, or none that are compressed"
    )))
}

/// The names of the classes: those that the files have, or the labels that are text, sorted. `None` if the
/// labels are numbers without names.
fn class_names(
    shards: &[Shard],
    read: &[(Vec<Row>, SkipCounter)],
) -> Result<Option<(Vec<String>, Naming)>, DatasetError> {
    check_kinds(shards)?;
    let mut named = shards.iter().filter_map(|shard| Some((shard, shard.chosen.classes.as_ref()?)));
    if let Some((first, classes)) = named.next() {
        for (shard, others) in named {
            if others != classes {
                let what = format!(
                    "its names of classes are others than those of {}; index them as two datasets",
                    first.name
                );
                return Err(Fault::text(what).of(shard.file.path()));
            }
        }
        return Ok(Some((classes.clone(), Naming::List)));
    }
    let texts: BTreeSet<&Arc<str>> = read
        .iter()
        .flat_map(|(rows, _)| rows)
        .filter_map(|row| match &row.label {
            Label::Text(text) => Some(text),
            Label::Number(_) => None,
        })
        .collect();
    let classes: Vec<String> = texts.into_iter().map(ToString::to_string).collect();
    Ok((!classes.is_empty()).then_some((classes, Naming::Texts)))
}

/// Refuses files of which some have labels that are text, and others numbers.
fn check_kinds(shards: &[Shard]) -> Result<(), DatasetError> {
    let is_text = |shard: &Shard| shard.footer.columns[shard.chosen.label].kind == Type::BYTE_ARRAY;
    let Some((first, others)) = shards.split_first() else { return Ok(()) };
    match others.iter().find(|other| is_text(other) != is_text(first)) {
        None => Ok(()),
        Some(other) => {
            let (kind, of_first) =
                if is_text(other) { ("text", "numbers") } else { ("numbers", "text") };
            let what = format!(
                "its labels are {kind}, and those of {} are {of_first}; index them as two datasets",
                first.name
            );
            Err(Fault::text(what).of(other.file.path()))
        }
    }
}

/// What labels mean.
struct Labels<'a> {
    /// The label of the first class.
    first: u32,
    /// `None` if the classes have no names.
    classes: Option<Classes<'a>>,
}

/// The names of classes, with the label of each.
struct Classes<'a> {
    count: usize,
    labels: BTreeMap<&'a str, u32>,
}

fn record(
    shard: &Shard,
    number: u32,
    row: Row,
    labels: &Labels<'_>,
) -> Result<ListedRecord, DatasetError> {
    let Row { name, label, image, number: row } = row;
    let fault = |what: String| Fault::text(format!("row {row} has {what}")).of(shard.file.path());
    let Labels { first, classes } = labels;
    let class = |number: i64| u32::try_from(number.checked_sub(i64::from(*first))?).ok();
    let label = match (&label, classes) {
        (Label::Number(number), None) => {
            let what = || {
                format!(
                    "the label {number}, expected a number from {first}; fix it, or set the label of the first \
                     class (--label-offset)"
                )
            };
            class(*number).ok_or_else(|| fault(what()))
        }
        (Label::Number(number), Some(Classes { count, .. })) => {
            let label = class(*number).filter(|label| (*label as usize) < *count);
            let what = || {
                format!("the label {number}, but the file names {count} classes, from {first} on")
            };
            label.ok_or_else(|| fault(what()))
        }
        (Label::Text(text), Some(Classes { labels, .. })) => {
            let what = || format!("the label `{text}`, which is not the name of a class");
            labels.get(&**text).copied().ok_or_else(|| fault(what()))
        }
        (Label::Text(_), None) => unreachable!("texts are classes"),
    }?;
    let Image { offset, length, packed } = image;
    let location = match packed {
        None => Location::Shard { number, offset, length },
        Some(packed) => Location::Packed { number, offset, length, packed },
    };
    Ok(ListedRecord { name, label, location })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::unpack::{Codec, Packed};

    #[test]
    fn images_that_would_decompress_a_page_without_end_are_refused() {
        let image = |page: u32| Image {
            offset: 0,
            length: 4096,
            packed: Some(Packed { codec: Codec::Zstd { page }, stored: page / 4096, skip: 0 }),
        };
        // Photos of a row group in one page.
        check_unpacked(&vec![Some(image(100 << 20)); 1000], 100 << 20).unwrap();
        // Many rows of a page that is mostly zeros.
        let refused = check_unpacked(&vec![Some(image(1 << 30)); 1 << 18], 1 << 18).unwrap_err();
        let Fault::Text(refused) = refused else { unreachable!("no file is read") };
        assert!(refused.contains("write smaller pages"), "{refused}");
    }
}
