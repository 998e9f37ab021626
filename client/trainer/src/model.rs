//! Networks as data: ResNets with timm's parameter names and layouts, as a list of operations.
//!
//! * ImageNet: `timm.models.resnet.ResNet` of timm 1.0.31 (stem 7x7/2 and max pool, stride in the 3x3
//!   of a bottleneck, 1x1 downsample), resnet18 to resnet152.
//! * CIFAR: He et al., "Deep Residual Learning", 4.2: stem 3x3, three stages of 16, 32, 64 channels,
//!   parameter-free shortcuts (every second pixel, added channels zero); 6n + 2 layers.
//!
//! A [`Graph`] holds shapes, not values: a backend owns the values and runs the operations forward in
//! order, and backward in reverse order.

mod graph;

pub use graph::Graph;

use crate::Error;

/// Height, width and channels of a tensor, per image, stored in this order (NHWC).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channels.
    pub channels: usize,
}

impl Shape {
    /// Values per image.
    pub const fn elements(self) -> usize {
        self.height * self.width * self.channels
    }
    /// Pixels per image.
    pub const fn pixels(self) -> usize {
        self.height * self.width
    }
}

/// Geometry of a convolution with a square kernel. A fully connected layer is a convolution over one
/// pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conv {
    /// Input, without padding.
    pub input: Shape,
    /// Output.
    pub output: Shape,
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Stride in both directions.
    pub stride: usize,
    /// Padding on each side of the input.
    pub pad: usize,
    /// Whether the input is stored with its padding, as the images are for the stem.
    pub padded: bool,
}

impl Conv {
    fn new(input: Shape, channels: usize, kernel: usize, stride: usize) -> Self {
        let pad = kernel / 2;
        let size = |size: usize| (size + 2 * pad - kernel) / stride + 1;
        let output = Shape { height: size(input.height), width: size(input.width), channels };
        Self { input, output, kernel, stride, pad, padded: false }
    }

    /// Width of the input as it is stored.
    pub const fn padded_width(&self) -> usize {
        self.input.width + if self.padded { 2 * self.pad } else { 0 }
    }

    /// Number of weights, without those that only fill up a panel.
    pub const fn weights(&self) -> usize {
        self.kernel * self.kernel * self.input.channels * self.output.channels
    }
}

/// A tensor of the graph: its index in [`Graph::tensors`].
pub type TensorId = usize;

/// One operation, from input `x` to output `y`.
#[derive(Clone, Debug)]
#[expect(
    missing_docs,
    reason = "x and y are the input and the output of every operation; weight, bias and norm are indices"
)]
pub enum Op {
    /// Convolution or fully connected layer. `weight` and `bias` are indices into `Graph::parameters`.
    Conv { conv: Conv, x: TensorId, y: TensorId, weight: usize, bias: Option<usize> },
    /// Batch norm, then the block's stochastic depth, then the residual sum, then `ReLU`. `norm` is an
    /// index into `Graph::norms`.
    BatchNorm {
        x: TensorId,
        y: TensorId,
        norm: usize,
        residual: Option<TensorId>,
        relu: bool,
        /// The residual block whose branch ends with this operation.
        block: Option<usize>,
    },
    /// Maximum over 3x3 pixels with stride 2 and padding 1.
    MaxPool { x: TensorId, y: TensorId },
    /// Mean over all pixels of an image.
    MeanPool { x: TensorId, y: TensorId },
    /// Parameter-free shortcut: every second pixel; added channels are zero.
    Shortcut { x: TensorId, y: TensorId },
}

impl Op {
    /// The input and the output.
    pub const fn tensors(&self) -> (TensorId, TensorId) {
        match *self {
            Self::Conv { x, y, .. }
            | Self::BatchNorm { x, y, .. }
            | Self::MaxPool { x, y }
            | Self::MeanPool { x, y }
            | Self::Shortcut { x, y } => (x, y),
        }
    }
}

/// The role of a parameter, which decides its layout, its initial values and its weight decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    /// Kernel of a convolution.
    Conv,
    /// Matrix of the fully connected layer.
    Matrix,
    /// Bias of the fully connected layer.
    Bias,
    /// Scale of a batch norm; `true` for the last one of a residual block, which starts at 0.
    Gamma(bool),
    /// Shift of a batch norm.
    Beta,
}

impl ParamKind {
    /// Whether weight decay applies: not to one-dimensional parameters (timm's
    /// `param_groups_weight_decay`).
    pub const fn decays(self) -> bool {
        matches!(self, Self::Conv | Self::Matrix)
    }
}

/// One parameter tensor.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// timm's name.
    pub name: String,
    /// timm's shape: `[out, in, height, width]`, `[out, in]` or `[channels]`.
    pub shape: Vec<usize>,
    /// Its role.
    pub kind: ParamKind,
}

/// One batch norm layer.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    /// timm's name: `layer1.0.bn1`.
    pub name: String,
    /// Index of its scale in `Graph::parameters`; its shift is the next one.
    pub gamma: usize,
    /// Channels.
    pub channels: usize,
}

/// The kind of a residual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// Two 3x3 convolutions.
    Basic,
    /// 1x1, 3x3 and 1x1 convolutions; the last one has four times the channels.
    Bottleneck,
}

/// The first layers of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stem {
    /// 7x7 convolution with stride 2 and 64 channels, then max pool.
    ImageNet,
    /// 3x3 convolution with 16 channels. The shortcuts of all blocks are parameter-free.
    Cifar,
}

/// A ResNet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Architecture {
    /// First layers.
    pub stem: Stem,
    /// Kind of residual block.
    pub block: Block,
    /// Blocks per stage.
    pub layers: Vec<usize>,
    /// Channels per stage, before a bottleneck's expansion.
    pub channels: Vec<usize>,
    /// Number of classes.
    pub classes: usize,
}

/// Names of the networks that [`Architecture::named`] builds.
pub(crate) const NAMES: [&str; 9] = [
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
];

impl Architecture {
    /// A network by timm's or the paper's name.
    ///
    /// # Errors
    /// [`Error::UnknownModel`] if the trainer has no model of this name.
    pub fn named(name: &str, classes: usize) -> Result<Self, Error> {
        let imagenet = |block, layers: [usize; 4]| Self {
            stem: Stem::ImageNet,
            block,
            layers: layers.to_vec(),
            channels: vec![64, 128, 256, 512],
            classes,
        };
        let cifar = |blocks| Self {
            stem: Stem::Cifar,
            block: Block::Basic,
            layers: vec![blocks; 3],
            channels: vec![16, 32, 64],
            classes,
        };
        Ok(match name {
            "resnet18" => imagenet(Block::Basic, [2, 2, 2, 2]),
            "resnet34" => imagenet(Block::Basic, [3, 4, 6, 3]),
            "resnet50" => imagenet(Block::Bottleneck, [3, 4, 6, 3]),
            "resnet101" => imagenet(Block::Bottleneck, [3, 4, 23, 3]),
            "resnet152" => imagenet(Block::Bottleneck, [3, 8, 36, 3]),
            "resnet20" => cifar(3),
            "resnet32" => cifar(5),
            "resnet44" => cifar(7),
            "resnet56" => cifar(9),
            _ => return Err(Error::UnknownModel { name: name.to_owned(), known: &NAMES }),
        })
    }

    /// Number of residual blocks.
    pub fn blocks(&self) -> usize {
        self.layers.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_counts_match_the_papers() {
        let count = |name: &str, classes| -> usize {
            let graph = Graph::new(&Architecture::named(name, classes).unwrap(), 32, 32);
            graph.parameters.iter().map(|p| p.shape.iter().product::<usize>()).sum()
        };
        assert_eq!(count("resnet18", 1000), 11_689_512);
        assert_eq!(count("resnet34", 1000), 21_797_672);
        assert_eq!(count("resnet50", 1000), 25_557_032);
        assert_eq!(count("resnet101", 1000), 44_549_160);
        assert_eq!(count("resnet152", 1000), 60_192_808);
        // He et al., table 6: 0.27, 0.46, 0.66, 0.85 million.
        assert_eq!(count("resnet20", 10), 269_722);
        assert_eq!(count("resnet32", 10), 464_154);
        assert_eq!(count("resnet44", 10), 658_586);
        assert_eq!(count("resnet56", 10), 853_018);
    }

    #[test]
    fn odd_sizes_round_as_in_torch() {
        let graph = Graph::new(&Architecture::named("resnet50", 10).unwrap(), 225, 97);
        let sizes: Vec<(usize, usize)> =
            [113, 57, 29, 15, 8].into_iter().zip([49, 25, 13, 7, 4]).collect();
        for size in sizes {
            assert!(graph.tensors.iter().any(|t| (t.height, t.width) == size), "{size:?}");
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_names() {
        let error = Architecture::named("resnet19", 10).unwrap_err().to_string();
        assert!(error.contains("resnet19") && error.contains("resnet56"), "{error}");
    }
}
