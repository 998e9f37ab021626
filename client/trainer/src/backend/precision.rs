//! The precision in which activations and their gradients are stored.

use clap::ValueEnum;

/// The precision in which activations and their gradients are stored. Sums, parameters and the optimizer's state are
/// always f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16, which has the range of f32.
    #[default]
    Bf16,
    /// f16, which has more digits, and needs a loss scale.
    F16,
    /// f32.
    F32,
}

impl Precision {
    /// Bytes of a value.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
        }
    }

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }
}
