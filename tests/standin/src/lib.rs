//! A stand-in for CUDA's libraries: unmodified host code and unmodified kernels run on the CPU, for tests.
//!
//! Built as a shared library that is found under the names of the libraries whose place it takes: `libcuda.so`, `libnvrtc.so`,
//! `libcudnn.so` (convolutions), `libcublas.so` (matrix products) and `libnccl.so` (collectives). `run.sh` runs a command so,
//! `config` has the settings.
//!
//! ```text
//! api/      the C functions                        what a caller may not do is answered as cuda.h says
//! machine   contexts, events, modules, one lock
//! queues    streams                                what waits for what
//! schedule  when queued work runs                  lazily, eagerly, by a seed
//! memory/   device and pinned memory               poison, closed pages, what was never written
//! signal    a fault of a kernel, or of the host    becomes an error, or a message and an abort
//! engine    the seam to what executes kernels
//! gxx/      engine A: g++ compiles the source
//! ptx/      engine B: the PTX of the real NVRTC, interpreted
//! dnn/      cuDNN                                  on gemm and number: f32 arithmetic, f16 and bf16 in memory
//! blas/     cuBLAS
//! nccl/     NCCL                                   ranks are threads or processes, and meet at a hub
//! ```
//!
//! What it shows: that host code orders its work, keeps off memory in use, stays inside of its memory, heeds limits and errors; that kernels
//! compute what they should in any order of threads and blocks, meet at their barriers, write all of their output and nothing else.
//!
//! What it cannot show: speed; races of threads that both orders hide; the weak order of memory on a GPU; bank conflicts, coalescing,
//! occupancy; approximate functions to the last bit; anything that the authors of the stand-in believe of CUDA and is not so. What is
//! believed follows NVIDIA's documents, which each module names, and was not checked on a GPU.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![expect(
    unsafe_code,
    reason = "a C interface, mapped memory, machine code: nothing here could be without it"
)]

mod api;
mod blas;
mod code;
mod config;
mod dnn;
pub mod engine;
mod gemm;
mod gxx;
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
