//! cuDNN's convolutions through cudarc.

mod layer;
mod right;
mod search;
mod wrong;

pub(crate) use {right::*, search::*, wrong::*};
