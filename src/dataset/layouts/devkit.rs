//! The labels of ILSVRC's validation images, and the words of its classes.
//!
//! They are in the development kit, packed or not: `ILSVRC2012_validation_ground_truth.txt` has an
//! ILSVRC id for each image, and `meta.mat` says which synset that is. Or they are in the list of synsets
//! that came with TensorFlow's scripts, a line for each image.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use super::super::error::DatasetError;
use super::classes;
use super::mat5::{self, Synset};
use super::tar::Members;
use super::window::Input;
use crate::store::RegularFile;

/// Most bytes of the packed or unpacked kit. That of 2012 has 2.5 MB and 4 MB.
const MAX_BYTES: u32 = 64 << 20;

const TRUTH: &str = "ILSVRC2012_validation_ground_truth.txt";
const META: &str = "meta.mat";
const PACKED: [&str; 2] = ["ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12.tar"];
const UNPACKED: [&str; 3] = ["ILSVRC2012_devkit_t12/data", "devkit/data", "data"];
const SYNSETS: &str = "imagenet_2012_validation_synset_labels.txt";

/// Classes, and labels of validation images.
#[derive(Debug, Default)]
pub(super) struct Devkit {
    /// Where it was found.
    pub(super) path: PathBuf,
    /// Synset and words of each class, sorted by synset.
    pub(super) classes: Vec<(String, String)>,
    /// The label of each validation image.
    pub(super) labels: Vec<u32>,
}

/// Reads what is beside the tars in a folder; `None` if nothing is there.
///
/// # Errors
/// When it cannot be read, or is not what its name says.
pub(super) fn find(root: &Path) -> Result<Option<Devkit>, DatasetError> {
    for name in PACKED {
        let path = root.join(name);
        if exists(&path) {
            return unpack(&path).map(Some);
        }
    }
    for folder in UNPACKED {
        let path = root.join(folder);
        if exists(&path.join(META)) {
            let (truth, meta) = (read(&path.join(TRUTH))?, read(&path.join(META))?);
            return devkit(&path, &truth, &meta).map(Some);
        }
    }
    let path = root.join(SYNSETS);
    if exists(&path) { by_synsets(&path).map(Some) } else { Ok(None) }
}

/// What to put beside a tar of validation images.
pub(super) fn missing(path: PathBuf) -> DatasetError {
    let [packed, ..] = PACKED;
    let what =
        format!("the labels of these images are not in it; put {packed} or {SYNSETS} beside it");
    DatasetError::Description { path, what }
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn read(path: &Path) -> Result<Vec<u8>, DatasetError> {
    let mut bytes = Vec::new();
    RegularFile::open(path)?.read_whole(&mut bytes, MAX_BYTES, "the development kit")?;
    Ok(bytes)
}

/// Unpacks the two files of a packed kit, in memory.
fn unpack(path: &Path) -> Result<Devkit, DatasetError> {
    let error = |what: &str| DatasetError::Description { path: path.into(), what: what.to_owned() };
    let packed = read(path)?;
    let mut bytes = Vec::new();
    if packed.starts_with(&[0x1F, 0x8B]) {
        let mut unpacked = GzDecoder::new(&packed[..]).take(u64::from(MAX_BYTES) + 1);
        let result = unpacked.read_to_end(&mut bytes);
        result.map_err(|_error| error("its compression is damaged; restore it"))?;
    } else {
        bytes = packed;
    }
    if bytes.len() > MAX_BYTES as usize {
        return Err(error("it has more than 64 MiB, which is not the development kit; restore it"));
    }
    let mut members = Members::of(Input::Memory(&bytes, path), 0..bytes.len() as u64);
    let (mut truth, mut meta) = (None, None);
    while let Some(member) = members.next_member()? {
        let base = member.name.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        if base == TRUTH.as_bytes() {
            truth = members.data(&member, u64::from(MAX_BYTES))?.map(<[u8]>::to_vec);
        } else if base == META.as_bytes() {
            meta = members.data(&member, u64::from(MAX_BYTES))?.map(<[u8]>::to_vec);
        }
    }
    let (Some(truth), Some(meta)) = (truth, meta) else {
        return Err(error(
            "it has no data/meta.mat or no data/ILSVRC2012_validation_ground_truth.txt",
        ));
    };
    devkit(path, &truth, &meta)
}

fn devkit(path: &Path, truth: &[u8], meta: &[u8]) -> Result<Devkit, DatasetError> {
    let error = |what: String| DatasetError::Description { path: path.into(), what };
    let synsets = mat5::synsets(meta)
        .ok_or_else(|| error("its meta.mat has no table of synsets; restore it".to_owned()))?;
    let mut leaves: Vec<Synset> =
        synsets.into_iter().filter(|synset| synset.children == 0).collect();
    leaves.sort_by(|a, b| a.wnid.cmp(&b.wnid));
    let by_id: BTreeMap<u32, u32> =
        leaves.iter().zip(0..).map(|(synset, label)| (synset.id, label)).collect();
    let label = |(line, text): (usize, &str)| {
        let id = text.trim().parse::<u32>().ok();
        id.and_then(|id| by_id.get(&id)).copied().ok_or_else(|| {
            error(format!(
                "line {line} of the ground truth, {text:?}, is not the id of a class; restore it"
            ))
        })
    };
    let text = String::from_utf8_lossy(truth);
    let labels = (1..).zip(text.trim_end().lines()).map(label).collect::<Result<_, _>>()?;
    let classes = leaves.into_iter().map(|synset| (synset.wnid, synset.words)).collect();
    Ok(Devkit { path: path.into(), classes, labels })
}

/// From a list with the synset of each image.
fn by_synsets(path: &Path) -> Result<Devkit, DatasetError> {
    let lines = classes::lines(path)?;
    let mut wnids = lines.clone();
    wnids.sort();
    wnids.dedup();
    let position = |wnid: &String| wnids.binary_search(wnid).expect("it is one of them");
    let labels = lines.iter().map(position);
    let labels = labels.map(|label| u32::try_from(label).expect("a line of a bounded file"));
    let labels = labels.collect();
    let classes = wnids.into_iter().map(|wnid| (wnid, String::new())).collect();
    Ok(Devkit { path: path.into(), classes, labels })
}
