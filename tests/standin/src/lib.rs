//! A stand-in for the CUDA driver and NVRTC.

pub mod engine;
