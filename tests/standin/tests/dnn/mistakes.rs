//! Programs with one mistake each.

use std::sync::Arc;

use cudarc::cudnn::sys::cudnnTensorFormat_t::{CUDNN_TENSOR_NCHW, CUDNN_TENSOR_NHWC};
use cudarc::cudnn::{ConvForward, Cudnn};
use half::bf16;

use super::layer::{FORWARD, Layer, SIZES, ints, workspace};
use crate::data::{blank, noise};
use crate::gpu::{Gpu, Outcome};

/// Runs `y = conv(x, w)` with buffers of these numbers of elements.
fn with_counts(gpu: &Gpu, [x, w, y]: [usize; 3]) -> Outcome {
    let layer = Layer::<bf16>::new(gpu, SIZES[1], CUDNN_TENSOR_NHWC)?;
    let (x, w) = (gpu.two.clone_htod(&noise(x, 1))?, gpu.two.clone_htod(&noise(w, 2))?);
    layer.run(gpu, [1.0, 0.0], [&x, &w], &mut blank(gpu, y)?)?;
    Ok(gpu.two.synchronize()?)
}

pub(crate) fn output_is_short(gpu: &Gpu) -> Outcome {
    let [x, w, y] = SIZES[1].counts();
    with_counts(gpu, [x, w, y - 1])
}

pub(crate) fn input_is_short(gpu: &Gpu) -> Outcome {
    let [x, w, y] = SIZES[1].counts();
    with_counts(gpu, [x - 1, w, y])
}

pub(crate) fn input_is_not_written(gpu: &Gpu) -> Outcome {
    let layer = Layer::<bf16>::new(gpu, SIZES[1], CUDNN_TENSOR_NHWC)?;
    let [x, w, y] = SIZES[1].counts();
    let x = blank(gpu, x)?;
    let w = gpu.two.clone_htod(&noise(w, 2))?;
    layer.run(gpu, [1.0, 0.0], [&x, &w], &mut blank(gpu, y)?)?;
    Ok(gpu.two.synchronize()?)
}

/// With a nonzero beta, the old output is an input.
pub(crate) fn kept_output_is_not_written(gpu: &Gpu) -> Outcome {
    let layer = Layer::<bf16>::new(gpu, SIZES[1], CUDNN_TENSOR_NHWC)?;
    let [x, w, y] = SIZES[1].counts();
    let (x, w) = (gpu.two.clone_htod(&noise(x, 1))?, gpu.two.clone_htod(&noise(w, 2))?);
    layer.run(gpu, [1.0, 1.0], [&x, &w], &mut blank(gpu, y)?)?;
    Ok(gpu.two.synchronize()?)
}

pub(crate) fn no_event_before_cudnn(gpu: &Gpu) -> Outcome {
    let layer = Layer::<bf16>::new(gpu, SIZES[1], CUDNN_TENSOR_NHWC)?;
    let [x, w, y] = SIZES[1].counts();
    let mut on_x = gpu.blank(x)?;
    gpu.one.synchronize()?;
    gpu.one.memcpy_htod(&noise::<bf16>(x, 1), &mut on_x)?;
    let w = gpu.two.clone_htod(&noise(w, 2))?;
    layer.run(gpu, [1.0, 0.0], [&on_x, &w], &mut blank(gpu, y)?)?;
    Ok(gpu.two.synchronize()?)
}

pub(crate) fn output_is_of_another_shape(gpu: &Gpu) -> Outcome {
    let layer = Layer::<bf16>::new(gpu, SIZES[1], CUDNN_TENSOR_NHWC)?;
    let cudnn = Cudnn::new(Arc::clone(&gpu.two))?;
    let y = cudnn.create_4d_tensor::<bf16>(CUDNN_TENSOR_NHWC, [2, 16, 4, 5])?;
    ConvForward { y: &y, ..layer.forward() }.pick_algorithm()?;
    Ok(())
}

pub(crate) fn channels_differ(gpu: &Gpu) -> Outcome {
    let layer = Layer::<bf16>::new(gpu, SIZES[1], CUDNN_TENSOR_NHWC)?;
    let cudnn = Cudnn::new(Arc::clone(&gpu.two))?;
    let w = cudnn.create_4d_filter::<bf16>(CUDNN_TENSOR_NHWC, [16, 4, 3, 3])?;
    ConvForward { w: &w, ..layer.forward() }.pick_algorithm()?;
    Ok(())
}

pub(crate) fn layouts_differ(gpu: &Gpu) -> Outcome {
    let layer = Layer::<bf16>::new(gpu, SIZES[1], CUDNN_TENSOR_NHWC)?;
    let cudnn = Cudnn::new(Arc::clone(&gpu.two))?;
    let y = cudnn.create_4d_tensor::<bf16>(CUDNN_TENSOR_NCHW, ints(SIZES[1].dims()[2]))?;
    ConvForward { y: &y, ..layer.forward() }.get_workspace_size(FORWARD)?;
    Ok(())
}

pub(crate) fn types_differ(gpu: &Gpu) -> Outcome {
    let layer = Layer::<bf16>::new(gpu, SIZES[1], CUDNN_TENSOR_NHWC)?;
    let cudnn = Cudnn::new(Arc::clone(&gpu.two))?;
    let y = cudnn.create_4d_tensor::<f32>(CUDNN_TENSOR_NHWC, ints(SIZES[1].dims()[2]))?;
    ConvForward { conv: &layer.conv, x: &layer.x, w: &layer.w, y: &y }.pick_algorithm()?;
    Ok(())
}

pub(crate) fn workspace_is_small(gpu: &Gpu) -> Outcome {
    let layer = Layer::<bf16>::new(gpu, SIZES[1], CUDNN_TENSOR_NHWC)?;
    let [x, w, y] = SIZES[1].counts();
    let (x, w) = (gpu.two.clone_htod(&noise(x, 1))?, gpu.two.clone_htod(&noise(w, 2))?);
    let bytes = layer.forward().get_workspace_size(FORWARD)?;
    let mut workspace = workspace(gpu, bytes - 1)?;
    let scales = (bf16::ONE, bf16::ZERO);
    // SAFETY: none; the workspace is too small, which is the case.
    unsafe {
        layer.forward().launch(
            FORWARD,
            Some(&mut workspace),
            scales,
            &x,
            &w,
            &mut blank(gpu, y)?,
        )?;
    }
    Ok(())
}

/// A program that keeps data in the workspace.
pub(crate) fn workspace_is_read(gpu: &Gpu) -> Outcome {
    let layer = Layer::<bf16>::new(gpu, SIZES[1], CUDNN_TENSOR_NHWC)?;
    let [x, w, y] = SIZES[1].counts();
    let (x, w) = (gpu.two.clone_htod(&noise(x, 1))?, gpu.two.clone_htod(&noise(w, 2))?);
    let bytes = layer.forward().get_workspace_size(FORWARD)?;
    let mut workspace = gpu.two.alloc_zeros::<u8>(bytes)?;
    let scales = (bf16::ONE, bf16::ZERO);
    // SAFETY: the buffers have the sizes of the descriptors.
    unsafe {
        layer.forward().launch(
            FORWARD,
            Some(&mut workspace),
            scales,
            &x,
            &w,
            &mut blank(gpu, y)?,
        )?;
    }
    gpu.two.clone_dtoh(&workspace)?;
    Ok(())
}

pub(crate) fn groups(gpu: &Gpu) -> Outcome {
    let mut layer = Layer::<bf16>::new(gpu, SIZES[1], CUDNN_TENSOR_NHWC)?;
    Ok(layer.conv.set_group_count(2)?)
}
