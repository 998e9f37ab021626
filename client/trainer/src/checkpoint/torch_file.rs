//! State dicts as `torch.save` writes them: a zip archive of a pickle, which describes tensors, and of their numbers.

use std::path::Path;

use super::number::Number;
use super::pickle::{self, Pickle, Value};
use super::zip;
use crate::Error;
use crate::state::{StateDict, Tensor};

/// How every zip archive starts.
pub(super) const MAGIC: &[u8] = b"PK\x03\x04";

/// Keys under which training scripts store the state dict, by timm and torchvision.
const NESTED: [&str; 2] = ["state_dict", "model"];

/// The tensors of a file that `torch.save` wrote. Those of integers, which are counters, have no values.
pub(super) fn decode(contents: &[u8], path: &Path) -> Result<StateDict, Error> {
    let mismatch = |problem| Error::Mismatch { path: path.to_owned(), problem };
    state_dict(contents).map_err(mismatch)
}

fn state_dict(contents: &[u8]) -> Result<StateDict, String> {
    let files = zip::read(contents)?;
    // All names start with that of one folder.
    let file = |name: &str| {
        let of_name = |path: &str| path.split_once('/').is_some_and(|(_, rest)| rest == name);
        let found = files.iter().find(|(path, _)| of_name(path)).map(|(_, contents)| *contents);
        found.ok_or_else(|| format!("it has no {name}: it was not written by torch.save"))
    };
    if file("byteorder").is_ok_and(|order| order != b"little") {
        return Err("its numbers are big-endian: convert it to safetensors".to_owned());
    }
    let pickle = pickle::read(file("data.pkl")?)?;
    let mut tensors = StateDict::new();
    for (name, value) in entries(&pickle)? {
        let (Value::Text(name), Value::Tensor { .. }) =
            (&pickle.values[*name], &pickle.values[*value])
        else {
            return Err("its state dict has something other than named tensors".to_owned());
        };
        let numbers = |storage: &str| file(&format!("data/{storage}"));
        let tensor = tensor(&pickle, *value, numbers);
        let tensor = tensor.map_err(|problem| format!("tensor {name} {problem}"))?;
        // DistributedDataParallel puts all names under `module`.
        tensors.insert(name.strip_prefix("module.").unwrap_or(name).to_owned(), tensor);
    }
    Ok(tensors)
}

/// The entries of the state dict, which is the dict of the pickle or in it.
fn entries(pickle: &Pickle) -> Result<&[(usize, usize)], String> {
    let none = || "it is not a state dict: expected named tensors".to_owned();
    let Value::Dict(entries) = &pickle.values[pickle.root] else { return Err(none()) };
    for nested in NESTED {
        let is_nested =
            |key: usize| matches!(&pickle.values[key], Value::Text(key) if key == nested);
        if let Some((_, value)) = entries.iter().find(|(key, _)| is_nested(*key))
            && let Value::Dict(entries) = &pickle.values[*value]
        {
            return Ok(entries);
        }
    }
    Ok(entries)
}

fn tensor<'a>(
    pickle: &Pickle,
    index: usize,
    numbers: impl FnOnce(&str) -> Result<&'a [u8], String>,
) -> Result<Tensor, String> {
    let damaged = || "does not fit its storage".to_owned();
    let Value::Tensor { storage, offset, shape, strides } = &pickle.values[index] else {
        return Err(damaged());
    };
    let Value::Storage { dtype, file } = &pickle.values[*storage] else { return Err(damaged()) };
    let dimensions: Result<Vec<usize>, _> = shape.iter().map(|n| usize::try_from(*n)).collect();
    let dimensions = dimensions.map_err(|error| format!("is too large: {error}"))?;
    if *dtype == "int64" {
        return Ok(Tensor { shape: dimensions, values: Vec::new() });
    }
    let number = Number::named(dtype).ok_or_else(|| {
        format!("is {dtype}, expected float32, float16 or bfloat16: convert the weights")
    })?;
    let stored = numbers(file)?;
    let available = (stored.len() / number.bytes()) as u64;
    let count = shape.iter().try_fold(1_u64, |count, n| count.checked_mul(*n));
    if shape.len() != strides.len() || count.is_none_or(|count| count > available) {
        return Err(damaged());
    }
    let mut values = Vec::new();
    let mut at = vec![0; shape.len()];
    for _ in 0..count.unwrap_or(0) {
        let place = at.iter().zip(strides).try_fold(*offset, |place, (at, stride)| {
            stride.checked_mul(*at).and_then(|step| place.checked_add(step))
        });
        let place = place.filter(|place| *place < available).ok_or_else(damaged)?;
        let place = usize::try_from(place).map_err(|error| error.to_string())?;
        values.push(number.read(&stored[place * number.bytes()..]));
        // Counts up in C order.
        for (at, n) in at.iter_mut().zip(shape).rev() {
            *at += 1;
            if *at < *n {
                break;
            }
            *at = 0;
        }
    }
    Ok(Tensor { shape: dimensions, values })
}
