//! Each kernel with its grid and its arguments: what kernels/*.cu say they take.

#![expect(unsafe_code, reason = "launches of kernels")]

use std::ops::Range;

use forebay::gpu::{Arg, DeviceError, Grid, Kernel, Lane};

use super::Number;
use super::kernels::Kernels;
use super::layout::{CHUNK, Input, Layout, NORM_CHUNKS};
use crate::backend::{Batch, Pixels};
use crate::lamb::{Factors, Lamb};
use crate::loss::{Criterion, Loss};
use crate::model::{Graph, Shape};

/// Threads of a block, as prelude.cuh has it.
const THREADS: usize = 256;

/// Channels that a block of `norm_finish` and `norm_slopes` takes, and classes of `bias_gradient`.
const CHANNELS: usize = 16;

/// Rows of a norm's chunk that each of a block's lanes takes, at least.
const LEAST_ROWS: usize = 4;

/// Groups of 16 bytes that lie side by side in a block of a norm, at most.
const MOST_TILE: usize = 32;

/// Kernels that run on a lane.
#[derive(Clone, Copy)]
pub(super) struct Launch<'a> {
    pub(super) lane: &'a Lane,
    pub(super) kernels: &'a Kernels,
    /// Of the server's mixing.
    pub(super) mix: &'a Kernel,
    pub(super) layout: &'a Layout,
}

/// A tensor under a norm, as a matrix; and where the norm's numbers are.
#[derive(Clone, Copy)]
pub(super) struct Norm {
    pub(super) samples: usize,
    /// Of the tensor.
    pub(super) shape: Shape,
    pub(super) relu: bool,
    /// What each sample's branch is multiplied with, or 0.
    pub(super) scales: u64,
    /// Addresses of gamma and of its gradient; beta's lie behind.
    pub(super) gamma: u64,
    pub(super) beta: u64,
    pub(super) dgamma: u64,
    pub(super) dbeta: u64,
    /// Its running statistics' place, in numbers.
    pub(super) running: usize,
}

/// How a matrix is cut into blocks. It depends on sizes alone, so that sums do.
pub(super) struct Cut {
    pub(super) tile: usize,
    pub(super) chunk_rows: usize,
    pub(super) chunks: usize,
    tiles: usize,
}

impl Cut {
    pub(super) fn new(rows: usize, channels: usize, number: Number) -> Self {
        let groups = channels.div_ceil(16 / number.bytes());
        let tile = groups.min(MOST_TILE);
        let least = THREADS / tile * LEAST_ROWS;
        let chunk_rows = rows.div_ceil(NORM_CHUNKS).max(least);
        let (chunks, tiles) = (rows.div_ceil(chunk_rows), groups.div_ceil(tile));
        Self { tile, chunk_rows, chunks, tiles }
    }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).expect("a tensor's numbers are below 2^32")
}

const fn u(n: u32) -> Arg {
    Arg::U32(n)
}

impl Launch<'_> {
    /// Starts blocks of a kernel, if there is anything to do.
    fn run(&self, kernel: &Kernel, blocks: [usize; 2], args: &[Arg]) -> Result<(), DeviceError> {
        if blocks.contains(&0) {
            return Ok(());
        }
        let grid = Grid { blocks: blocks.map(number), threads: number(THREADS) };
        // SAFETY: each method below passes what its kernel takes, and addresses of parts of the lane's memory
        // that are as large as the plan says the kernel reaches.
        unsafe { self.lane.launch(kernel, grid, args) }
    }

    /// Starts a thread for each of some items.
    fn each(&self, kernel: &Kernel, items: usize, args: &[Arg]) -> Result<(), DeviceError> {
        self.run(kernel, [items.div_ceil(THREADS), 1], args)
    }

    /// Address of some f32 in a part of the memory.
    fn at(&self, part: &Range<usize>, first: usize) -> Arg {
        let start = part.start + first * 4;
        assert!(start <= part.end, "{first} in {part:?}");
        Arg::Address(self.lane.address(start..part.end))
    }

    fn number(&self) -> Number {
        self.layout.number
    }

    /// Numbers that a thread of these kernels takes.
    fn wide(&self) -> usize {
        16 / self.number().bytes()
    }

    /// Zeros in a part of the memory.
    pub(super) fn clear(&self, part: &Range<usize>) -> Result<(), DeviceError> {
        // Parts end before a multiple of 256 bytes begins the next one.
        let numbers = part.len().next_multiple_of(32) / 4;
        let args = [self.at(part, 0), u(number(numbers))];
        self.each(&self.kernels.clear, numbers / 8, &args)
    }

    /// Mixes each of a batch's images, `from` where they were uploaded, with its mirror, as `mixes` say.
    pub(super) fn mix(&self, batch: &Batch, from: usize, mixes: usize) -> Result<(), DeviceError> {
        let at = |start: usize| Arg::Address(self.lane.address(start..start));
        let ((height, width), samples) = (batch.size, batch.samples());
        let sizes = [samples, height * width, width * 3].map(number).map(u);
        let [samples_arg, pixels, row] = sizes;
        let to = at(self.layout.mixed.start);
        let args =
            [at(from), to, at(mixes), self.at(&self.layout.table, 0), samples_arg, pixels, row];
        // Four pieces of 16 bytes a thread, of a sample and of its mirror.
        let pieces = (height * width * 3).div_ceil(16);
        self.run(self.mix, [pieces.div_ceil(4 * THREADS), samples.div_ceil(2)], &args)
    }

    /// A batch's images, `from` where they were uploaded, into the first tensor.
    pub(super) fn images(
        &self,
        batch: &Batch,
        graph: &Graph,
        from: usize,
        x: u64,
    ) -> Result<(), DeviceError> {
        let ((height, width), pad) = (graph.image, graph.pad);
        let all = batch.samples() * graph.tensors[0].numbers();
        let from = Arg::Address(self.lane.address(from..from));
        let sizes = [height, width, pad, all].map(number).map(u);
        let [height, width, pad, all_arg] = sizes;
        let items = all.div_ceil(self.wide());
        if matches!(batch.pixels, Pixels::Floats(_)) {
            let args = [from, Arg::Address(x), height, width, pad, all_arg];
            return self.each(&self.kernels.images_floats, items, &args);
        }
        let table = self.at(&self.layout.table, 0);
        let args = [from, table, Arg::Address(x), height, width, pad, all_arg];
        self.each(&self.kernels.images_bytes, items, &args)
    }

    /// A norm forward: by the batch's statistics, which are kept for the running ones, or by those.
    pub(super) fn norm_forward(
        &self,
        norm: &Norm,
        train: bool,
        [x, residual, y]: [u64; 3],
    ) -> Result<(), DeviceError> {
        let (l, k) = (self.layout, self.kernels);
        let (c, rows) = (norm.shape.channels, norm.samples * norm.shape.pixels());
        let cut = Cut::new(rows, c, self.number());
        let [rows_arg, c_arg] = [rows, c].map(number).map(u);
        let [tile, chunk_rows] = [cut.tile, cut.chunk_rows].map(number).map(u);
        let saved = self.at(&l.saved, 2 * norm.running);
        let [gamma, beta, x] = [norm.gamma, norm.beta, x].map(Arg::Address);
        if train {
            let partial = self.at(&l.norm_partial, 0);
            let args = [x, partial, rows_arg, c_arg, tile, chunk_rows];
            self.run(&k.norm_sums, [cut.chunks, cut.tiles], &args)?;
            let statistics = self.at(&l.statistics, l.own_statistics + norm.running);
            let chunks = u(number(cut.chunks));
            let args = [x, partial, gamma, beta, statistics, saved, chunks, rows_arg, c_arg];
            self.run(&k.norm_finish, [c.div_ceil(CHANNELS), 1], &args)?;
        } else {
            let args = [self.at(&l.running, norm.running), gamma, beta, saved, c_arg];
            self.each(&k.norm_running, c, &args)?;
        }
        let [residual, y, scales] = [residual, y, norm.scales].map(Arg::Address);
        let [pixels, relu] = [norm.shape.pixels(), usize::from(norm.relu)].map(number).map(u);
        let args = [x, residual, scales, saved, y, rows_arg, c_arg, tile, chunk_rows, pixels, relu];
        self.run(&k.norm_apply, [cut.chunks, cut.tiles], &args)
    }

    /// A norm backward. With a residual, `y` is the result and `dy` becomes the residual's gradient; else `y` is 0 and `dx` is `dy`.
    pub(super) fn norm_backward(
        &self,
        norm: &Norm,
        [x, y, dy, dx]: [u64; 4],
    ) -> Result<(), DeviceError> {
        let (l, k) = (self.layout, self.kernels);
        let (c, rows) = (norm.shape.channels, norm.samples * norm.shape.pixels());
        let cut = Cut::new(rows, c, self.number());
        let [rows_arg, c_arg] = [rows, c].map(number).map(u);
        let [tile, chunk_rows] = [cut.tile, cut.chunk_rows].map(number).map(u);
        let [pixels, relu] = [norm.shape.pixels(), usize::from(norm.relu)].map(number).map(u);
        let behind = u(u32::from(y != 0));
        let [x, y, dy, dx, scales] = [x, y, dy, dx, norm.scales].map(Arg::Address);
        let saved = self.at(&l.saved, 2 * norm.running);
        let (partial, means) = (self.at(&l.norm_partial, 0), self.at(&l.norm_means, 0));
        let grid = [cut.chunks, cut.tiles];
        let args =
            [x, y, dy, scales, saved, partial, rows_arg, c_arg, tile, chunk_rows, pixels, relu];
        self.run(&k.norm_reduce, grid, &args)?;
        let [dgamma, dbeta] = [norm.dgamma, norm.dbeta].map(Arg::Address);
        let chunks = u(number(cut.chunks));
        let args = [partial, saved, dgamma, dbeta, means, chunks, rows_arg, c_arg];
        self.run(&k.norm_slopes, [c.div_ceil(CHANNELS), 1], &args)?;
        let args = [
            x, dy, scales, saved, means, dx, rows_arg, c_arg, tile, chunk_rows, pixels, relu,
            behind,
        ];
        self.run(&k.norm_backward, grid, &args)
    }

    /// Running statistics follow those of a rank's microbatch.
    pub(super) fn norm_follow(&self, rank: usize) -> Result<(), DeviceError> {
        let l = self.layout;
        let numbers = l.running_numbers;
        let statistics = self.at(&l.statistics, rank * numbers);
        let args = [statistics, self.at(&l.running, 0), u(number(numbers))];
        self.each(&self.kernels.norm_follow, numbers, &args)
    }

    /// A pool or shortcut: `args` lie before the sizes.
    fn pool(
        &self,
        kernel: &Kernel,
        args: &[Arg],
        samples: usize,
        threads: Shape,
        sizes: &[usize],
    ) -> Result<(), DeviceError> {
        let items = samples * threads.pixels() * threads.channels.div_ceil(self.wide());
        let sizes = sizes.iter().map(|&size| u(number(size)));
        let args = args.iter().copied().chain([u(number(samples))]).chain(sizes);
        let args: Vec<Arg> = args.collect();
        self.each(kernel, items, &args)
    }

    pub(super) fn max_pool(
        &self,
        [x, y]: [u64; 2],
        samples: usize,
        from: Shape,
        to: Shape,
    ) -> Result<(), DeviceError> {
        let args = [Arg::Address(x), Arg::Address(y), self.at(&self.layout.taps, 0)];
        let sizes = [from.height, from.width, to.height, to.width, to.channels];
        self.pool(&self.kernels.max_pool, &args, samples, to, &sizes)
    }

    pub(super) fn max_pool_backward(
        &self,
        [dy, dx]: [u64; 2],
        samples: usize,
        from: Shape,
        to: Shape,
    ) -> Result<(), DeviceError> {
        let args = [Arg::Address(dy), self.at(&self.layout.taps, 0), Arg::Address(dx)];
        let sizes = [from.height, from.width, to.height, to.width, to.channels];
        self.pool(&self.kernels.max_pool_backward, &args, samples, from, &sizes)
    }

    /// The mean over all pixels of `shape`, or its gradient.
    pub(super) fn mean_pool(
        &self,
        backward: bool,
        places: [u64; 2],
        samples: usize,
        shape: Shape,
    ) -> Result<(), DeviceError> {
        let args = places.map(Arg::Address);
        let sizes = [shape.pixels(), shape.channels];
        if backward {
            return self.pool(&self.kernels.mean_pool_backward, &args, samples, shape, &sizes);
        }
        let threads = Shape { height: 1, width: 1, ..shape };
        self.pool(&self.kernels.mean_pool, &args, samples, threads, &sizes)
    }

    /// The shortcut without parameters, or its gradient.
    pub(super) fn shortcut(
        &self,
        backward: bool,
        places: [u64; 2],
        samples: usize,
        from: Shape,
        to: Shape,
    ) -> Result<(), DeviceError> {
        let args = places.map(Arg::Address);
        let sizes = [from.height, from.width, from.channels, to.height, to.width, to.channels];
        let (kernel, threads) = if backward {
            (&self.kernels.shortcut_backward, from)
        } else {
            (&self.kernels.shortcut, to)
        };
        self.pool(kernel, &args, samples, threads, &sizes)
    }

    /// The classifier's bias onto the logits.
    pub(super) fn bias_add(
        &self,
        bias: u64,
        samples: usize,
        classes: usize,
    ) -> Result<(), DeviceError> {
        let logits = self.at(&self.layout.logits, 0);
        let args = [logits, Arg::Address(bias), u(number(samples)), u(number(classes))];
        self.each(&self.kernels.bias_add, samples * classes, &args)
    }

    /// Adds the bias's gradient.
    pub(super) fn bias_gradient(
        &self,
        [slope, gradient]: [u64; 2],
        samples: usize,
        classes: usize,
    ) -> Result<(), DeviceError> {
        let [samples, classes_arg] = [samples, classes].map(number).map(u);
        let args = [Arg::Address(slope), Arg::Address(gradient), samples, classes_arg];
        self.run(&self.kernels.bias_gradient, [classes.div_ceil(CHANNELS), 1], &args)
    }

    /// Losses of the samples, and the slope of the logits times `scale`.
    #[expect(clippy::cast_possible_truncation, reason = "settings, as the kernels take them")]
    pub(super) fn loss(
        &self,
        input: &Input,
        loss: &Loss,
        slope: u64,
        samples: usize,
        scale: f64,
    ) -> Result<(), DeviceError> {
        let at = |part: &Range<usize>| {
            let start = self.layout.input.start;
            Arg::Address(self.lane.address(start + part.start..start + part.end))
        };
        let classes = self.layout.classes;
        let off = loss.smoothing / classes as f64;
        let [on, off] = [1.0 - loss.smoothing + off, off].map(|n| Arg::F32(n as f32));
        let mut args = vec![
            self.at(&self.layout.logits, 0),
            at(&input.label_a),
            at(&input.label_b),
            at(&input.lambda),
            Arg::Address(slope),
            self.at(&self.layout.losses, 0),
            u(number(classes)),
            on,
            off,
        ];
        let binary = loss.criterion != Criterion::CrossEntropy;
        if binary {
            args.push(u(u32::from(loss.threshold.is_some())));
            args.push(Arg::F32(loss.threshold.unwrap_or(0.0)));
        }
        args.push(Arg::F32(scale as f32));
        let k = self.kernels;
        let kernel = if binary { &k.binary_cross_entropy } else { &k.cross_entropy };
        self.run(kernel, [samples, 1], &args)
    }

    /// Adds a microbatch's gradients of the convolutions to some of the step's.
    pub(super) fn add_gradients(&self, place: &Range<usize>) -> Result<(), DeviceError> {
        let (l, bytes) = (self.layout, self.number().bytes());
        let from = l.filters.start + place.start * bytes..l.filters.start + place.end * bytes;
        let from = Arg::Address(self.lane.address(from));
        let args = [from, self.at(&l.gradients, place.start), u(number(place.len()))];
        self.each(&self.kernels.add_gradients, place.len() / 8, &args)
    }

    /// Writes the copy of the parameters that the products take.
    pub(super) fn copy_parameters(&self) -> Result<(), DeviceError> {
        let l = self.layout;
        let copy = Arg::Address(self.lane.address(l.copy.clone()));
        let args = [self.at(&l.parameters, 0), copy, u(number(l.numbers))];
        self.each(&self.kernels.copy_parameters, l.numbers / 8, &args)
    }

    /// An update.
    #[expect(clippy::cast_possible_truncation, reason = "settings, as the kernels take them")]
    pub(super) fn lamb(&self, lamb: &Lamb, update: u64, rate: f64) -> Result<(), DeviceError> {
        let (l, k) = (self.layout, self.kernels);
        let parts = l.numbers.div_ceil(CHUNK);
        let (gradients, parameters) = (self.at(&l.gradients, 0), self.at(&l.parameters, 0));
        let sums = self.at(&l.square_partial, 0);
        self.run(&k.square_sums, [parts, 1], &[gradients, sums, u(number(l.numbers))])?;
        let [norm, clip, chunks, tensors, partial, ratios] =
            [&l.norm, &l.clip, &l.chunks, &l.tensors, &l.lamb_partial, &l.ratios]
                .map(|part| self.at(part, 0));
        let most = Arg::F32(lamb.max_grad_norm.unwrap_or(0.0) as f32);
        self.run(&k.gradient_norm, [1, 1], &[sums, u(number(parts)), most, norm, clip])?;
        let f = Factors::new(lamb, update);
        let factors = [
            f.beta1,
            f.new1,
            f.beta2,
            f.new2,
            f.correction1,
            f.correction2,
            lamb.eps,
            lamb.weight_decay,
        ]
        .map(|n| Arg::F32(n as f32));
        let state = [chunks, parameters, gradients, self.at(&l.means, 0), self.at(&l.squares, 0)];
        let args = [&state[..], &[partial, clip], &factors].concat();
        let blocks = l.chunks.len() / 16;
        self.run(&k.lamb_direction, [blocks, 1], &args)?;
        let flags = [lamb.always_adapt, lamb.weight_decay != 0.0, lamb.trust_clip];
        let args = [&[tensors, partial, ratios][..], &flags.map(|on| u(u32::from(on)))].concat();
        self.run(&k.lamb_ratio, [l.tensors.len() / 16, 1], &args)?;
        let copy = Arg::Address(self.lane.address(l.copy.clone()));
        let args = [chunks, ratios, parameters, gradients, copy, Arg::F32(rate as f32)];
        self.run(&k.lamb_apply, [blocks, 1], &args)
    }

    /// The moving averages follow the model: `decay` of them stays.
    #[expect(clippy::cast_possible_truncation, reason = "a setting, as the kernel takes it")]
    pub(super) fn move_average(&self, decay: f64) -> Result<(), DeviceError> {
        let l = self.layout;
        let [keep, take] = [decay, 1.0 - decay].map(|n| Arg::F32(n as f32));
        for (average, model, numbers) in [
            (&l.average, &l.parameters, l.numbers),
            (&l.average_running, &l.running, l.running_numbers),
        ] {
            let args = [self.at(average, 0), self.at(model, 0), u(number(numbers)), keep, take];
            self.each(&self.kernels.move_average, numbers / 8, &args)?;
        }
        Ok(())
    }

    /// Exchanges the model and its moving average.
    pub(super) fn exchange(&self) -> Result<(), DeviceError> {
        let l = self.layout;
        for (average, model, numbers) in [
            (&l.average, &l.parameters, l.numbers),
            (&l.average_running, &l.running, l.running_numbers),
        ] {
            let args = [self.at(average, 0), self.at(model, 0), u(number(numbers))];
            self.each(&self.kernels.exchange, numbers / 8, &args)?;
        }
        self.copy_parameters()
    }
}
