//! One of the two sides that take turns: a lane, and the staging memory of what its kernels are told.

#![expect(unsafe_code, reason = "launches of kernels")]

use std::ops::Range;

use super::parts::Part;
use crate::geometry::Rect;
use crate::gpu::{Arg, DeviceError, Gpu, Grid, Kernel, Lane, Pinned};
use crate::mix::{Layout, Work};
use crate::plan::{MixKind, MixSample};

/// Most samples of a part.
const MOST: usize = 4096;

/// The three channels' tables of 256 values of 4 bytes, before the entries for samples.
const TABLES: usize = 3 * 256 * 4;

/// Bytes of `Mix` in kernels/mix.cu.
pub const MIX: usize = 32;

/// Where pixels begin in a lane's memory: behind the tables and the entries.
const PIXELS: usize = TABLES + MOST * MIX;

/// What lies side by side in a lane's memory begins at multiples of this: kernels access 16 bytes.
const ALIGN: usize = 256;

/// Threads of a block, and pieces of 16 that each takes: a block fills its table once for all of them.
const THREADS: usize = 256;
const PIECES: usize = 4;

pub(super) struct Side {
    pub(super) lane: Lane,
    /// What goes to the front of the lane's memory.
    staging: Pinned,
}

impl Side {
    pub(super) fn new(device: &Gpu, number: usize, bytes: usize) -> Result<Self, DeviceError> {
        let lane = device.lane(number, bytes.max(PIXELS + ALIGN))?;
        Ok(Self { lane, staging: device.pinned(PIXELS)? })
    }

    /// How many samples of some work a part may have; at least 2.
    pub(super) fn most_samples(&self, work: &Work<'_>) -> Result<usize, DeviceError> {
        let sample = work.size.rgb_bytes() * (1 + work.output.dtype.bytes());
        let room = self.lane.len() - PIXELS - ALIGN;
        match room / sample {
            0 | 1 => {
                let (need, limit) = ((2 * sample + PIXELS + ALIGN) as u64, self.lane.len() as u64);
                Err(DeviceError::Memory { need, limit })
            }
            most => Ok(most.min(MOST)),
        }
    }

    /// Copies a part of a buffer in, mixes it, and copies it out to where it belongs.
    pub(super) fn mix(
        &mut self,
        kernel: &Kernel,
        buffer: &mut Pinned,
        work: &Work<'_>,
        part: &Part,
    ) -> Result<(), DeviceError> {
        let sample = work.size.rgb_bytes();
        self.tell(work, part)?;
        for (into, run) in part.runs(work.clean_at(), sample) {
            self.upload_pixels(buffer, run, into)?;
        }
        let out = self.launch(kernel, work, part.len())?;
        for (into, run) in part.runs(0, sample * work.output.dtype.bytes()) {
            self.lane.download(out + into, buffer, run)?;
        }
        Ok(())
    }

    /// Copies a run of pixels to behind the `into` bytes that are there.
    pub(super) fn upload_pixels(
        &self,
        buffer: &mut Pinned,
        run: Range<usize>,
        into: usize,
    ) -> Result<(), DeviceError> {
        self.lane.upload(buffer, run, PIXELS + into)
    }

    /// Copies in what the kernel must know beside the pixels: tables, and an entry for each sample.
    pub(super) fn tell(&mut self, work: &Work<'_>, part: &Part) -> Result<(), DeviceError> {
        let (tables, mixes) = self.staging.split_at_mut(TABLES);
        let of_dtype = work.normalise.table(work.output.dtype);
        tables[..of_dtype.len()].copy_from_slice(&of_dtype);
        for (to, sample) in mixes.as_chunks_mut::<MIX>().0.iter_mut().zip(part.samples()) {
            let mixed = Some(work.plan.samples[sample]).filter(|_| work.output.mixed);
            *to = entry(mixed.unwrap_or(MixSample::UNMIXED));
        }
        self.lane.upload(&mut self.staging, 0..TABLES + part.len() * MIX, 0)
    }

    /// Starts the kernel for n samples and tells where in the lane's memory they come out.
    pub(super) fn launch(
        &self,
        kernel: &Kernel,
        work: &Work<'_>,
        n: usize,
    ) -> Result<usize, DeviceError> {
        let sample = work.size.rgb_bytes();
        let pieces = match work.output.layout {
            Layout::Nhwc => sample.div_ceil(16),
            Layout::Nchw => (sample / 3).div_ceil(16),
        };
        let blocks = [pieces.div_ceil(THREADS * PIECES), n.div_ceil(2)];
        let grid = Grid { blocks: blocks.map(number), threads: number(THREADS) };
        let out = PIXELS + (n * sample).next_multiple_of(ALIGN);
        let out_bytes = n * sample * work.output.dtype.bytes();
        let args = [
            Arg::Address(self.lane.address(PIXELS..PIXELS + n * sample)),
            Arg::Address(self.lane.address(out..out + out_bytes)),
            Arg::Address(self.lane.address(TABLES..TABLES + n * MIX)),
            Arg::Address(self.lane.address(0..TABLES)),
            Arg::U32(number(n)),
            Arg::U32(number(sample / 3)),
            Arg::U32(work.size.width * 3),
        ];
        // SAFETY: these are the arguments of every kernel of mix.cu, and each part of the memory has
        // the bytes that n samples take.
        unsafe { self.lane.launch(kernel, grid, &args) }?;
        Ok(out)
    }

    /// Makes the dense targets of samples, in as many rounds as it takes, and copies them out.
    pub(super) fn dense_targets(
        &mut self,
        kernel: &Kernel,
        to: &mut Pinned,
        samples: &[(&[u32; 2], &f64)],
        smoothing: f64,
        classes: usize,
    ) -> Result<(), DeviceError> {
        let room = self.lane.len() - PIXELS;
        let most = (room / (4 * classes)).min(MOST);
        if most == 0 {
            let (need, limit) = ((4 * classes + PIXELS) as u64, self.lane.len() as u64);
            return Err(DeviceError::Memory { need, limit });
        }
        let [on, off] = crate::mix::smoothed(smoothing, classes);
        let mut done = 0;
        for samples in samples.chunks(most) {
            let n = samples.len();
            let (labels, weights) = self.staging.split_at_mut(8 * n);
            let words = labels.as_chunks_mut::<8>().0.iter_mut();
            let words = words.zip(weights.as_chunks_mut::<8>().0).zip(samples);
            for ((labels, weights), (of, lambda)) in words {
                assert!(of.iter().all(|&label| (label as usize) < classes), "{of:?} of {classes}");
                *labels = pair(of.map(u32::to_le_bytes));
                *weights = pair(crate::mix::weights_of(**lambda).map(f32::to_le_bytes));
            }
            self.lane.upload(&mut self.staging, 0..16 * n, 0)?;
            let bytes = 4 * n * classes;
            let blocks = (n * classes).div_ceil(4 * THREADS);
            let grid = Grid { blocks: [number(blocks), 1], threads: number(THREADS) };
            let args = [
                Arg::Address(self.lane.address(0..8 * n)),
                Arg::Address(self.lane.address(8 * n..16 * n)),
                Arg::F32(on),
                Arg::F32(off),
                Arg::U32(number(n)),
                Arg::U32(number(classes)),
                Arg::Address(self.lane.address(PIXELS..PIXELS + bytes)),
            ];
            // SAFETY: these are its arguments, and each part of the memory has the bytes that n
            // samples take.
            unsafe { self.lane.launch(kernel, grid, &args) }?;
            self.lane.download(PIXELS, to, done..done + bytes)?;
            done += bytes;
        }
        Ok(())
    }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).expect("a lane's memory is far below 4 Gi samples or blocks")
}

fn pair(words: [[u8; 4]; 2]) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes.as_chunks_mut::<4>().0.copy_from_slice(&words);
    bytes
}

/// A sample's `Mix` of kernels/mix.cu, as it lies in memory.
pub fn entry(sample: MixSample) -> [u8; MIX] {
    let (kind, cut) = match sample.kind {
        MixKind::None => (0, Rect { top: 0, left: 0, height: 0, width: 0 }),
        MixKind::Mixup => (1, Rect { top: 0, left: 0, height: 0, width: 0 }),
        MixKind::Cutmix(cut) => (2, cut),
    };
    let rows = [cut.top, cut.top + cut.height];
    let columns = [cut.left, cut.left + cut.width].map(|column| column * 3);
    let [own, partner] = sample.weights.map(f32::to_bits);
    let words = [kind, rows[0], rows[1], columns[0], columns[1], own, partner, 0];
    let mut bytes = [0; MIX];
    bytes.as_chunks_mut::<4>().0.copy_from_slice(&words.map(u32::to_le_bytes));
    bytes
}
