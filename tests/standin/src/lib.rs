//! A stand-in for the CUDA libraries: it runs unmodified host code and unmodified kernels on the CPU, for tests.
//!
//! It is a shared library that is installed under the names of the libraries that it replaces, as a machine with CUDA 13 has them:
//! `libcuda.so.1`, `libnvrtc.so.13`, `libcudnn.so.9` (convolutions, by both of its APIs), `libcublas.so.13` (matrix products) and `libnccl.so.2`
//! (collectives). `run.sh` runs a command with it, and `config` lists the settings.
//!
//! ```text
//! api/      the C functions of the driver          invalid calls return the error codes of cuda.h
//! machine   contexts, events, modules, one lock
//! capture   stream capture                         what may not be called inside one is an error
//! queues    streams                                dependencies between operations
//! schedule  when queued work runs                  lazily, eagerly, or in the order of a seed
//! memory/   device and pinned memory               poison, protected pages, unwritten bytes
//! signal    a memory fault                         an error if in a kernel; a message and an abort if in host code
//! image     what NVRTC returns and the driver loads
//! engine    the interface of what executes kernels
//! gxx/      engine A: g++ compiles the source
//! ptx/      engine B: interprets the PTX of the real NVRTC
//! dnn/      cuDNN                                  f32 arithmetic by gemm, with f16 and bf16 in memory
//! blas/     cuBLAS
//! nccl/     NCCL                                   ranks are threads or processes that connect to a hub
//! ```
//!
//! A passing test shows that host code orders its work, does not access memory that a copy uses, stays within its allocations and
//! handles limits and errors; and that kernels compute the right results in any order of threads and blocks, reach their barriers
//! together, and write all of their output and nothing else.
//!
//! It cannot show speed; races between threads that neither order reveals; the weak memory model of a GPU; bank conflicts,
//! coalescing and occupancy; the last bits of approximate functions; or anything that the stand-in gets wrong about CUDA. Its
//! behavior follows NVIDIA's documents, which each module names, and was not checked on a GPU.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![expect(unsafe_code, reason = "a C interface, mapped memory and machine code are all unsafe")]

mod api;
mod blas;
mod capture;
mod code;
mod config;
mod dnn;
pub mod engine;
mod gemm;
mod gxx;
mod image;
mod machine;
mod memory;
mod module;
mod nccl;
mod number;
mod ptx;
mod queues;
mod report;
mod schedule;
mod signal;
mod table;
