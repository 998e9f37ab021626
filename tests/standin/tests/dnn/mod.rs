//! Tests of cuDNN, through cudarc: the legacy API of convolutions, and the backend API (`graph`).

mod correct;
mod graph;
mod layer;
mod mistakes;
mod search;

pub(crate) use {correct::*, graph::*, mistakes::*, search::*};
