//! Pools and shortcuts: pool.cu.

use forebay::gpu::{Arg, DeviceError, Kernel};

use super::{Launcher, to_u32, u32_arg};
use crate::model::Shape;

impl Launcher<'_> {
    /// Launches a pool or shortcut with one thread per group of channels of a pixel of `threads`. `args` come
    /// before the sizes.
    fn pool(
        &self,
        kernel: &Kernel,
        args: &[Arg],
        samples: usize,
        threads: Shape,
        sizes: &[usize],
    ) -> Result<(), DeviceError> {
        let items =
            samples * threads.pixels() * threads.channels.div_ceil(self.values_per_thread());
        let sizes = sizes.iter().map(|&size| u32_arg(to_u32(size)));
        let args = args.iter().copied().chain([u32_arg(to_u32(samples))]).chain(sizes);
        let args: Vec<Arg> = args.collect();
        self.each(kernel, items, &args)
    }

    /// Maximum over 3x3 pixels, forward.
    pub(crate) fn max_pool(
        &self,
        [x, y]: [u64; 2],
        samples: usize,
        from: Shape,
        to: Shape,
    ) -> Result<(), DeviceError> {
        let args = [Arg::Address(x), Arg::Address(y), self.address(&self.memory.max_taps, 0)];
        let sizes = [from.height, from.width, to.height, to.width, to.channels];
        self.pool(&self.kernels.max_pool, &args, samples, to, &sizes)
    }

    /// Maximum over 3x3 pixels, backward.
    pub(crate) fn max_pool_backward(
        &self,
        [dy, dx]: [u64; 2],
        samples: usize,
        from: Shape,
        to: Shape,
    ) -> Result<(), DeviceError> {
        let args = [Arg::Address(dy), self.address(&self.memory.max_taps, 0), Arg::Address(dx)];
        let sizes = [from.height, from.width, to.height, to.width, to.channels];
        self.pool(&self.kernels.max_pool_backward, &args, samples, from, &sizes)
    }

    /// Mean over all pixels of an image of `shape`, forward or backward.
    pub(crate) fn mean_pool(
        &self,
        backward: bool,
        addresses: [u64; 2],
        samples: usize,
        shape: Shape,
    ) -> Result<(), DeviceError> {
        let args = addresses.map(Arg::Address);
        let sizes = [shape.pixels(), shape.channels];
        if backward {
            return self.pool(&self.kernels.mean_pool_backward, &args, samples, shape, &sizes);
        }
        let threads = Shape { height: 1, width: 1, ..shape };
        self.pool(&self.kernels.mean_pool, &args, samples, threads, &sizes)
    }

    /// Parameter-free shortcut, forward or backward.
    pub(crate) fn shortcut(
        &self,
        backward: bool,
        addresses: [u64; 2],
        samples: usize,
        from: Shape,
        to: Shape,
    ) -> Result<(), DeviceError> {
        let args = addresses.map(Arg::Address);
        let sizes = [from.height, from.width, from.channels, to.height, to.width, to.channels];
        let (kernel, threads) = if backward {
            (&self.kernels.shortcut_backward, from)
        } else {
            (&self.kernels.shortcut, to)
        };
        self.pool(kernel, &args, samples, threads, &sizes)
    }
}
