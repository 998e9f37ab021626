//! The official tars of ImageNet (ILSVRC 2012). The tar of training images holds a tar for each class,
//! whose members are ranges of the outer one. The tar of validation images is flat, and its labels are in
//! the development kit.
//!
//! Names and order are those of an `ImageFolder` that the tars are unpacked to, and so is the digest.

use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::super::error::DatasetError;
use super::devkit::{self, Devkit};
use super::image_folder::is_image;
use super::listing::{About, Layout, ListedRecord, Listing, Location, Naming, SkipCounter};
use super::stray;
use super::tar::{Member, Members};
use super::window::Input;
use crate::store::{MAX_RECORD, RegularFile};

/// Names of the official tars with their splits.
pub(super) const TARS: [(&str, &str); 2] =
    [("ILSVRC2012_img_train.tar", "train"), ("ILSVRC2012_img_val.tar", "val")];

const NO_CLASS: &str = "no class: they are not tars inside of the tar";

/// What tars of ILSVRC hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A tar of class tars.
    Train,
    /// Validation images.
    Val,
    /// A tar for each class: the unpacked tar of training images.
    Classes,
}

/// Whether tars are those of ILSVRC: by their names, or by the names of the first members.
pub(super) fn are_tars(root: &Path, names: &[String]) -> bool {
    kind(root, names).is_some()
}

fn kind(root: &Path, names: &[String]) -> Option<Kind> {
    if names.iter().all(|name| wnid(name).is_some()) {
        return Some(Kind::Classes);
    }
    let [name] = names else { return None };
    if let Some((_, split)) = TARS.iter().find(|(tar, _)| name.rsplit('/').next() == Some(*tar)) {
        return Some(if *split == "train" { Kind::Train } else { Kind::Val });
    }
    let file = RegularFile::open(&root.join(name)).ok()?;
    let mut members = Members::new(&file);
    let first = members.next_member().ok()??;
    let first = base_of(&first.name);
    if first.ends_with(b".tar") {
        return Some(Kind::Train);
    }
    if !first.starts_with(b"ILSVRC2012_val_") || !is_image(OsStr::from_bytes(first)) {
        return None;
    }
    // A WebDataset may have the same images, each with its label behind it under the same key.
    let key = |base: &[u8]| base.split(|&byte| byte == b'.').next().map(<[u8]>::to_vec);
    match members.next_member() {
        Ok(Some(second)) if key(base_of(&second.name)) == key(first) => None,
        _ => Some(Kind::Val),
    }
}

/// The name of a member without its folders.
fn base_of(name: &[u8]) -> &[u8] {
    name.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
}

/// The synset of a class tar: `n01440764` of `n01440764.tar`.
fn wnid(name: &str) -> Option<&str> {
    let stem = name.rsplit('/').next().unwrap_or(name).strip_suffix(".tar")?;
    let digits = stem.strip_prefix('n')?;
    (digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(stem)
}

/// Lists the images of tars, on rayon's threads.
///
/// # Errors
/// When a tar cannot be read or is malformed, or the labels of validation images are not there.
pub(super) fn list(root: PathBuf, names: Vec<String>) -> Result<Listing, DatasetError> {
    let kind = kind(&root, &names);
    let files = names.iter().map(|name| RegularFile::open(&root.join(name)));
    let files: Vec<RegularFile> = files.collect::<Result<_, _>>()?;
    let devkit = devkit::find(&root)?;
    let mut skipped = SkipCounter::default();
    let (classes, records) = match kind {
        Some(Kind::Val) => {
            let devkit = devkit.as_ref().ok_or_else(|| devkit::missing(root.join(&names[0])))?;
            let classes = devkit.classes.iter().map(|(wnid, _)| wnid.clone()).collect();
            (classes, validation(&files[0], devkit, &mut skipped)?)
        }
        Some(Kind::Classes) => {
            let whole = |(file, name): (&RegularFile, &String)| {
                (wnid(name).unwrap_or(name).to_owned(), 0..file.size())
            };
            training(&files, files.iter().zip(&names).map(whole).collect(), &mut skipped)?
        }
        Some(Kind::Train) | None => {
            let inner = class_tars(&files[0], &mut skipped)?;
            training(&files, inner, &mut skipped)?
        }
    };
    let mut about = About::default();
    if let Some(devkit) = devkit {
        let words = |class: &String| {
            let found = devkit.classes.iter().find(|(wnid, _)| wnid == class);
            found.map(|(_, words)| words.clone()).unwrap_or_default()
        };
        let words: Vec<String> = classes.iter().map(words).collect();
        if words.iter().any(|words| !words.is_empty()) {
            about.words = words;
        }
        about = about.fact("labels", format!("the sorted synsets, by {}", devkit.path.display()));
    }
    let shards = names.into_iter().zip(files.iter().map(RegularFile::size)).collect();
    Ok(Listing {
        root,
        layout: Layout::Ilsvrc,
        classes,
        shards,
        records,
        skipped,
        about,
        naming: Naming::List,
    })
}

/// The tars inside of a tar: the synset and the range of each.
fn class_tars(
    file: &RegularFile,
    skipped: &mut SkipCounter,
) -> Result<Vec<(String, Range<u64>)>, DatasetError> {
    let mut members = Members::new(file);
    let mut inner = Vec::new();
    while let Some(member) = members.next_member()? {
        let name = String::from_utf8_lossy(&member.name).into_owned();
        match wnid(&name) {
            Some(wnid) if !member.sparse => {
                inner.push((wnid.to_owned(), member.offset..member.offset + member.length));
            }
            _ => skipped.add(NO_CLASS, || name),
        }
    }
    Ok(inner)
}

/// Classes and records of class tars: ranges of one file, or a file each.
fn training(
    files: &[RegularFile],
    inner: Vec<(String, Range<u64>)>,
    skipped: &mut SkipCounter,
) -> Result<(Vec<String>, Vec<ListedRecord>), DatasetError> {
    let one_file = files.len() == 1;
    let mut inner: Vec<(String, usize, Range<u64>)> = inner
        .into_iter()
        .enumerate()
        .map(|(number, (wnid, range))| (wnid, if one_file { 0 } else { number }, range))
        .collect();
    inner.sort_by(|a, b| a.0.cmp(&b.0));
    let classes = inner.iter().map(|(wnid, ..)| wnid.clone()).collect();
    let class = |(label, (wnid, number, range)): (u32, (String, usize, Range<u64>))| {
        let file = &files[number];
        let number = u32::try_from(number).expect("a shard of a list that is in memory");
        let mut strays = SkipCounter::default();
        let folder = format!("{wnid}/");
        let mut records = images((file, number), range, label, &folder, &mut strays)?;
        if records.is_empty() {
            let path = file.path().join(format!("{wnid}.tar"));
            return Err(DatasetError::EmptyClass { path, expected: "images".to_owned() });
        }
        records.sort_by(|a, b| a.name.cmp(&b.name));
        Ok((records, strays))
    };
    let labeled: Vec<_> = (0..).zip(inner).collect();
    let listed = labeled.into_par_iter().map(class).collect::<Result<Vec<_>, DatasetError>>()?;
    let mut records = Vec::new();
    for (of_class, strays) in listed {
        records.extend(of_class);
        skipped.merge(strays);
    }
    Ok((classes, records))
}

/// The images in a range of a file that is a tar.
fn images(
    (file, number): (&RegularFile, u32),
    range: Range<u64>,
    label: u32,
    folder: &str,
    skipped: &mut SkipCounter,
) -> Result<Vec<ListedRecord>, DatasetError> {
    let mut members = Members::of(Input::File(file), range);
    let mut records = Vec::new();
    while let Some(Member { name, offset, length, sparse, .. }) = members.next_member()? {
        let text = String::from_utf8_lossy(&name);
        let base = text.rsplit('/').next().unwrap_or(&text);
        if base.starts_with('.') || !is_image(base.as_ref()) {
            continue;
        }
        let name_in_folder = || format!("{folder}{base}");
        let short = u32::try_from(length).ok().filter(|length| *length <= MAX_RECORD);
        let reason = match short {
            _ if sparse => Err(stray::SPARSE),
            _ if str::from_utf8(&name).is_err() => Err(stray::NOT_UTF8),
            None => Err(stray::TOO_LARGE),
            Some(length) => Ok(length),
        };
        match reason {
            Ok(length) => {
                let location = Location::Shard { number, offset, length };
                records.push(ListedRecord { name: name_in_folder(), label, location });
            }
            Err(reason) => skipped.add(reason, name_in_folder),
        }
    }
    Ok(records)
}

/// The validation images, in the order of their numbers, which the ground truth has too.
fn validation(
    file: &RegularFile,
    devkit: &Devkit,
    skipped: &mut SkipCounter,
) -> Result<Vec<ListedRecord>, DatasetError> {
    let mut records = images((file, 0), 0..file.size(), 0, "", skipped)?;
    records.sort_by(|a, b| a.name.cmp(&b.name));
    for record in &mut records {
        let number = image_number(&record.name).and_then(|number| number.checked_sub(1));
        let label = number.and_then(|index| devkit.labels.get(index)).copied();
        record.label = label.ok_or_else(|| DatasetError::Description {
            path: devkit.path.clone(),
            what: format!(
                "it has labels of {} images, and none of {}; restore it",
                devkit.labels.len(),
                record.name
            ),
        })?;
    }
    Ok(records)
}

/// The number in `ILSVRC2012_val_00000001.JPEG`.
fn image_number(name: &str) -> Option<usize> {
    name.rsplit_once('_')?.1.split('.').next()?.parse().ok()
}
