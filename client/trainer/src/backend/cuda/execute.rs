//! Executes the operations of a graph, forward and backward, on ranges of the GPU's memory.

use std::ops::Range;

use forebay::gpu::DeviceError;

use super::conv::{ConvCase, Direction, Operands};
use super::cublas::Gemm;
use super::fusion::FusedOp;
use super::launch::BatchNormArgs;
use super::{CudaBackend, PassConfig};
use crate::Error;
use crate::model::{Conv, Op, Shape, TensorId};

/// A batch norm operation.
#[derive(Clone, Copy)]
pub(super) struct NormLayer {
    pub(super) norm: usize,
    pub(super) relu: bool,
    /// The block whose stochastic depth applies.
    pub(super) block: Option<usize>,
    /// Whether forward keeps a mask for backward.
    pub(super) keeps_mask: bool,
}

impl CudaBackend {
    /// Runs all operations forward on the uploaded batch.
    ///
    /// # Errors
    /// When the GPU fails.
    #[doc(hidden)]
    pub fn forward_pass(&mut self, pass: PassConfig) -> Result<(), Error> {
        self.forward_ops(pass)?;
        if pass.train {
            self.update_running_statistics()?;
            self.batches_tracked += self.world() as u64;
        }
        Ok(())
    }

    pub(super) fn forward_ops(&mut self, pass: PassConfig) -> Result<(), DeviceError> {
        for op in 0..self.plan(pass.train).graph.ops.len() {
            self.forward_op(op, pass)?;
        }
        Ok(())
    }

    /// Runs one operation forward.
    pub(crate) fn forward_op(&mut self, index: usize, pass: PassConfig) -> Result<(), DeviceError> {
        let PassConfig { samples, train, drop_path } = pass;
        let graph = &self.plan(train).graph;
        let op = graph.ops[index].clone();
        let (x, y) = op.tensors();
        let (from, to) = (graph.tensors[x], graph.tensors[y]);
        let [x, y] = [self.value_address(train, x), self.value_address(train, y)];
        match op {
            Op::Conv { weight, bias: Some(bias), conv, .. } => {
                self.forward_classifier(&conv, samples, x, weight)?;
                let (bias, classes) = (self.parameter_address(bias), conv.output.channels);
                self.launcher().bias_add(bias, samples, classes)
            }
            Op::Conv { weight, conv, .. } => {
                self.forward_convolution(index, pass, (conv, weight), [x, y])
            }
            Op::BatchNorm { norm, residual, relu, block, .. } => {
                let keeps_mask = train && residual.is_some();
                let block = block.filter(|_| drop_path);
                let norm = self.norm_args(NormLayer { norm, relu, block, keeps_mask }, samples, to);
                let residual = residual.map_or(0, |residual| self.value_address(train, residual));
                match self.fusions.of(index, pass) {
                    FusedOp { is_applied: true, .. } => Ok(()),
                    FusedOp { is_measured: true, .. } => {
                        self.launcher().norm_apply(&norm, [x, residual, y])
                    }
                    _ => self.launcher().norm_forward(&norm, train, [x, residual, y]),
                }
            }
            Op::MaxPool { .. } => self.launcher().max_pool([x, y], samples, from, to),
            Op::MeanPool { .. } => self.launcher().mean_pool(false, [x, y], samples, from),
            Op::Shortcut { .. } => self.launcher().shortcut(false, [x, y], samples, from, to),
        }
    }

    /// Runs all operations backward from the gradient of the logits. Adds to the parameters' gradients.
    ///
    /// # Errors
    /// When the GPU fails.
    #[doc(hidden)]
    pub fn backward_pass(&mut self, pass: PassConfig) -> Result<(), Error> {
        Ok(self.backward_ops(pass, false)?)
    }

    /// Runs all operations backward. After the last microbatch of a step, gradients are exchanged with the other
    /// ranks while the pass still runs.
    pub(super) fn backward_ops(
        &mut self,
        pass: PassConfig,
        is_last: bool,
    ) -> Result<(), DeviceError> {
        let exchanges = is_last && self.collectives.is_some();
        for op in (0..self.training.graph.ops.len()).rev() {
            self.backward_op(op, pass)?;
            if exchanges {
                self.exchange_buckets(op)?;
            }
        }
        match &self.collectives {
            Some(collectives) if exchanges => collectives.wait_before(&self.lane),
            _ => self.add_gradients(),
        }
    }

    /// Adds the weight gradients of cuDNN, which are those of one microbatch, to the step's.
    pub(crate) fn add_gradients(&self) -> Result<(), DeviceError> {
        self.launcher().add_gradients(&(0..self.memory.parameters_len))
    }

    /// Runs one operation backward: from the gradient of its output to those of its input and parameters.
    pub(crate) fn backward_op(
        &mut self,
        index: usize,
        pass: PassConfig,
    ) -> Result<(), DeviceError> {
        let PassConfig { samples, drop_path, .. } = pass;
        let graph = &self.training.graph;
        let op = graph.ops[index].clone();
        let (x, y) = op.tensors();
        let (from, to) = (graph.tensors[x], graph.tensors[y]);
        let dy = self.gradient_address(y);
        match op {
            Op::Conv { weight, bias: Some(bias), conv, .. } => {
                let bias = self.parameter_gradient_address(bias);
                self.launcher().bias_gradient([dy, bias], samples, conv.output.channels)?;
                self.backward_classifier(&conv, samples, x, dy, weight)
            }
            Op::Conv { weight, conv, .. } => {
                if let Some(norm) = self.fusions.of(index, pass).applies {
                    let dx = self.gradient_address(x);
                    return self.backward_with_norm(norm, pass, (conv, weight), [dx, dy]);
                }
                let case = |direction| ConvCase { conv, images: samples, direction };
                let [values, dw] =
                    [self.value_address(true, x), self.filter_gradient_address(weight)];
                let operands = Operands { x: values, w: dw, y: dy };
                self.convolutions.launch(case(Direction::BackwardFilter), operands)?;
                if self.training.gradients[x].is_none() {
                    return Ok(());
                }
                let [dx, w] = [self.gradient_address(x), self.parameter_copy_address(weight)];
                let direction = Direction::BackwardData { adds: self.training.adds[index] };
                self.convolutions.launch(case(direction), Operands { x: dx, w, y: dy })
            }
            Op::BatchNorm { norm, residual, relu, block, .. } => {
                let (block, keeps_mask) = (block.filter(|_| drop_path), residual.is_some());
                let norm = self.norm_args(NormLayer { norm, relu, block, keeps_mask }, samples, to);
                let (x, dx) = (self.value_address(true, x), self.gradient_address(x));
                if self.fusions.of(index, pass).is_applied {
                    return self.launcher().norm_input_gradient(&norm, [x, dy]);
                }
                self.launcher().norm_backward(&norm, [x, dy, dx])
            }
            Op::MaxPool { .. } => {
                let dx = self.gradient_address(x);
                self.launcher().max_pool_backward([dy, dx], samples, from, to)
            }
            Op::MeanPool { .. } => {
                self.launcher().mean_pool(true, [dy, self.gradient_address(x)], samples, from)
            }
            Op::Shortcut { .. } => {
                self.launcher().shortcut(true, [dy, self.gradient_address(x)], samples, from, to)
            }
        }
    }

    /// `logits = x W^T`. Row-major matrices are transposed matrices to cuBLAS, which is column-major.
    fn forward_classifier(
        &self,
        conv: &Conv,
        samples: usize,
        x: u64,
        weight: usize,
    ) -> Result<(), DeviceError> {
        let (features, classes) = (conv.input.channels, conv.output.channels);
        self.cublas.gemm(&Gemm {
            transposed: [true, false],
            sizes: [classes, samples, features],
            a: (self.parameter_copy_address(weight), features),
            b: (x, features),
            c: (self.lane.address(self.memory.logits.clone()), classes),
            c_is_f32: true,
            beta: 0.0,
        })
    }

    /// `dW += dy^T x` and `dx = dy W`.
    fn backward_classifier(
        &self,
        conv: &Conv,
        samples: usize,
        x: TensorId,
        dy: u64,
        weight: usize,
    ) -> Result<(), DeviceError> {
        let (features, classes) = (conv.input.channels, conv.output.channels);
        self.cublas.gemm(&Gemm {
            transposed: [false, true],
            sizes: [features, classes, samples],
            a: (self.value_address(true, x), features),
            b: (dy, classes),
            c: (self.parameter_gradient_address(weight), features),
            c_is_f32: true,
            beta: 1.0,
        })?;
        self.cublas.gemm(&Gemm {
            transposed: [false, false],
            sizes: [features, samples, classes],
            a: (self.parameter_copy_address(weight), features),
            b: (dy, classes),
            c: (self.gradient_address(x), features),
            c_is_f32: false,
            beta: 0.0,
        })
    }

    pub(super) fn norm_args(
        &self,
        layer: NormLayer,
        samples: usize,
        shape: Shape,
    ) -> BatchNormArgs {
        let gamma = self.training.graph.norms[layer.norm].gamma;
        let scales = layer.block.map_or(0, |block| {
            let mask = self.memory.targets.start + self.uploads.map().drop_path.start;
            let start = mask + block * self.training.batch * 4;
            self.lane.address(start..start + samples * 4)
        });
        let mask = &self.memory.masks[layer.norm];
        BatchNormArgs {
            mask: if layer.keeps_mask { self.lane.address(mask.clone()) } else { 0 },
            samples,
            shape,
            relu: layer.relu,
            scales,
            gamma: self.parameter_address(gamma),
            beta: self.parameter_address(gamma + 1),
            dgamma: self.parameter_gradient_address(gamma),
            dbeta: self.parameter_gradient_address(gamma + 1),
            running: self.memory.running_ranges[layer.norm].start,
        }
    }

    /// Address of a tensor's values.
    pub(super) fn value_address(&self, train: bool, tensor: TensorId) -> u64 {
        self.arena_address(&self.plan(train).values[tensor])
    }

    /// Address of a tensor's gradient.
    pub(super) fn gradient_address(&self, tensor: TensorId) -> u64 {
        self.arena_address(self.training.gradients[tensor].as_ref().expect("planned"))
    }

    fn arena_address(&self, range: &Range<usize>) -> u64 {
        let (start, bytes) = (self.memory.arena.start, self.config.precision.bytes());
        self.lane.address(start + range.start * bytes..start + range.end * bytes)
    }

    /// Address of a parameter within one of the ranges that hold all of them.
    fn address_in(&self, all: &Range<usize>, parameter: usize, bytes: usize) -> u64 {
        let range = &self.memory.parameter_ranges[parameter];
        self.lane.address(all.start + range.start * bytes..all.start + range.end * bytes)
    }

    fn parameter_address(&self, parameter: usize) -> u64 {
        self.address_in(&self.memory.parameters, parameter, 4)
    }

    fn parameter_gradient_address(&self, parameter: usize) -> u64 {
        self.address_in(&self.memory.gradients, parameter, 4)
    }

    pub(super) fn parameter_copy_address(&self, parameter: usize) -> u64 {
        self.address_in(&self.memory.parameter_copy, parameter, self.config.precision.bytes())
    }

    pub(super) fn filter_gradient_address(&self, parameter: usize) -> u64 {
        self.address_in(&self.memory.filter_gradients, parameter, self.config.precision.bytes())
    }
}
