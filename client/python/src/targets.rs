//! Dense targets.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::array::{Array, floats, integers};
use crate::element::Element;
use crate::memory::Memory;

/// The targets of samples with two labels, as timm's `mixup_target` computes them: bit for bit.
///
/// Each of its operations rounds to 32 bits, and none is fused with another.
#[pyfunction]
pub(crate) fn dense_targets(
    py: Python<'_>,
    label_a: &Bound<'_, Array>,
    label_b: &Bound<'_, Array>,
    lam: &Bound<'_, Array>,
    num_classes: usize,
    smoothing: f64,
) -> PyResult<Array> {
    let (a, b) = (integers(label_a, "labels")?, integers(label_b, "labels")?);
    let lam = floats(lam, "weights")?;
    if a.len() != b.len() || a.len() != lam.len() {
        return Err(PyValueError::new_err("expected a weight and two labels for each sample"));
    }
    let class = |label: &i64| usize::try_from(*label).ok().filter(|class| *class < num_classes);
    let classes = |labels: &[i64]| {
        labels.iter().map(|label| class(label).ok_or(*label)).collect::<Result<Vec<_>, i64>>()
    };
    let outside = |label: i64| {
        PyValueError::new_err(format!(
            "invalid number of classes {num_classes}: a sample has label {label}, expected more classes"
        ))
    };
    let (a, b) = (classes(&a).map_err(outside)?, classes(&b).map_err(outside)?);
    if !(0.0..=1.0).contains(&smoothing) {
        let message = format!("invalid smoothing {smoothing}: expected a number from 0 to 1");
        return Err(PyValueError::new_err(message));
    }
    let count = lam.len();
    let values = py.detach(|| rows(&a, &b, &lam, num_classes, smoothing));
    Ok(Array::new(Memory::writable(values), Element::F32, &[count, num_classes]))
}

#[expect(clippy::cast_possible_truncation, reason = "torch rounds these numbers to 32 bits, too")]
fn rows(a: &[usize], b: &[usize], lam: &[f32], num_classes: usize, smoothing: f64) -> Vec<f32> {
    let off = smoothing / num_classes as f64;
    let on = (1.0 - smoothing + off) as f32;
    let off = off as f32;
    let mut values = Vec::with_capacity(a.len() * num_classes);
    for ((a, b), lam) in a.iter().zip(b).zip(lam) {
        let rest = (1.0 - f64::from(*lam)) as f32;
        let mixed = |of_a: f32, of_b: f32| of_a * lam + of_b * rest;
        let start = values.len();
        values.resize(start + num_classes, mixed(off, off));
        let row = &mut values[start..];
        row[*a] = mixed(on, if a == b { on } else { off });
        if a != b {
            row[*b] = mixed(off, on);
        }
    }
    values
}
