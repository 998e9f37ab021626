//! A microbatch as the trainer takes it: pixels and mixed targets.

use bytes::Bytes;
use forebay_client::Mix;
use forebay_types::MicrobatchName;

use crate::Error;
use crate::model::Graph;

/// Pixels of a microbatch in NHWC order, RGB.
#[derive(Clone, Debug)]
pub enum Pixels {
    /// Values from 0 to 255, to be normalized.
    Bytes(Bytes),
    /// Values from 0 to 255 of unmixed samples. Each sample must first be mixed with its mirror in the
    /// microbatch (sample `i` with sample `n - 1 - i`), which only a GPU backend does.
    Unmixed(Bytes, Vec<Mix>),
    /// Normalized values.
    Floats(Vec<f32>),
}

/// One microbatch.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Name of the microbatch.
    pub name: MicrobatchName,
    /// Height and width of the images.
    pub size: (usize, usize),
    /// `samples * height * width * 3` values.
    pub pixels: Pixels,
    /// First class of each sample.
    pub label_a: Vec<u32>,
    /// Second class of each sample.
    pub label_b: Vec<u32>,
    /// Weight of the first class, 0 to 1; the second class has the rest.
    pub lambda: Vec<f32>,
}

/// The targets of a microbatch: class `a` with weight `lambda`, class `b` with the rest.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// First class of each sample.
    pub a: &'a [u32],
    /// Second class of each sample.
    pub b: &'a [u32],
    /// Weight of the first class of each sample.
    pub lambda: &'a [f32],
}

impl Batch {
    /// Number of samples.
    pub const fn samples(&self) -> usize {
        self.label_a.len()
    }

    /// The targets of all samples.
    pub fn targets(&self) -> Targets<'_> {
        Targets { a: &self.label_a, b: &self.label_b, lambda: &self.lambda }
    }

    /// Checks that the microbatch fits a network whose memory was planned for `max_samples` samples.
    ///
    /// # Errors
    /// [`Error::Batch`] if sizes, classes or weights do not fit; it says which and what to change.
    pub fn check(&self, graph: &Graph, max_samples: usize) -> Result<(), Error> {
        let problem = self.problem(graph, max_samples);
        problem.map_or(Ok(()), |problem| Err(Error::Batch { name: self.name, problem }))
    }

    fn problem(&self, graph: &Graph, max_samples: usize) -> Option<String> {
        let (samples, (height, width)) = (self.samples(), self.size);
        if self.size != graph.image {
            let (rows, columns) = graph.image;
            return Some(format!(
                "images of {height}x{width}, but the model was planned for {rows}x{columns}: set --image-size to the server's"
            ));
        }
        if samples == 0 || samples > max_samples {
            return Some(format!(
                "{samples} samples, but the model was planned for 1 to {max_samples}: set --batch and --microbatches to the server's"
            ));
        }
        let values = match &self.pixels {
            Pixels::Bytes(bytes) | Pixels::Unmixed(bytes, _) => bytes.len(),
            Pixels::Floats(floats) => floats.len(),
        };
        if values != samples * height * width * 3 {
            return Some(format!(
                "{values} pixel values for {samples} RGB images of {height}x{width}"
            ));
        }
        if let Pixels::Unmixed(_, mix) = &self.pixels
            && mix.len() != samples
        {
            return Some(format!("{} mix plans for {samples} samples", mix.len()));
        }
        if self.label_b.len() != samples || self.lambda.len() != samples {
            return Some(format!(
                "{} second labels and {} weights for {samples} samples",
                self.label_b.len(),
                self.lambda.len()
            ));
        }
        let mut labels = self.label_a.iter().chain(&self.label_b);
        if let Some(label) = labels.find(|label| **label as usize >= graph.classes) {
            let classes = graph.classes;
            return Some(format!(
                "label {label} is out of range: the model was built for {classes} classes, as the dataset description says"
            ));
        }
        let outside = self.lambda.iter().find(|lambda| !(0.0..=1.0).contains(*lambda));
        outside.map(|lambda| format!("invalid lambda {lambda}: expected 0 to 1"))
    }
}
