//! Builds the operations of an architecture, with parameters in timm's order.

use super::{
    Architecture, BatchNorm, Block, Conv, Op, ParamKind, Parameter, Shape, Stem, TensorId,
};

/// A network over images of one size.
#[derive(Clone, Debug)]
pub struct Graph {
    /// Shape of each tensor. The first one holds the images, with the padding of the stem.
    pub tensors: Vec<Shape>,
    /// Operations in forward order; the last one writes the logits.
    pub ops: Vec<Op>,
    /// Parameters in timm's order.
    pub parameters: Vec<Parameter>,
    /// Batch norms in timm's order.
    pub norms: Vec<BatchNorm>,
    /// Number of residual blocks.
    pub blocks: usize,
    /// Number of classes.
    pub classes: usize,
    /// Height and width of the images.
    pub image: (usize, usize),
    /// Padding on each side of an image.
    pub pad: usize,
}

impl Graph {
    /// The network for images of one height and width.
    pub fn new(net: &Architecture, height: usize, width: usize) -> Self {
        let pad = if net.stem == Stem::ImageNet { 3 } else { 1 };
        let images = Shape { height: height + 2 * pad, width: width + 2 * pad, channels: 3 };
        let mut graph = Self {
            tensors: vec![images],
            ops: Vec::new(),
            parameters: Vec::new(),
            norms: Vec::new(),
            blocks: 0,
            classes: net.classes,
            image: (height, width),
            pad,
        };
        let mut x = graph.stem(net);
        for (stage, (&blocks, &channels)) in net.layers.iter().zip(&net.channels).enumerate() {
            for block in 0..blocks {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                x = graph.block(net, x, channels, stride, &format!("layer{}.{block}", stage + 1));
            }
        }
        let features = graph.tensors[x].channels;
        let pooled = graph.tensor(Shape { height: 1, width: 1, channels: features });
        graph.ops.push(Op::MeanPool { x, y: pooled });
        graph.classifier(pooled, features);
        graph
    }

    /// The parameters of the fully connected layer: matrix and bias.
    pub(crate) fn classifier_parameters(&self) -> [usize; 2] {
        match self.ops.last() {
            Some(Op::Conv { weight, bias: Some(bias), .. }) => [*weight, *bias],
            last => unreachable!("a network ends with its classifier, not with {last:?}"),
        }
    }

    /// The first operation with a parameter that is not frozen. No gradient is needed of anything before it.
    pub(crate) fn first_trained(&self) -> usize {
        let trains = |op: &Op| match *op {
            Op::Conv { weight, bias, .. } => {
                [weight, bias.unwrap_or(weight)].iter().any(|i| !self.parameters[*i].frozen)
            }
            Op::BatchNorm { norm, .. } => {
                let gamma = self.norms[norm].gamma;
                self.parameters[gamma..gamma + 2].iter().any(|parameter| !parameter.frozen)
            }
            _ => false,
        };
        self.ops.iter().position(trains).unwrap_or(self.ops.len())
    }

    /// The tensor of the logits.
    pub const fn logits(&self) -> TensorId {
        self.tensors.len() - 1
    }

    fn stem(&mut self, net: &Architecture) -> TensorId {
        let input = Shape { height: self.image.0, width: self.image.1, channels: 3 };
        let (conv, name) = match net.stem {
            Stem::ImageNet => (Conv::new(input, 64, 7, 2), "conv1"),
            Stem::Deep(width) => (Conv::new(input, width, 3, 2), "conv1.0"),
            Stem::Cifar => (Conv::new(input, 16, 3, 1), "conv1"),
        };
        let mut x = self.convolution(Conv { padded: true, ..conv }, 0, name);
        if let Stem::Deep(width) = net.stem {
            // timm's numbers of the layers: convolution, norm, `ReLU`, twice, and another convolution.
            for (channels, norm, conv) in
                [(width, "conv1.1", "conv1.3"), (2 * width, "conv1.4", "conv1.6")]
            {
                x = self.norm(x, norm, true, false);
                x = self.convolution(Conv::new(self.tensors[x], channels, 3, 1), x, conv);
            }
        }
        let x = self.norm(x, "bn1", true, false);
        if net.stem == Stem::Cifar {
            return x;
        }
        let y = self.halved(x);
        self.ops.push(Op::MaxPool { x, y });
        y
    }

    /// A tensor of half the height and width, rounded up.
    fn halved(&mut self, x: TensorId) -> TensorId {
        let Shape { height, width, channels } = self.tensors[x];
        self.tensor(Shape { height: height.div_ceil(2), width: width.div_ceil(2), channels })
    }

    fn block(
        &mut self,
        net: &Architecture,
        x: TensorId,
        channels: usize,
        stride: usize,
        name: &str,
    ) -> TensorId {
        let out = channels * if net.block == Block::Bottleneck { 4 } else { 1 };
        let (width, groups) = (net.width(channels), net.groups);
        let mut branch = x;
        // Kernel size, channels, stride and groups of each convolution.
        let convs: &[[usize; 4]] = match net.block {
            Block::Basic => &[[3, channels, stride, 1], [3, channels, 1, 1]],
            Block::Bottleneck => &[[1, width, 1, 1], [3, width, stride, groups], [1, out, 1, 1]],
        };
        for (i, &[kernel, channels, stride, groups]) in convs.iter().enumerate() {
            let (number, last) = (i + 1, i + 1 == convs.len());
            let conv = Conv::new(self.tensors[branch], channels, kernel, stride);
            let conv = Conv { groups, ..conv };
            branch = self.convolution(conv, branch, &format!("{name}.conv{number}"));
            branch = self.norm(branch, &format!("{name}.bn{number}"), !last, last);
        }
        // What adds the residual must run after the residual's operations.
        let block = self.blocks;
        self.blocks += 1;
        if net.squeeze_excite {
            let gate = self.squeeze(branch, &format!("{name}.se"));
            let residual = self.residual(net, x, out, stride, name);
            let y = self.tensor(self.tensors[branch]);
            self.ops.push(Op::Gate { x: branch, y, gate, residual, block });
            return y;
        }
        let last = self.ops.len() - 1;
        let residual = self.residual(net, x, out, stride, name);
        let mut end = self.ops.remove(last);
        if let Op::BatchNorm { residual: to, relu, block: of, .. } = &mut end {
            (*to, *relu, *of) = (Some(residual), true, Some(block));
        }
        self.ops.push(end);
        branch
    }

    /// Squeeze-and-excitation: the gates of the channels, before their sigmoid, from the means of the channels.
    fn squeeze(&mut self, x: TensorId, name: &str) -> TensorId {
        let channels = self.tensors[x].channels;
        // A sixteenth, rounded to multiples of 8 (timm's `make_divisible`).
        let reduced = ((channels / 16 + 4) / 8 * 8).max(8);
        let one = |channels| Shape { height: 1, width: 1, channels };
        let means = self.tensor(one(channels));
        self.ops.push(Op::MeanPool { x, y: means });
        let hidden = self.biased(means, reduced, &format!("{name}.fc1"));
        let y = self.tensor(one(reduced));
        self.ops.push(Op::Relu { x: hidden, y });
        self.biased(y, channels, &format!("{name}.fc2"))
    }

    /// A 1x1 convolution with a bias.
    fn biased(&mut self, x: TensorId, channels: usize, name: &str) -> TensorId {
        let conv = Conv::new(self.tensors[x], channels, 1, 1);
        let y = self.convolution(conv, x, name);
        let to = self.parameter(format!("{name}.bias"), vec![channels], ParamKind::Bias);
        if let Some(Op::Conv { bias, .. }) = self.ops.last_mut() {
            *bias = Some(to);
        }
        y
    }

    fn residual(
        &mut self,
        net: &Architecture,
        x: TensorId,
        out: usize,
        stride: usize,
        name: &str,
    ) -> TensorId {
        let shape = self.tensors[x];
        if stride == 1 && shape.channels == out {
            return x;
        }
        let conv = Conv::new(shape, out, 1, stride);
        if net.stem == Stem::Cifar {
            let y = self.tensor(conv.output);
            self.ops.push(Op::Shortcut { x, y });
            return y;
        }
        if !net.average_down {
            let y = self.convolution(conv, x, &format!("{name}.downsample.0"));
            return self.norm(y, &format!("{name}.downsample.1"), false, false);
        }
        let mut averaged = x;
        if stride == 2 {
            averaged = self.halved(x);
            self.ops.push(Op::AveragePool { x, y: averaged });
        }
        let conv = Conv::new(self.tensors[averaged], out, 1, 1);
        let y = self.convolution(conv, averaged, &format!("{name}.downsample.1"));
        self.norm(y, &format!("{name}.downsample.2"), false, false)
    }

    fn convolution(&mut self, conv: Conv, x: TensorId, name: &str) -> TensorId {
        let inputs = conv.input.channels / conv.groups;
        let shape = vec![conv.output.channels, inputs, conv.kernel, conv.kernel];
        let weight = self.parameter(format!("{name}.weight"), shape, ParamKind::Conv);
        self.parameters[weight].groups = conv.groups;
        let y = self.tensor(conv.output);
        self.ops.push(Op::Conv { conv, x, y, weight, bias: None });
        y
    }

    #[expect(
        clippy::fn_params_excessive_bools,
        reason = "two independent properties of a norm's position"
    )]
    fn norm(&mut self, x: TensorId, name: &str, relu: bool, last: bool) -> TensorId {
        let channels = self.tensors[x].channels;
        let gamma =
            self.parameter(format!("{name}.weight"), vec![channels], ParamKind::Gamma(last));
        self.parameter(format!("{name}.bias"), vec![channels], ParamKind::Beta);
        self.norms.push(BatchNorm { name: name.to_owned(), gamma, channels, frozen: false });
        let y = self.tensor(self.tensors[x]);
        self.ops.push(Op::BatchNorm {
            x,
            y,
            norm: self.norms.len() - 1,
            residual: None,
            relu,
            block: None,
        });
        y
    }

    fn classifier(&mut self, x: TensorId, features: usize) {
        let weight =
            self.parameter("fc.weight".to_owned(), vec![self.classes, features], ParamKind::Matrix);
        let bias = self.parameter("fc.bias".to_owned(), vec![self.classes], ParamKind::Bias);
        let conv = Conv::new(self.tensors[x], self.classes, 1, 1);
        let y = self.tensor(conv.output);
        self.ops.push(Op::Conv { conv, x, y, weight, bias: Some(bias) });
    }

    fn parameter(&mut self, name: String, shape: Vec<usize>, kind: ParamKind) -> usize {
        self.parameters.push(Parameter::new(name, shape, kind));
        self.parameters.len() - 1
    }

    fn tensor(&mut self, shape: Shape) -> TensorId {
        self.tensors.push(shape);
        self.tensors.len() - 1
    }
}
