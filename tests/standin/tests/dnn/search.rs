//! The selection of algorithms by `Find` and `Get`, with descriptors created by hand, because cudarc does not expose the handles of
//! its own.

use std::ptr::null_mut;

use cudarc::cudnn::result;
use cudarc::cudnn::sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
use cudarc::cudnn::sys::cudnnDataType_t::{CUDNN_DATA_BFLOAT16, CUDNN_DATA_FLOAT};
use cudarc::cudnn::sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC;
use cudarc::cudnn::sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS;
use cudarc::cudnn::sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
use cudarc::cudnn::sys::{
    self, cudnnConvolutionBwdFilterAlgoPerf_t, cudnnConvolutionDescriptor_t,
    cudnnFilterDescriptor_t, cudnnHandle_t, cudnnTensorDescriptor_t,
};
use cudarc::driver::{CudaSlice, DevicePtr as _};
use half::bf16;

use crate::data::{blank, noise};
use crate::gpu::{Failure, Gpu, Outcome};

struct Layer {
    handle: cudnnHandle_t,
    x: cudnnTensorDescriptor_t,
    w: cudnnFilterDescriptor_t,
    y: cudnnTensorDescriptor_t,
    conv: cudnnConvolutionDescriptor_t,
}

const X: usize = 2 * 8 * 8 * 8;
const W: usize = 16 * 8 * 3 * 3;
const Y: usize = 2 * 16 * 8 * 8;

type Found = Vec<cudnnConvolutionBwdFilterAlgoPerf_t>;

impl Layer {
    fn new(gpu: &Gpu) -> Result<Self, Failure> {
        gpu.context.bind_to_thread()?;
        let layer = Self {
            handle: result::create_handle()?,
            x: result::create_tensor_descriptor()?,
            w: result::create_filter_descriptor()?,
            y: result::create_tensor_descriptor()?,
            conv: result::create_convolution_descriptor()?,
        };
        let (kind, format) = (CUDNN_DATA_BFLOAT16, CUDNN_TENSOR_NHWC);
        // SAFETY: the handles were just created.
        unsafe {
            result::set_stream(layer.handle, gpu.two.cu_stream().cast())?;
            result::set_tensor4d_descriptor(layer.x, format, kind, [2, 8, 8, 8])?;
            result::set_filter4d_descriptor(layer.w, kind, format, [16, 8, 3, 3])?;
            result::set_tensor4d_descriptor(layer.y, format, kind, [2, 16, 8, 8])?;
            let (mode, sums) = (CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT);
            result::set_convolution2d_descriptor(layer.conv, 1, 1, 1, 1, 1, 1, mode, sums)?;
        }
        Ok(layer)
    }

    fn find(
        &self,
        gpu: &Gpu,
        [x, dy, dw]: [&CudaSlice<bf16>; 3],
        workspace: Option<&CudaSlice<u8>>,
    ) -> Result<Found, Failure> {
        let (mut count, mut found) = (0, Vec::with_capacity(7));
        let at = |slice: &CudaSlice<bf16>| slice.device_ptr(&gpu.two).0 as *mut std::ffi::c_void;
        let bytes = workspace.map_or(0, CudaSlice::len);
        let workspace = workspace.map_or(null_mut(), |slice| slice.device_ptr(&gpu.two).0 as _);
        // SAFETY: the buffers have the sizes of the descriptors, and the array has room for seven results.
        unsafe {
            sys::cudnnFindConvolutionBackwardFilterAlgorithmEx(
                self.handle,
                self.x,
                at(x),
                self.y,
                at(dy),
                self.conv,
                self.w,
                at(dw),
                7,
                &raw mut count,
                found.as_mut_ptr(),
                workspace,
                bytes,
            )
            .result()?;
            found.set_len(usize::try_from(count)?);
        }
        Ok(found)
    }

    fn get(&self) -> Result<Found, Failure> {
        let (mut count, mut found) = (0, Vec::with_capacity(7));
        // SAFETY: as in `find`.
        unsafe {
            result::get_convolution_backward_filter_algorithm(
                self.handle,
                self.x,
                self.y,
                self.conv,
                self.w,
                7,
                &raw mut count,
                found.as_mut_ptr(),
            )?;
            found.set_len(usize::try_from(count)?);
        }
        Ok(found)
    }
}

/// Get, Find and the size functions agree about workspaces, and algorithms whose workspace is too large are listed as such.
pub(crate) fn find_lists_usable_algorithms(gpu: &Gpu) -> Outcome {
    let layer = Layer::new(gpu)?;
    let (x, dy, dw) = (blank(gpu, X)?, blank(gpu, Y)?, blank(gpu, W)?);
    let listed = layer.get()?;
    let works =
        |found: &Found| found.iter().filter(|one| one.status == CUDNN_STATUS_SUCCESS).count();
    let largest = listed.iter().map(|one| one.memory).max().unwrap_or(0);
    let workspace = blank(gpu, largest)?;
    let large = layer.find(gpu, [&x, &dy, &dw], Some(&workspace))?;
    let small = layer.find(gpu, [&x, &dy, &dw], None)?;
    let counts = (listed.len(), works(&listed), works(&large), works(&small));
    let sorted = large.is_sorted_by(|one, other| one.time <= other.time || other.time < 0.0);
    let deterministic = large.iter().filter(|one| one.determinism == CUDNN_DETERMINISTIC).count();
    if counts != (7, 3, 3, 1) || !sorted || deterministic != 1 || largest == 0 {
        return Err(Failure(format!("{counts:?} {sorted} {deterministic} {largest}")));
    }
    for one in large.iter().filter(|one| one.status == CUDNN_STATUS_SUCCESS) {
        // SAFETY: the descriptors are valid.
        let size = unsafe {
            result::get_convolution_backward_filter_workspace_size(
                layer.handle,
                layer.x,
                layer.y,
                layer.conv,
                layer.w,
                one.algo,
            )?
        };
        if size != one.memory {
            return Err(Failure(format!("{:?}: {size} or {}", one.algo, one.memory)));
        }
    }
    Ok(())
}

/// A program that runs Find on buffers whose contents it still needs.
pub(crate) fn find_discards_the_output(gpu: &Gpu) -> Outcome {
    let layer = Layer::new(gpu)?;
    let (x, dy) = (blank(gpu, X)?, blank(gpu, Y)?);
    let dw = gpu.two.clone_htod(&noise(W, 1))?;
    layer.find(gpu, [&x, &dy, &dw], None)?;
    gpu.two.clone_dtoh(&dw)?;
    Ok(())
}
