//! Tests of cuDNN's backend API, through cudarc's bindings.

mod correct;
mod descriptor;
mod fused;
mod mistakes;
mod norm;
mod plan;

pub(crate) use {correct::*, fused::*, mistakes::*, norm::*};
