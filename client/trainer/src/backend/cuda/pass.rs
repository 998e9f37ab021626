//! Forward and backward over a graph: which work, on which parts of the GPU's memory.

use forebay::gpu::DeviceError;

use super::Cuda;
use super::conv::Product;
use super::launch::Norm;
use crate::Error;
use crate::model::{Conv, Op, Tensor};

/// What tells a prepared convolution: its operation, whether in training, images.
pub(super) type Key = (usize, bool, usize);

/// What runs over a graph.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Samples of the microbatch.
    pub samples: usize,
    /// By the batch's own statistics, over the graph of training.
    pub train: bool,
    /// With stochastic depth.
    pub drops: bool,
}

/// What a norm's operation says.
#[derive(Clone, Copy)]
struct Layer {
    norm: usize,
    relu: bool,
    /// The block whose stochastic depth applies.
    block: Option<usize>,
}

impl Cuda {
    /// Runs all operations on the images put before; in training by the batch's own statistics, which
    /// the running ones then follow.
    pub fn forward(&mut self, pass: Pass) -> Result<(), Error> {
        self.operations(pass)?;
        if pass.train {
            self.follow()?;
        }
        Ok(())
    }

    /// The same without the running statistics.
    pub(super) fn operations(&mut self, pass: Pass) -> Result<(), DeviceError> {
        for op in 0..self.plan(pass.train).graph.ops.len() {
            self.operation(op, pass)?;
        }
        Ok(())
    }

    /// One operation forward.
    pub fn operation(&mut self, index: usize, pass: Pass) -> Result<(), DeviceError> {
        let Pass { samples, train, drops } = pass;
        let graph = &self.plan(train).graph;
        let op = graph.ops[index].clone();
        let (x, y) = op.tensors();
        let (from, to) = (graph.tensors[x], graph.tensors[y]);
        let [x, y] = [self.value(train, x), self.value(train, y)];
        match op {
            Op::Conv { weight, bias: Some(bias), conv, .. } => {
                self.classify(&conv, samples, x, self.copy(weight))?;
                let (bias, classes) = (self.parameter_at(bias), conv.output.channels);
                self.launch().bias_add(bias, samples, classes)
            }
            Op::Conv { weight, conv, .. } => {
                let key = (index, train, samples);
                self.convolutions.prepare(key, &conv)?;
                self.convolutions.forward(key, [x, self.copy(weight), y])
            }
            Op::Norm { norm, residual, relu, block, .. } => {
                let layer = Layer { norm, relu, block: block.filter(|_| drops) };
                let norm = self.norm(layer, samples, to);
                let residual = residual.map_or(0, |residual| self.value(train, residual));
                self.launch().norm_forward(&norm, train, [x, residual, y])
            }
            Op::MaxPool { .. } => self.launch().max_pool([x, y], samples, from, to),
            Op::MeanPool { .. } => self.launch().mean_pool(false, [x, y], samples, from),
            Op::Shortcut { .. } => self.launch().shortcut(false, [x, y], samples, from, to),
        }
    }

    /// Runs all operations backward from the slope of the logits; adds to the parameters' gradients.
    pub fn backward(&mut self, pass: Pass) -> Result<(), Error> {
        for op in (0..self.training.graph.ops.len()).rev() {
            self.reverse(op, pass)?;
        }
        Ok(self.add_gradients()?)
    }

    /// Adds the gradients of the convolutions, which come alone, to the step's.
    pub fn add_gradients(&self) -> Result<(), DeviceError> {
        self.launch().add_gradients(&(0..self.layout.numbers))
    }

    /// One operation backward: from the gradient of its result, those of its source and parameters.
    pub fn reverse(&mut self, index: usize, pass: Pass) -> Result<(), DeviceError> {
        let Pass { samples, drops, .. } = pass;
        let graph = &self.training.graph;
        let op = graph.ops[index].clone();
        let (x, y) = op.tensors();
        let (from, to) = (graph.tensors[x], graph.tensors[y]);
        let dy = self.slope(y);
        match op {
            Op::Conv { weight, bias: Some(bias), conv, .. } => {
                let bias_slope = self.gradient_at(bias);
                self.launch().bias_gradient([dy, bias_slope], samples, conv.output.channels)?;
                self.declassify(&conv, samples, x, dy, weight)
            }
            Op::Conv { weight, conv, .. } => {
                let key = (index, true, samples);
                self.convolutions.prepare(key, &conv)?;
                let dw = self.filter(weight);
                self.convolutions.backward_filter(key, [self.value(true, x), dy, dw])?;
                if self.training.gradients[x].is_some() {
                    let adds = self.training.adds[index];
                    let places = [dy, self.copy(weight), self.slope(x)];
                    self.convolutions.backward_data(key, places, adds)?;
                }
                Ok(())
            }
            Op::Norm { norm, residual, relu, block, .. } => {
                let layer = Layer { norm, relu, block: block.filter(|_| drops) };
                let norm = self.norm(layer, samples, to);
                let result = if residual.is_some() { self.value(true, y) } else { 0 };
                let places = [self.value(true, x), result, dy, self.slope(x)];
                self.launch().norm_backward(&norm, places)
            }
            Op::MaxPool { .. } => {
                self.launch().max_pool_backward([dy, self.slope(x)], samples, from, to)
            }
            Op::MeanPool { .. } => {
                self.launch().mean_pool(true, [dy, self.slope(x)], samples, from)
            }
            Op::Shortcut { .. } => {
                self.launch().shortcut(true, [dy, self.slope(x)], samples, from, to)
            }
        }
    }

    /// Logits, without bias: x W^T. Rows of ours are columns of cuBLAS's matrices.
    fn classify(
        &self,
        conv: &Conv,
        samples: usize,
        x: u64,
        weights: u64,
    ) -> Result<(), DeviceError> {
        let (features, classes) = (conv.input.channels, conv.output.channels);
        self.convolutions.product(&Product {
            transposed: [true, false],
            sizes: [classes, samples, features],
            a: (weights, features),
            b: (x, features),
            c: (self.lane.address(self.layout.logits.clone()), classes),
            wide: true,
            beta: 0.0,
        })
    }

    /// Adds the gradient of the classifier's weights, dy^T x, and gives that of its source, dy W.
    fn declassify(
        &self,
        conv: &Conv,
        samples: usize,
        x: Tensor,
        dy: u64,
        weight: usize,
    ) -> Result<(), DeviceError> {
        let (features, classes) = (conv.input.channels, conv.output.channels);
        self.convolutions.product(&Product {
            transposed: [false, true],
            sizes: [features, classes, samples],
            a: (self.value(true, x), features),
            b: (dy, classes),
            c: (self.gradient_at(weight), features),
            wide: true,
            beta: 1.0,
        })?;
        self.convolutions.product(&Product {
            transposed: [false, false],
            sizes: [features, samples, classes],
            a: (self.copy(weight), features),
            b: (dy, classes),
            c: (self.slope(x), features),
            wide: false,
            beta: 0.0,
        })
    }

    fn norm(&self, layer: Layer, samples: usize, shape: crate::model::Shape) -> Norm {
        let gamma = self.training.graph.norms[layer.norm].gamma;
        let scales = layer.block.map_or(0, |block| {
            let scales = &self.input.scales;
            let start = self.layout.input.start + scales.start + block * self.training.batch * 4;
            self.lane.address(start..start + samples * 4)
        });
        Norm {
            samples,
            shape,
            relu: layer.relu,
            scales,
            gamma: self.parameter_at(gamma),
            beta: self.parameter_at(gamma + 1),
            dgamma: self.gradient_at(gamma),
            dbeta: self.gradient_at(gamma + 1),
            running: self.layout.running_places[layer.norm].start,
        }
    }

    /// Address of a tensor's values.
    pub(super) fn value(&self, train: bool, tensor: Tensor) -> u64 {
        self.in_arena(&self.plan(train).values[tensor])
    }

    /// Address of a tensor's gradient.
    pub(super) fn slope(&self, tensor: Tensor) -> u64 {
        self.in_arena(self.training.gradients[tensor].as_ref().expect("planned"))
    }

    fn in_arena(&self, place: &std::ops::Range<usize>) -> u64 {
        let (start, bytes) = (self.layout.arena.start, self.setting.number.bytes());
        self.lane.address(start + place.start * bytes..start + place.end * bytes)
    }

    fn numbers_of(&self, part: &std::ops::Range<usize>, parameter: usize, bytes: usize) -> u64 {
        let place = &self.layout.places[parameter];
        self.lane.address(part.start + place.start * bytes..part.start + place.end * bytes)
    }

    fn parameter_at(&self, parameter: usize) -> u64 {
        self.numbers_of(&self.layout.parameters, parameter, 4)
    }

    fn gradient_at(&self, parameter: usize) -> u64 {
        self.numbers_of(&self.layout.gradients, parameter, 4)
    }

    fn copy(&self, parameter: usize) -> u64 {
        self.numbers_of(&self.layout.copy, parameter, self.setting.number.bytes())
    }

    fn filter(&self, parameter: usize) -> u64 {
        self.numbers_of(&self.layout.filters, parameter, self.setting.number.bytes())
    }
}
