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

    /// The tensor of the logits.
    pub const fn logits(&self) -> TensorId {
        self.tensors.len() - 1
    }

    fn stem(&mut self, net: &Architecture) -> TensorId {
        let input = Shape { height: self.image.0, width: self.image.1, channels: 3 };
        let mut conv = match net.stem {
            Stem::ImageNet => Conv::new(input, 64, 7, 2),
            Stem::Cifar => Conv::new(input, 16, 3, 1),
        };
        conv.padded = true;
        let x = self.convolution(conv, 0, "conv1");
        let x = self.norm(x, "bn1", true, false);
        if net.stem == Stem::Cifar {
            return x;
        }
        let Shape { height, width, channels } = self.tensors[x];
        let y =
            self.tensor(Shape { height: height.div_ceil(2), width: width.div_ceil(2), channels });
        self.ops.push(Op::MaxPool { x, y });
        y
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
        let mut branch = x;
        // Kernel size, channels and stride of each convolution.
        let convs: &[(usize, usize, usize)] = match net.block {
            Block::Basic => &[(3, channels, stride), (3, channels, 1)],
            Block::Bottleneck => &[(1, channels, 1), (3, channels, stride), (1, out, 1)],
        };
        for (i, &(kernel, channels, stride)) in convs.iter().enumerate() {
            let (number, last) = (i + 1, i + 1 == convs.len());
            let conv = Conv::new(self.tensors[branch], channels, kernel, stride);
            branch = self.convolution(conv, branch, &format!("{name}.conv{number}"));
            branch = self.norm(branch, &format!("{name}.bn{number}"), !last, last);
        }
        let last = self.ops.len() - 1;
        let residual = self.residual(net, x, out, stride, name);
        // The last norm of the branch adds the residual, so it must run after the residual's operations.
        let mut end = self.ops.remove(last);
        if let Op::BatchNorm { residual: to, relu, block, .. } = &mut end {
            (*to, *relu, *block) = (Some(residual), true, Some(self.blocks));
        }
        self.ops.push(end);
        self.blocks += 1;
        branch
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
        let y = self.convolution(conv, x, &format!("{name}.downsample.0"));
        self.norm(y, &format!("{name}.downsample.1"), false, false)
    }

    fn convolution(&mut self, conv: Conv, x: TensorId, name: &str) -> TensorId {
        let shape = vec![conv.output.channels, conv.input.channels, conv.kernel, conv.kernel];
        let weight = self.parameter(format!("{name}.weight"), shape, ParamKind::Conv);
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
        self.norms.push(BatchNorm { name: name.to_owned(), gamma, channels });
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
        self.parameters.push(Parameter { name, shape, kind });
        self.parameters.len() - 1
    }

    fn tensor(&mut self, shape: Shape) -> TensorId {
        self.tensors.push(shape);
        self.tensors.len() - 1
    }
}
