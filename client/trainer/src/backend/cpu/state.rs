//! The backend's numbers by timm's names and in timm's layout, and back.

use std::ops::Range;

use super::{Cpu, Real, conv};
use crate::backend::{Array, State, Tensors};
use crate::model::{Graph, Parameter};

/// Rounds to f32.
#[expect(clippy::cast_possible_truncation, reason = "rounding is what it is for")]
pub(super) fn single<T: Real>(number: T) -> f32 {
    number.to_f64() as f32
}

/// Place of each number of a parameter in its stored form.
fn places(parameter: &Parameter) -> impl Iterator<Item = usize> + '_ {
    let numbers: usize = parameter.shape.iter().product();
    (0..numbers).map(|i| if parameter.kind.decays() { conv::place(&parameter.shape, i) } else { i })
}

impl<T: Real> Cpu<T> {
    /// A parameter's numbers in timm's layout.
    pub fn parameter(&self, index: usize) -> Vec<T> {
        self.read(&self.parameters, index)
    }

    /// All parameters, in the backend's own layout.
    pub fn parameters_mut(&mut self) -> &mut [T] {
        &mut self.parameters
    }

    /// One of them.
    pub fn parameter_mut(&mut self, index: usize) -> &mut [T] {
        &mut self.parameters[self.places[index].clone()]
    }

    /// Its gradient.
    pub fn gradient(&self, index: usize) -> Vec<T> {
        self.read(&self.gradients, index)
    }

    /// The running means and variances of a norm.
    pub fn running(&self, norm: usize) -> (&[T], &[T]) {
        let running = &self.running[self.running_places[norm].clone()];
        running.split_at(running.len() / 2)
    }

    fn read(&self, from: &[T], index: usize) -> Vec<T> {
        let stored = &from[self.places[index].clone()];
        places(&self.training.plan.graph.parameters[index]).map(|i| stored[i]).collect()
    }

    pub(super) fn to_state(&self) -> State {
        let used = self.updates > 0;
        State {
            model: self.tensors(&self.parameters, Some(&self.running)),
            updates: self.updates,
            passes: self.passes,
            means: if used { self.tensors(&self.means, None) } else { Tensors::new() },
            squares: if used { self.tensors(&self.squares, None) } else { Tensors::new() },
            average: match &self.average {
                (parameters, _) if parameters.is_empty() => Tensors::new(),
                (parameters, running) => self.tensors(parameters, Some(running)),
            },
        }
    }

    pub(super) fn take_state(&mut self, state: &State) -> Result<(), String> {
        let graph = &self.training.plan.graph;
        state.check(graph)?;
        let put = |tensors: &Tensors, to: &mut [T], running: Option<&mut Vec<T>>| {
            fill(graph, &self.places, tensors, to);
            if let Some(running) = running {
                fill_running(graph, &self.running_places, tensors, running);
            }
        };
        put(&state.model, &mut self.parameters, Some(&mut self.running));
        self.means.fill(T::ZERO);
        self.squares.fill(T::ZERO);
        if !state.means.is_empty() {
            put(&state.means, &mut self.means, None);
            put(&state.squares, &mut self.squares, None);
        }
        self.average = (Vec::new(), Vec::new());
        if !state.average.is_empty() {
            self.average = (self.parameters.clone(), self.running.clone());
            put(&state.average, &mut self.average.0, Some(&mut self.average.1));
        }
        self.gradients.fill(T::ZERO);
        (self.updates, self.passes) = (state.updates, state.passes);
        Ok(())
    }

    fn tensors(&self, from: &[T], running: Option<&[T]>) -> Tensors {
        let graph = &self.training.plan.graph;
        let mut tensors: Tensors = graph
            .parameters
            .iter()
            .enumerate()
            .map(|(i, p)| {
                (
                    p.name.clone(),
                    Array {
                        shape: p.shape.clone(),
                        values: self.read(from, i).into_iter().map(single).collect(),
                    },
                )
            })
            .collect();
        for (norm, place) in graph.norms.iter().zip(&self.running_places) {
            let Some(running) = running else { break };
            let parts = running[place.clone()].chunks_exact(norm.channels);
            for (numbers, name) in parts.zip(["running_mean", "running_var"]) {
                let values = numbers.iter().map(|n| single(*n)).collect();
                tensors.insert(
                    format!("{}.{name}", norm.name),
                    Array { shape: vec![norm.channels], values },
                );
            }
        }
        tensors
    }
}

fn fill<T: Real>(graph: &Graph, stored: &[Range<usize>], tensors: &Tensors, to: &mut [T]) {
    to.fill(T::ZERO);
    for (parameter, place) in graph.parameters.iter().zip(stored) {
        let to = &mut to[place.clone()];
        for (i, number) in places(parameter).zip(&tensors[&parameter.name].values) {
            to[i] = T::from_f64(f64::from(*number));
        }
    }
}

fn fill_running<T: Real>(graph: &Graph, stored: &[Range<usize>], tensors: &Tensors, to: &mut [T]) {
    for (norm, place) in graph.norms.iter().zip(stored) {
        let parts = to[place.clone()].chunks_exact_mut(norm.channels);
        for (to, name) in parts.zip(["running_mean", "running_var"]) {
            for (to, number) in to.iter_mut().zip(&tensors[&format!("{}.{name}", norm.name)].values)
            {
                *to = T::from_f64(f64::from(*number));
            }
        }
    }
}
