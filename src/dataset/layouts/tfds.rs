//! What TensorFlow Datasets writes beside its shards: `features.json`, which names the fields, and
//! `label.labels.txt`, which names the classes.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::super::error::DatasetError;
use super::classes;
use crate::store::RegularFile;

/// Largest `features.json`.
const MAX_FILE: u32 = 16 << 20;

/// The fields and classes; nothing where there is no `features.json`.
#[derive(Debug, Default)]
pub(super) struct Tfds {
    /// The only field that is an image.
    pub(super) image: Option<String>,
    /// The field that is a class: the only one, or the one that is given, or else `label`.
    pub(super) label: Option<String>,
    pub(super) classes: Option<Vec<String>>,
}

/// Reads the files in a folder. `given` is the field of labels that the options name.
///
/// # Errors
/// When one of them cannot be read or is malformed.
pub(super) fn read(root: &Path, given: Option<&str>) -> Result<Tfds, DatasetError> {
    let path = root.join("features.json");
    if fs::symlink_metadata(&path).is_err() {
        return Ok(Tfds::default());
    }
    let mut text = Vec::new();
    RegularFile::open(&path)?.read_whole(&mut text, MAX_FILE, "features.json")?;
    let value: Value = serde_json::from_slice(&text).map_err(|error| {
        let what = format!("{error}; restore or remove it");
        DatasetError::Description { path: path.clone(), what }
    })?;
    let fields = value.pointer("/featuresDict/features").or_else(|| value.pointer("/content"));
    let fields = fields.and_then(Value::as_object).into_iter().flatten();
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    for (name, field) in fields {
        // Versions before 4.6 call it `type`.
        let class = field.get("pythonClassName").or_else(|| field.get("type"));
        let class = class.and_then(Value::as_str).unwrap_or_default();
        if class.ends_with(".Image") {
            images.push(name.clone());
        } else if class.ends_with(".ClassLabel") {
            labels.push((name.clone(), number_of_classes(field)));
        }
    }
    let mut tfds = Tfds::default();
    // Some datasets have classes at several levels, such as `label` and `coarse_label` of CIFAR-100.
    let named = |wanted: &str| labels.iter().find(|(name, _)| name == wanted);
    let chosen = match &labels[..] {
        [only] => Some(only),
        _ => given.and_then(named).or_else(|| named("label")),
    };
    if let ([image], Some((label, count))) = (&images[..], chosen) {
        tfds.image = Some(image.clone());
        tfds.label = Some(label.clone());
        let names = root.join(format!("{label}.labels.txt"));
        tfds.classes = if fs::symlink_metadata(&names).is_ok() {
            Some(classes::lines(&names)?)
        } else {
            count.map(|count| (0..count).map(|label| label.to_string()).collect())
        };
    }
    Ok(tfds)
}

/// The number in a `ClassLabel`, which JSON made from Protocol Buffers has as a string.
fn number_of_classes(field: &Value) -> Option<u32> {
    let number = field.pointer("/classLabel/numClasses");
    let number = number.or_else(|| field.pointer("/content/num_classes"))?;
    let number = number.as_u64().or_else(|| number.as_str()?.parse().ok())?;
    u32::try_from(number).ok().filter(|count| *count <= classes::MAX_NUMBERED_CLASSES)
}
