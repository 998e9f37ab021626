//! Device memory and pinned host memory, with every access checked.
//!
//! The rules of CUDA: the contents of new memory are undefined (cuMemAlloc), so they are poison. The host must not access pinned
//! memory while a queued copy uses it (cuMemHostAlloc, "API synchronization behavior"), so its pages are protected. An access of
//! freed memory is an illegal address.

mod allocation;
mod arena;
mod bits;
mod library;
mod pinned;
mod space;
mod view;

pub(crate) use allocation::{Access, Allocation};
pub(crate) use library::Operand;
pub(crate) use space::Space;
pub(crate) use view::View;
