//! Where everything lies in the GPU's memory, planned once.

use std::ops::Range;

use forebay::mix::MIX_BYTES;
use forebay_client::Rank;

use super::Number;
use crate::memory::Plan;
use crate::model::{Graph, Op};

/// Numbers of a chunk, as lamb.cu has it.
pub(super) const CHUNK: usize = 8192;

/// Chunks of rows that a norm's sums are taken over, at most.
pub(super) const NORM_CHUNKS: usize = 512;

/// Tensors begin at multiples of this many numbers, and zeros fill them up to it.
const ALIGN: usize = 16;

/// Hands out room, each piece at a multiple of 256 bytes.
#[derive(Debug, Default)]
pub(super) struct Room(usize);

impl Room {
    pub(super) fn take(&mut self, bytes: usize) -> Range<usize> {
        let start = self.0.next_multiple_of(256);
        self.0 = start + bytes;
        start..self.0
    }

    pub(super) const fn bytes(&self) -> usize {
        self.0
    }
}

/// Parts of the memory, in bytes.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) arena: Range<usize>,
    /// The next four and the copy lie alike: see `places`.
    pub(super) parameters: Range<usize>,
    pub(super) gradients: Range<usize>,
    pub(super) means: Range<usize>,
    pub(super) squares: Range<usize>,
    pub(super) average: Range<usize>,
    /// Parameters as the products take them.
    pub(super) copy: Range<usize>,
    /// A microbatch's gradients of the convolutions, as they come.
    pub(super) filters: Range<usize>,
    pub(super) running: Range<usize>,
    pub(super) average_running: Range<usize>,
    /// Batch statistics of a microbatch of each rank; they lie like the running ones.
    pub(super) statistics: Range<usize>,
    pub(super) saved: Range<usize>,
    pub(super) norm_means: Range<usize>,
    pub(super) norm_partial: Range<usize>,
    pub(super) taps: Range<usize>,
    pub(super) logits: Range<usize>,
    pub(super) losses: Range<usize>,
    /// Bytes of a microbatch that was mixed here.
    pub(super) mixed: Range<usize>,
    /// What a microbatch brings: see [`Input`].
    pub(super) input: Range<usize>,
    pub(super) table: Range<usize>,
    pub(super) chunks: Range<usize>,
    pub(super) tensors: Range<usize>,
    pub(super) lamb_partial: Range<usize>,
    pub(super) ratios: Range<usize>,
    pub(super) square_partial: Range<usize>,
    pub(super) norm: Range<usize>,
    pub(super) clip: Range<usize>,
    pub(super) workspace: Range<usize>,
    pub(super) bytes: usize,
    pub(super) number: Number,
    pub(super) classes: usize,
    /// Where in `statistics` this rank's begin, in numbers.
    pub(super) own_statistics: usize,
    /// Place of each parameter, in numbers.
    pub(super) places: Vec<Range<usize>>,
    /// Place of each norm's running means and variances, in numbers.
    pub(super) running_places: Vec<Range<usize>>,
    /// Numbers of all parameters, and of all running statistics.
    pub(super) numbers: usize,
    pub(super) running_numbers: usize,
}

/// Parts of what a microbatch brings.
#[derive(Clone, Debug)]
pub(super) struct Input {
    pub(super) pixels: Range<usize>,
    pub(super) label_a: Range<usize>,
    pub(super) label_b: Range<usize>,
    pub(super) lambda: Range<usize>,
    /// Of stochastic depth: block, sample.
    pub(super) scales: Range<usize>,
    /// How each sample is mixed.
    pub(super) mixes: Range<usize>,
    pub(super) bytes: usize,
}

impl Input {
    pub(super) fn new(plans: [&Plan; 2]) -> Self {
        let mut room = Room::default();
        let pixels = |plan: &Plan| plan.batch * plan.graph.image.0 * plan.graph.image.1 * 3 * 4;
        let batch = plans[0].batch.max(plans[1].batch);
        Self {
            pixels: room.take(pixels(plans[0]).max(pixels(plans[1]))),
            label_a: room.take(batch * 4),
            label_b: room.take(batch * 4),
            lambda: room.take(batch * 4),
            scales: room.take(plans[0].graph.blocks * batch * 4),
            mixes: room.take(batch * MIX_BYTES),
            bytes: room.bytes(),
        }
    }
}

impl Layout {
    pub(super) fn new(
        plans: [&Plan; 2],
        number: Number,
        input: &Input,
        workspace: usize,
        place: Rank,
    ) -> Self {
        let graph = &plans[0].graph;
        let (places, numbers) = lay(graph.parameters.iter().map(|p| p.shape.iter().product()));
        let (running_places, running_numbers) = lay(graph.norms.iter().map(|n| 2 * n.channels));
        let widest = graph.norms.iter().map(|n| n.channels).max().unwrap_or(0);
        let batch = plans[0].batch.max(plans[1].batch);
        let chunks: usize = places.iter().map(|p| p.len().div_ceil(CHUNK)).sum();
        let mut room = Room::default();
        let mut f32s = |numbers: usize| room.take(numbers * 4);
        let [parameters, gradients, means, squares, average] = [(); 5].map(|()| f32s(numbers));
        let [running, average_running] = [(); 2].map(|()| f32s(running_numbers));
        let statistics = f32s(running_numbers * place.world as usize);
        let saved = f32s(2 * running_numbers);
        let norm_means = f32s(2 * widest);
        let norm_partial = f32s(2 * NORM_CHUNKS * widest);
        let logits = f32s(batch * graph.classes);
        let losses = f32s(batch);
        let table = f32s(3 * 256);
        let square_partial = f32s(numbers.div_ceil(CHUNK));
        let ratios = f32s(places.len());
        let clip = f32s(1);
        let taps = plans.map(pooled).into_iter().max().unwrap_or(0);
        Self {
            arena: room.take(plans[0].arena.max(plans[1].arena) * number.bytes()),
            copy: room.take(numbers * number.bytes()),
            filters: room.take(numbers * number.bytes()),
            taps: room.take(taps),
            mixed: room.take(input.pixels.len() / 4),
            input: room.take(input.bytes),
            chunks: room.take(chunks * 16),
            tensors: room.take(places.len() * 16),
            lamb_partial: room.take(chunks * 8),
            norm: room.take(8),
            workspace: room.take(workspace),
            bytes: room.bytes(),
            number,
            classes: graph.classes,
            own_statistics: place.rank as usize * running_numbers,
            parameters,
            gradients,
            means,
            squares,
            average,
            running,
            average_running,
            statistics,
            saved,
            norm_means,
            norm_partial,
            logits,
            losses,
            table,
            ratios,
            square_partial,
            clip,
            places,
            running_places,
            numbers,
            running_numbers,
        }
    }
}

impl Layout {
    /// What lamb.cu calls chunks and tensors.
    pub(super) fn lists(&self, graph: &Graph) -> (Vec<u8>, Vec<u8>) {
        let (mut chunks, mut tensors): (Vec<[u32; 4]>, Vec<[u32; 4]>) = (Vec::new(), Vec::new());
        for (place, parameter) in self.places.iter().zip(&graph.parameters) {
            let (tensor, decays) = (word(tensors.len()), u32::from(parameter.kind.decays()));
            let first = word(chunks.len());
            for start in place.clone().step_by(CHUNK) {
                let length = CHUNK.min(place.end - start);
                chunks.push([word(start), word(length), tensor, decays]);
            }
            tensors.push([first, word(chunks.len()) - first, decays, 0]);
        }
        let bytes = |list: Vec<[u32; 4]>| {
            list.into_iter().flatten().flat_map(u32::to_le_bytes).collect::<Vec<u8>>()
        };
        (bytes(chunks), bytes(tensors))
    }

    /// Gradients in runs of about `most` numbers, those of the last parameters first; each with the
    /// operation after whose backward the run is whole.
    pub(super) fn buckets(&self, graph: &Graph, most: usize) -> Vec<(usize, Range<usize>)> {
        let mut writes = vec![0; self.places.len()];
        for (i, op) in graph.ops.iter().enumerate() {
            match *op {
                Op::Conv { weight, bias, .. } => {
                    writes[weight] = i;
                    writes[bias.unwrap_or(weight)] = i;
                }
                Op::Norm { norm, .. } => {
                    let gamma = graph.norms[norm].gamma;
                    writes[gamma..gamma + 2].fill(i);
                }
                Op::MaxPool { .. } | Op::MeanPool { .. } | Op::Shortcut { .. } => {}
            }
        }
        let (mut buckets, mut end, mut whole) = (Vec::new(), self.numbers, usize::MAX);
        for (place, op) in self.places.iter().zip(writes).rev() {
            whole = whole.min(op);
            if end - place.start >= most || place.start == 0 {
                buckets.push((whole, place.start..end));
                (end, whole) = (place.start, usize::MAX);
            }
        }
        buckets
    }
}

fn word(number: usize) -> u32 {
    u32::try_from(number).expect("a network's numbers are below 2^32")
}

/// Numbers of the result of the max pool.
fn pooled(plan: &Plan) -> usize {
    let pool = |op: &Op| if let Op::MaxPool { y, .. } = op { Some(*y) } else { None };
    let numbers = |graph: &Graph, y: usize| graph.tensors[y].numbers() * plan.batch;
    plan.graph.ops.iter().filter_map(pool).map(|y| numbers(&plan.graph, y)).max().unwrap_or(0)
}

/// One after the other; and how many numbers all take.
fn lay(numbers: impl Iterator<Item = usize>) -> (Vec<Range<usize>>, usize) {
    let mut end: usize = 0;
    let next = |numbers: usize| {
        let start = end;
        end = (start + numbers).next_multiple_of(ALIGN);
        start..start + numbers
    };
    let places = numbers.map(next).collect();
    (places, end)
}
