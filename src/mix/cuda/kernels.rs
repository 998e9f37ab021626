//! The kernels of kernels/*.cu, compiled for a device.

use forebay_types::{DType, Layout};

use crate::gpu::{DeviceError, Gpu, Kernel};

/// The source of kernels/mix.cu, for callers whose pixels are on a GPU already; [`Gpu::compile`]
/// compiles it.
pub const MIX_KERNELS: &str = include_str!("../kernels/mix.cu");

pub(super) struct Kernels {
    /// By size of a value (1, 2 or 4 bytes), then layout.
    mix: [[Kernel; 2]; 3],
    pub(super) dense_target: Kernel,
}

impl Kernels {
    pub(super) fn compile(device: &Gpu) -> Result<Self, DeviceError> {
        let names = [
            ["mix_u8_nhwc", "mix_u8_nchw"],
            ["mix_16_nhwc", "mix_16_nchw"],
            ["mix_32_nhwc", "mix_32_nchw"],
        ];
        let [a, b, c, d, e, f] =
            device.compile("mix.cu", MIX_KERNELS, names.as_flattened().try_into().expect("six"))?;
        let source = include_str!("../kernels/dense_target.cu");
        let [dense_target] = device.compile("dense_target.cu", source, ["dense_target"])?;
        Ok(Self { mix: [[a, b], [c, d], [e, f]], dense_target })
    }

    pub(super) const fn mix(&self, dtype: DType, layout: Layout) -> &Kernel {
        let layouts = match dtype {
            DType::U8 => &self.mix[0],
            DType::F16 | DType::Bf16 => &self.mix[1],
            DType::F32 => &self.mix[2],
        };
        match layout {
            Layout::Nhwc => &layouts[0],
            Layout::Nchw => &layouts[1],
        }
    }
}
