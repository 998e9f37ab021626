//! MixUp, CutMix, normalization, dtype and layout: from a batch of u8 pixels to the requested format.
//!
//! Sources: timm 1.0.31 `timm/data/mixup.py` (`FastCollateMixup`: u8, before normalization) and
//! `timm/data/loader.py` (`PrefetchLoader`: `(x - 255 * mean) / (255 * std)` in f32).
//!
//! cpu.rs and [`convert`] are the reference. The kernels of kernels/*.cu do both in one pass on a GPU
//! and give the same bits; twin.rs has them in Rust. [`Mixer::open`] chooses.

pub(crate) mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod device;
mod job;
mod mixer;
mod normalize;
mod targets;
mod times;
#[cfg(test)]
mod twin;

#[cfg(feature = "cuda")]
pub use cuda::{CudaMixer, MIX_BYTES, MIX_KERNELS, mix_entry};
pub use device::Device;
pub use job::MixJob;
pub(crate) use job::{needs_mixer, payload_bytes};
pub use mixer::{DEVICE_BYTES, Mixer};
pub use normalize::{NormalizeTable, convert};
pub use targets::dense_target;
pub use times::MixTimes;
