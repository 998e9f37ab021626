//! A convolution with its descriptors, and its three passes.

use std::sync::Arc;

use cudarc::cudnn::sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
use cudarc::cudnn::sys::cudnnMathType_t::CUDNN_FMA_MATH;
use cudarc::cudnn::sys::cudnnTensorFormat_t;
use cudarc::cudnn::sys::{
    cudnnConvolutionBwdDataAlgo_t, cudnnConvolutionBwdFilterAlgo_t, cudnnConvolutionFwdAlgo_t,
};
use cudarc::cudnn::{
    ConvBackwardData, ConvBackwardFilter, ConvDescriptor, ConvForward, Cudnn, FilterDescriptor,
    TensorDescriptor,
};
use cudarc::driver::CudaSlice;

use crate::data::{Real, blank, noise};
use crate::gpu::{Failure, Gpu, Outcome};

/// The sizes of a convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) n: usize,
    pub(super) c: usize,
    pub(super) size: [usize; 2],
    pub(super) k: usize,
    pub(super) filter: [usize; 2],
    pub(super) stride: usize,
    pub(super) pad: usize,
}

pub(super) const SIZES: [Sizes; 6] = [
    Sizes { n: 2, c: 3, size: [9, 8], k: 5, filter: [3, 3], stride: 1, pad: 1 },
    Sizes { n: 2, c: 8, size: [8, 8], k: 16, filter: [3, 3], stride: 2, pad: 1 },
    Sizes { n: 3, c: 8, size: [7, 5], k: 4, filter: [1, 1], stride: 1, pad: 0 },
    Sizes { n: 1, c: 16, size: [8, 6], k: 8, filter: [1, 1], stride: 2, pad: 0 },
    Sizes { n: 2, c: 3, size: [16, 16], k: 8, filter: [7, 7], stride: 2, pad: 3 },
    Sizes { n: 1, c: 4, size: [4, 6], k: 3, filter: [2, 3], stride: 1, pad: 2 },
];

impl Sizes {
    pub(super) fn output(&self) -> [usize; 2] {
        [0, 1].map(|i| (self.size[i] + 2 * self.pad - self.filter[i]) / self.stride + 1)
    }

    pub(super) fn dims(&self) -> [[usize; 4]; 3] {
        let ([h, w], [r, s], [oh, ow]) = (self.size, self.filter, self.output());
        [[self.n, self.c, h, w], [self.k, self.c, r, s], [self.n, self.k, oh, ow]]
    }

    /// The numbers of elements of x, of the filter and of y.
    pub(super) fn counts(&self) -> [usize; 3] {
        self.dims().map(|dims| dims.iter().product())
    }
}

pub(super) fn ints(dims: [usize; 4]) -> [i32; 4] {
    dims.map(|size| size as i32)
}

/// The descriptors of a convolution.
pub(super) struct Layer<T> {
    pub(super) sizes: Sizes,
    pub(super) x: TensorDescriptor<T>,
    pub(super) w: FilterDescriptor<T>,
    pub(super) y: TensorDescriptor<T>,
    pub(super) conv: ConvDescriptor<f32>,
}

/// The deterministic algorithms.
pub(super) const FORWARD: cudnnConvolutionFwdAlgo_t =
    cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
pub(super) const BACKWARD_DATA: cudnnConvolutionBwdDataAlgo_t =
    cudnnConvolutionBwdDataAlgo_t::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1;
pub(super) const BACKWARD_FILTER: cudnnConvolutionBwdFilterAlgo_t =
    cudnnConvolutionBwdFilterAlgo_t::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1;

impl<T: Real> Layer<T> {
    pub(super) fn new(
        gpu: &Gpu,
        sizes: Sizes,
        format: cudnnTensorFormat_t,
    ) -> Result<Self, Failure> {
        let cudnn = Cudnn::new(Arc::clone(&gpu.two))?;
        let [x, w, y] = sizes.dims().map(ints);
        let (pad, stride) = (sizes.pad as i32, sizes.stride as i32);
        let conv = [pad, pad];
        let mut conv =
            cudnn.create_conv2d(conv, [stride, stride], [1, 1], CUDNN_CROSS_CORRELATION)?;
        conv.set_math_type(CUDNN_FMA_MATH)?;
        Ok(Self {
            sizes,
            x: cudnn.create_4d_tensor(format, x)?,
            w: cudnn.create_4d_filter(format, w)?,
            y: cudnn.create_4d_tensor(format, y)?,
            conv,
        })
    }

    pub(super) fn forward(&self) -> ConvForward<'_, T, f32, T> {
        ConvForward { conv: &self.conv, x: &self.x, w: &self.w, y: &self.y }
    }

    pub(super) fn backward_data(&self) -> ConvBackwardData<'_, T, f32, T> {
        ConvBackwardData { conv: &self.conv, dx: &self.x, w: &self.w, dy: &self.y }
    }

    pub(super) fn backward_filter(&self) -> ConvBackwardFilter<'_, T, f32, T> {
        ConvBackwardFilter { conv: &self.conv, x: &self.x, dw: &self.w, dy: &self.y }
    }

    /// `y = alpha * conv(x, w) + beta * y`.
    pub(super) fn run(
        &self,
        gpu: &Gpu,
        scales: [f32; 2],
        data: [&CudaSlice<T>; 2],
        y: &mut CudaSlice<T>,
    ) -> Outcome {
        let mut workspace = workspace(gpu, self.forward().get_workspace_size(FORWARD)?)?;
        let scales = (T::from(scales[0]), T::from(scales[1]));
        // SAFETY: the buffers have the sizes of the descriptors, unless the case tests that.
        unsafe {
            self.forward().launch(FORWARD, Some(&mut workspace), scales, data[0], data[1], y)?;
        }
        Ok(())
    }

    pub(super) fn run_data(
        &self,
        gpu: &Gpu,
        w: &CudaSlice<T>,
        dy: &CudaSlice<T>,
        algorithm: cudnnConvolutionBwdDataAlgo_t,
    ) -> Result<CudaSlice<T>, Failure> {
        let mut workspace = workspace(gpu, self.backward_data().get_workspace_size(algorithm)?)?;
        let mut dx = blank(gpu, self.sizes.counts()[0])?;
        let scales = (T::from(1.0), T::from(0.0));
        // SAFETY: the buffers have the sizes of the descriptors.
        unsafe {
            self.backward_data().launch(algorithm, Some(&mut workspace), scales, &mut dx, w, dy)?;
        }
        Ok(dx)
    }

    pub(super) fn run_filter(
        &self,
        gpu: &Gpu,
        x: &CudaSlice<T>,
        dy: &CudaSlice<T>,
        algorithm: cudnnConvolutionBwdFilterAlgo_t,
    ) -> Result<CudaSlice<T>, Failure> {
        let mut workspace = workspace(gpu, self.backward_filter().get_workspace_size(algorithm)?)?;
        let mut dw = blank(gpu, self.sizes.counts()[1])?;
        let scales = (T::from(1.0), T::from(0.0));
        // SAFETY: the buffers have the sizes of the descriptors.
        unsafe {
            self.backward_filter().launch(
                algorithm,
                Some(&mut workspace),
                scales,
                x,
                &mut dw,
                dy,
            )?;
        }
        Ok(dw)
    }
}

pub(super) fn workspace(gpu: &Gpu, bytes: usize) -> Result<CudaSlice<u8>, Failure> {
    blank(gpu, bytes.max(1))
}

/// Runs the three passes on x, w and dy, and downloads the results.
pub(super) fn three_passes<T: Real>(
    gpu: &Gpu,
    layer: &Layer<T>,
) -> Result<[[Vec<T>; 2]; 3], Failure> {
    let [x, w, dy]: [Vec<T>; 3] = [0, 1, 2].map(|part| noise(layer.sizes.counts()[part], part + 1));
    let (on_x, on_w, on_dy) =
        (gpu.two.clone_htod(&x)?, gpu.two.clone_htod(&w)?, gpu.two.clone_htod(&dy)?);
    let mut y = blank(gpu, dy.len())?;
    layer.run(gpu, [1.0, 0.0], [&on_x, &on_w], &mut y)?;
    let dx = layer.run_data(gpu, &on_w, &on_dy, BACKWARD_DATA)?;
    let dw = layer.run_filter(gpu, &on_x, &on_dy, BACKWARD_FILTER)?;
    let y = gpu.two.clone_dtoh(&y)?;
    Ok([[x, gpu.two.clone_dtoh(&dx)?], [w, gpu.two.clone_dtoh(&dw)?], [y, dy]])
}
