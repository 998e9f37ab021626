//! Networks as data: ResNets with timm's parameter names and layouts, as a list of operations.
//!
//! * ImageNet: `timm.models.resnet.ResNet` of timm 1.0.31 (stem 7x7/2 and max pool, stride in the 3x3
//!   of a bottleneck, 1x1 downsample), resnet18 to resnet152, and its variants: D (three 3x3 convolutions as
//!   stem, average pool before the downsample), `ResNeXt` (grouped convolutions), wide bottlenecks, and
//!   squeeze-and-excitation.
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
    /// Number of groups of channels: an output channel depends on the input channels of its group alone.
    pub groups: usize,
}

impl Conv {
    fn new(input: Shape, channels: usize, kernel: usize, stride: usize) -> Self {
        let pad = kernel / 2;
        let size = |size: usize| (size + 2 * pad - kernel) / stride + 1;
        let output = Shape { height: size(input.height), width: size(input.width), channels };
        Self { input, output, kernel, stride, pad, padded: false, groups: 1 }
    }

    /// Width of the input as it is stored.
    pub const fn padded_width(&self) -> usize {
        self.input.width + if self.padded { 2 * self.pad } else { 0 }
    }

    /// Number of weights, without those that only fill up a panel.
    pub const fn weights(&self) -> usize {
        self.kernel * self.kernel * self.input.channels / self.groups * self.output.channels
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
    /// Mean over 2x2 pixels with stride 2, and over those that exist at the edge of an odd size.
    AveragePool { x: TensorId, y: TensorId },
    /// `ReLU` without a batch norm.
    Relu { x: TensorId, y: TensorId },
    /// End of a block with squeeze-and-excitation: each channel of the branch times the sigmoid of its `gate`, then the
    /// block's stochastic depth, then the residual sum, then `ReLU`.
    Gate {
        x: TensorId,
        y: TensorId,
        /// One number per channel.
        gate: TensorId,
        residual: TensorId,
        /// The residual block whose branch ends with this operation.
        block: usize,
    },
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
            | Self::AveragePool { x, y }
            | Self::Relu { x, y }
            | Self::Gate { x, y, .. }
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
    /// Bias of the fully connected layer, or of a convolution. Its weight is the parameter before it.
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
    /// Number of groups of the convolution, of which `in` above is one; otherwise 1.
    pub groups: usize,
    /// Factor of the learning rate.
    pub lr_scale: f64,
    /// Whether no update changes it.
    pub frozen: bool,
}

impl Parameter {
    /// A parameter that every update changes.
    pub const fn new(name: String, shape: Vec<usize>, kind: ParamKind) -> Self {
        Self { name, shape, kind, groups: 1, lr_scale: 1.0, frozen: false }
    }
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
    /// Whether it uses its running statistics in training, too, and keeps them.
    pub frozen: bool,
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
    /// 3x3 convolutions, the first with stride 2, of this many, as many and twice as many channels, then max pool.
    Deep(usize),
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
    /// Groups of the 3x3 convolution of a bottleneck (timm's `cardinality`).
    pub groups: usize,
    /// Channels within a bottleneck: this many 64ths of those of the stage, for each group.
    pub base_width: usize,
    /// Whether a downsample averages 2x2 pixels, instead of taking every second one.
    pub average_down: bool,
    /// Whether each branch ends with squeeze-and-excitation.
    pub squeeze_excite: bool,
}

/// Names of the networks that [`Architecture::named`] builds.
pub(crate) const NAMES: [&str; 17] = [
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnet18d",
    "resnet34d",
    "resnet50d",
    "resnet101d",
    "resnet152d",
    "resnext50_32x4d",
    "seresnet50",
    "wide_resnet50_2",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
];

impl Architecture {
    /// A plain `ResNet`.
    pub const fn new(
        stem: Stem,
        block: Block,
        layers: Vec<usize>,
        channels: Vec<usize>,
        classes: usize,
    ) -> Self {
        let (groups, base_width, average_down, squeeze_excite) = (1, 64, false, false);
        Self {
            stem,
            block,
            layers,
            channels,
            classes,
            groups,
            base_width,
            average_down,
            squeeze_excite,
        }
    }

    /// A network by timm's or the paper's name.
    ///
    /// # Errors
    /// [`Error::UnknownModel`] if the trainer has no model of this name.
    pub fn named(name: &str, classes: usize) -> Result<Self, Error> {
        let channels = || vec![64, 128, 256, 512];
        let imagenet = |block, layers: [usize; 4]| {
            Self::new(Stem::ImageNet, block, layers.to_vec(), channels(), classes)
        };
        let deep = |block, layers: [usize; 4]| Self {
            average_down: true,
            ..Self::new(Stem::Deep(32), block, layers.to_vec(), channels(), classes)
        };
        let resnet50 = || imagenet(Block::Bottleneck, [3, 4, 6, 3]);
        let cifar = |blocks| {
            Self::new(Stem::Cifar, Block::Basic, vec![blocks; 3], vec![16, 32, 64], classes)
        };
        Ok(match name {
            "resnet18" => imagenet(Block::Basic, [2, 2, 2, 2]),
            "resnet34" => imagenet(Block::Basic, [3, 4, 6, 3]),
            "resnet50" => resnet50(),
            "resnet101" => imagenet(Block::Bottleneck, [3, 4, 23, 3]),
            "resnet152" => imagenet(Block::Bottleneck, [3, 8, 36, 3]),
            "resnet18d" => deep(Block::Basic, [2, 2, 2, 2]),
            "resnet34d" => deep(Block::Basic, [3, 4, 6, 3]),
            "resnet50d" => deep(Block::Bottleneck, [3, 4, 6, 3]),
            "resnet101d" => deep(Block::Bottleneck, [3, 4, 23, 3]),
            "resnet152d" => deep(Block::Bottleneck, [3, 8, 36, 3]),
            "resnext50_32x4d" => Self { groups: 32, base_width: 4, ..resnet50() },
            "seresnet50" => Self { squeeze_excite: true, ..resnet50() },
            "wide_resnet50_2" => Self { base_width: 128, ..resnet50() },
            "resnet20" => cifar(3),
            "resnet32" => cifar(5),
            "resnet44" => cifar(7),
            "resnet56" => cifar(9),
            _ => return Err(Error::UnknownModel { name: name.to_owned(), known: &NAMES }),
        })
    }

    /// Channels within a bottleneck of a stage.
    pub(crate) const fn width(&self, channels: usize) -> usize {
        channels * self.base_width / 64 * self.groups
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
        // As timm counts them.
        assert_eq!(count("resnet18d", 1000), 11_708_744);
        assert_eq!(count("resnet50d", 1000), 25_576_264);
        assert_eq!(count("resnext50_32x4d", 1000), 25_028_904);
        assert_eq!(count("seresnet50", 1000), 28_088_024);
        assert_eq!(count("wide_resnet50_2", 1000), 68_883_240);
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
