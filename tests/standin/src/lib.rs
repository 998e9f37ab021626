//! A stand-in for libcuda and libnvrtc: unmodified CUDA host code and unmodified kernels run on the CPU, for tests.
//!
//! Built as a shared library that is found under the names `libcuda.so` and `libnvrtc.so` (see `run.sh`).

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![expect(
    unsafe_code,
    reason = "a C interface, mapped memory, machine code: nothing here could be without it"
)]

mod api;
mod code;
mod config;
pub mod engine;
mod gxx;
mod machine;
mod memory;
mod module;
mod report;
mod schedule;
mod signal;
