//! The seam: what the training loop asks of a device, and the microbatch that it hands over.
//!
//! A backend runs the operations of a [`Graph`] in memory planned once. It owns parameters, gradients,
//! optimizer state and running statistics; the loop sees them only to save and to load.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod device;

use std::collections::BTreeMap;

use bytes::Bytes;
use forebay_client::Mix;

pub use device::{Device, Networks};

use crate::Error;
use crate::droppath::Drops;
use crate::lamb::Lamb;
use crate::loss::Loss;
use crate::model::Graph;
use crate::ranks::Ranks;

/// A device that trains one network.
pub trait Backend {
    /// The network.
    fn graph(&self) -> &Graph;

    /// The ranks that train together, of which this is one.
    fn ranks(&mut self) -> &mut Ranks;

    /// Makes it one of several ranks. Without, it is alone.
    fn join(&mut self, ranks: Ranks) -> Result<(), Error>;

    /// Forward and backward of one microbatch; adds `part.share` of its gradient to the step's. All ranks
    /// call it at once, for neighbouring microbatches: batch norm's running statistics follow all of
    /// them, in their order.
    fn accumulate(&mut self, batch: &Batch, part: &Part<'_>) -> Result<(), Error>;

    /// Updates the parameters by the step's gradient and forgets it. With `average`, the moving
    /// average of the model moves by `1 - average`. All ranks call it, and are equal after it.
    fn update(&mut self, lamb: &Lamb, rate: f64, average: Option<f64>) -> Result<(), Error>;

    /// What the oldest step gave that was updated and is not told yet. Without `all`, a device may keep
    /// the newest step's to itself until the next is under way, so that nobody waits for it.
    fn outcome(&mut self, all: bool) -> Result<Option<Outcome>, Error>;

    /// Logits by the running statistics, a row of classes a sample.
    fn logits(&mut self, batch: &Batch) -> Result<&[f32], Error>;

    /// Exchanges the model and its moving average: to evaluate the average, and back.
    fn swap_average(&mut self) -> Result<(), Error>;

    /// All that training changes.
    fn state(&self) -> Result<State, Error>;

    /// Puts back what [`Backend::state`] gave, or a model alone. Names and shapes must be those of the
    /// network; the message says which is not.
    fn load(&mut self, state: &State) -> Result<(), String>;
}

/// What a microbatch is to its step.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Stochastic depth.
    pub drops: Option<&'a Drops>,
    /// What is made small.
    pub loss: &'a Loss,
    /// Its gradient's share of the step's.
    pub share: f64,
    /// Whether it is this rank's last of the step: its gradients can go to the others as they come.
    pub last: bool,
}

/// What a step gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Loss of each of the rank's microbatches.
    pub losses: Vec<f64>,
    /// Of the gradient, before it is clipped.
    pub norm: f64,
}

/// Named tensors, by timm's names and in timm's layout.
pub type Tensors = BTreeMap<String, Array>;

/// A tensor in C order.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Numbers.
    pub values: Vec<f32>,
}

/// All that training changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Parameters and running statistics.
    pub model: Tensors,
    /// Updates done: the optimizer's step.
    pub updates: u64,
    /// Forward passes in training: batch norm's `num_batches_tracked`.
    pub passes: u64,
    /// `exp_avg` of each parameter; empty before the first update.
    pub means: Tensors,
    /// `exp_avg_sq` of each parameter.
    pub squares: Tensors,
    /// Moving average of the model; empty without.
    pub average: Tensors,
}

impl State {
    /// Refuses tensors that are not a network's; the message says which.
    pub(crate) fn check(&self, graph: &Graph) -> Result<(), String> {
        for (tensors, running, needed) in [
            (&self.model, true, true),
            (&self.means, false, false),
            (&self.squares, false, false),
            (&self.average, true, false),
        ] {
            if needed || !tensors.is_empty() {
                check(graph, tensors, running)?;
            }
        }
        Ok(())
    }
}

/// Refuses tensors that are not the network's: a missing, a foreign or a misshapen one.
pub(in crate::backend) fn check(
    graph: &Graph,
    tensors: &Tensors,
    running: bool,
) -> Result<(), String> {
    let parameters = graph.parameters.iter().map(|p| (p.name.clone(), p.shape.clone()));
    let statistics = graph.norms.iter().filter(|_| running).flat_map(|norm| {
        ["running_mean", "running_var"]
            .map(|name| (format!("{}.{name}", norm.name), vec![norm.channels]))
    });
    let wanted: BTreeMap<String, Vec<usize>> = parameters.chain(statistics).collect();
    for (name, shape) in &wanted {
        match tensors.get(name) {
            None => return Err(format!("it has no {name}: it is of another model; check --model")),
            Some(array) if array.shape != *shape => {
                return Err(format!(
                    "{name} has shape {:?}, the model's has {shape:?}; check --model and --classes",
                    array.shape
                ));
            }
            Some(_) => {}
        }
    }
    let foreign = tensors.keys().find(|name| !wanted.contains_key(*name));
    foreign.map_or(Ok(()), |name| {
        Err(format!("it has {name}, the model does not: it is of another model; check --model"))
    })
}

/// timm's prefetcher: `(byte - 255 mean) / (255 std)`, in f32.
#[expect(clippy::cast_possible_truncation, reason = "constants in f32, as torch holds them")]
pub(crate) fn normalised(mean: f64, std: f64) -> [f32; 256] {
    let (mean, std) = ((255.0 * mean) as f32, (255.0 * std) as f32);
    let bytes = std::array::from_fn(|byte| f32::from(u8::try_from(byte).expect("256 bytes")));
    bytes.map(|byte: f32| (byte - mean) / std)
}

/// Pixels of a microbatch, NHWC, RGB.
#[derive(Clone, Debug)]
pub enum Pixels {
    /// 0 to 255, to be normalised.
    Bytes(Bytes),
    /// The same, of which each sample is to be mixed with its mirror in the microbatch first. On a GPU alone.
    Clean(Bytes, Vec<Mix>),
    /// Normalised.
    Floats(Vec<f32>),
}

/// One microbatch.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Epoch.
    pub epoch: u64,
    /// Step of the epoch.
    pub step: u64,
    /// Microbatch of the step.
    pub index: u32,
    /// Height and width of the images.
    pub size: (usize, usize),
    /// `samples * height * width * 3` numbers.
    pub pixels: Pixels,
    /// First class of each sample.
    pub label_a: Vec<u32>,
    /// Second class.
    pub label_b: Vec<u32>,
    /// Weight of the first class; the second has the rest.
    pub lambda: Vec<f32>,
}

/// The targets of a microbatch: lambda of class a, the rest of class b.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "said above")]
pub struct Targets<'a> {
    pub a: &'a [u32],
    pub b: &'a [u32],
    pub lambda: &'a [f32],
}

impl Batch {
    /// Samples.
    pub const fn samples(&self) -> usize {
        self.label_a.len()
    }

    /// Its targets.
    pub fn targets(&self) -> Targets<'_> {
        Targets { a: &self.label_a, b: &self.label_b, lambda: &self.lambda }
    }

    /// Refuses what does not fit a network planned for at most `most` samples.
    pub fn check(&self, graph: &Graph, most: usize) -> Result<(), Error> {
        let problem = self.problem(graph, most);
        let (epoch, step, index) = (self.epoch, self.step, self.index);
        problem.map_or(Ok(()), |problem| Err(Error::Batch { epoch, step, index, problem }))
    }

    fn problem(&self, graph: &Graph, most: usize) -> Option<String> {
        let (samples, (height, width)) = (self.samples(), self.size);
        if self.size != graph.image {
            let (rows, columns) = graph.image;
            return Some(format!(
                "images are {height}x{width}, the model was planned for {rows}x{columns}; set --image-size to the server's"
            ));
        }
        if samples == 0 || samples > most {
            return Some(format!(
                "{samples} samples, the model was planned for 1 to {most}; set --batch and --microbatches to the server's"
            ));
        }
        let numbers = match &self.pixels {
            Pixels::Bytes(bytes) | Pixels::Clean(bytes, _) => bytes.len(),
            Pixels::Floats(floats) => floats.len(),
        };
        if numbers != samples * height * width * 3 {
            return Some(format!(
                "{numbers} pixel values for {samples} RGB images of {height}x{width}"
            ));
        }
        if let Pixels::Clean(_, mix) = &self.pixels
            && mix.len() != samples
        {
            return Some(format!("{} samples are to be mixed of {samples}", mix.len()));
        }
        if self.label_b.len() != samples || self.lambda.len() != samples {
            return Some(format!(
                "targets of {} and {} for {samples} samples",
                self.label_b.len(),
                self.lambda.len()
            ));
        }
        if let Some(label) =
            self.label_a.iter().chain(&self.label_b).find(|l| **l as usize >= graph.classes)
        {
            return Some(format!(
                "class {label}, the model has {}; set --classes to the dataset's",
                graph.classes
            ));
        }
        let outside = self.lambda.iter().find(|l| !(0.0..=1.0).contains(*l));
        outside.map(|lambda| format!("lambda {lambda} is not in 0 to 1"))
    }
}
