//! The GPU's mixer: a thread of its own, and two lanes that take turns.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use forebay_types::PixelFormat;

use super::kernels::Kernels;
use super::lane::{MixLane, lane_bytes, max_samples};
use super::parts::parts;
use super::times::{BUFFERS, ROUNDS, measure_stages};
use crate::geometry::Size;
use crate::gpu::{DeviceError, Gpu, HostBytes, HostMemory};
use crate::mix::job::MixJob;
use crate::mix::times::MixTimes;
use crate::sync::lock;

/// Number of lanes that take turns: while one copies, the kernels of the other one run.
const LANES: usize = 2;

/// A GPU that mixes. One thread owns everything on it; other threads send it work and do not wait.
pub struct CudaMixer {
    number: u32,
    /// Memory of a lane.
    lane_bytes: usize,
    device: Gpu,
    thread: rayon::ThreadPool,
    /// Locked by that thread only, so never waited for. `None` once it is dropped.
    state: Mutex<Option<State>>,
}

/// Everything on the GPU.
struct State {
    kernels: Kernels,
    lanes: [MixLane; LANES],
    /// Index of the lane whose turn it is.
    next: usize,
}

impl CudaMixer {
    /// Opens a GPU by number and allocates `bytes` of its memory.
    ///
    /// # Errors
    /// When there is no such GPU or no driver, or when its memory is exhausted.
    pub(in crate::mix) fn open(number: u32, bytes: usize) -> Result<Self, DeviceError> {
        let thread = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .thread_name(move |_| format!("cuda-{number}"))
            .build()
            .map_err(|error| DeviceError::Driver {
                device: number,
                call: "starting a thread",
                status: error.to_string(),
            })?;
        let (device, state) = thread.install(|| {
            let device = Gpu::open(number)?;
            let kernels = Kernels::compile(&device)?;
            let lane = |number| MixLane::new(&device, number, bytes / LANES);
            let state = State { kernels, lanes: [lane(0)?, lane(1)?], next: 0 };
            Ok((device, state))
        })?;
        let lane_bytes = lane_bytes(bytes / LANES);
        Ok(Self { number, lane_bytes, device, thread, state: Mutex::new(Some(state)) })
    }

    /// Checks that samples of a size can be mixed into a format.
    pub(in crate::mix) fn check(&self, size: Size, format: PixelFormat) -> Result<(), DeviceError> {
        max_samples(self.lane_bytes, size, format).map(drop)
    }

    /// The number of the GPU.
    pub const fn number(&self) -> u32 {
        self.number
    }

    pub(in crate::mix) fn name(&self) -> Result<String, DeviceError> {
        self.device.name()
    }

    pub(in crate::mix) fn bandwidth(&self) -> Option<f64> {
        self.device.bandwidth()
    }

    /// The kind of memory that its buffers must have.
    pub(in crate::mix) fn memory(&self) -> HostMemory {
        HostMemory::Pinned(self.device.clone())
    }

    /// Starts mixing the unmixed pixels of a buffer, which the payload will replace. Returns before
    /// the GPU has finished: [`HostBytes::wait`] waits for it.
    ///
    /// # Panics
    /// When the buffer is too small, or the plan cuts a box that is not inside the image.
    pub(in crate::mix) fn mix(
        &self,
        buffer: &mut HostBytes,
        job: &MixJob<'_>,
    ) -> Result<(), DeviceError> {
        if job.is_in_place() && !job.is_mixed() {
            return Ok(());
        }
        assert!(buffer.len() >= job.payload_bytes(), "a buffer of {} bytes", buffer.len());
        let buffer = buffer.pinned().expect("a buffer of the mixer's memory");
        self.run(|State { kernels, lanes, next }| {
            let kernel = kernels.mix(job.format.dtype, job.format.layout);
            let max = lanes[0].max_samples(job)?;
            for part in parts(job.plan.samples.len(), max) {
                lanes[*next].mix(kernel, buffer, job, &part)?;
                *next = (*next + 1) % LANES;
            }
            Ok(())
        })
    }

    /// The dense targets of samples, each given by its labels and lambda, one after the other.
    pub(in crate::mix) fn dense_targets(
        &self,
        samples: &[(&[u32; 2], &f64)],
        smoothing: f64,
        classes: usize,
    ) -> Result<Vec<f32>, DeviceError> {
        let mut buffer = self.memory().allocate(samples.len() * classes * 4)?;
        let pinned = buffer.pinned().expect("a buffer of the mixer's memory");
        self.run(|State { kernels, lanes, .. }| {
            lanes[0].dense_targets(&kernels.dense_target, pinned, samples, smoothing, classes)
        })?;
        buffer.wait()?;
        Ok(buffer.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect())
    }

    /// Measures how long a job takes.
    pub(in crate::mix) fn measure(&self, job: &MixJob<'_>) -> Result<MixTimes, DeviceError> {
        let buffers = (0..BUFFERS).map(|_| self.memory().allocate(job.payload_bytes()));
        let mut buffers = buffers.collect::<Result<Vec<_>, _>>()?;
        let mut whole = Duration::MAX;
        for round in 0..ROUNDS {
            let buffer = &mut buffers[round % BUFFERS];
            let started = Instant::now();
            self.mix(buffer, job)?;
            buffer.wait()?;
            whole = whole.min(started.elapsed());
        }
        let [upload, kernel, download] = self.run(|State { kernels, lanes, .. }| {
            let kernel = kernels.mix(job.format.dtype, job.format.layout);
            measure_stages(&self.device, &mut lanes[0], kernel, &mut buffers, job)
        })?;
        Ok(MixTimes { upload, kernel, download, whole })
    }

    /// Runs `work` on the GPU's thread.
    fn run<T: Send>(&self, work: impl FnOnce(&mut State) -> T + Send) -> T {
        self.thread.install(|| {
            work(lock(&self.state).as_mut().expect("there is a state until the mixer is dropped"))
        })
    }
}

impl Drop for CudaMixer {
    fn drop(&mut self) {
        // Memory on the GPU is freed by the thread that allocated it.
        let state = lock(&self.state).take();
        self.thread.install(move || drop(state));
    }
}

impl fmt::Debug for CudaMixer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CudaMixer({})", self.number)
    }
}
