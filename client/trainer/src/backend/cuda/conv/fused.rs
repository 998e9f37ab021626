//! Describes convolutions that batch norms are fused into, to cuDNN's graph API.
//!
//! The patterns are cuDNN's:
//!
//! ```text
//! forward            sums of the output and of its squares, for the norm after it; and ConvBNfprop, where the input
//!                    is a norm's output, computed from that norm's input: relu(x * scale + bias)
//! backward filter    ConvBNwgrad: the same for the input
//! backward data      DgradDreluBNBwdWeight: the gradient before that norm's ReLU, and the gradients of its weights
//! ```
//!
//! cuDNN has them for f16. Scale and bias of an input are f16 as well, and whatever belongs to the gradient of a norm is
//! f32. tests/kernels/plan/fusions.py builds the same graphs.

use std::fmt;
use std::rc::Rc;

use cudarc::cudnn::sys;
use forebay::gpu::DeviceError;
use sys::cudnnBackendAttributeName_t as Name;
use sys::cudnnBackendAttributeType_t as Type;
use sys::cudnnBackendDescriptorType_t as Kind;
use sys::cudnnDataType_t::{CUDNN_DATA_FLOAT as F32, CUDNN_DATA_HALF as F16};
use sys::cudnnPointwiseMode_t as Mode;

use super::case::{ConvCase, Direction};
use super::descriptor::Descriptor;
use super::graph::GraphPlan;
use super::library::Handle;
use super::operation::{Planner, TENSORS};
use super::refusal::Refusal;

/// Unique numbers of the further tensors within a graph: the sums of the output and of its squares; scale and bias of
/// the input; the input of its norm, and the mean, the inverse deviation, gamma and beta of that norm.
const SUMS: [i64; 2] = [4, 5];
const LINE: [i64; 2] = [6, 7];
const INPUT: i64 = 8;
const NORM: [i64; 4] = [20, 21, 22, 23];

/// The gradients of gamma and beta, and three factors by which cuDNN would compute the gradient of the norm's input.
const GRADIENTS: [i64; 5] = [30, 31, 32, 33, 34];

/// The first unique number of the tensors that are not stored.
const VIRTUAL: i64 = 10;

/// A convolution with batch norms, in one direction, for a number of images. Its gradient of data is never added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FusedCase {
    pub(crate) case: ConvCase,
    /// Whether the input is a norm's output.
    pub(crate) norm: bool,
}

/// Addresses of the tensors of a convolution with batch norms. `x`, `w` and `y` are those of [`Operands`](super::Operands),
/// but `x` is the input of the norm, if the convolution's input is a norm's output.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FusedOperands {
    /// Also the sums of y and of its squares.
    Statistics { xwy: [u64; 3], sums: [u64; 2] },
    /// Also the scale and the bias of the input.
    Forward { xwy: [u64; 3], sums: [u64; 2], line: [u64; 2] },
    /// `w` is the gradient.
    BackwardFilter { xwy: [u64; 3], line: [u64; 2] },
    /// `x` is the gradient before the norm's `ReLU`; `norm` has mean, inverse deviation, gamma and beta.
    BackwardData { xwy: [u64; 3], input: u64, norm: [u64; 4], gradients: [u64; 5] },
}

impl FusedOperands {
    pub(super) fn launch(
        self,
        plan: &mut GraphPlan,
        handle: &Handle,
        workspace: u64,
    ) -> Result<(), DeviceError> {
        match self {
            Self::Statistics { xwy: [x, w, y], sums: [a, b] } => {
                plan.launch(handle, [x, w, y, a, b, workspace])
            }
            Self::Forward { xwy: [x, w, y], sums: [a, b], line: [scale, bias] } => {
                plan.launch(handle, [x, w, y, a, b, scale, bias, workspace])
            }
            Self::BackwardFilter { xwy: [x, w, y], line: [scale, bias] } => {
                plan.launch(handle, [x, w, y, scale, bias, workspace])
            }
            Self::BackwardData { xwy: [x, w, y], input, norm: [a, b, c, d], gradients } => {
                let [e, f, g, h, i] = gradients;
                plan.launch(handle, [x, w, y, input, a, b, c, d, e, f, g, h, i, workspace])
            }
        }
    }
}

impl FusedCase {
    /// The unique numbers of the stored tensors, in the order of [`FusedOperands`].
    pub(super) const fn tensors(&self) -> &'static [i64] {
        match (self.case.direction, self.norm) {
            (Direction::Forward, false) => &[1, 2, 3, 4, 5],
            (Direction::Forward, true) => &[1, 2, 3, 4, 5, 6, 7],
            (Direction::BackwardFilter, _) => &[1, 2, 3, 6, 7],
            (Direction::BackwardData { .. }, _) => {
                &[1, 2, 3, 8, 20, 21, 22, 23, 30, 31, 32, 33, 34]
            }
        }
    }
}

impl fmt::Display for FusedCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.case, if self.norm { "with norms" } else { "with statistics" })
    }
}

/// A size of one value per channel.
const fn per_channel(channels: usize) -> [usize; 4] {
    [1, channels, 1, 1]
}

impl Planner<'_> {
    pub(super) fn fused_graph(&self, fused: &FusedCase) -> Result<Rc<Descriptor>, Refusal> {
        let FusedCase { case, norm } = fused;
        let [w, y] =
            [self.tensor(TENSORS[1], case.w_sizes())?, self.tensor(TENSORS[2], case.y_sizes())?];
        if matches!(case.direction, Direction::BackwardData { .. }) {
            return self.graph(&self.norm_gradient(case, [w, y])?);
        }
        let x = self.tensor(TENSORS[0], case.x_sizes())?;
        let (mut operations, x) =
            if *norm { self.scaled(&x, case.x_sizes())? } else { (Vec::new(), x) };
        operations.push(self.convolution(case, [x, w, Rc::clone(&y)])?);
        if case.direction == Direction::Forward {
            operations.push(self.statistics(y, case.conv.output.channels)?);
        }
        self.graph(&operations)
    }

    /// The operations of `relu(x * scale + bias)`, and their result.
    fn scaled(
        &self,
        x: &Rc<Descriptor>,
        sizes: [usize; 4],
    ) -> Result<(Vec<Rc<Descriptor>>, Rc<Descriptor>), Refusal> {
        let line = |number| self.tensor_of(number, per_channel(sizes[1]), F16, false);
        let between = |step| self.tensor_of(VIRTUAL + step, sizes, F16, true);
        let (scaled, shifted, y) = (between(0)?, between(1)?, between(2)?);
        let operations = vec![
            self.binary(Mode::CUDNN_POINTWISE_MUL, [x, &line(LINE[0])?, &scaled])?,
            self.binary(Mode::CUDNN_POINTWISE_ADD, [&scaled, &line(LINE[1])?, &shifted])?,
            self.pointwise(
                Mode::CUDNN_POINTWISE_RELU_FWD,
                &[
                    (Name::CUDNN_ATTR_OPERATION_POINTWISE_XDESC, &shifted),
                    (Name::CUDNN_ATTR_OPERATION_POINTWISE_YDESC, &y),
                ],
            )?,
        ];
        Ok((operations, y))
    }

    /// The operation that sums a tensor and its squares by channel.
    fn statistics(&self, x: Rc<Descriptor>, channels: usize) -> Result<Rc<Descriptor>, Refusal> {
        let sum = |number| self.tensor_of(number, per_channel(channels), F32, false);
        let (sums, squares) = (sum(SUMS[0])?, sum(SUMS[1])?);
        let kind = Kind::CUDNN_BACKEND_OPERATION_GEN_STATS_DESCRIPTOR;
        Descriptor::build(self.api, kind, |operation| {
            let mode = sys::cudnnGenStatsMode_t::CUDNN_GENSTATS_SUM_SQSUM as u32;
            let kind = Type::CUDNN_TYPE_GENSTATS_MODE;
            operation.setting(Name::CUDNN_ATTR_OPERATION_GENSTATS_MODE, kind, mode)?;
            let kind = Type::CUDNN_TYPE_DATA_TYPE;
            operation.setting(Name::CUDNN_ATTR_OPERATION_GENSTATS_MATH_PREC, kind, F32 as u32)?;
            operation.descriptors(Name::CUDNN_ATTR_OPERATION_GENSTATS_XDESC, &[x])?;
            operation.descriptors(Name::CUDNN_ATTR_OPERATION_GENSTATS_SUMDESC, &[sums])?;
            operation.descriptors(Name::CUDNN_ATTR_OPERATION_GENSTATS_SQSUMDESC, &[squares])
        })
    }

    /// The operations of the gradient of a norm's output, before its `ReLU`, and of the gradients of its weights. The
    /// norm is computed again for the sign of its output.
    fn norm_gradient(
        &self,
        case: &ConvCase,
        [w, dy]: [Rc<Descriptor>; 2],
    ) -> Result<Vec<Rc<Descriptor>>, Refusal> {
        let sizes = case.x_sizes();
        let given = |number| self.tensor_of(number, per_channel(sizes[1]), F32, false);
        let between = |step| self.tensor_of(VIRTUAL + step, sizes, F32, true);
        let (x, masked) = (self.tensor(INPUT, sizes)?, self.tensor(TENSORS[0], sizes)?);
        let gradient = between(0)?;
        let modes = [
            Mode::CUDNN_POINTWISE_SUB,
            Mode::CUDNN_POINTWISE_MUL,
            Mode::CUDNN_POINTWISE_MUL,
            Mode::CUDNN_POINTWISE_ADD,
        ];
        let mut operations = vec![self.convolution(case, [Rc::clone(&gradient), w, dy])?];
        let (mut value, mut norm) = (Rc::clone(&x), Vec::new());
        for (step, (mode, number)) in (1..).zip(modes.into_iter().zip(NORM)) {
            let (other, next) = (given(number)?, between(step)?);
            operations.push(self.binary(mode, [&value, &other, &next])?);
            norm.push(other);
            value = next;
        }
        operations.push(self.pointwise(
            Mode::CUDNN_POINTWISE_RELU_BWD,
            &[
                (Name::CUDNN_ATTR_OPERATION_POINTWISE_XDESC, &value),
                (Name::CUDNN_ATTR_OPERATION_POINTWISE_DYDESC, &gradient),
                (Name::CUDNN_ATTR_OPERATION_POINTWISE_DXDESC, &masked),
            ],
        )?);
        let results = GRADIENTS.into_iter().map(given).collect::<Result<Vec<_>, _>>()?;
        operations.push(self.weight_gradients([x, masked], &norm, &results)?);
        Ok(operations)
    }

    /// The operation of the gradients of a norm's weights.
    fn weight_gradients(
        &self,
        [x, dy]: [Rc<Descriptor>; 2],
        norm: &[Rc<Descriptor>],
        results: &[Rc<Descriptor>],
    ) -> Result<Rc<Descriptor>, Refusal> {
        let kind = Kind::CUDNN_BACKEND_OPERATION_BN_BWD_WEIGHTS_DESCRIPTOR;
        Descriptor::build(self.api, kind, |operation| {
            let (name, kind) =
                (Name::CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_MATH_PREC, Type::CUDNN_TYPE_DATA_TYPE);
            operation.setting(name, kind, F32 as u32)?;
            operation.descriptors(Name::CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_X_DESC, &[x])?;
            operation.descriptors(Name::CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_DY_DESC, &[dy])?;
            let names = [
                Name::CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_MEAN_DESC,
                Name::CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_INVSTD_DESC,
                Name::CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_BN_SCALE_DESC,
                Name::CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_DBN_SCALE_DESC,
                Name::CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_DBN_BIAS_DESC,
                Name::CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_EQ_DY_SCALE_DESC,
                Name::CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_EQ_X_SCALE_DESC,
                Name::CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_EQ_BIAS,
            ];
            for (name, tensor) in names.into_iter().zip(norm[..3].iter().chain(results)) {
                operation.descriptors(name, &[Rc::clone(tensor)])?;
            }
            Ok(())
        })
    }

    /// A pointwise operation of two tensors, with its result.
    fn binary(
        &self,
        mode: Mode,
        [x, other, y]: [&Rc<Descriptor>; 3],
    ) -> Result<Rc<Descriptor>, Refusal> {
        let tensors = [
            (Name::CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x),
            (Name::CUDNN_ATTR_OPERATION_POINTWISE_BDESC, other),
            (Name::CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y),
        ];
        self.pointwise(mode, &tensors)
    }

    fn pointwise(
        &self,
        mode: Mode,
        tensors: &[(Name, &Rc<Descriptor>)],
    ) -> Result<Rc<Descriptor>, Refusal> {
        let kind = Kind::CUDNN_BACKEND_POINTWISE_DESCRIPTOR;
        let function = Descriptor::build(self.api, kind, |function| {
            let kind = Type::CUDNN_TYPE_POINTWISE_MODE;
            function.setting(Name::CUDNN_ATTR_POINTWISE_MODE, kind, mode as u32)?;
            let kind = Type::CUDNN_TYPE_DATA_TYPE;
            function.setting(Name::CUDNN_ATTR_POINTWISE_MATH_PREC, kind, F32 as u32)
        })?;
        let kind = Kind::CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR;
        Descriptor::build(self.api, kind, |operation| {
            let name = Name::CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR;
            operation.descriptors(name, &[function])?;
            for (name, tensor) in tensors {
                operation.descriptors(*name, &[Rc::clone(tensor)])?;
            }
            Ok(())
        })
    }
}
