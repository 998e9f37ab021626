//! Compiles the kernels of kernels/*.cu for a device.

use forebay::gpu::{DeviceError, Gpu, Kernel};

use super::Precision;

macro_rules! kernels {
    ($($file:literal: $($name:ident)*;)*) => {
        /// All kernels, one field each.
        #[derive(Debug)]
        pub(super) struct Kernels {
            $($(pub(super) $name: Kernel,)*)*
        }

        impl Kernels {
            pub(super) fn compile(device: &Gpu, precision: Precision) -> Result<Self, DeviceError> {
                $(
                    let source = concat!(
                        include_str!("kernels/prelude.cuh"),
                        "\n#line 1 \"", $file, "\"\n",
                        include_str!(concat!("kernels/", $file))
                    );
                    let define = match precision {
                        Precision::Bf16 => "",
                        Precision::F16 => "#define FOREBAY_F16\n",
                        Precision::F32 => "#define FOREBAY_F32\n",
                    };
                    let names = [$(stringify!($name)),*];
                    let [$($name),*] = device.compile($file, &format!("{define}{source}"), names)?;
                )*
                Ok(Self { $($($name,)*)* })
            }
        }
    };
}

kernels! {
    "norm.cu": norm_sums norm_finish norm_update_running norm_running norm_apply norm_reduce
        norm_reduce_residual norm_gradients norm_backward norm_statistics norm_weights;
    "pool.cu": max_pool max_pool_backward mean_pool mean_pool_backward shortcut shortcut_backward
        images_bytes images_floats;
    "loss.cu": binary_cross_entropy cross_entropy bias_add bias_gradient;
    "lamb.cu": square_sums gradient_norm lamb_direction lamb_ratio lamb_apply sgd_apply adamw_apply
        clip_values clip_outputs clipped_norm copy_parameters add_gradients update_ema exchange
        clear store_scalars;
}
