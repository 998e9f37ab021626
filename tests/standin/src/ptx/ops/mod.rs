//! The functions of the instructions that compute, by name.

pub(super) mod convert;
pub(super) mod float;
pub(super) mod half;
pub(super) mod integer;
pub(super) mod round;
pub(super) mod select;
