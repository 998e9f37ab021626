//! Mixing on a GPU, in parts that overlap.
//!
//! ```text
//! lane 0   part 0: copy in, kernel, copy out | part 2 ...
//! lane 1             part 1: copy in, kernel, copy out | part 3 ...
//! ```
//!
//! A part is some samples from the front of a microbatch and their partners from its back: a smaller
//! microbatch of its own. So a microbatch of any size goes through memory of a fixed size, and copies
//! in, kernels and copies out of neighbouring parts and neighbouring microbatches overlap. Nobody waits
//! here: whoever looks at the buffer does.

mod parts;
mod side;
mod times;

use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::{DType, Layout, Work};
use crate::gpu::{DeviceError, Gpu, HostBytes, HostMemory, Kernel, LANES};

use side::Side;
pub use side::{MIX as MIX_BYTES, entry as mix_entry};

/// The source of kernels/mix.cu, for who has the pixels on a GPU already: compile it with [`Gpu::compile`].
pub const MIX_KERNELS: &str = include_str!("../kernels/mix.cu");

/// A GPU that mixes. One thread owns all that is on it; others hand it work and return at once.
pub struct Cuda {
    number: u32,
    device: Gpu,
    thread: rayon::ThreadPool,
    /// Locked by that thread alone, so never waited for. Nothing once it is dropped.
    state: Mutex<Option<State>>,
}

/// What is on the GPU.
struct State {
    kernels: Kernels,
    sides: [Side; LANES],
    /// Which of them is next.
    next: usize,
}

/// The kernels of kernels/*.cu.
struct Kernels {
    /// By bytes of a value, then layout.
    mix: [[Kernel; 2]; 3],
    dense_target: Kernel,
}

impl Kernels {
    fn compile(device: &Gpu) -> Result<Self, DeviceError> {
        let names = [
            ["mix_u8_nhwc", "mix_u8_nchw"],
            ["mix_16_nhwc", "mix_16_nchw"],
            ["mix_32_nhwc", "mix_32_nchw"],
        ];
        let [a, b, c, d, e, f] =
            device.compile("mix.cu", MIX_KERNELS, names.as_flattened().try_into().expect("six"))?;
        let source = include_str!("../kernels/dense_target.cu");
        let [dense_target] = device.compile("dense_target.cu", source, ["dense_target"])?;
        Ok(Self { mix: [[a, b], [c, d], [e, f]], dense_target })
    }

    const fn mix(&self, dtype: DType, layout: Layout) -> &Kernel {
        let layouts = match dtype {
            DType::U8 => &self.mix[0],
            DType::F16 | DType::Bf16 => &self.mix[1],
            DType::F32 => &self.mix[2],
        };
        match layout {
            Layout::Nhwc => &layouts[0],
            Layout::Nchw => &layouts[1],
        }
    }
}

impl Cuda {
    /// Opens the GPU of a number and takes `bytes` of its memory.
    ///
    /// # Errors
    /// When there is none, or no driver, or its memory is taken.
    pub fn open(number: u32, bytes: usize) -> Result<Self, DeviceError> {
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
            let side = |number| Side::new(&device, number, bytes / LANES);
            let state = State { kernels, sides: [side(0)?, side(1)?], next: 0 };
            Ok((device, state))
        })?;
        Ok(Self { number, device, thread, state: Mutex::new(Some(state)) })
    }

    /// Which GPU it is.
    pub const fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn name(&self) -> Result<String, DeviceError> {
        self.device.name()
    }

    pub(super) fn bandwidth(&self) -> Option<f64> {
        self.device.bandwidth()
    }

    /// What its buffers must be of.
    pub fn memory(&self) -> HostMemory {
        HostMemory::Pinned(self.device.clone())
    }

    /// See [`Mixer::mix`](super::Mixer::mix).
    pub(super) fn mix(&self, buffer: &mut HostBytes, work: &Work<'_>) -> Result<(), DeviceError> {
        if work.output.in_place() && !work.mixes() {
            return Ok(());
        }
        assert!(buffer.len() >= work.buffer_bytes(), "a buffer of {} bytes", buffer.len());
        let buffer = buffer.pinned().expect("a buffer of the mixer's memory");
        self.on_its_thread(|State { kernels, sides, next }| {
            let kernel = kernels.mix(work.output.dtype, work.output.layout);
            let most = sides[0].most_samples(work)?;
            for part in parts::parts(work.plan.samples.len(), most) {
                sides[*next].mix(kernel, buffer, work, &part)?;
                *next = (*next + 1) % LANES;
            }
            Ok(())
        })
    }

    /// See [`Mixer::dense_targets`](super::Mixer::dense_targets).
    pub(super) fn dense_targets(
        &self,
        samples: &[(&[u32; 2], &f64)],
        smoothing: f64,
        classes: usize,
    ) -> Result<Vec<f32>, DeviceError> {
        let mut buffer = self.memory().allocate(samples.len() * classes * 4)?;
        let pinned = buffer.pinned().expect("a buffer of the mixer's memory");
        self.on_its_thread(|State { kernels, sides, .. }| {
            sides[0].dense_targets(&kernels.dense_target, pinned, samples, smoothing, classes)
        })?;
        buffer.wait()?;
        Ok(buffer.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect())
    }

    fn on_its_thread<T: Send>(&self, work: impl FnOnce(&mut State) -> T + Send) -> T {
        self.thread.install(|| {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            work(state.as_mut().expect("there until it is dropped"))
        })
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // What is on the GPU is given back by the thread that took it.
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        self.thread.install(move || drop(state));
    }
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cuda({})", self.number)
    }
}
