//! `WebDataset`: the samples of a tar. A sample is a run of members with the same key, which is the
//! path up to the first dot of the file's name (`base_plus_ext` of webdataset/tariterators.py).

use std::path::Path;

use super::DatasetError;
use super::tar::{Member, Members};

/// Suffixes of the image, the first that a sample has.
const IMAGES: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// An image in a tar.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sample {
    /// Key and suffix.
    pub(super) name: String,
    pub(super) label: u32,
    pub(super) offset: u64,
    pub(super) length: u32,
}

/// Lists the samples of a tar file.
pub(super) fn scan(path: &Path, bytes: &[u8]) -> Result<Vec<Sample>, DatasetError> {
    let mut samples = Vec::new();
    let mut run = Run::default();
    for member in Members::new(path, bytes) {
        let member = member?;
        let Some((key, suffix)) = split(&member.name) else { continue };
        if key != run.key {
            samples.extend(run.finish(path, bytes)?);
            run = Run { key: key.to_owned(), offset: member.header, ..Run::default() };
        }
        let suffix = suffix.to_lowercase();
        let rank = IMAGES.iter().position(|image| suffix == *image);
        match suffix.as_str() {
            "cls" => run.class = Some(member),
            "json" => run.json = Some(member),
            _ if rank.is_some_and(|rank| run.image.as_ref().is_none_or(|(r, _)| rank < *r)) => {
                run.image = rank.map(|rank| (rank, member));
            }
            _ => {}
        }
    }
    samples.extend(run.finish(path, bytes)?);
    Ok(samples)
}

/// Key and suffix of a member; `None` for hidden files, those without a dot, and `__meta__` files.
fn split(name: &str) -> Option<(&str, &str)> {
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = base + name[base..].find('.')?;
    let meta = name.starts_with("__") && name.ends_with("__");
    (dot > base && !meta).then(|| (&name[..dot], &name[dot + 1..]))
}

/// The members of one key.
#[derive(Default)]
struct Run {
    key: String,
    offset: u64,
    /// With its place in `IMAGES`.
    image: Option<(usize, Member)>,
    class: Option<Member>,
    json: Option<Member>,
}

impl Run {
    fn finish(self, path: &Path, bytes: &[u8]) -> Result<Option<Sample>, DatasetError> {
        if self.key.is_empty() {
            return Ok(None);
        }
        let error = |what| DatasetError::Sample {
            path: path.into(),
            offset: self.offset,
            key: self.key.clone(),
            what,
        };
        let data = |member: &Member| {
            let start = usize::try_from(member.offset).ok()?;
            bytes.get(start..start.checked_add(usize::try_from(member.length).ok()?)?)
        };
        let label = match (&self.class, &self.json) {
            (Some(class), _) => {
                let text = data(class).and_then(|data| std::str::from_utf8(data).ok());
                let label = text.and_then(|text| text.trim().parse().ok());
                label.ok_or_else(|| error("its .cls is not a whole number from 0 on"))?
            }
            (None, Some(json)) => data(json)
                .and_then(label_in_json)
                .ok_or_else(|| error("its .json has no whole number `label` or `cls`"))?,
            (None, None) => return Err(error("it has no label: no .cls and no .json")),
        };
        let (_, image) =
            self.image.as_ref().ok_or_else(|| error("it has no image: .jpg .jpeg .png .webp"))?;
        let length = u32::try_from(image.length).ok();
        let length = length.ok_or_else(|| error("its image is larger than 4 GiB"))?;
        let name = image.name.trim_start_matches("./").to_owned();
        Ok(Some(Sample { name, label, offset: image.offset, length }))
    }
}

fn label_in_json(data: &[u8]) -> Option<u32> {
    let value: serde_json::Value = serde_json::from_slice(data).ok()?;
    let label = value.get("label").or_else(|| value.get("cls"))?;
    u32::try_from(label.as_u64()?).ok()
}
