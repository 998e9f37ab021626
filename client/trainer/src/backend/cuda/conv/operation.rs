//! Describes a convolution to cuDNN's graph API.

use std::rc::Rc;

use cudarc::cudnn::sys;
use sys::cudnnBackendAttributeName_t as Name;
use sys::cudnnBackendAttributeType_t as Type;
use sys::cudnnBackendDescriptorType_t as Kind;

use super::case::{ConvCase, Direction};
use super::descriptor::Descriptor;
use super::library::{GraphApi, Handle};
use super::refusal::Refusal;
use crate::backend::cuda::Precision;

/// Unique numbers of the tensors x, w and y within a graph.
pub(super) const TENSORS: [i64; 3] = [1, 2, 3];

/// Alignment of every tensor in bytes, which engines with accesses of 16 bytes need.
const ALIGNMENT: i64 = 16;

/// What is planned, and with what.
#[derive(Clone, Copy)]
pub(super) struct Planner<'a> {
    pub(super) api: GraphApi,
    pub(super) handle: &'a Handle,
    pub(super) precision: Precision,
}

impl Planner<'_> {
    /// A graph of one operation.
    pub(super) fn operation_graph(&self, case: &ConvCase) -> Result<Rc<Descriptor>, Refusal> {
        let sizes = [case.x_sizes(), case.w_sizes(), case.y_sizes()];
        let tensor = |at: usize| self.tensor(TENSORS[at], sizes[at]);
        self.graph(&[self.convolution(case, [tensor(0)?, tensor(1)?, tensor(2)?])?])
    }

    /// A graph of operations.
    pub(super) fn graph(&self, operations: &[Rc<Descriptor>]) -> Result<Rc<Descriptor>, Refusal> {
        Descriptor::build(self.api, Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, |graph| {
            graph.handle(Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, self.handle)?;
            graph.descriptors(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, operations)
        })
    }

    /// The operation of a convolution of the tensors x, w and y.
    pub(super) fn convolution(
        &self,
        case: &ConvCase,
        tensors: [Rc<Descriptor>; 3],
    ) -> Result<Rc<Descriptor>, Refusal> {
        let conv = self.geometry(case)?;
        let (kind, [alpha, beta, geometry, x, w, y]) = names(case.direction);
        Descriptor::build(self.api, kind, |operation| {
            operation.descriptors(geometry, &[conv])?;
            for (name, tensor) in [x, w, y].into_iter().zip(tensors) {
                operation.descriptors(name, &[tensor])?;
            }
            operation.factor(alpha, 1.0)?;
            operation.factor(beta, case.beta())
        })
    }

    /// Strides and padding, with products and sums in f32.
    fn geometry(&self, case: &ConvCase) -> Result<Rc<Descriptor>, Refusal> {
        let (stride, pad) = ([size(case.conv.stride); 2], [size(case.pad()); 2]);
        Descriptor::build(self.api, Kind::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, |conv| {
            let float = sys::cudnnDataType_t::CUDNN_DATA_FLOAT as u32;
            let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION as u32;
            let kind = Type::CUDNN_TYPE_CONVOLUTION_MODE;
            conv.setting(
                Name::CUDNN_ATTR_CONVOLUTION_COMP_TYPE,
                Type::CUDNN_TYPE_DATA_TYPE,
                float,
            )?;
            conv.setting(Name::CUDNN_ATTR_CONVOLUTION_CONV_MODE, kind, mode)?;
            conv.numbers(Name::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, &[2])?;
            conv.numbers(Name::CUDNN_ATTR_CONVOLUTION_DILATIONS, &[1, 1])?;
            conv.numbers(Name::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, &stride)?;
            conv.numbers(Name::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, &pad)?;
            conv.numbers(Name::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, &pad)
        })
    }

    /// A tensor of activations or weights.
    pub(super) fn tensor(&self, number: i64, sizes: [usize; 4]) -> Result<Rc<Descriptor>, Refusal> {
        let data = match self.precision {
            Precision::Bf16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
            Precision::F16 => sys::cudnnDataType_t::CUDNN_DATA_HALF,
            Precision::F32 => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
        };
        self.tensor_of(number, sizes, data, false)
    }

    /// A tensor of these sizes in the order NCHW, stored as NHWC unless it is virtual.
    pub(super) fn tensor_of(
        &self,
        number: i64,
        sizes: [usize; 4],
        data: sys::cudnnDataType_t,
        is_virtual: bool,
    ) -> Result<Rc<Descriptor>, Refusal> {
        let [n, c, h, w] = sizes.map(size);
        Descriptor::build(self.api, Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR, |tensor| {
            let kind = Type::CUDNN_TYPE_DATA_TYPE;
            tensor.setting(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, kind, data as u32)?;
            tensor.numbers(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, &[n, c, h, w])?;
            tensor.numbers(Name::CUDNN_ATTR_TENSOR_STRIDES, &[c * h * w, 1, c * w, c])?;
            tensor.numbers(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, &[number])?;
            tensor.numbers(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[ALIGNMENT])?;
            tensor.flag(Name::CUDNN_ATTR_TENSOR_IS_VIRTUAL, is_virtual)
        })
    }
}

/// The kind of an operation, and the names of its attributes: alpha, beta, geometry, x, w and y.
const fn names(direction: Direction) -> (Kind, [Name; 6]) {
    match direction {
        Direction::Forward => (
            Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
            [
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
            ],
        ),
        Direction::BackwardData { .. } => (
            Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
            [
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
            ],
        ),
        Direction::BackwardFilter => (
            Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
            [
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
            ],
        ),
    }
}

fn size(size: usize) -> i64 {
    i64::try_from(size).expect("sizes of tensors are below 2^31")
}
