//! NCCL's collectives through cudarc.

mod processes;
mod ranks;
mod raw;
mod right;
mod wrong;

pub(crate) use {processes::*, right::*, wrong::*};
