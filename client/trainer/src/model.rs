//! The networks as data: ResNets in timm's layout and parameter names, as a list of operations.
//!
//! * ImageNet: `timm.models.resnet.ResNet` of timm 1.0.31 (stem 7x7/2 and max pool, stride in the 3x3
//!   of a bottleneck, 1x1 downsample), resnet18 to resnet152.
//! * CIFAR: He et al., "Deep Residual Learning", 4.2: stem 3x3, three stages of 16, 32, 64 channels,
//!   shortcuts without parameters (every second pixel, further channels zero); 6n + 2 layers.
//!
//! A [`Graph`] knows no numbers: a backend runs its operations forward, and backward in reverse order.

mod graph;

pub use graph::Graph;

use crate::Error;

/// Height, width and channels of one image's tensor, stored in this order (NHWC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channels.
    pub channels: usize,
}

impl Shape {
    /// Numbers an image.
    pub const fn numbers(self) -> usize {
        self.height * self.width * self.channels
    }
    /// Pixels an image.
    pub const fn pixels(self) -> usize {
        self.height * self.width
    }
}

/// Geometry of a convolution with a square kernel; a fully connected layer is one over one pixel.
#[derive(Clone, Copy, Debug)]
pub struct Conv {
    /// The source, without padding.
    pub input: Shape,
    /// The target.
    pub output: Shape,
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Step in both directions.
    pub stride: usize,
    /// Zeros around the source.
    pub pad: usize,
    /// Whether the source is stored with its zeros around: the images, for the stem.
    pub padded: bool,
}

impl Conv {
    fn new(input: Shape, channels: usize, kernel: usize, stride: usize) -> Self {
        let pad = kernel / 2;
        let size = |size: usize| (size + 2 * pad - kernel) / stride + 1;
        let output = Shape { height: size(input.height), width: size(input.width), channels };
        Self { input, output, kernel, stride, pad, padded: false }
    }

    /// Width of the source as stored.
    pub const fn padded_width(&self) -> usize {
        self.input.width + if self.padded { 2 * self.pad } else { 0 }
    }

    /// Weights, without those that only fill a panel.
    pub const fn weights(&self) -> usize {
        self.kernel * self.kernel * self.input.channels * self.output.channels
    }
}

/// A tensor of the graph: its number in [`Graph::tensors`].
pub type Tensor = usize;

/// One operation, from `x` to `y`.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields of every operation read the same")]
pub enum Op {
    /// Convolution or fully connected layer; `weight` and `bias` number parameters.
    Conv { conv: Conv, x: Tensor, y: Tensor, weight: usize, bias: Option<usize> },
    /// Batch norm, then the block's stochastic depth, then plus the residual, then `ReLU`.
    Norm {
        x: Tensor,
        y: Tensor,
        norm: usize,
        residual: Option<Tensor>,
        relu: bool,
        /// The residual block whose branch ends here.
        block: Option<usize>,
    },
    /// Maximum over 3x3, stride 2, padding 1.
    MaxPool { x: Tensor, y: Tensor },
    /// Mean over all pixels.
    MeanPool { x: Tensor, y: Tensor },
    /// Every second pixel, further channels zero.
    Shortcut { x: Tensor, y: Tensor },
}

impl Op {
    /// The tensors it reads and writes.
    pub const fn tensors(&self) -> (Tensor, Tensor) {
        match *self {
            Self::Conv { x, y, .. }
            | Self::Norm { x, y, .. }
            | Self::MaxPool { x, y }
            | Self::MeanPool { x, y }
            | Self::Shortcut { x, y } => (x, y),
        }
    }
}

/// What a parameter is, which decides its layout, first values and decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Kernel of a convolution.
    Conv,
    /// Matrix of the fully connected layer.
    Matrix,
    /// Its bias.
    Bias,
    /// Scale of a batch norm; `true`: the last of a residual block, which starts at 0.
    Gamma(bool),
    /// Shift of a batch norm.
    Beta,
}

impl Kind {
    /// Whether weight decay applies: not to one-dimensional parameters (timm's
    /// `param_groups_weight_decay`).
    pub const fn decays(self) -> bool {
        matches!(self, Self::Conv | Self::Matrix)
    }
}

/// One parameter.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// timm's name.
    pub name: String,
    /// timm's shape: `[out, in, height, width]`, `[out, in]` or `[channels]`.
    pub shape: Vec<usize>,
    /// What it is.
    pub kind: Kind,
}

/// One batch norm: timm's name, its parameters and channels.
#[derive(Clone, Debug)]
pub struct Norm {
    /// timm's name: `layer1.0.bn1`.
    pub name: String,
    /// Number of its scale; the shift is the next parameter.
    pub gamma: usize,
    /// Channels.
    pub channels: usize,
}

/// The kind of a residual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// Two 3x3.
    Basic,
    /// 1x1, 3x3, 1x1 with four times the channels.
    Bottleneck,
}

/// The beginning of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stem {
    /// 7x7, stride 2, 64 channels, max pool.
    ImageNet,
    /// 3x3, 16 channels; shortcuts of the blocks have no parameters.
    Cifar,
}

/// A ResNet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Architecture {
    /// Its beginning.
    pub stem: Stem,
    /// Its blocks.
    pub block: Block,
    /// Blocks a stage.
    pub layers: Vec<usize>,
    /// Channels a stage, before a bottleneck's expansion.
    pub channels: Vec<usize>,
    /// Classes.
    pub classes: usize,
}

/// The names that [`Architecture::named`] knows.
pub const NAMES: [&str; 9] = [
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
            _ => return Err(Error::UnknownModel { name: name.to_owned() }),
        })
    }

    /// Residual blocks of the whole network.
    pub fn blocks(&self) -> usize {
        self.layers.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_counts_are_those_of_the_papers() {
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
    fn odd_sizes_round_as_torch_rounds() {
        let graph = Graph::new(&Architecture::named("resnet50", 10).unwrap(), 225, 97);
        let sizes: Vec<(usize, usize)> =
            [113, 57, 29, 15, 8].into_iter().zip([49, 25, 13, 7, 4]).collect();
        for size in sizes {
            assert!(graph.tensors.iter().any(|t| (t.height, t.width) == size), "{size:?}");
        }
    }

    #[test]
    fn an_unknown_name_lists_those_there_are() {
        let error = Architecture::named("resnet19", 10).unwrap_err().to_string();
        assert!(error.contains("resnet19") && error.contains("resnet56"), "{error}");
    }
}
