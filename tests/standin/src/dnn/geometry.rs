//! The descriptors of convolutions: padding, strides and math type.

use std::ffi::c_int;

use super::descriptor::{array, get, number, set, sizes};
use super::{Answer, Status, code, wrong};
use crate::number::Number;
use crate::table::{Out, Table, put};

#[derive(Clone, Copy, Debug)]
pub(super) struct Convolution {
    pub(super) pad: [usize; 2],
    pub(super) stride: [usize; 2],
    pub(super) math: u32,
}

/// `cudnnMathType_t`.
pub(super) const DEFAULT_MATH: u32 = 0;
pub(super) const TENSOR_OP_MATH: u32 = 1;
pub(super) const ALLOW_CONVERSION: u32 = 2;
pub(super) const FMA_MATH: u32 = 3;

static CONVOLUTIONS: Table<Option<Convolution>> = Table::new();

pub(super) fn convolution(handle: usize) -> Answer<Convolution> {
    get(&CONVOLUTIONS, handle)
}

#[unsafe(no_mangle)]
extern "C" fn cudnnCreateConvolutionDescriptor(out: Out<'_, usize>) -> u32 {
    code(put(out, CONVOLUTIONS.insert(None), Status::NULL_POINTER))
}

#[unsafe(no_mangle)]
extern "C" fn cudnnDestroyConvolutionDescriptor(convolution: usize) -> u32 {
    code(CONVOLUTIONS.remove(convolution).map(drop).ok_or(Status::BAD_PARAM))
}

#[unsafe(no_mangle)]
extern "C" fn cudnnSetConvolution2dDescriptor(
    convolution: usize,
    pad_h: c_int,
    pad_w: c_int,
    stride_h: c_int,
    stride_w: c_int,
    dilation_h: c_int,
    dilation_w: c_int,
    mode: u32,
    compute: u32,
) -> u32 {
    code(sizes([pad_h, pad_w], 0).and_then(|pad| {
        let stride = sizes([stride_h, stride_w], 1)?;
        if sizes([dilation_h, dilation_w], 1)? != [1, 1] {
            return wrong(Status::NOT_SUPPORTED, "dilation");
        }
        if mode != 1 {
            return wrong(Status::NOT_SUPPORTED, "a mode other than CUDNN_CROSS_CORRELATION");
        }
        if number(compute)? != Number::F32 {
            return wrong(Status::NOT_SUPPORTED, "sums in a type other than f32");
        }
        set(&CONVOLUTIONS, convolution, Convolution { pad, stride, math: 0 })
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cudnnSetConvolutionNdDescriptor(
    convolution: usize,
    count: c_int,
    pads: *const c_int,
    strides: *const c_int,
    dilations: *const c_int,
    mode: u32,
    compute: u32,
) -> u32 {
    // SAFETY: the caller passes `count` of each.
    let arrays = unsafe {
        array(count, pads)
            .and_then(|pads| Ok((pads, array(count, strides)?, array(count, dilations)?)))
    };
    match arrays {
        Ok(([pad_h, pad_w], [stride_h, stride_w], [dilation_h, dilation_w])) => {
            cudnnSetConvolution2dDescriptor(
                convolution,
                pad_h,
                pad_w,
                stride_h,
                stride_w,
                dilation_h,
                dilation_w,
                mode,
                compute,
            )
        }
        Err(status) => status.0,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cudnnSetConvolutionMathType(handle: usize, math: u32) -> u32 {
    code(convolution(handle).and_then(|found| {
        if math > FMA_MATH {
            return wrong(Status::BAD_PARAM, format!("math type {math}"));
        }
        set(&CONVOLUTIONS, handle, Convolution { math, ..found })
    }))
}

#[unsafe(no_mangle)]
extern "C" fn cudnnSetConvolutionGroupCount(handle: usize, groups: c_int) -> u32 {
    code(convolution(handle).and_then(|_| match groups {
        1 => Ok(()),
        ..=0 => Err(Status::BAD_PARAM),
        _ => wrong(Status::NOT_SUPPORTED, "groups"),
    }))
}
