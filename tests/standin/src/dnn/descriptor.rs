//! The descriptors of tensors and filters.

use std::ffi::c_int;

use super::{Answer, Status, code, wrong};
use crate::number::Number;
use crate::table::{Out, Table, put};

/// The memory layout of a tensor. Channels are the second or the last dimension; the other dimensions keep their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Nchw,
    Nhwc,
}

impl Layout {
    /// The strides of a packed tensor with sizes n, c, h, w.
    fn strides(self, [_, c, h, w]: [usize; 4]) -> [usize; 4] {
        match self {
            Self::Nchw => [c * h * w, h * w, w, 1],
            Self::Nhwc => [h * w * c, 1, w * c, c],
        }
    }
}

/// A tensor with sizes n, c, h, w, or a filter with sizes k, c, r, s.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tensor {
    pub(super) number: Number,
    pub(super) dims: [usize; 4],
    strides: [usize; 4],
}

impl Tensor {
    pub(super) fn bytes(&self) -> u64 {
        (self.dims.iter().product::<usize>() * self.number.bytes()) as u64
    }

    /// Whether the tensor is packed in a layout. With one channel or one pixel it is packed in both.
    pub(super) fn is_in(&self, layout: Layout) -> bool {
        let packed = layout.strides(self.dims);
        (0..4).all(|i| self.dims[i] == 1 || self.strides[i] == packed[i])
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Filter {
    pub(super) number: Number,
    pub(super) dims: [usize; 4],
    pub(super) layout: Layout,
}

/// The value of a descriptor, which is `None` until it is set.
static TENSORS: Table<Option<Tensor>> = Table::new();
static FILTERS: Table<Option<Filter>> = Table::new();

pub(super) fn get<T: Copy>(table: &Table<Option<T>>, handle: usize) -> Answer<T> {
    match table.get(handle) {
        Some(Some(found)) => Ok(found),
        Some(None) => wrong(Status::BAD_PARAM, "a descriptor that was never set"),
        None => wrong(Status::BAD_PARAM, "a descriptor that does not exist"),
    }
}

pub(super) fn set<T: Copy>(table: &Table<Option<T>>, handle: usize, value: T) -> Answer {
    table.set(handle, Some(value)).ok_or(Status::BAD_PARAM)
}

pub(super) fn tensor(handle: usize) -> Answer<Tensor> {
    get(&TENSORS, handle)
}

pub(super) fn filter(handle: usize) -> Answer<Filter> {
    get(&FILTERS, handle)
}

/// `cudnnDataType_t`.
pub(super) fn number(kind: u32) -> Answer<Number> {
    match kind {
        0 => Ok(Number::F32),
        2 => Ok(Number::F16),
        9 => Ok(Number::Bf16),
        other => {
            wrong(Status::NOT_SUPPORTED, format!("data type {other}: expected f32, f16 or bf16"))
        }
    }
}

/// `cudnnTensorFormat_t`.
fn layout(format: u32) -> Answer<Layout> {
    match format {
        0 => Ok(Layout::Nchw),
        1 => Ok(Layout::Nhwc),
        other => wrong(Status::NOT_SUPPORTED, format!("tensor format {other}")),
    }
}

/// Checks that all sizes are at least `min`, and that their product fits an i32, as cuDNN requires.
pub(super) fn sizes<const N: usize>(values: [c_int; N], min: usize) -> Answer<[usize; N]> {
    let mut sizes = [0; N];
    for (size, value) in sizes.iter_mut().zip(values) {
        match usize::try_from(value) {
            Ok(value) if value >= min => *size = value,
            _ => return wrong(Status::BAD_PARAM, format!("sizes {values:?}")),
        }
    }
    let product = sizes.iter().try_fold(1usize, |all, size| all.checked_mul((*size).max(1)));
    match product {
        Some(product) if c_int::try_from(product).is_ok() => Ok(sizes),
        _ => wrong(Status::NOT_SUPPORTED, format!("sizes {values:?} are too many elements")),
    }
}

/// The `count` integers at a pointer, where the stand-in supports only a count of `N`.
pub(super) unsafe fn array<const N: usize>(count: c_int, from: *const c_int) -> Answer<[c_int; N]> {
    if usize::try_from(count) != Ok(N) {
        return wrong(Status::NOT_SUPPORTED, format!("{count} dimensions: expected {N}"));
    }
    if from.is_null() {
        return Err(Status::NULL_POINTER);
    }
    // SAFETY: the caller passes `count` integers.
    Ok(unsafe { *from.cast() })
}

#[unsafe(no_mangle)]
extern "C" fn cudnnCreateTensorDescriptor(out: Out<'_, usize>) -> u32 {
    code(put(out, TENSORS.insert(None), Status::NULL_POINTER))
}

#[unsafe(no_mangle)]
extern "C" fn cudnnDestroyTensorDescriptor(tensor: usize) -> u32 {
    code(TENSORS.remove(tensor).map(drop).ok_or(Status::BAD_PARAM))
}

#[unsafe(no_mangle)]
extern "C" fn cudnnSetTensor4dDescriptor(
    tensor: usize,
    format: u32,
    kind: u32,
    n: c_int,
    c: c_int,
    h: c_int,
    w: c_int,
) -> u32 {
    code(number(kind).and_then(|number| {
        let dims = sizes([n, c, h, w], 1)?;
        let strides = layout(format)?.strides(dims);
        set(&TENSORS, tensor, Tensor { number, dims, strides })
    }))
}

#[unsafe(no_mangle)]
extern "C" fn cudnnSetTensor4dDescriptorEx(
    tensor: usize,
    kind: u32,
    n: c_int,
    c: c_int,
    h: c_int,
    w: c_int,
    n_stride: c_int,
    c_stride: c_int,
    h_stride: c_int,
    w_stride: c_int,
) -> u32 {
    code(strided(tensor, kind, [n, c, h, w], [n_stride, c_stride, h_stride, w_stride]))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cudnnSetTensorNdDescriptor(
    tensor: usize,
    kind: u32,
    count: c_int,
    dims: *const c_int,
    strides: *const c_int,
) -> u32 {
    // SAFETY: the caller passes `count` of each.
    let arrays = unsafe { array(count, dims).and_then(|dims| Ok((dims, array(count, strides)?))) };
    code(arrays.and_then(|(dims, strides)| strided(tensor, kind, dims, strides)))
}

fn strided(tensor: usize, kind: u32, dims: [c_int; 4], strides: [c_int; 4]) -> Answer {
    let (number, dims) = (number(kind)?, sizes(dims, 1)?);
    let strides = strides.map(|stride| usize::try_from(stride).unwrap_or(0));
    if strides.contains(&0) {
        return wrong(Status::BAD_PARAM, format!("strides {strides:?}"));
    }
    set(&TENSORS, tensor, Tensor { number, dims, strides })
}

#[unsafe(no_mangle)]
extern "C" fn cudnnCreateFilterDescriptor(out: Out<'_, usize>) -> u32 {
    code(put(out, FILTERS.insert(None), Status::NULL_POINTER))
}

#[unsafe(no_mangle)]
extern "C" fn cudnnDestroyFilterDescriptor(filter: usize) -> u32 {
    code(FILTERS.remove(filter).map(drop).ok_or(Status::BAD_PARAM))
}

#[unsafe(no_mangle)]
extern "C" fn cudnnSetFilter4dDescriptor(
    filter: usize,
    kind: u32,
    format: u32,
    k: c_int,
    c: c_int,
    h: c_int,
    w: c_int,
) -> u32 {
    code(number(kind).and_then(|number| {
        let (dims, layout) = (sizes([k, c, h, w], 1)?, layout(format)?);
        set(&FILTERS, filter, Filter { number, dims, layout })
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cudnnSetFilterNdDescriptor(
    filter: usize,
    kind: u32,
    format: u32,
    count: c_int,
    dims: *const c_int,
) -> u32 {
    // SAFETY: the caller passes `count` of them.
    match unsafe { array(count, dims) } {
        Ok([k, c, h, w]) => cudnnSetFilter4dDescriptor(filter, kind, format, k, c, h, w),
        Err(status) => status.0,
    }
}
