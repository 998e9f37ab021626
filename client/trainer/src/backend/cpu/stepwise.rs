//! The CPU backend operation by operation, for tests that compare it with other implementations.
//!
//! Tests reach it through a trait object. The kernels are generic, and a crate that named their types would compile
//! them again, with its own lower optimization.

use super::CpuBackend;
use crate::backend::{Backend, BackendConfig};
use crate::batch::Batch;
use crate::drop_path::DropPath;
use crate::model::TensorId;
use crate::simd::Real;

/// A network that runs one operation at a time. All values are converted to f64.
pub trait Stepwise: Backend {
    /// Copies images into the first tensor. The batch must fit the network.
    fn load_images(&mut self, batch: &Batch, train: bool);

    /// Runs one operation forward.
    fn forward_op(&mut self, op: usize, samples: usize, train: bool, drop_path: Option<&DropPath>);

    /// Runs one operation backward, from the gradient of its output.
    fn backward_op(&mut self, op: usize, samples: usize, drop_path: Option<&DropPath>);

    /// Updates the running statistics by those of the last microbatch.
    fn update_running_statistics(&mut self);

    /// The logits of the last forward pass.
    fn last_logits(&self, samples: usize, train: bool) -> Vec<f64>;

    /// Sets the gradient of the logits.
    fn set_logits_gradient(&mut self, samples: usize, gradient: &[f64]);

    /// Changes the values of a tensor, which are valid between its first and its last use.
    fn map_values(&mut self, tensor: TensorId, samples: usize, train: bool, map: fn(f64) -> f64);

    /// Changes the gradient of a tensor, which is valid between its first and its last use.
    fn map_gradient(&mut self, tensor: TensorId, samples: usize, map: fn(f64) -> f64);

    /// Changes a parameter.
    fn map_parameter(&mut self, index: usize, map: fn(f64) -> f64);

    /// All parameters in the backend's layout.
    fn parameters(&self) -> Vec<f64>;

    /// Sets all parameters.
    fn set_parameters(&mut self, parameters: &[f64]);

    /// The values of a parameter in timm's layout.
    fn parameter(&self, index: usize) -> Vec<f64>;

    /// The gradient of a parameter in timm's layout.
    fn gradient(&self, index: usize) -> Vec<f64>;

    /// The running means and then variances of a batch norm.
    fn running(&self, norm: usize) -> Vec<f64>;
}

/// The CPU backend in f32, as it trains.
pub fn stepwise_f32(config: BackendConfig) -> Box<dyn Stepwise> {
    Box::new(CpuBackend::<f32>::new(config))
}

/// The CPU backend in f64, for exact comparisons.
pub fn stepwise_f64(config: BackendConfig) -> Box<dyn Stepwise> {
    Box::new(CpuBackend::<f64>::new(config))
}

fn wide<T: Real>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| value.to_f64()).collect()
}

fn set<T: Real>(values: &mut [T], to: &[f64]) {
    for (value, to) in values.iter_mut().zip(to) {
        *value = T::from_f64(*to);
    }
}

fn map_all<T: Real>(values: &mut [T], map: fn(f64) -> f64) {
    for value in values {
        *value = T::from_f64(map(value.to_f64()));
    }
}

impl<T: Real> Stepwise for CpuBackend<T> {
    fn load_images(&mut self, batch: &Batch, train: bool) {
        self.load_images(batch, train);
    }

    fn forward_op(&mut self, op: usize, samples: usize, train: bool, drop_path: Option<&DropPath>) {
        self.forward_op(op, samples, train, drop_path);
    }

    fn backward_op(&mut self, op: usize, samples: usize, drop_path: Option<&DropPath>) {
        self.backward_op(op, samples, drop_path);
    }

    fn update_running_statistics(&mut self) {
        self.update_running_statistics();
    }

    fn last_logits(&self, samples: usize, train: bool) -> Vec<f64> {
        wide(self.last_logits(samples, train))
    }

    fn set_logits_gradient(&mut self, samples: usize, gradient: &[f64]) {
        self.set_logits_gradient(samples, |_, to| set(to, gradient));
    }

    fn map_values(&mut self, tensor: TensorId, samples: usize, train: bool, map: fn(f64) -> f64) {
        map_all(self.values_mut(tensor, samples, train), map);
    }

    fn map_gradient(&mut self, tensor: TensorId, samples: usize, map: fn(f64) -> f64) {
        map_all(self.gradient_mut(tensor, samples), map);
    }

    fn map_parameter(&mut self, index: usize, map: fn(f64) -> f64) {
        let range = self.parameter_ranges[index].clone();
        map_all(&mut self.parameters[range], map);
    }

    fn parameters(&self) -> Vec<f64> {
        wide(&self.parameters)
    }

    fn set_parameters(&mut self, parameters: &[f64]) {
        set(&mut self.parameters, parameters);
    }

    fn parameter(&self, index: usize) -> Vec<f64> {
        wide(&self.parameter(index))
    }

    fn gradient(&self, index: usize) -> Vec<f64> {
        wide(&self.gradient(index))
    }

    fn running(&self, norm: usize) -> Vec<f64> {
        let (means, variances) = self.running(norm);
        [wide(means), wide(variances)].concat()
    }
}
