//! The GPU: the one place that touches cudarc's driver API.
//!
//! ```text
//! Device -- compile --> Kernel            kernels are compiled from their source when it is opened
//!        -- lane -----> Lane              a stream and its part of the GPU's memory
//!        -- pinned ---> Pinned            host memory that lanes copy to and from, with its own events
//! ```
//!
//! Without the feature `cuda` only the errors and ordinary memory are left. With it nothing is linked:
//! libcuda and libnvrtc are looked for when a device is opened. cudarc panics where they are missing,
//! so they are asked for first.
//!
//! Rules that CUDA and cudarc ask for: no default stream, for its memory cannot be freed from just any
//! thread; cudarc's tracking of events is off, so [`Pinned`] has events of its own; memory of a lane is
//! used on that lane's stream alone, so nothing on the device waits for another stream.

mod error;
mod host;

#[cfg(feature = "cuda")]
mod device;
#[cfg(feature = "cuda")]
mod lane;
#[cfg(feature = "cuda")]
mod pinned;

pub use error::DeviceError;
pub use host::{HostBytes, HostMemory};

#[cfg(feature = "cuda")]
pub use device::{Device, Kernel};
#[cfg(feature = "cuda")]
pub use lane::{Arg, Grid, LANES, Lane};
#[cfg(feature = "cuda")]
pub use pinned::Pinned;
