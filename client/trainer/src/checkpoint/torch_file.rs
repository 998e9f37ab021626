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

/// A state dict as a file that `torch.load(FILE, weights_only=True)` reads.
///
/// # Errors
/// When it would be larger than 4 GiB.
pub(super) fn encode(model: &StateDict, batches_tracked: u64) -> Result<Vec<u8>, String> {
    let mut pickle = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    let mut files = Vec::new();
    let mut entry = |name: &str, class: &str, shape: &[usize], numbers: Vec<u8>| {
        let count = shape.iter().product();
        text(&mut pickle, name)?;
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut pickle, "storage")?;
        pickle.extend(format!("ctorch\n{class}\n").as_bytes());
        text(&mut pickle, &files.len().to_string())?;
        text(&mut pickle, "cpu")?;
        number(&mut pickle, count)?;
        // The storage, the offset 0, and shape and strides.
        pickle.extend(b"tQK\0(");
        for size in shape {
            number(&mut pickle, *size)?;
        }
        pickle.extend(b"t(");
        for dimension in 0..shape.len() {
            number(&mut pickle, shape[dimension + 1..].iter().product())?;
        }
        // No gradient, and no hooks.
        pickle.extend(b"t\x89ccollections\nOrderedDict\n)RtR");
        files.push(numbers);
        Ok::<_, String>(())
    };
    for (name, tensor) in model {
        let numbers = tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        entry(name, "FloatStorage", &tensor.shape, numbers)?;
        if let Some(norm) = name.strip_suffix("running_var") {
            let counter = format!("{norm}num_batches_tracked");
            entry(&counter, "LongStorage", &[], batches_tracked.to_le_bytes().to_vec())?;
        }
    }
    pickle.extend(b"u.");
    let data = files.into_iter().enumerate().map(|(i, numbers)| (format!("data/{i}"), numbers));
    let first =
        [("data.pkl", pickle), ("byteorder", b"little".to_vec()), ("version", b"3\n".to_vec())];
    let all = first.map(|(name, contents)| (name.to_owned(), contents)).into_iter().chain(data);
    let all: Vec<_> = all.map(|(name, contents)| (format!("archive/{name}"), contents)).collect();
    zip::write(&all)
}

fn text(pickle: &mut Vec<u8>, text: &str) -> Result<(), String> {
    let len = u32::try_from(text.len()).map_err(|error| error.to_string())?;
    pickle.push(b'X');
    pickle.extend(len.to_le_bytes());
    pickle.extend(text.as_bytes());
    Ok(())
}

fn number(pickle: &mut Vec<u8>, number: usize) -> Result<(), String> {
    let number =
        i32::try_from(number).map_err(|error| format!("a tensor is too large: {error}"))?;
    pickle.push(b'J');
    pickle.extend(number.to_le_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let tensor = |shape: &[usize]| {
            let count: u16 = shape.iter().map(|n| u16::try_from(*n).unwrap()).product();
            Tensor { shape: shape.to_vec(), values: (0..count).map(f32::from).collect() }
        };
        let model = [
            ("conv1.weight", tensor(&[4, 3, 2, 2])),
            ("bn1.running_mean", tensor(&[4])),
            ("bn1.running_var", tensor(&[4])),
            ("fc.weight", tensor(&[2, 4])),
        ];
        let model: StateDict =
            model.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
        let mut read = decode(&encode(&model, 9).unwrap(), Path::new("file")).unwrap();
        let counter = read.remove("bn1.num_batches_tracked").unwrap();
        assert_eq!(counter, Tensor { shape: vec![], values: vec![] });
        assert_eq!(read, model);
    }
}
