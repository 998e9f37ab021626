//! Executes convolutions with the batch norms that fusion.rs has fused into them.

use forebay::gpu::DeviceError;

use super::conv::{ConvCase, Direction, FusedCase, FusedOperands, Operands};
use super::execute::NormLayer;
use super::launch::BatchNormArgs;
use super::{CudaBackend, PassConfig};
use crate::model::{Conv, Op, TensorId};

impl CudaBackend {
    /// Whether the output of an operation is stored in this pass. That of a norm is not, if the next convolution
    /// applies it.
    #[doc(hidden)]
    pub fn stores_output(&self, index: usize, pass: PassConfig) -> bool {
        !self.fusions.of(index, pass).is_applied
    }

    /// Whether the convolution before a norm computes its statistics in this pass.
    #[doc(hidden)]
    pub fn measures_norm(&self, index: usize, pass: PassConfig) -> bool {
        self.fusions.of(index, pass).is_measured
    }

    /// A convolution, with what is fused into it.
    pub(super) fn forward_convolution(
        &mut self,
        index: usize,
        pass: PassConfig,
        (conv, weight): (Conv, usize),
        [x, y]: [u64; 2],
    ) -> Result<(), DeviceError> {
        let (case, w) = (
            ConvCase { conv, images: pass.samples, direction: Direction::Forward },
            self.parameter_copy_address(weight),
        );
        let fused = self.fusions.of(index, pass);
        let Some(after) = fused.measures else {
            return self.convolutions.launch(case, Operands { x, w, y });
        };
        let sums = self.scratch(conv.output.channels);
        let operands = match fused.applies {
            None => FusedOperands::Statistics { xwy: [x, w, y], sums },
            Some(norm) => {
                let (x, line) = (self.norm_input(norm), self.line(norm));
                FusedOperands::Forward { xwy: [x, w, y], sums, line }
            }
        };
        let case = FusedCase { case, norm: fused.applies.is_some() };
        self.convolutions.launch_fused(&case, operands)?;
        self.launcher().norm_statistics(&self.norm_of(after, pass))
    }

    /// The gradients of a convolution that applies the norm before it: of its weights, of the weights of the norm, and of
    /// the output of the norm before its `ReLU`.
    pub(super) fn backward_with_norm(
        &mut self,
        norm: usize,
        pass: PassConfig,
        (conv, weight): (Conv, usize),
        [dx, dy]: [u64; 2],
    ) -> Result<(), DeviceError> {
        let case = |direction| {
            let case = ConvCase { conv, images: pass.samples, direction };
            FusedCase { case, norm: true }
        };
        let (input, line) = (self.norm_input(norm), self.line(norm));
        let xwy = [input, self.filter_gradient_address(weight), dy];
        let operands = FusedOperands::BackwardFilter { xwy, line };
        self.convolutions.launch_fused(&case(Direction::BackwardFilter), operands)?;
        let (args, channels) = (self.norm_of(norm, pass), conv.input.channels);
        let [mean, inverse] = {
            let start = self.memory.saved.start + 8 * args.running;
            [0, channels].map(|at| self.lane.address(start + at * 4..self.memory.saved.end))
        };
        let operands = FusedOperands::BackwardData {
            xwy: [dx, self.parameter_copy_address(weight), dy],
            input,
            norm: [mean, inverse, args.gamma, args.beta],
            gradients: self.scratch(channels),
        };
        self.convolutions.launch_fused(&case(Direction::BackwardData { adds: false }), operands)?;
        self.launcher().norm_weights(&args)
    }

    /// Addresses of values per channel that the next kernel reads.
    fn scratch<const COUNT: usize>(&self, channels: usize) -> [u64; COUNT] {
        let range = &self.memory.norm_partial;
        std::array::from_fn(|at| self.lane.address(range.start + at * channels * 4..range.end))
    }

    /// Addresses of the scale and the bias by which a convolution applies a norm.
    fn line(&self, op: usize) -> [u64; 2] {
        let (norm, _) = self.norm_at(op);
        let (range, bytes) = (&self.memory.norm_lines, self.config.precision.bytes());
        let values = &self.memory.running_ranges[norm];
        [values.start, values.start + values.len() / 2]
            .map(|at| self.lane.address(range.start + at * bytes..range.end))
    }

    /// The norm of an operation, and its input.
    fn norm_at(&self, op: usize) -> (usize, TensorId) {
        let Op::BatchNorm { norm, x, .. } = self.training.graph.ops[op] else {
            unreachable!("only norms are fused into convolutions")
        };
        (norm, x)
    }

    fn norm_input(&self, op: usize) -> u64 {
        self.value_address(true, self.norm_at(op).1)
    }

    fn norm_of(&self, op: usize, pass: PassConfig) -> BatchNormArgs {
        let (norm, x) = self.norm_at(op);
        let layer = NormLayer { norm, relu: true, block: None, keeps_mask: false };
        self.norm_args(layer, pass.samples, self.training.graph.tensors[x])
    }
}
