//! Tests of the convolutions of cuDNN, through cudarc.

mod correct;
mod layer;
mod mistakes;
mod search;

pub(crate) use {correct::*, mistakes::*, search::*};
