//! A received microbatch.

use std::time::Duration;

use forebay_proto::types::{DType, Layout, MicrobatchName, Timings};
use forebay_proto::v1;
use forebay_proto::v1::mix_parameters::Kind;

use crate::wire::buffers::Pixels;

/// A microbatch of n samples: pixels, targets, and how they were made.
#[derive(Debug)]
pub struct Microbatch {
    /// Name of the microbatch.
    pub name: MicrobatchName,
    /// `shape` values of type `dtype`, contiguous.
    pub pixels: Pixels,
    /// The four dimensions, in the order of `layout`.
    pub shape: [u32; 4],
    /// Type of the values.
    pub dtype: DType,
    /// Order of the dimensions.
    pub layout: Layout,
    /// The n record numbers.
    pub records: Vec<u64>,
    /// The label of each sample with weight `lambda`, before smoothing.
    pub label_a: Vec<u32>,
    /// The label of each sample with weight `1 - lambda`.
    pub label_b: Vec<u32>,
    /// Weights from 0 to 1.
    pub lambda: Vec<f32>,
    /// The mix that is left to the trainer, for each sample; empty unless the job requested
    /// [`MixedBy::Trainer`](crate::MixedBy::Trainer).
    pub mix: Vec<Mix>,
    /// Time that the server spent in each stage.
    pub timings: Timings,
    /// XXH3-64 of the pixels, verified.
    pub xxh3: u64,
    /// Time that the trainer waited for the microbatch.
    pub wait: Duration,
}

/// The mix of a sample with its partner, which is sample `n - 1 - i` of the same microbatch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mix {
    /// The sample stays as it is.
    Keep,
    /// The sample becomes `lambda` times itself plus `partner_lambda` times its partner.
    MixUp {
        /// Weight of the sample.
        lambda: f32,
        /// Weight of its partner.
        partner_lambda: f32,
    },
    /// A box of the sample is replaced by that of its partner.
    CutMix {
        /// First row of the box.
        top: u32,
        /// First column.
        left: u32,
        /// Number of rows.
        height: u32,
        /// Number of columns.
        width: u32,
    },
}

impl Mix {
    fn from_wire(wire: &v1::MixParameters) -> Self {
        match wire.kind() {
            Kind::Unspecified => Self::Keep,
            Kind::Mixup => Self::MixUp { lambda: wire.lambda, partner_lambda: wire.partner_lambda },
            Kind::Cutmix => {
                let v1::Rect { top, left, height, width } = wire.rect.unwrap_or_default();
                Self::CutMix { top, left, height, width }
            }
        }
    }
}

impl Microbatch {
    /// Combines a checked header and its pixels.
    pub(crate) fn new(header: v1::Header, pixels: Pixels, dtype: DType, layout: Layout) -> Self {
        let shape = header.shape.try_into().expect("a checked header has four dimensions");
        let mix = header.mix.unwrap_or_default().samples.iter().map(Mix::from_wire).collect();
        Self {
            name: MicrobatchName {
                seed: header.seed,
                epoch: header.epoch,
                step: header.step,
                index: header.microbatch,
            },
            pixels,
            shape,
            dtype,
            layout,
            records: header.records,
            label_a: header.label_a,
            label_b: header.label_b,
            lambda: header.lambda,
            mix,
            timings: header.timings.as_ref().map(Timings::from).unwrap_or_default(),
            xxh3: header.payload_xxh3,
            wait: Duration::ZERO,
        }
    }
}
