//! Tests of the collectives of NCCL, through cudarc.

mod correct;
mod mistakes;
mod processes;
mod ranks;
mod raw;

pub(crate) use {correct::*, mistakes::*, processes::*};
