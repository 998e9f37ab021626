//! GPUs: the only module that uses cudarc's driver API.
//!
//! ```text
//!   Gpu -- compile --> Kernel    compiled from its source for this GPU
//!       -- lane -----> Lane      a stream with device memory of its own
//!       -- pinned ---> Pinned    page-locked host memory, with events for the copies that use it
//!       -- staging --> Staging   such buffers for uploads, used in turn
//! ```
//!
//! To measure, a lane records a `TimingEvent` before and after its work, and `Scratch` restores what the work overwrites and
//! clears the cache.
//!
//! Without the feature `cuda`, only the errors and pageable memory remain. With it, nothing is linked:
//! libcuda and libnvrtc are loaded when a GPU is opened. cudarc panics if a library is missing, so
//! `libraries` finds and loads them first.
//!
//! Three rules keep this sound. The default stream is not used, because only the thread with the
//! right context could free its memory. cudarc's event tracking is off, so `Pinned` records its
//! own events, and its bytes are accessed only once these are complete. The memory of a lane is used on the stream of that lane only, so no access has to be
//! ordered across streams, unless a lane follows (`Lane::follow`) another one.

mod error;
mod host;

#[cfg(feature = "cuda")]
mod compile;
#[cfg(feature = "cuda")]
mod device;
#[cfg(feature = "cuda")]
mod event;
#[cfg(feature = "cuda")]
mod graph;
#[cfg(feature = "cuda")]
mod lane;
#[cfg(feature = "cuda")]
pub mod libraries;
#[cfg(feature = "cuda")]
mod pinned;
#[cfg(feature = "cuda")]
mod scratch;
#[cfg(feature = "cuda")]
mod staging;
#[cfg(feature = "cuda")]
mod timing;

pub use error::DeviceError;
pub use host::{HostBytes, HostMemory};

#[cfg(feature = "cuda")]
pub use device::{Gpu, Kernel, LANES};
#[cfg(feature = "cuda")]
pub use event::TimingEvent;
#[cfg(feature = "cuda")]
pub use graph::Graph;
#[cfg(feature = "cuda")]
pub use lane::{Arg, Grid, Lane, Mark};
#[cfg(feature = "cuda")]
pub use libraries::{Library, LibraryTable};
#[cfg(feature = "cuda")]
pub use pinned::Pinned;
#[cfg(feature = "cuda")]
pub use scratch::Scratch;
#[cfg(feature = "cuda")]
pub use staging::Staging;
