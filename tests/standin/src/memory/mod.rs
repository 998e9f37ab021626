//! Device memory and pinned host memory, with every access checked.
//!
//! What it claims about CUDA: contents of new memory are undefined (cuMemAlloc), so they are poison; a copy between pinned memory and a
//! device needs the host to keep off until it ran (cuMemHostAlloc, "API synchronization behavior"), so the host's view is closed;
//! using freed memory is an illegal address.

mod arena;
mod bits;
mod library;
mod pinned;
mod space;
mod view;

pub(crate) use library::Operand;
pub(crate) use pinned::Access;
pub(crate) use space::{Allocation, Space};
pub(crate) use view::View;
