//! Tests of the convolutions of cuDNN, through cudarc.

mod layer;
mod right;
mod search;
mod wrong;

pub(crate) use {right::*, search::*, wrong::*};
