//! Tensors: element type, sizes, strides, and the identifier by which a variant pack names their memory.

use super::descriptor::Values;
use super::names as n;
use super::values::{enumerator, flag, int, ints};
use crate::dnn::{Answer, Status, wrong};
use crate::memory::Operand;
use crate::number::Number;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tensor {
    pub(super) uid: i64,
    /// `cudnnDataType_t`. Engines support some of them.
    pub(super) data_type: u32,
    pub(super) dims: Vec<usize>,
    pub(super) strides: Vec<usize>,
    pub(super) alignment: u64,
    /// A virtual tensor is a value inside a graph, without memory.
    pub(super) is_virtual: bool,
    pub(super) by_value: bool,
}

/// The bytes of an element of a `cudnnDataType_t`. `None` for a number that is none, and for types that only older cuDNN has.
fn element(data_type: u32) -> Option<u64> {
    Some(match data_type {
        0 | 4 => 4,
        1 | 10 => 8,
        2 | 9 => 2,
        3 | 6 | 11..=13 => 1,
        _ => return None,
    })
}

/// The element type, if the stand-in computes with it.
pub(super) fn number(data_type: u32) -> Option<Number> {
    match data_type {
        0 => Some(Number::F32),
        2 => Some(Number::F16),
        9 => Some(Number::Bf16),
        _ => None,
    }
}

/// `cudnnDataType_t` f32, as which all sums are computed.
pub(super) const FLOAT: u32 = 0;
pub(super) const HALF: u32 = 2;

impl Tensor {
    pub(super) fn new(values: &Values) -> Answer<Self> {
        let data_type = enumerator(values, n::TENSOR_DATA_TYPE);
        let (dims, strides) = (ints(values, n::TENSOR_DIMENSIONS), ints(values, n::TENSOR_STRIDES));
        if dims.len() != strides.len() {
            let what = format!("a tensor with sizes {dims:?} and strides {strides:?}");
            return wrong(Status::BAD_PARAM, what);
        }
        let Some(element) = element(data_type) else {
            return wrong(Status::NOT_SUPPORTED, format!("tensors of data type {data_type}"));
        };
        let alignment = int(values, n::TENSOR_BYTE_ALIGNMENT).unwrap_or(0);
        let alignment = match u64::try_from(alignment) {
            Ok(alignment) if alignment > 0 && alignment % element == 0 => alignment,
            _ => {
                let what =
                    format!("a tensor aligned to {alignment} bytes, of {element}-byte elements");
                return wrong(Status::BAD_PARAM, what);
            }
        };
        if int(values, n::TENSOR_VECTOR_COUNT).unwrap_or(1) != 1 {
            return wrong(Status::NOT_SUPPORTED, "tensors of vectors");
        }
        if enumerator(values, n::TENSOR_REORDERING_MODE) != 0 {
            return wrong(Status::NOT_SUPPORTED, "reordered tensors");
        }
        Ok(Self {
            uid: int(values, n::TENSOR_UNIQUE_ID).unwrap_or(0),
            data_type,
            dims: positive(&dims, "sizes")?,
            strides: positive(&strides, "strides")?,
            alignment,
            is_virtual: flag(values, n::TENSOR_IS_VIRTUAL),
            by_value: flag(values, n::TENSOR_IS_BY_VALUE),
        })
    }

    pub(super) fn count(&self) -> usize {
        self.dims.iter().product()
    }

    /// The sizes of a value for each channel.
    pub(super) fn of_channels(&self) -> Vec<usize> {
        let sizes = self.dims.iter().enumerate();
        sizes.map(|(axis, size)| if axis == 1 { *size } else { 1 }).collect()
    }

    /// The sizes n, c, h, w, if the tensor has four dimensions.
    pub(super) fn sizes(&self) -> Option<[usize; 4]> {
        <[usize; 4]>::try_from(self.dims.as_slice()).ok()
    }

    /// Whether the elements are packed with the channels last.
    pub(super) fn is_channels_last(&self) -> bool {
        let Some([_, c, h, w]) = self.sizes() else { return false };
        let packed = [h * w * c, 1, w * c, c];
        (0..4).all(|axis| self.dims[axis] == 1 || self.strides[axis] == packed[axis])
    }

    /// The memory of the tensor.
    pub(super) fn operand(&self, name: &'static str, address: u64) -> Operand {
        let bytes = self.count() as u64 * element(self.data_type).unwrap_or(0);
        Operand { name, address, bytes }
    }
}

/// Sizes or strides, each at least 1 and together less than 2^31 elements.
fn positive(given: &[i64], what: &str) -> Answer<Vec<usize>> {
    let found: Option<Vec<usize>> = given
        .iter()
        .map(|value| usize::try_from(*value).ok().filter(|value| (1..1 << 31).contains(value)))
        .collect();
    match found {
        Some(found) => Ok(found),
        None => wrong(Status::BAD_PARAM, format!("a tensor with {what} {given:?}")),
    }
}
