//! The CUDA backend: convolutions by cuDNN, the classifier by cuBLAS, everything else by kernels of our own.
//!
//! ```text
//! cuda.rs      what training asks for: microbatch in, step out
//! pass.rs      the graph forward and backward
//! launch.rs    each kernel with its grid and arguments
//! conv.rs      cuDNN and cuBLAS
//! all.rs       NCCL: what the ranks know together
//! state.rs     tensors by timm's names, to the GPU and back
//! layout.rs    the GPU's memory, planned once
//! ```
//!
//! Activations are NHWC in bf16, sums and parameters f32. A step is a queue of work on one stream: nothing
//! in it waits for the GPU, and what a step gave is looked at when the next is under way.

mod all;
mod conv;
mod kernels;
mod launch;
mod layout;
mod pass;
mod state;

pub use pass::Pass;
pub use state::bf16;

use std::collections::VecDeque;

use forebay::Rect;
use forebay::gpu::{DeviceError, Gpu, Kernel, Lane, Pinned};
use forebay::mix::{MIX_BYTES, MIX_KERNELS, mix_entry};
use forebay::plan::{MixKind, MixSample};
use forebay_client::{Mix, Rank};

use all::All;
use conv::Convolutions;
use kernels::Kernels;
use launch::Launch;
use layout::{Input, Layout};

use crate::Error;
use crate::backend::{Backend, Batch, Networks, Outcome, Part, Pixels, State, normalised};
use crate::droppath::Drops;
use crate::lamb::Lamb;
use crate::loss::{Criterion, Loss};
use crate::memory::Plan;
use crate::model::{Graph, Op};
use crate::ranks::Ranks;

/// How activations are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// For training.
    Bf16,
    /// For tests, and to compare with the CPU.
    F32,
}

impl Number {
    /// Bytes of a number.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

/// What a backend runs on.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The GPU.
    pub device: Gpu,
    /// How activations are stored.
    pub number: Number,
    /// Which of the ranks that will train together this is.
    pub place: Rank,
    /// Gradients that go to the other ranks at once, in numbers.
    pub bucket: usize,
}

/// 16 MiB: large enough for the full speed of `NVLink`, small enough to begin early in the backward pass.
pub const BUCKET: usize = 4 << 20;

/// Steps of which nothing was told yet, at most, when the next begins.
const AHEAD: usize = 1;

/// A network on a GPU.
#[derive(Debug)]
pub struct Cuda {
    setting: Setting,
    training: Plan,
    inference: Plan,
    layout: Layout,
    input: Input,
    kernels: Kernels,
    mix: Kernel,
    ranks: Ranks,
    /// The gradients' buckets, with the operation after whose backward each is whole.
    buckets: Vec<(usize, std::ops::Range<usize>)>,
    averaged: bool,
    updates: u64,
    passes: u64,
    /// What goes in; two take turns, so that one is filled while the other is copied.
    staging: [Pinned; 2],
    turn: usize,
    /// Losses of the microbatches of the step under way.
    losses: Vec<Losses>,
    untold: VecDeque<Untold>,
    /// Page-locked memory for what comes back, not in use; and how much of it was ever made.
    free: Vec<Pinned>,
    made: usize,
    host_logits: Pinned,
    logits: Vec<f32>,
    // Dropped in this order: what uses the lane's memory goes before it.
    all: Option<All>,
    convolutions: Convolutions,
    lane: Lane,
}

/// The losses of a microbatch's samples, on their way from the GPU.
#[derive(Debug)]
struct Losses {
    bytes: Pinned,
    samples: usize,
    /// Their sum is divided by it.
    parts: f64,
}

impl Losses {
    /// Waits for them.
    fn sum(&self) -> Result<f64, DeviceError> {
        self.bytes.wait()?;
        let each = self.bytes[..self.samples * 4].as_chunks::<4>().0.iter();
        let sum: f64 = each.map(|bytes| f64::from(f32::from_le_bytes(*bytes))).sum();
        Ok(sum / self.parts)
    }
}

/// A step that was updated, and not told.
#[derive(Debug)]
struct Untold {
    losses: Vec<Losses>,
    norm: Pinned,
}

impl Cuda {
    /// Plans memory for the networks' microbatches. Parameters are zeros until loaded. To be used on this
    /// thread alone.
    pub fn new(setting: Setting, networks: Networks) -> Result<Self, Error> {
        let training = Plan::training(networks.training, networks.batch);
        let inference = Plan::inference(networks.evaluation, networks.eval_batch);
        let Setting { device, number, place, bucket } = &setting;
        let kernels = Kernels::compile(device, *number)?;
        let [mix] = device.compile("mix.cu", MIX_KERNELS, ["mix_u8_nhwc"])?;
        let mut convolutions = Convolutions::new(device, *number)?;
        let mut workspace = 0;
        for (plan, train) in [(&training, true), (&inference, false)] {
            for (op, conv) in convolutions_of(&plan.graph) {
                let bytes = convolutions.prepare((op, train, plan.batch), conv)?;
                workspace = workspace.max(bytes);
            }
        }
        let input = Input::new([&training, &inference]);
        let plans = [&training, &inference];
        let layout = Layout::new(plans, *number, &input, workspace, *place);
        let lane = device.lane(0, layout.bytes)?;
        let space = layout.workspace.clone();
        convolutions.attach(&lane, (lane.address(space.clone()), space.len()))?;
        let logits = layout.logits.len();
        let mut cuda = Self {
            buckets: layout.buckets(&training.graph, *bucket),
            ranks: Ranks::alone(),
            averaged: false,
            updates: 0,
            passes: 0,
            staging: [device.pinned(input.bytes)?, device.pinned(input.bytes)?],
            turn: 0,
            losses: Vec::new(),
            untold: VecDeque::new(),
            free: Vec::new(),
            made: 0,
            host_logits: device.pinned(logits)?,
            logits: Vec::with_capacity(logits / 4),
            all: None,
            setting,
            training,
            inference,
            layout,
            input,
            kernels,
            mix,
            convolutions,
            lane,
        };
        cuda.begin(networks.mean, networks.std)?;
        Ok(cuda)
    }

    /// Puts zeros where they stay or are added to, and what never changes.
    fn begin(&mut self, mean: [f64; 3], std: [f64; 3]) -> Result<(), DeviceError> {
        let l = &self.layout;
        for place in [&l.gradients, &l.means, &l.squares, &l.parameters, &l.average, &l.filters] {
            self.launch().clear(place)?;
        }
        for place in [&l.running, &l.average_running, &l.statistics] {
            self.launch().clear(place)?;
        }
        let table = (0..3).flat_map(|c| normalised(mean[c], std[c]));
        let table: Vec<u8> = table.flat_map(f32::to_le_bytes).collect();
        let (chunks, tensors) = l.lists(&self.training.graph);
        for (place, bytes) in [(&l.table, table), (&l.chunks, chunks), (&l.tensors, tensors)] {
            state::put(&self.setting.device, &self.lane, place.start, &bytes)?;
        }
        Ok(())
    }

    /// Waits until the GPU has done all it was given.
    pub fn wait(&self) -> Result<(), Error> {
        Ok(self.lane.wait()?)
    }

    /// The kernels, on the lane.
    const fn launch(&self) -> Launch<'_> {
        Launch { lane: &self.lane, kernels: &self.kernels, mix: &self.mix, layout: &self.layout }
    }

    const fn plan(&self, train: bool) -> &Plan {
        if train { &self.training } else { &self.inference }
    }

    /// Puts a microbatch where a forward pass finds it. It must have been checked.
    pub fn put(&mut self, batch: &Batch, train: bool, drops: Option<&Drops>) -> Result<(), Error> {
        self.turn += 1;
        self.images(batch, train)?;
        if train { self.tell(batch, drops) } else { Ok(()) }
    }

    /// Images into the first tensor.
    fn images(&mut self, batch: &Batch, train: bool) -> Result<(), Error> {
        let (input, number) = (self.input.clone(), self.turn % 2);
        let staging = &mut self.staging[number];
        let to = &mut staging[input.pixels.start..];
        let bytes = match &batch.pixels {
            Pixels::Bytes(bytes) | Pixels::Clean(bytes, _) => {
                to[..bytes.len()].copy_from_slice(bytes);
                bytes.len()
            }
            Pixels::Floats(floats) => {
                for (to, float) in to.as_chunks_mut::<4>().0.iter_mut().zip(floats) {
                    *to = float.to_le_bytes();
                }
                floats.len() * 4
            }
        };
        let from = input.pixels.start;
        self.lane.upload(staging, from..from + bytes, self.layout.input.start + from)?;
        let mut from = self.layout.input.start + from;
        if let Pixels::Clean(_, mix) = &batch.pixels {
            let mixes = input.mixes.start;
            let staged =
                self.staging[number][input.mixes].as_chunks_mut::<MIX_BYTES>().0.iter_mut();
            staged.zip(mix).for_each(|(to, mix)| *to = mix_entry(sample(*mix)));
            let end = mixes + mix.len() * MIX_BYTES;
            let at = self.layout.input.start + mixes;
            self.lane.upload(&mut self.staging[number], mixes..end, at)?;
            self.launch().mix(batch, from, at)?;
            from = self.layout.mixed.start;
        }
        let (graph, x) = (&self.plan(train).graph, self.value(train, 0));
        self.launch().images(batch, graph, from, x)?;
        Ok(())
    }

    /// Uploads targets and stochastic depth.
    fn tell(&mut self, batch: &Batch, drops: Option<&Drops>) -> Result<(), Error> {
        let (input, number) = (self.input.clone(), self.turn % 2);
        let staging = &mut self.staging[number];
        let words = |labels: &[u32]| labels.iter().map(|l| l.to_le_bytes()).collect::<Vec<_>>();
        let lambda = batch.lambda.iter().map(|l| l.to_le_bytes()).collect();
        for (place, words) in [
            (&input.label_a, words(&batch.label_a)),
            (&input.label_b, words(&batch.label_b)),
            (&input.lambda, lambda),
        ] {
            let to = staging[place.clone()].as_chunks_mut::<4>().0.iter_mut();
            to.zip(words).for_each(|(to, word)| *to = word);
        }
        let mut end = input.lambda.end;
        if let Some(drops) = drops {
            put_scales(
                &mut staging[input.scales.clone()],
                drops,
                self.training.batch,
                batch.samples(),
            );
            end = input.scales.end;
        }
        let from = input.label_a.start;
        self.lane.upload(staging, from..end, self.layout.input.start + from)?;
        Ok(())
    }

    /// Losses and their slope, from the logits.
    pub fn criterion(&mut self, batch: &Batch, loss: &Loss, share: f64) -> Result<(), Error> {
        let (samples, classes) = (batch.samples(), self.training.graph.classes);
        let parts =
            samples as f64 * if loss.criterion == Criterion::Bce { classes as f64 } else { 1.0 };
        let slope = self.slope(self.training.graph.logits());
        self.launch().loss(&self.input, loss, slope, samples, share / parts)?;
        let mut bytes = self.take()?;
        self.lane.download(self.layout.losses.start, &mut bytes, 0..samples * 4)?;
        self.losses.push(Losses { bytes, samples, parts });
        Ok(())
    }

    /// Pieces of page-locked memory that were made since it was opened: a steady step makes none.
    pub const fn pieces(&self) -> usize {
        self.made
    }

    /// Page-locked memory for the losses of a microbatch, or a norm.
    fn take(&mut self) -> Result<Pinned, DeviceError> {
        if let Some(piece) = self.free.pop() {
            return Ok(piece);
        }
        self.made += 1;
        self.setting.device.pinned(self.training.batch.max(2) * 4)
    }

    /// Moves the running statistics by those of the last microbatch of each rank.
    fn follow(&mut self) -> Result<(), DeviceError> {
        let world = self.all.as_ref().map_or(1, All::world);
        if let Some(all) = &self.all {
            all.gather(&self.lane, &self.layout)?;
        }
        for rank in 0..world {
            self.launch().norm_follow(rank)?;
            self.passes += 1;
        }
        Ok(())
    }

    /// Gives gradients to the other ranks and takes theirs, as far as they are whole: those of operations from `op` on.
    fn share(&self, op: usize) -> Result<(), DeviceError> {
        for (at, place) in &self.buckets {
            if *at == op {
                self.launch().add_gradients(place)?;
                if let Some(all) = &self.all {
                    all.sum(&self.lane, &self.layout, place)?;
                }
            }
        }
        Ok(())
    }

    /// Waits for the losses of the step under way, and forgets them; gives their sum.
    pub fn losses(&mut self) -> Result<f64, Error> {
        let losses = std::mem::take(&mut self.losses);
        losses.iter().map(|losses| Ok(losses.sum()?)).sum()
    }

    fn settle(&mut self) -> Result<Outcome, Error> {
        let Untold { losses, norm } = self.untold.pop_front().expect("the caller has looked");
        let mut outcome = Outcome::default();
        for losses in losses {
            outcome.losses.push(losses.sum()?);
            self.free.push(losses.bytes);
        }
        norm.wait()?;
        outcome.norm = f64::from_le_bytes(norm[..8].try_into().expect("8 bytes"));
        self.free.push(norm);
        Ok(outcome)
    }
}

/// What is to be done to a sample's pixels. Its label's weight is the targets' matter.
const fn sample(mix: Mix) -> MixSample {
    match mix {
        Mix::Keep => MixSample::UNMIXED,
        Mix::MixUp { lambda, partner_lambda } => {
            let weights = [lambda, partner_lambda];
            MixSample { kind: MixKind::Mixup, weights, ..MixSample::UNMIXED }
        }
        Mix::CutMix { top, left, height, width } => {
            let rect = Rect { top, left, height, width };
            MixSample { kind: MixKind::Cutmix(rect), ..MixSample::UNMIXED }
        }
    }
}

/// A block's samples one after the other, blocks at each `most` samples.
fn put_scales(to: &mut [u8], drops: &Drops, most: usize, samples: usize) {
    for (block, to) in to.chunks_exact_mut(most * 4).enumerate() {
        let scales = drops.block(block)[..samples].iter();
        for (to, scale) in to.as_chunks_mut::<4>().0.iter_mut().zip(scales) {
            #[expect(clippy::cast_possible_truncation, reason = "as the kernels take it")]
            let scale = *scale as f32;
            *to = scale.to_le_bytes();
        }
    }
}

/// The operations that cuDNN does: those without a bias.
fn convolutions_of(graph: &Graph) -> impl Iterator<Item = (usize, &crate::model::Conv)> {
    graph.ops.iter().enumerate().filter_map(|(i, op)| match op {
        Op::Conv { conv, bias: None, .. } => Some((i, conv)),
        _ => None,
    })
}

impl Backend for Cuda {
    fn graph(&self) -> &Graph {
        &self.training.graph
    }

    fn ranks(&mut self) -> &mut Ranks {
        &mut self.ranks
    }

    fn join(&mut self, mut ranks: Ranks) -> Result<(), Error> {
        assert_eq!(ranks.place(), self.setting.place, "planned for this rank");
        self.all = All::meet(&self.setting.device, &mut ranks)?;
        self.ranks = ranks;
        Ok(())
    }

    fn accumulate(&mut self, batch: &Batch, part: &Part<'_>) -> Result<(), Error> {
        batch.check(&self.training.graph, self.training.batch)?;
        let samples = batch.samples();
        self.put(batch, true, part.drops)?;
        let pass = Pass { samples, train: true, drops: part.drops.is_some() };
        self.operations(pass)?;
        self.follow()?;
        self.criterion(batch, part.loss, part.share)?;
        let shares = part.last && self.all.is_some();
        for op in (0..self.training.graph.ops.len()).rev() {
            self.reverse(op, pass)?;
            if shares {
                self.share(op)?;
            }
        }
        if shares {
            let all = self.all.as_ref().expect("just asked for");
            all.done(&self.lane)?;
        } else {
            self.add_gradients()?;
        }
        Ok(())
    }

    fn update(&mut self, lamb: &Lamb, rate: f64, average: Option<f64>) -> Result<(), Error> {
        self.updates += 1;
        if average.is_some() && !self.averaged {
            self.averaged = true;
            self.launch().move_average(0.0)?;
        }
        self.launch().lamb(lamb, self.updates, rate)?;
        if let Some(decay) = average {
            self.launch().move_average(decay)?;
        }
        let mut norm = self.take()?;
        self.lane.download(self.layout.norm.start, &mut norm, 0..8)?;
        let losses = std::mem::take(&mut self.losses);
        self.untold.push_back(Untold { losses, norm });
        Ok(())
    }

    fn outcome(&mut self, all: bool) -> Result<Option<Outcome>, Error> {
        let due = self.untold.len() > if all { 0 } else { AHEAD };
        due.then(|| self.settle()).transpose()
    }

    fn logits(&mut self, batch: &Batch) -> Result<&[f32], Error> {
        batch.check(&self.inference.graph, self.inference.batch)?;
        self.put(batch, false, None)?;
        self.operations(Pass { samples: batch.samples(), train: false, drops: false })?;
        self.download_logits(batch.samples())?;
        Ok(&self.logits)
    }

    fn swap_average(&mut self) -> Result<(), Error> {
        if self.averaged {
            self.launch().exchange()?;
        }
        Ok(())
    }

    fn state(&self) -> Result<State, Error> {
        Ok(self.to_state()?)
    }

    fn load(&mut self, state: &State) -> Result<(), String> {
        self.take_state(state)
    }
}
