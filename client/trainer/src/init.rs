//! Initial weights, from the distributions of timm 1.0.31: convolutions are normal with standard
//! deviation sqrt(2 / fan-out) (`kaiming_normal_`), the classifier is uniform within 1 / sqrt(fan-in)
//! (`nn.Linear`), scales of batch norms are 1, except 0 for the last one of each block, and shifts are
//! 0. Each parameter has its own random stream.

use std::f64::consts::TAU;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};

use crate::model::{Graph, ParamKind, Parameter};
use crate::state::{Tensor, TrainState};

/// Part of the key, so that draws for other purposes with the same seed are independent.
const PURPOSE: u64 = u64::from_le_bytes(*b"weights\0");

/// The state of an untrained model.
pub fn initial_state(graph: &Graph, seed: u64) -> TrainState {
    let mut state = TrainState::default();
    let matrix = graph.parameters.iter().find(|p| p.kind == ParamKind::Matrix);
    let features = matrix.map_or(1, |p| p.shape[1]);
    for (index, parameter) in graph.parameters.iter().enumerate() {
        let values = draw(parameter, features, seed, index as u64);
        let tensor = Tensor { shape: parameter.shape.clone(), values };
        state.model.insert(parameter.name.clone(), tensor);
    }
    for norm in &graph.norms {
        for (name, value) in [("running_mean", 0.0), ("running_var", 1.0)] {
            let tensor = Tensor { shape: vec![norm.channels], values: vec![value; norm.channels] };
            state.model.insert(format!("{}.{name}", norm.name), tensor);
        }
    }
    state
}

#[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
fn draw(parameter: &Parameter, fan_in: usize, seed: u64, index: u64) -> Vec<f32> {
    let count: usize = parameter.shape.iter().product();
    let mut key = [0; 32];
    for (part, value) in key.chunks_exact_mut(8).zip([seed, index, 0, PURPOSE]) {
        part.copy_from_slice(&value.to_le_bytes());
    }
    let mut stream = ChaCha8Rng::from_seed(key);
    // Uniform in (0, 1), never 0, so that its logarithm is finite.
    let mut uniform = || (f64::from(stream.next_u32()) + 0.5) / 4_294_967_296.0;
    match parameter.kind {
        ParamKind::Conv => {
            let fan_out: usize =
                parameter.shape[0] * parameter.shape[2..].iter().product::<usize>();
            let deviation = (2.0 / fan_out as f64).sqrt();
            let mut normal = || (-2.0 * libm::log(uniform())).sqrt() * libm::cos(TAU * uniform());
            (0..count).map(|_| (deviation * normal()) as f32).collect()
        }
        ParamKind::Matrix | ParamKind::Bias => {
            let bound = 1.0 / (fan_in as f64).sqrt();
            (0..count).map(|_| (bound * (2.0 * uniform() - 1.0)) as f32).collect()
        }
        ParamKind::Gamma(last) => vec![if last { 0.0 } else { 1.0 }; count],
        ParamKind::Beta => vec![0.0; count],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Architecture;

    #[test]
    fn standard_deviations_match_timm() {
        let graph = Graph::new(&Architecture::named("resnet18", 1000).unwrap(), 32, 32);
        let state = initial_state(&graph, 7);
        // Measured on weights that timm drew.
        let wanted = [
            ("conv1.weight", 0.025_458),
            ("layer1.0.conv1.weight", 0.059_254),
            ("layer2.0.downsample.0.weight", 0.123_494),
            ("layer4.1.conv2.weight", 0.020_831),
            ("fc.weight", 0.025_520),
            ("fc.bias", 0.026_001),
        ];
        for (name, deviation) in wanted {
            let values = &state.model[name].values;
            let square: f64 = values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
            let ours = (square / values.len() as f64).sqrt();
            let error = 5.0 / (2.0 * values.len() as f64).sqrt();
            assert!((ours / deviation - 1.0).abs() < 2.0 * error, "{name}: {ours} {deviation}");
        }
        assert!(state.model["layer1.0.bn2.weight"].values.iter().all(|v| v.abs() < 0.5));
        assert!(state.model["layer1.0.bn1.weight"].values.iter().all(|v| *v > 0.5));
    }
}
