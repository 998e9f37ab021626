//! Values and memory for the tests of libraries.

use cudarc::cudnn::CudnnDataType;
use cudarc::driver::{CudaSlice, DeviceRepr};
use half::{bf16, f16};

use crate::gpu::{Failure, Gpu};

/// The element types of tensors.
pub(crate) trait Real: CudnnDataType + DeviceRepr + Copy + Default + Unpin {
    /// The maximum relative error of rounding to this type.
    const ROUNDING: f64;
    fn from(value: f32) -> Self;
    fn value(self) -> f64;
}

macro_rules! real {
    ($type:ty, $rounding:expr) => {
        impl Real for $type {
            const ROUNDING: f64 = $rounding;
            fn from(value: f32) -> Self {
                Self::from_f32(value)
            }
            fn value(self) -> f64 {
                self.to_f64()
            }
        }
    };
}
real!(bf16, 1.0 / 256.0);
real!(f16, 1.0 / 2048.0);

impl Real for f32 {
    const ROUNDING: f64 = 1e-6;
    fn from(value: f32) -> Self {
        value
    }
    fn value(self) -> f64 {
        f64::from(self)
    }
}

/// Pseudo-random numbers between -1 and 1.
pub(crate) fn noise<T: Real>(count: usize, seed: usize) -> Vec<T> {
    let hash = |i: usize| (i + seed * 1013).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    (0..count).map(|i| T::from(hash(i) as f32 / 8_388_608.0 - 1.0)).collect()
}

/// Unwritten memory of the second stream, which libraries use in these tests.
pub(crate) fn blank<T: DeviceRepr>(gpu: &Gpu, count: usize) -> Result<CudaSlice<T>, Failure> {
    // SAFETY: a library writes it first, unless the case tests that.
    Ok(unsafe { gpu.two.alloc(count) }?)
}
