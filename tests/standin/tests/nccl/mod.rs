//! Tests of the collectives of NCCL, through cudarc.

mod processes;
mod ranks;
mod raw;
mod right;
mod wrong;

pub(crate) use {processes::*, right::*, wrong::*};
