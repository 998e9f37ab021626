//! A lane that mixes: stream and memory on the GPU, and staging memory for the kernels' parameters.
//!
//! ```text
//!   memory of the lane   [ tables | entries of samples | unmixed pixels | payload ]
//! ```

#![expect(unsafe_code, reason = "launches of kernels")]

use forebay_types::{Layout, MixedBy, PixelFormat};

use super::parts::Part;
use crate::geometry::{Rect, Size};
use crate::gpu::{Arg, DeviceError, Gpu, Grid, Kernel, Lane, Pinned, Staging, TimingEvent};
use crate::mix::job::MixJob;
use crate::mix::targets::{label_weights, smoothed};
use crate::plan::{MixKind, MixSample};

/// Maximum number of samples in a part.
const MAX_SAMPLES: usize = 4096;

/// Bytes of the three channels' tables: 256 values of up to 4 bytes each.
const TABLES: usize = 3 * 256 * 4;

/// Size of `Mix` in kernels/mix.cu.
pub const MIX_BYTES: usize = 32;

/// Offset of the unmixed pixels in the lane's memory.
const PIXELS: usize = TABLES + MAX_SAMPLES * MIX_BYTES;

/// Alignment within the lane's memory: kernels access 16 bytes at a time.
const ALIGN: usize = 256;

/// Threads of a block.
const THREADS: usize = 256;

/// Maximum number of parts of a lane whose parameters are on their way at once.
const MAX_STAGED: usize = 4;

/// Pieces of 16 values or pixels that each thread takes: a block loads its table once for all of them.
const PIECES: usize = 4;

pub(super) struct MixLane {
    lane: Lane,
    /// Tables and entries, on their way to the front of the lane's memory.
    staging: Staging,
}

/// Bytes of a lane that is to have `bytes`.
pub(super) fn lane_bytes(bytes: usize) -> usize {
    bytes.max(PIXELS + ALIGN)
}

/// Maximum number of samples in a part, for a lane of `lane_bytes`; at least 2.
pub(super) fn max_samples(
    lane_bytes: usize,
    size: Size,
    format: PixelFormat,
) -> Result<usize, DeviceError> {
    let sample = size.rgb_bytes() * (1 + format.dtype.bytes());
    match (lane_bytes - PIXELS - ALIGN) / sample {
        0 | 1 => {
            let (need, limit) = ((2 * sample + PIXELS + ALIGN) as u64, lane_bytes as u64);
            Err(DeviceError::Memory { need, limit })
        }
        max => Ok(max.min(MAX_SAMPLES)),
    }
}

impl MixLane {
    pub(super) fn new(device: &Gpu, number: usize, bytes: usize) -> Result<Self, DeviceError> {
        let lane = device.lane(number, lane_bytes(bytes))?;
        Ok(Self { lane, staging: device.staging(PIXELS, MAX_STAGED) })
    }

    /// Maximum number of samples of a job in a part; at least 2.
    pub(super) fn max_samples(&self, job: &MixJob<'_>) -> Result<usize, DeviceError> {
        max_samples(self.lane.len(), job.size, job.format)
    }

    /// Uploads a part of a buffer, mixes it, and downloads the payload to where it belongs: into the
    /// places of the part's own samples, which this lane has uploaded by then.
    pub(super) fn mix(
        &mut self,
        kernel: &Kernel,
        buffer: &mut Pinned,
        job: &MixJob<'_>,
        part: &Part,
    ) -> Result<(), DeviceError> {
        self.upload_parameters(job, part)?;
        self.upload_pixels(buffer, job, part)?;
        let out = self.launch(kernel, job, part.len())?;
        self.download_payload(out, buffer, job, part)
    }

    /// Downloads the payload of a part, which is at `from` in the lane's memory.
    pub(super) fn download_payload(
        &self,
        from: usize,
        buffer: &mut Pinned,
        job: &MixJob<'_>,
        part: &Part,
    ) -> Result<(), DeviceError> {
        for (offset, run) in part.runs(job.slot_bytes()) {
            self.lane.download(from + offset, buffer, run)?;
        }
        Ok(())
    }

    /// Places an event after everything that was started.
    pub(super) fn record(&self, event: &TimingEvent) -> Result<(), DeviceError> {
        self.lane.record(event)
    }

    /// The stream and its memory.
    pub(super) const fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Uploads the unmixed pixels of a part: in runs where they are adjacent, else sample by sample.
    pub(super) fn upload_pixels(
        &self,
        buffer: &mut Pinned,
        job: &MixJob<'_>,
        part: &Part,
    ) -> Result<(), DeviceError> {
        let sample = job.size.rgb_bytes();
        if sample == job.slot_bytes() {
            for (offset, run) in part.runs(sample) {
                self.lane.upload(buffer, run, PIXELS + offset)?;
            }
            return Ok(());
        }
        for (place, number) in part.samples().enumerate() {
            self.lane.upload(buffer, job.unmixed(number), PIXELS + place * sample)?;
        }
        Ok(())
    }

    /// Uploads what the kernel needs besides the pixels: tables, and an entry for each sample.
    pub(super) fn upload_parameters(
        &mut self,
        job: &MixJob<'_>,
        part: &Part,
    ) -> Result<(), DeviceError> {
        let staging = self.staging.take()?;
        let (tables, mixes) = staging.split_at_mut(TABLES);
        let table = job.normalize.to_bytes(job.format.dtype);
        tables[..table.len()].copy_from_slice(&table);
        for (to, sample) in mixes.as_chunks_mut::<MIX_BYTES>().0.iter_mut().zip(part.samples()) {
            let mixed =
                Some(job.plan.samples[sample]).filter(|_| job.format.mixed_by == MixedBy::Server);
            *to = mix_entry(mixed.unwrap_or(MixSample::UNMIXED));
        }
        self.lane.upload(staging, 0..TABLES + part.len() * MIX_BYTES, 0)
    }

    /// Starts the kernel for n samples; returns where in the lane's memory the payload will be.
    pub(super) fn launch(
        &self,
        kernel: &Kernel,
        job: &MixJob<'_>,
        n: usize,
    ) -> Result<usize, DeviceError> {
        let sample = job.size.rgb_bytes();
        let pieces = match job.format.layout {
            Layout::Nhwc => sample.div_ceil(16),
            Layout::Nchw => (sample / 3).div_ceil(16),
        };
        let blocks = [pieces.div_ceil(THREADS * PIECES), n.div_ceil(2)];
        let grid = Grid { blocks: blocks.map(number), threads: number(THREADS) };
        let out = PIXELS + (n * sample).next_multiple_of(ALIGN);
        let out_bytes = n * sample * job.format.dtype.bytes();
        let args = [
            Arg::Address(self.lane.address(PIXELS..PIXELS + n * sample)),
            Arg::Address(self.lane.address(out..out + out_bytes)),
            Arg::Address(self.lane.address(TABLES..TABLES + n * MIX_BYTES)),
            Arg::Address(self.lane.address(0..TABLES)),
            Arg::U32(number(n)),
            Arg::U32(number(sample / 3)),
            Arg::U32(job.size.width * 3),
        ];
        // SAFETY: every kernel of mix.cu has these parameters, and each range of the memory has the
        // bytes that n samples take.
        unsafe { self.lane.launch(kernel, grid, &args) }?;
        Ok(out)
    }

    /// Computes the dense targets of samples and downloads them, in as many rounds as it takes.
    pub(super) fn dense_targets(
        &mut self,
        kernel: &Kernel,
        to: &mut Pinned,
        samples: &[(&[u32; 2], &f64)],
        smoothing: f64,
        classes: usize,
    ) -> Result<(), DeviceError> {
        let room = self.lane.len() - PIXELS;
        let max = (room / (4 * classes)).min(MAX_SAMPLES);
        if max == 0 {
            let (need, limit) = ((4 * classes + PIXELS) as u64, self.lane.len() as u64);
            return Err(DeviceError::Memory { need, limit });
        }
        let [on, off] = smoothed(smoothing, classes);
        let mut done = 0;
        for samples in samples.chunks(max) {
            let n = samples.len();
            let staging = self.staging.take()?;
            let (labels, weights) = staging.split_at_mut(8 * n);
            let words = labels.as_chunks_mut::<8>().0.iter_mut();
            let words = words.zip(weights.as_chunks_mut::<8>().0).zip(samples);
            for ((labels, weights), (of, lambda)) in words {
                assert!(of.iter().all(|&label| (label as usize) < classes), "{of:?} of {classes}");
                *labels = pair(of.map(u32::to_le_bytes));
                *weights = pair(label_weights(**lambda).map(f32::to_le_bytes));
            }
            self.lane.upload(staging, 0..16 * n, 0)?;
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
            // SAFETY: the kernel has these parameters, and each range of the memory has the bytes
            // that n samples take.
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

/// The memory representation of a sample's `Mix` of kernels/mix.cu.
pub fn mix_entry(sample: MixSample) -> [u8; MIX_BYTES] {
    let (kind, cut) = match sample.kind {
        MixKind::None => (0, Rect { top: 0, left: 0, height: 0, width: 0 }),
        MixKind::Mixup => (1, Rect { top: 0, left: 0, height: 0, width: 0 }),
        MixKind::Cutmix(cut) => (2, cut),
    };
    let rows = [cut.top, cut.top + cut.height];
    let columns = [cut.left, cut.left + cut.width].map(|column| column * 3);
    let [own, partner] = sample.weights.map(f32::to_bits);
    let words = [kind, rows[0], rows[1], columns[0], columns[1], own, partner, 0];
    let mut bytes = [0; MIX_BYTES];
    bytes.as_chunks_mut::<4>().0.copy_from_slice(&words.map(u32::to_le_bytes));
    bytes
}
