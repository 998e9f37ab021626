//! The selection of algorithms by `Find` and `Get`, with descriptors created by hand, because cudarc does not expose the handles of
//! its own.

use std::ptr::null_mut;

use cudarc::cudnn::result;
use cudarc::cudnn::sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
use cudarc::cudnn::sys::cudnnDataType_t::{CUDNN_DATA_BFLOAT16, CUDNN_DATA_FLOAT};
use cudarc::cudnn::sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC;
use cudarc::cudnn::sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH;
use cudarc::cudnn::sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS;
use cudarc::cudnn::sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
use cudarc::cudnn::sys::{
    self, cudnnConvolutionBwdFilterAlgo_t, cudnnConvolutionBwdFilterAlgoPerf_t as Perf,
    cudnnConvolutionDescriptor_t, cudnnFilterDescriptor_t, cudnnHandle_t, cudnnTensorDescriptor_t,
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

/// Two entries for each of the three algorithms, and one for each other number.
const ROOM: usize = 14;

type Found = Vec<Perf>;

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
        let (mut count, mut found) = (0, Vec::with_capacity(ROOM));
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
                ROOM as i32,
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

    fn size(&self, algorithm: cudnnConvolutionBwdFilterAlgo_t) -> Result<usize, Failure> {
        // SAFETY: the descriptors are valid.
        Ok(unsafe {
            result::get_convolution_backward_filter_workspace_size(
                self.handle,
                self.x,
                self.y,
                self.conv,
                self.w,
                algorithm,
            )?
        })
    }

    /// Computes dw by an entry of Get or Find, with a workspace of its size.
    fn run(
        &self,
        gpu: &Gpu,
        [x, dy]: [&CudaSlice<bf16>; 2],
        dw: &mut CudaSlice<bf16>,
        chosen: &Perf,
        workspace: &CudaSlice<u8>,
    ) -> Outcome {
        let (alpha, beta) = (1f32, 0f32);
        // SAFETY: the buffers have the sizes of the descriptors.
        unsafe {
            sys::cudnnConvolutionBackwardFilter(
                self.handle,
                (&raw const alpha).cast(),
                self.x,
                x.device_ptr(&gpu.two).0 as *const _,
                self.y,
                dy.device_ptr(&gpu.two).0 as *const _,
                self.conv,
                chosen.algo,
                workspace.device_ptr(&gpu.two).0 as *mut _,
                chosen.memory,
                (&raw const beta).cast(),
                self.w,
                dw.device_ptr(&gpu.two).0 as *mut _,
            )
            .result()?;
        }
        Ok(())
    }

    fn get(&self) -> Result<Found, Failure> {
        let (mut count, mut found) = (0, Vec::with_capacity(ROOM));
        // SAFETY: as in `find`.
        unsafe {
            result::get_convolution_backward_filter_algorithm(
                self.handle,
                self.x,
                self.y,
                self.conv,
                self.w,
                ROOM as i32,
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
    if counts != (10, 6, 6, 1) || !sorted || deterministic != 2 || largest == 0 {
        return Err(Failure(format!("{counts:?} {sorted} {deterministic} {largest}")));
    }
    for one in large.iter().filter(|one| one.status == CUDNN_STATUS_SUCCESS) {
        // SAFETY: the descriptors are valid.
        unsafe { sys::cudnnSetConvolutionMathType(layer.conv, one.mathType).result()? };
        let size = layer.size(one.algo)?;
        if size != one.memory {
            return Err(Failure(format!("{:?}: {size} or {}", one.algo, one.memory)));
        }
    }
    Ok(())
}

/// The algorithm of an entry runs with another math type, and with the workspace of the entry.
pub(crate) fn math_type_is_dropped(gpu: &Gpu) -> Outcome {
    let layer = Layer::new(gpu)?;
    let (x, dy) = (gpu.two.clone_htod(&noise(X, 1))?, gpu.two.clone_htod(&noise(Y, 2))?);
    let mut dw = blank(gpu, W)?;
    let listed = layer.get()?;
    let usable =
        |one: &&Perf| one.status == CUDNN_STATUS_SUCCESS && one.determinism == CUDNN_DETERMINISTIC;
    let chosen = listed.iter().find(usable).ok_or_else(|| Failure("none".to_owned()))?;
    let workspace: CudaSlice<u8> = blank(gpu, chosen.memory.max(1))?;
    layer.run(gpu, [&x, &dy], &mut dw, chosen, &workspace)?;
    gpu.two.synchronize()?;
    // SAFETY: the descriptor is valid.
    unsafe { sys::cudnnSetConvolutionMathType(layer.conv, CUDNN_TENSOR_OP_MATH).result()? };
    layer.run(gpu, [&x, &dy], &mut dw, chosen, &workspace)
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
