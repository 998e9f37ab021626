//! Tensors as safetensors files.

use std::ffi::OsStr;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::{disk, metadata};
use crate::Error;
use crate::state::{StateDict, Tensor};

/// Writes a model in timm's layout, atomically.
///
/// # Errors
/// [`Error::Write`] if the file cannot be written.
pub fn write_model(path: &Path, model: &StateDict, batches_tracked: u64) -> Result<(), Error> {
    disk::replace(path, &encode_model(model, batches_tracked, None))
}

/// A model as a safetensors file, with a value of its metadata.
pub(super) fn encode_model(
    model: &StateDict,
    batches_tracked: u64,
    metadata: Option<(&str, String)>,
) -> Vec<u8> {
    let norms = model.keys().filter_map(|name| name.strip_suffix("running_mean"));
    let counters = norms.map(|norm| format!("{norm}num_batches_tracked")).collect();
    let tensors = model.iter().map(|(name, tensor)| (name.clone(), tensor));
    encode_tensors(tensors, Some((counters, batches_tracked)), metadata)
}

/// Reads a model that this trainer or timm wrote. One that is part of a checkpoint with checksums is compared
/// with its own.
///
/// # Errors
/// [`Error::Read`] if the file cannot be read, [`Error::Damaged`] if it is not a complete safetensors
/// file, [`Error::Corrupt`] if it is not what the checkpoint's checksum was computed of, and
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

/// The model of a safetensors file.
pub(super) fn decode_model(contents: &[u8], path: &Path) -> Result<StateDict, Error> {
    let tensors = decode_tensors(contents, path)?.into_iter();
    Ok(tensors.filter(|(name, _)| !name.ends_with("num_batches_tracked")).collect())
}

/// Tensors, and counters that all have one value, as a safetensors file.
pub(super) fn encode_tensors<'a>(
    tensors: impl Iterator<Item = (String, &'a Tensor)>,
    counters: Option<(Vec<String>, u64)>,
    metadata: Option<(&str, String)>,
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
    let metadata = metadata.map(|(key, value)| std::iter::once((key.to_owned(), value)).collect());
    safetensors::serialize(views, metadata).expect("tensors have names and sizes")
}

/// The tensors of a safetensors file; counters have no values.
pub(super) fn decode_tensors(contents: &[u8], path: &Path) -> Result<StateDict, Error> {
    let parsed = SafeTensors::deserialize(contents);
    let parsed = parsed.map_err(|cause| Error::Damaged { path: path.to_owned(), cause })?;
    let mut tensors = StateDict::new();
    for (name, view) in parsed.iter() {
        let values = match view.dtype() {
            Dtype::F32 => {
                let numbers = view.data().as_chunks::<4>().0;
                numbers.iter().map(|b| f32::from_le_bytes(*b)).collect()
            }
            Dtype::I64 if name.ends_with("num_batches_tracked") => Vec::new(),
            dtype => {
                let problem =
                    format!("tensor {name} is {dtype:?}, expected F32: convert the weights");
                return Err(Error::Mismatch { path: path.to_owned(), problem });
            }
        };
        let tensor = Tensor { shape: view.shape().to_vec(), values };
        if !tensor.is_finite() {
            let problem = format!(
                "tensor {name} has a value that is NaN or infinite: use another checkpoint"
            );
            return Err(Error::Mismatch { path: path.to_owned(), problem });
        }
        tensors.insert(name.to_owned(), tensor);
    }
    Ok(tensors)
}
