//! Tensors as safetensors files.

use std::ffi::OsStr;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::metadata::RunMetadata;
use super::number::Number;
use super::{disk, metadata, torch_file};
use crate::Error;
use crate::state::{StateDict, Tensor};

/// Key of [`ModelInfo`] in the metadata of a safetensors file.
const INFO: &str = "forebay";

/// What a safetensors file says of its model, as JSON under one key, because the order of several would be random.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct ModelInfo {
    /// Name of the model.
    pub(crate) model: String,
    /// Height and width of the images that it was trained on.
    pub(crate) image_size: usize,
    /// Names of the classes, if they are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) class_names: Vec<String>,
}

impl From<&RunMetadata> for ModelInfo {
    fn from(run: &RunMetadata) -> Self {
        let RunMetadata { model, image_size, class_names, .. } = run;
        Self { model: model.clone(), image_size: *image_size, class_names: class_names.clone() }
    }
}

/// Writes a model in timm's layout, atomically, with what is known of the run that it is of.
///
/// # Errors
/// [`Error::Write`] if the file cannot be written.
pub fn write_model(
    path: &Path,
    model: &StateDict,
    batches_tracked: u64,
    run: Option<&RunMetadata>,
) -> Result<(), Error> {
    let info = run.map(ModelInfo::from);
    disk::replace(path, &encode_model(model, batches_tracked, info.as_ref()))
}

/// Writes a model as `torch.save` writes a state dict, atomically.
pub(crate) fn write_torch(
    path: &Path,
    model: &StateDict,
    batches_tracked: u64,
) -> Result<(), Error> {
    let encoded = torch_file::encode(model, batches_tracked);
    let large = |problem| Error::Mismatch { path: path.to_owned(), problem };
    disk::replace(path, &encoded.map_err(large)?)
}

/// What a safetensors file that this trainer wrote says of its model.
pub(crate) fn read_model_info(path: &Path) -> Result<Option<ModelInfo>, Error> {
    let contents = disk::read(path)?;
    let header = SafeTensors::read_metadata(&contents);
    let info = header.ok().and_then(|(_, header)| header.metadata().as_ref()?.get(INFO).cloned());
    Ok(info.and_then(|info| serde_json::from_str(&info).ok()))
}

/// A model as a safetensors file.
pub(crate) fn encode_model(
    model: &StateDict,
    batches_tracked: u64,
    info: Option<&ModelInfo>,
) -> Vec<u8> {
    let norms = model.keys().filter_map(|name| name.strip_suffix("running_mean"));
    let counters = norms.map(|norm| format!("{norm}num_batches_tracked")).collect();
    let tensors = model.iter().map(|(name, tensor)| (name.clone(), tensor));
    let info = info.map(|info| serde_json::to_string(info).expect("plain fields"));
    encode_tensors(tensors, Some((counters, batches_tracked)), info)
}

/// Reads a model that this trainer, timm or torchvision wrote: a safetensors file, or a state dict of `torch.save`. One that
/// is part of a checkpoint with checksums is compared with its own.
///
/// # Errors
/// [`Error::Read`] if the file cannot be read, [`Error::Damaged`] if it is not a complete file of
/// these kinds, [`Error::Corrupt`] if it is not what the checkpoint's checksum was computed of, and
/// [`Error::Mismatch`] if it has weights that are not f32 or not finite.
pub fn read_model(path: &Path) -> Result<StateDict, Error> {
    let contents = disk::read(path)?;
    if let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str))
        && let Ok((_, Some(files))) = metadata::read(folder)
        && let Some(checksum) = files.get(name)
    {
        checksum.check(&contents, path)?;
    }
    decode_model(&contents, path)
}

/// The model of a safetensors file, or of one that `torch.save` wrote.
pub(super) fn decode_model(contents: &[u8], path: &Path) -> Result<StateDict, Error> {
    let tensors = if contents.starts_with(torch_file::MAGIC) {
        let tensors = torch_file::decode(contents, path)?;
        check_finite(&tensors, path)?;
        tensors
    } else {
        decode_tensors(contents, path)?
    };
    Ok(tensors.into_iter().filter(|(name, _)| !name.ends_with("num_batches_tracked")).collect())
}

/// Tensors, and counters that all have one value, as a safetensors file.
pub(super) fn encode_tensors<'a>(
    tensors: impl Iterator<Item = (String, &'a Tensor)>,
    counters: Option<(Vec<String>, u64)>,
    info: Option<String>,
) -> Vec<u8> {
    let mut entries: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = tensors
        .map(|(name, tensor)| {
            let bytes = tensor.values.iter().flat_map(|v| v.to_le_bytes()).collect();
            (name, Dtype::F32, tensor.shape.clone(), bytes)
        })
        .collect();
    if let Some((names, count)) = counters {
        let bytes = count.to_le_bytes().to_vec();
        entries.extend(names.into_iter().map(|name| (name, Dtype::I64, Vec::new(), bytes.clone())));
    }
    let views = entries.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes);
        (name, view.expect("a tensor has as many values as its shape says"))
    });
    let metadata = info.map(|info| [(INFO.to_owned(), info)].into());
    safetensors::serialize(views, metadata).expect("tensors have names and sizes")
}

/// The tensors of a safetensors file; counters have no values.
pub(super) fn decode_tensors(contents: &[u8], path: &Path) -> Result<StateDict, Error> {
    let parsed = SafeTensors::deserialize(contents);
    let parsed = parsed.map_err(|cause| Error::Damaged { path: path.to_owned(), cause })?;
    let mut tensors = StateDict::new();
    for (name, view) in parsed.iter() {
        let number = match view.dtype() {
            Dtype::F32 => Some(Number::F32),
            Dtype::F16 => Some(Number::F16),
            Dtype::BF16 => Some(Number::Bf16),
            _ => None,
        };
        let values = match (number, view.dtype()) {
            (Some(number), _) => {
                view.data().chunks_exact(number.bytes()).map(|bytes| number.read(bytes)).collect()
            }
            (None, Dtype::I64) if name.ends_with("num_batches_tracked") => Vec::new(),
            (None, dtype) => {
                let problem = format!(
                    "tensor {name} is {dtype:?}, expected F32, F16 or BF16: convert the weights"
                );
                return Err(Error::Mismatch { path: path.to_owned(), problem });
            }
        };
        tensors.insert(name.to_owned(), Tensor { shape: view.shape().to_vec(), values });
    }
    check_finite(&tensors, path)?;
    Ok(tensors)
}

fn check_finite(tensors: &StateDict, path: &Path) -> Result<(), Error> {
    let Some((name, _)) = tensors.iter().find(|(_, tensor)| !tensor.is_finite()) else {
        return Ok(());
    };
    let problem =
        format!("tensor {name} has a value that is NaN or infinite: use another checkpoint");
    Err(Error::Mismatch { path: path.to_owned(), problem })
}
