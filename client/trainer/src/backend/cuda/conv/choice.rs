//! The choice among the plans that cuDNN proposes for a convolution.

use std::collections::BTreeMap;
use std::fmt;

use cudarc::cudnn::sys::cudnnBackendNumericalNote_t as Note;
use serde::{Deserialize, Serialize};

use crate::backend::cuda::Precision;

/// A configuration of an engine of cuDNN: the same choice gives the same kernels, and the same bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Choice {
    /// Number of the engine within its graph.
    pub(super) engine: i64,
    /// Values of the engine's knobs by cuDNN's number of the knob.
    pub(super) knobs: BTreeMap<u32, i64>,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "engine {}", self.engine)?;
        for (at, (knob, value)) in self.knobs.iter().enumerate() {
            write!(f, "{}{knob}={value}", if at == 0 { " with knobs " } else { " " })?;
        }
        Ok(())
    }
}

/// Why the arithmetic of an engine is not suitable, or `None` if it is.
///
/// Products are of the stored values, and sums are f32, added in an order that is the same in every run. In f32,
/// tensor cores would round the inputs to TF32. FFT and Winograd transform the inputs, whose rounding is not within
/// the tolerance of `selftest.rs`.
pub(super) fn unsuitable(notes: &[u32], precision: Precision) -> Option<&'static str> {
    let has = |note: Note| notes.contains(&(note as u32));
    let reasons = [
        (Note::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC, "not deterministic"),
        (Note::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS, "rounds its inputs"),
        (Note::CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION, "rounds its sums"),
        (Note::CUDNN_NUMERICAL_NOTE_FFT, "an FFT"),
        (Note::CUDNN_NUMERICAL_NOTE_WINOGRAD, "Winograd's transform"),
        (Note::CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_4x4, "Winograd's transform"),
        (Note::CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6, "Winograd's transform"),
        (Note::CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13, "Winograd's transform"),
    ];
    let tf32 = precision == Precision::F32 && has(Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE);
    let found = reasons.into_iter().find(|(note, _)| has(*note)).map(|(_, reason)| reason);
    found.or_else(|| tf32.then_some("TF32 on tensor cores"))
}

/// A plan must take at most this share of the time of one that the heuristics prefer.
const FASTER: f64 = 0.97;

/// The index of the fastest of the measured times, which are in the order of the heuristics. Within the noise of a
/// measurement, their order decides.
pub(super) fn fastest(times: &[f64]) -> usize {
    let mut best = 0;
    for (at, time) in times.iter().enumerate() {
        if *time < FASTER * times[best] {
            best = at;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_plan_is_chosen_only_if_it_is_faster_beyond_noise() {
        assert_eq!(fastest(&[1.0]), 0);
        assert_eq!(fastest(&[1.0, 0.98, 0.99]), 0);
        assert_eq!(fastest(&[1.0, 0.96, 0.95]), 1);
        assert_eq!(fastest(&[1.0, 2.0, 0.5]), 2);
        assert_eq!(fastest(&[f64::INFINITY, 1.0]), 1);
    }

    #[test]
    fn f32_never_uses_tensor_cores_and_nothing_rounds_or_varies() {
        let cores = [Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE as u32];
        assert_eq!(unsuitable(&cores, Precision::Bf16), None);
        assert_eq!(unsuitable(&cores, Precision::F32), Some("TF32 on tensor cores"));
        // 9 is that NaNs propagate.
        assert_eq!(unsuitable(&[9], Precision::F32), None);
        for note in 1..9 {
            for precision in [Precision::F32, Precision::Bf16] {
                assert!(unsuitable(&[0, note], precision).is_some(), "{note}");
            }
        }
    }
}
