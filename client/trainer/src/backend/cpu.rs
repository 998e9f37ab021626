//! The CPU backend, over f32 to train and f64 to check. It runs the graph's operations one after the
//! other, each on all cores; the same input gives the same bits on any number of threads.

mod conv;
mod gather;
mod norm;
mod pass;
mod pool;
mod product;
mod real;
pub(in crate::backend) mod state;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod twins;

use std::ops::Range;

pub use real::Real;

use conv::Convolution;
use real::PANEL;

use crate::Error;
use crate::backend::{Backend, Batch, Outcome, Part, Pixels, State, normalised};
use crate::lamb::{Lamb, Step, Sums, Tensor};
use crate::memory::Plan;
use crate::model::{Graph, Op};
use crate::ranks::Ranks;

/// A network in memory.
#[derive(Debug)]
pub struct Cpu<T> {
    /// Forward and backward of at most `plan.batch` samples.
    training: Program,
    /// Forward alone, perhaps over images of another size.
    inference: Program,
    /// Place of each parameter in the next four, which lie alike.
    places: Vec<Range<usize>>,
    parameters: Vec<T>,
    gradients: Vec<T>,
    means: Vec<T>,
    squares: Vec<T>,
    /// Place of each norm's running means and variances.
    running_places: Vec<Range<usize>>,
    running: Vec<T>,
    /// Batch statistics of the last microbatch, which lie like the running ones; those of all ranks.
    statistics: Vec<f64>,
    all_statistics: Vec<f64>,
    /// Moving averages of parameters and running statistics; empty until used.
    average: (Vec<T>, Vec<T>),
    updates: u64,
    passes: u64,
    /// Values and gradients of the tensors.
    arena: Vec<T>,
    /// Scratch of the convolutions' backward.
    work: Vec<T>,
    saved: Vec<T>,
    norm_sums: Vec<f64>,
    lamb_sums: Sums,
    /// Which tap was the maximum.
    taps: Vec<u8>,
    zeros: Vec<T>,
    /// A sample's target.
    row: Vec<T>,
    /// Logits of the last inference.
    logits: Vec<f32>,
    /// Of the microbatches of the step that is under way.
    losses: Vec<f64>,
    outcome: Option<Outcome>,
    /// Value of each byte in each channel.
    normalised: [[f32; 256]; 3],
    ranks: Ranks,
}

/// A plan and the tables of its convolutions.
#[derive(Debug)]
struct Program {
    plan: Plan,
    convolutions: Vec<Option<Convolution>>,
}

impl Program {
    fn new(plan: Plan) -> Self {
        let table = |op: &Op| match op {
            Op::Conv { conv, x, .. } => Some(Convolution::new(*conv, plan.gradients[*x].is_some())),
            _ => None,
        };
        Self { convolutions: plan.graph.ops.iter().map(table).collect(), plan }
    }

    /// Where the first `samples` of a tensor lie.
    fn value(&self, tensor: usize, samples: usize) -> Range<usize> {
        let start = self.plan.values[tensor].start;
        start..start + self.plan.graph.tensors[tensor].numbers() * samples
    }

    fn gradient(&self, tensor: usize, samples: usize) -> Range<usize> {
        let start = self.plan.gradients[tensor].as_ref().expect("planned").start;
        start..start + self.plan.graph.tensors[tensor].numbers() * samples
    }

    fn convolution(&self, op: usize) -> &Convolution {
        self.convolutions[op].as_ref().expect("this operation is a convolution")
    }
}

impl<T: Real> Cpu<T> {
    /// Plans memory for microbatches of at most `batch` samples in training and `eval_batch` in
    /// evaluation, whose images may have another size. Parameters are zero until loaded. `mean` and
    /// `std` of R, G, B in 0..1 normalise bytes as timm's prefetcher does.
    pub fn new(
        graph: Graph,
        batch: usize,
        evaluation: Graph,
        eval_batch: usize,
        mean: [f64; 3],
        std: [f64; 3],
    ) -> Self {
        let places = lay(graph
            .parameters
            .iter()
            .map(|p| if p.kind.decays() { conv::stored(&p.shape) } else { p.shape[0] }));
        let running_places = lay(graph.norms.iter().map(|n| 2 * n.channels));
        let numbers = places.last().map_or(0, |p| p.end);
        let channels = || graph.tensors.iter().map(|t| t.channels);
        let widest = channels().max().unwrap_or(0);
        let norm_sums = vec![0.0; norm::sums(widest)];
        let pooled = |graph: &Graph, batch: usize| {
            let pools = graph
                .ops
                .iter()
                .filter_map(|op| if let Op::MaxPool { y, .. } = op { Some(*y) } else { None });
            pools.map(|y| graph.tensors[y].numbers() * batch).max().unwrap_or(0)
        };
        let taps = vec![0; pooled(&graph, batch).max(pooled(&evaluation, eval_batch))];
        let largest = places.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let running = running_places.last().map_or(0, |p| p.end);
        let row = vec![T::ZERO; graph.classes];
        let training = Program::new(Plan::training(graph, batch));
        let inference = Program::new(Plan::inference(evaluation, eval_batch));
        let work =
            training.convolutions.iter().flatten().map(|c| c.turned().max(c.partial(batch))).max();
        Self {
            arena: vec![T::ZERO; training.plan.arena.max(inference.plan.arena)],
            work: vec![T::ZERO; work.unwrap_or(0)],
            training,
            inference,
            places,
            parameters: vec![T::ZERO; numbers],
            gradients: vec![T::ZERO; numbers],
            means: vec![T::ZERO; numbers],
            squares: vec![T::ZERO; numbers],
            saved: vec![T::ZERO; 2 * running],
            running: vec![T::ZERO; running],
            statistics: vec![0.0; running],
            all_statistics: vec![0.0; running],
            running_places,
            average: (Vec::new(), Vec::new()),
            updates: 0,
            passes: 0,
            norm_sums,
            lamb_sums: Sums::new(largest),
            taps,
            zeros: vec![T::ZERO; widest.max(3 * 7)],
            row,
            logits: Vec::with_capacity(eval_batch),
            losses: Vec::new(),
            outcome: None,
            normalised: std::array::from_fn(|c| normalised(mean[c], std[c])),
            ranks: Ranks::alone(),
        }
    }

    /// Exchanges what the ranks learned from a microbatch each: rank 0 has the gradient of all so far,
    /// in the order of microbatches; running statistics follow those of all, in the same order.
    fn exchange(&mut self) -> Result<(), Error> {
        self.ranks.gather(&self.statistics, &mut self.all_statistics)?;
        for statistics in self.all_statistics.chunks_exact(self.statistics.len()) {
            norm::follow(&mut self.running, statistics);
            self.passes += 1;
        }
        self.ranks.collect(&mut self.gradients)
    }

    fn program(&self, train: bool) -> &Program {
        if train { &self.training } else { &self.inference }
    }

    /// Puts images into the first tensor. The batch must have been checked.
    pub fn images(&mut self, batch: &Batch, train: bool) {
        let program = if train { &self.training } else { &self.inference };
        let (padded, pad) = (program.plan.graph.tensors[0], program.plan.graph.pad);
        let x = &mut self.arena[program.value(0, batch.samples())];
        let table = &self.normalised;
        match &batch.pixels {
            Pixels::Bytes(bytes) => {
                pool::images(
                    padded,
                    pad,
                    bytes,
                    |byte: u8, c| T::from_f64(f64::from(table[c][usize::from(byte)])),
                    x,
                );
            }
            Pixels::Clean(..) => unreachable!("`checked` refuses them"),
            Pixels::Floats(floats) => pool::images(
                padded,
                pad,
                floats,
                |number: f32, _| T::from_f64(f64::from(number)),
                x,
            ),
        }
    }

    /// Moves the moving averages to the model by `1 - decay`.
    fn move_average(&mut self, decay: f64) {
        let (keep, take) = (T::from_f64(decay), T::from_f64(1.0 - decay));
        for (average, model) in
            [(&mut self.average.0, &self.parameters), (&mut self.average.1, &self.running)]
        {
            for (average, model) in average.iter_mut().zip(model) {
                *average = *average * keep + *model * take;
            }
        }
    }
}

impl<T: Real> Backend for Cpu<T> {
    fn graph(&self) -> &Graph {
        &self.training.plan.graph
    }

    fn accumulate(&mut self, batch: &Batch, part: &Part<'_>) -> Result<(), Error> {
        checked(batch, &self.training.plan)?;
        let samples = batch.samples();
        self.images(batch, true);
        self.operations(samples, true, part.drops);
        let mut row = std::mem::take(&mut self.row);
        let mut value = 0.0;
        self.set_slope(samples, |logits, slope| {
            value = part.loss.batch(logits, &batch.targets(), part.share, &mut row, slope);
        });
        self.row = row;
        self.losses.push(value);
        self.backward(samples, part.drops);
        self.exchange()
    }

    fn ranks(&mut self) -> &mut Ranks {
        &mut self.ranks
    }

    fn join(&mut self, ranks: Ranks) -> Result<(), Error> {
        self.all_statistics = vec![0.0; self.running.len() * ranks.place().world as usize];
        self.ranks = ranks;
        Ok(())
    }

    fn update(&mut self, lamb: &Lamb, rate: f64, average: Option<f64>) -> Result<(), Error> {
        self.ranks.broadcast(&mut self.gradients)?;
        self.updates += 1;
        if average.is_some() && self.average.0.is_empty() {
            self.average = (self.parameters.clone(), self.running.clone());
        }
        let squares = self
            .places
            .iter()
            .map(|place| self.lamb_sums.norm(&self.gradients[place.clone()]).powi(2));
        let norm = squares.sum::<f64>().sqrt();
        let step = Step { rate, number: self.updates, norm };
        for (place, parameter) in self.places.iter().zip(&self.training.plan.graph.parameters) {
            let tensor = Tensor {
                parameter: &mut self.parameters[place.clone()],
                gradient: &mut self.gradients[place.clone()],
                mean: &mut self.means[place.clone()],
                square: &mut self.squares[place.clone()],
                decays: parameter.kind.decays(),
            };
            lamb.update(&step, tensor, &mut self.lamb_sums);
        }
        self.gradients.fill(T::ZERO);
        if let Some(decay) = average {
            self.move_average(decay);
        }
        self.outcome = Some(Outcome { losses: std::mem::take(&mut self.losses), norm });
        Ok(())
    }

    fn outcome(&mut self, _all: bool) -> Result<Option<Outcome>, Error> {
        Ok(self.outcome.take())
    }

    fn logits(&mut self, batch: &Batch) -> Result<&[f32], Error> {
        checked(batch, &self.inference.plan)?;
        self.images(batch, false);
        self.forward(batch.samples(), false, None);
        let mut logits = std::mem::take(&mut self.logits);
        logits.clear();
        logits.extend(self.last_logits(batch.samples(), false).iter().map(|x| state::single(*x)));
        self.logits = logits;
        Ok(&self.logits)
    }

    fn swap_average(&mut self) -> Result<(), Error> {
        if !self.average.0.is_empty() {
            std::mem::swap(&mut self.average.0, &mut self.parameters);
            std::mem::swap(&mut self.average.1, &mut self.running);
        }
        Ok(())
    }

    fn state(&self) -> Result<State, Error> {
        Ok(self.to_state())
    }

    fn load(&mut self, state: &State) -> Result<(), String> {
        self.take_state(state)
    }
}

/// Refuses what does not fit, and what is still to be mixed.
fn checked(batch: &Batch, plan: &Plan) -> Result<(), Error> {
    batch.check(&plan.graph, plan.batch)?;
    let Pixels::Clean(..) = batch.pixels else { return Ok(()) };
    let (epoch, step, index) = (batch.epoch, batch.step, batch.index);
    let problem = "it is not mixed yet, which a GPU does; take --mixed-by server".to_owned();
    Err(Error::Batch { epoch, step, index, problem })
}

/// One after the other, each at a cache line.
fn lay(numbers: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut end: usize = 0;
    let next = |numbers: usize| {
        let start = end.next_multiple_of(PANEL);
        end = start + numbers;
        start..end
    };
    numbers.map(next).collect()
}
