//! Batch norm: norm.cu.

use forebay::gpu::{Arg, DeviceError};

use super::{CHANNELS_PER_BLOCK, Launcher, THREADS, to_u32, u32_arg};
use crate::backend::cuda::Precision;
use crate::backend::cuda::memory_map::NORM_BLOCKS;
use crate::model::Shape;

/// Rows per lane below which a tensor gets fewer than [`NORM_BLOCKS`] blocks.
const MIN_ROWS_PER_LANE: usize = 4;

/// Maximum number of groups of 16 bytes of channels per block.
const MAX_TILE: usize = 32;

/// Arguments of a batch norm.
#[derive(Clone, Copy)]
pub(crate) struct BatchNormArgs {
    pub(crate) samples: usize,
    /// Shape of the input.
    pub(crate) shape: Shape,
    pub(crate) relu: bool,
    /// Address of the stochastic-depth factors, or 0.
    pub(crate) scales: u64,
    /// Addresses of the scale and the shift, and of their gradients.
    pub(crate) gamma: u64,
    pub(crate) beta: u64,
    pub(crate) dgamma: u64,
    pub(crate) dbeta: u64,
    /// Address of the mask that forward keeps for backward in training, if there is a residual; otherwise 0.
    pub(crate) mask: u64,
    /// Index of the first of the running statistics of this batch norm.
    pub(crate) running: usize,
}

/// The split of the matrix of rows and channels into blocks. It depends on sizes only, and so does the
/// order of additions.
struct NormTiling {
    /// Groups of 16 bytes of channels per block.
    tile: usize,
    tiles: usize,
    chunks: usize,
}

impl NormTiling {
    fn new(rows: usize, channels: usize, precision: Precision) -> Self {
        let groups = channels.div_ceil(16 / precision.bytes());
        let tile = groups.min(MAX_TILE);
        let (tiles, min_rows) = (groups.div_ceil(tile), THREADS / tile * MIN_ROWS_PER_LANE);
        let chunks = rows.div_ceil(min_rows).min((NORM_BLOCKS / tiles).max(1));
        Self { tile, tiles, chunks }
    }
}

impl Launcher<'_> {
    /// Batch norm forward: in training with batch statistics, which are saved for backward; otherwise with
    /// running statistics.
    pub(crate) fn norm_forward(
        &self,
        norm: &BatchNormArgs,
        train: bool,
        [x, residual, y]: [u64; 3],
    ) -> Result<(), DeviceError> {
        let (m, k) = (self.memory, self.kernels);
        let (c, rows) = (norm.shape.channels, norm.samples * norm.shape.pixels());
        let tiling = NormTiling::new(rows, c, self.precision());
        let [rows_arg, c_arg] = [rows, c].map(to_u32).map(u32_arg);
        let tile = u32_arg(to_u32(tiling.tile));
        let saved = self.address(&m.saved, 2 * norm.running);
        let [gamma, beta, x] = [norm.gamma, norm.beta, x].map(Arg::Address);
        if train {
            let partial = self.address(&m.norm_partial, 0);
            let args = [x, partial, rows_arg, c_arg, tile];
            self.run(&k.norm_sums, [tiling.chunks, tiling.tiles], &args)?;
            let statistics = self.address(&m.statistics, m.own_statistics + norm.running);
            let chunks = u32_arg(to_u32(tiling.chunks));
            let args = [x, partial, gamma, beta, statistics, saved, chunks, rows_arg, c_arg];
            self.run(&k.norm_finish, [c.div_ceil(CHANNELS_PER_BLOCK), 1], &args)?;
        } else {
            let args = [self.address(&m.running, norm.running), gamma, beta, saved, c_arg];
            self.each(&k.norm_running, c, &args)?;
        }
        let [residual, y, scales, mask] = [residual, y, norm.scales, norm.mask].map(Arg::Address);
        let [pixels, relu] = [norm.shape.pixels(), usize::from(norm.relu)].map(to_u32).map(u32_arg);
        let args = [x, residual, scales, saved, y, mask, rows_arg, c_arg, tile, pixels, relu];
        self.run(&k.norm_apply, [tiling.chunks, tiling.tiles], &args)
    }

    /// Batch norm backward. With a residual, `dy` becomes the gradient of the residual. Without one, `dx` is `dy`.
    pub(crate) fn norm_backward(
        &self,
        norm: &BatchNormArgs,
        [x, dy, dx]: [u64; 3],
    ) -> Result<(), DeviceError> {
        let (m, k) = (self.memory, self.kernels);
        let (c, rows) = (norm.shape.channels, norm.samples * norm.shape.pixels());
        let tiling = NormTiling::new(rows, c, self.precision());
        let [rows_arg, c_arg] = [rows, c].map(to_u32).map(u32_arg);
        let tile = u32_arg(to_u32(tiling.tile));
        let [pixels, relu] = [norm.shape.pixels(), usize::from(norm.relu)].map(to_u32).map(u32_arg);
        let has_residual = norm.mask != 0;
        let [x, dy, dx, scales, mask] = [x, dy, dx, norm.scales, norm.mask].map(Arg::Address);
        let saved = self.address(&m.saved, 2 * norm.running);
        let (partial, terms) = (self.address(&m.norm_partial, 0), self.address(&m.norm_terms, 0));
        let grid = [tiling.chunks, tiling.tiles];
        if has_residual {
            let args = [x, mask, dy, scales, saved, partial, rows_arg, c_arg, tile, pixels, relu];
            self.run(&k.norm_reduce_residual, grid, &args)?;
        } else {
            let args = [x, dy, saved, partial, rows_arg, c_arg, tile, relu];
            self.run(&k.norm_reduce, grid, &args)?;
        }
        let [dgamma, dbeta] = [norm.dgamma, norm.dbeta].map(Arg::Address);
        let chunks = u32_arg(to_u32(tiling.chunks));
        let args = [partial, saved, dgamma, dbeta, terms, chunks, rows_arg, c_arg];
        self.run(&k.norm_gradients, [c.div_ceil(CHANNELS_PER_BLOCK), 1], &args)?;
        let args = [
            x,
            dy,
            scales,
            saved,
            terms,
            dx,
            rows_arg,
            c_arg,
            tile,
            pixels,
            relu,
            u32_arg(u32::from(has_residual)),
        ];
        self.run(&k.norm_backward, grid, &args)
    }

    /// Updates the running statistics by those of a rank's microbatch.
    pub(crate) fn norm_update_running(&self, rank: usize) -> Result<(), DeviceError> {
        let m = self.memory;
        let len = m.running_len;
        let statistics = self.address(&m.statistics, rank * len);
        let args = [statistics, self.address(&m.running, 0), u32_arg(to_u32(len))];
        self.each(&self.kernels.norm_update_running, len, &args)
    }
}

/// Batch norms that are fused into convolutions.
impl Launcher<'_> {
    /// Turns the sums of a convolution's output and of its squares, at the beginning of `norm_partial`, into the
    /// statistics of the norm that comes after it.
    pub(crate) fn norm_statistics(&self, norm: &BatchNormArgs) -> Result<(), DeviceError> {
        let m = self.memory;
        let (c, rows) = (norm.shape.channels, norm.samples * norm.shape.pixels());
        let statistics = self.address(&m.statistics, m.own_statistics + norm.running);
        let start = m.norm_lines.start + norm.running * m.precision.bytes();
        let line = Arg::Address(self.lane.address(start..m.norm_lines.end));
        let [gamma, beta] = [norm.gamma, norm.beta].map(Arg::Address);
        let [rows, channels] = [rows, c].map(to_u32).map(u32_arg);
        let (sums, saved) =
            (self.address(&m.norm_partial, 0), self.address(&m.saved, 2 * norm.running));
        let args = [sums, gamma, beta, statistics, saved, line, rows, channels];
        self.each(&self.kernels.norm_statistics, c, &args)
    }

    /// The second pass of a norm in training, whose statistics are saved.
    pub(crate) fn norm_apply(
        &self,
        norm: &BatchNormArgs,
        [x, residual, y]: [u64; 3],
    ) -> Result<(), DeviceError> {
        let (c, rows) = (norm.shape.channels, norm.samples * norm.shape.pixels());
        let tiling = NormTiling::new(rows, c, self.precision());
        let saved = self.address(&self.memory.saved, 2 * norm.running);
        let [x, residual, y, scales, mask] =
            [x, residual, y, norm.scales, norm.mask].map(Arg::Address);
        let [rows, c, tile, pixels, relu] =
            [rows, c, tiling.tile, norm.shape.pixels(), usize::from(norm.relu)]
                .map(to_u32)
                .map(u32_arg);
        let args = [x, residual, scales, saved, y, mask, rows, c, tile, pixels, relu];
        self.run(&self.kernels.norm_apply, [tiling.chunks, tiling.tiles], &args)
    }

    /// Adds the gradients of a norm's weights, at the beginning of `norm_partial`, to those of the step, and computes
    /// the terms of [`Self::norm_input_gradient`].
    pub(crate) fn norm_weights(&self, norm: &BatchNormArgs) -> Result<(), DeviceError> {
        let m = self.memory;
        let (c, rows) = (norm.shape.channels, norm.samples * norm.shape.pixels());
        let (gradients, saved) =
            (self.address(&m.norm_partial, 0), self.address(&m.saved, 2 * norm.running));
        let [dgamma, dbeta] = [norm.dgamma, norm.dbeta].map(Arg::Address);
        let [rows, channels] = [rows, c].map(to_u32).map(u32_arg);
        let terms = self.address(&m.norm_terms, 0);
        let args = [gradients, saved, dgamma, dbeta, terms, rows, channels];
        self.each(&self.kernels.norm_weights, c, &args)
    }

    /// The gradient of a norm's input, from that of its output before `ReLU`; in place.
    pub(crate) fn norm_input_gradient(
        &self,
        norm: &BatchNormArgs,
        [x, dy]: [u64; 2],
    ) -> Result<(), DeviceError> {
        let m = self.memory;
        let (c, rows) = (norm.shape.channels, norm.samples * norm.shape.pixels());
        let tiling = NormTiling::new(rows, c, self.precision());
        let (saved, terms) =
            (self.address(&m.saved, 2 * norm.running), self.address(&m.norm_terms, 0));
        let ([x, dy, scales], has_residual) = ([x, dy, 0].map(Arg::Address), u32_arg(1));
        let [rows, c, tile, pixels, relu] =
            [rows, c, tiling.tile, norm.shape.pixels(), 0].map(to_u32).map(u32_arg);
        let args = [x, dy, scales, saved, terms, dy, rows, c, tile, pixels, relu, has_residual];
        self.run(&self.kernels.norm_backward, [tiling.chunks, tiling.tiles], &args)
    }
}
