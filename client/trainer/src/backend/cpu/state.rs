//! Converts the backend's values to tensors with timm's names and layout, and back.

use std::ops::Range;

use super::{CpuBackend, conv};
use crate::model::{Graph, Parameter};
use crate::simd::{Real, to_f32};
use crate::state::{StateDict, Tensor, TrainState};

/// For each value of a parameter in timm's layout, its index in the backend's layout.
fn layout(parameter: &Parameter) -> impl Iterator<Item = usize> + '_ {
    let numbers: usize = parameter.shape.iter().product();
    (0..numbers)
        .map(|i| if parameter.kind.decays() { conv::panel_index(&parameter.shape, i) } else { i })
}

impl<T: Real> CpuBackend<T> {
    /// The values of a parameter in timm's layout.
    pub(crate) fn parameter(&self, index: usize) -> Vec<T> {
        self.read(&self.parameters, index)
    }

    /// The gradient of a parameter in timm's layout.
    pub(crate) fn gradient(&self, index: usize) -> Vec<T> {
        self.read(&self.gradients, index)
    }

    /// The running means and variances of a batch norm.
    pub(crate) fn running(&self, norm: usize) -> (&[T], &[T]) {
        let running = &self.running[self.running_ranges[norm].clone()];
        running.split_at(running.len() / 2)
    }

    fn read(&self, from: &[T], index: usize) -> Vec<T> {
        let stored = &from[self.parameter_ranges[index].clone()];
        layout(&self.training.plan.graph.parameters[index]).map(|i| stored[i]).collect()
    }

    pub(super) fn to_state(&self) -> TrainState {
        let mut state = TrainState {
            model: self.tensors(&self.parameters, Some(&self.running)),
            updates: self.updates,
            batches_tracked: self.batches_tracked,
            loss_scaler: None,
            model_ema: match &self.ema {
                (parameters, _) if parameters.is_empty() => StateDict::new(),
                (parameters, running) => self.tensors(parameters, Some(running)),
            },
            ..TrainState::default()
        };
        let moments = [&self.exp_avg, &self.exp_avg_sq];
        let Ok(()) = state.read_optimizer::<std::convert::Infallible>(self.state_kind, |which| {
            Ok(self.tensors(moments[which], None))
        });
        state
    }

    pub(super) fn load_state(&mut self, state: &TrainState) -> Result<(), String> {
        let graph = &self.training.plan.graph;
        state.check(graph)?;
        let put = |tensors: &StateDict, to: &mut [T], running: Option<&mut Vec<T>>| {
            fill(graph, &self.parameter_ranges, tensors, to);
            if let Some(running) = running {
                fill_running(graph, &self.running_ranges, tensors, running);
            }
        };
        put(&state.model, &mut self.parameters, Some(&mut self.running));
        for (tensors, to) in
            state.optimizer_tensors().into_iter().zip([&mut self.exp_avg, &mut self.exp_avg_sq])
        {
            to.fill(T::ZERO);
            if !tensors.is_empty() {
                put(tensors, to, None);
            }
        }
        self.state_kind = state.state_kind();
        self.ema = (Vec::new(), Vec::new());
        if !state.model_ema.is_empty() {
            self.ema = (self.parameters.clone(), self.running.clone());
            put(&state.model_ema, &mut self.ema.0, Some(&mut self.ema.1));
        }
        self.gradients.fill(T::ZERO);
        (self.updates, self.batches_tracked) = (state.updates, state.batches_tracked);
        Ok(())
    }

    fn tensors(&self, from: &[T], running: Option<&[T]>) -> StateDict {
        let graph = &self.training.plan.graph;
        let mut tensors: StateDict = graph
            .parameters
            .iter()
            .enumerate()
            .map(|(i, p)| {
                (
                    p.name.clone(),
                    Tensor {
                        shape: p.shape.clone(),
                        values: self.read(from, i).into_iter().map(to_f32).collect(),
                    },
                )
            })
            .collect();
        for (norm, range) in graph.norms.iter().zip(&self.running_ranges) {
            let Some(running) = running else { break };
            let parts = running[range.clone()].chunks_exact(norm.channels);
            for (numbers, name) in parts.zip(["running_mean", "running_var"]) {
                let values = numbers.iter().map(|n| to_f32(*n)).collect();
                tensors.insert(
                    format!("{}.{name}", norm.name),
                    Tensor { shape: vec![norm.channels], values },
                );
            }
        }
        tensors
    }
}

fn fill<T: Real>(graph: &Graph, stored: &[Range<usize>], tensors: &StateDict, to: &mut [T]) {
    to.fill(T::ZERO);
    for (parameter, range) in graph.parameters.iter().zip(stored) {
        let to = &mut to[range.clone()];
        for (i, number) in layout(parameter).zip(&tensors[&parameter.name].values) {
            to[i] = T::from_f64(f64::from(*number));
        }
    }
}

fn fill_running<T: Real>(
    graph: &Graph,
    stored: &[Range<usize>],
    tensors: &StateDict,
    to: &mut [T],
) {
    for (norm, range) in graph.norms.iter().zip(stored) {
        let parts = to[range.clone()].chunks_exact_mut(norm.channels);
        for (to, name) in parts.zip(["running_mean", "running_var"]) {
            for (to, number) in to.iter_mut().zip(&tensors[&format!("{}.{name}", norm.name)].values)
            {
                *to = T::from_f64(f64::from(*number));
            }
        }
    }
}
