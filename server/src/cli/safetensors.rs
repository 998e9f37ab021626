//! Writing safetensors files, byte for byte the same for the same content.
//!
//! The `safetensors` crate takes metadata as a `HashMap`, whose order differs from run to run. The format
//! is small enough to be written here: the length of the header as a little-endian `u64`, the header as
//! JSON, padded with spaces to eight bytes, then the tensors one after the other.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use serde_json::{Map, Value, json};

/// A tensor: its name, its type by the format's name, its shape, and its bytes in little-endian.
#[derive(Debug)]
pub(super) struct Tensor<'a> {
    pub(super) name: &'static str,
    pub(super) dtype: &'static str,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: &'a [u8],
}

/// Writes tensors in order. To keep each aligned, tensors of larger types must come first.
pub(super) fn write(
    path: &Path,
    metadata: &[(&str, String)],
    tensors: &[Tensor<'_>],
) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let header = header(metadata, tensors);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    for tensor in tensors {
        file.write_all(tensor.bytes)?;
    }
    file.flush()
}

fn header(metadata: &[(&str, String)], tensors: &[Tensor<'_>]) -> String {
    let metadata: Map<String, Value> =
        metadata.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    let mut header = Map::from_iter([("__metadata__".to_owned(), Value::Object(metadata))]);
    let mut offset = 0;
    for Tensor { name, dtype, shape, bytes } in tensors {
        let end = offset + bytes.len();
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [offset, end]});
        header.insert((*name).to_owned(), entry);
        offset = end;
    }
    let mut header = Value::Object(header).to_string();
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    header
}

#[cfg(test)]
mod tests {
    use safetensors::{Dtype, SafeTensors};

    use super::*;

    #[test]
    fn a_file_is_readable_and_the_same_every_time() {
        let folder = tempfile::tempdir().unwrap();
        let (labels, pixels) = ([7, 0, 0, 0, 0, 0, 0, 0], [1, 2, 3]);
        let metadata: Vec<_> =
            ["epoch", "step", "seed", "xxh3"].map(|key| (key, format!("of {key}"))).into();
        let write_to = |name: &str| {
            let path = folder.path().join(name);
            let tensors = [
                Tensor { name: "label", dtype: "I64", shape: vec![1], bytes: &labels },
                Tensor { name: "pixels", dtype: "U8", shape: vec![1, 1, 3], bytes: &pixels },
            ];
            write(&path, &metadata, &tensors).unwrap();
            std::fs::read(path).unwrap()
        };
        let bytes = write_to("a");
        assert_eq!(write_to("b"), bytes);
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let pixels_view = file.tensor("pixels").unwrap();
        assert_eq!((pixels_view.dtype(), pixels_view.data()), (Dtype::U8, &pixels[..]));
        assert_eq!(pixels_view.shape(), [1, 1, 3]);
        assert_eq!(file.tensor("label").unwrap().data(), labels);
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let read = header.metadata().as_ref().unwrap();
        assert!(metadata.iter().all(|(key, value)| read.get(*key) == Some(value)));
    }
}
