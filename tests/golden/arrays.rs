//! Arrays of a golden `.safetensors` file.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

use forebay_trainer::Tensor;
use safetensors::{Dtype, SafeTensors};

/// A file of arrays.
pub(crate) struct Arrays(Vec<u8>);

impl Arrays {
    pub(crate) fn read(path: &Path) -> Self {
        Self(std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.file().names().into_iter().map(str::to_owned).collect()
    }

    /// The numbers of an f32, f64 or i64 array. The labels among them are small enough for f64.
    pub(crate) fn get(&self, name: &str) -> Vec<f64> {
        let file = self.file();
        let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let bytes = view.data();
        match view.dtype() {
            Dtype::F32 => bytes
                .chunks_exact(4)
                .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
                .collect(),
            Dtype::F64 => {
                bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
            }
            #[expect(clippy::cast_precision_loss, reason = "labels are small")]
            Dtype::I64 => bytes
                .chunks_exact(8)
                .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64)
                .collect(),
            dtype => panic!("{name} is {dtype:?}"),
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.file().tensor(name).is_ok()
    }

    #[expect(clippy::cast_possible_truncation, reason = "stored as f32")]
    pub(crate) fn array(&self, name: &str) -> Tensor {
        let shape = self.file().tensor(name).unwrap().shape().to_vec();
        Tensor { shape, values: self.get(name).into_iter().map(|x| x as f32).collect() }
    }
}

/// The largest absolute difference.
pub(crate) fn apart(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// The Euclidean distance, relative to the length of the second.
pub(crate) fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let difference: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
    let length: f64 = b.iter().map(|b| square(*b)).sum();
    (difference / length.max(f64::MIN_POSITIVE)).sqrt()
}

/// The largest difference, relative to the largest value of the second.
pub(crate) fn relative(a: &[f64], b: &[f64]) -> f64 {
    apart(a, b) / b.iter().fold(f64::MIN_POSITIVE, |max, x| max.max(x.abs()))
}

/// Fails if an error is above a limit.
pub(crate) fn within(what: &str, error: f64, limit: f64) -> Result<(), String> {
    if error <= limit {
        Ok(())
    } else {
        Err(format!("{what}: error {error:.3e}, limit {limit:.0e}"))
    }
}
