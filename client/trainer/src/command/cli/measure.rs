//! Options of the commands that measure.

use std::path::PathBuf;

use clap::Args;
use forebay_types::settings::{ByteSize, Number};

use super::gpu::GpuArgs;
use super::numbers::Pixels;
use crate::backend::device::TrainDevice;
use crate::backend::precision::Precision;

/// Options of `gpu-selftest`.
#[derive(Args, Debug)]
pub(crate) struct SelftestArgs {
    /// Only list the libraries of CUDA, their versions, and where they were found. Needs no GPU.
    #[arg(long)]
    pub(crate) libraries: bool,
    /// GPU to test: cuda or cuda:N.
    #[arg(long, env = "FOREBAY_DEVICE", default_value = "cuda:0")]
    pub(crate) device: TrainDevice,
    /// Models whose operations are compared with the CPU's.
    #[arg(
        long,
        value_name = "NAME,...",
        default_value = "resnet20,resnet18,resnet50",
        value_delimiter = ','
    )]
    pub(crate) compare: Vec<String>,
    /// Model to measure.
    #[arg(long, env = "FOREBAY_MODEL", value_name = "NAME", default_value = "resnet50")]
    pub(crate) model: String,
    /// Samples per step.
    #[arg(long, value_name = "N", default_value = "256")]
    pub(crate) batch: Number<1, 65_536>,
    /// Height and width of the images.
    #[arg(long, visible_alias = "img-size", value_name = "PIXELS", default_value = "224")]
    pub(crate) image_size: Pixels,
    /// Steps to measure; 0 only compares.
    #[arg(long, value_name = "N", default_value = "20")]
    pub(crate) steps: Number<0, 1_000_000>,
    /// Precision of activations of the steps that are measured.
    #[arg(
        long,
        value_enum,
        value_name = "bf16|f16|f32",
        default_value = "bf16",
        hide_possible_values = true
    )]
    pub(crate) precision: Precision,
    #[command(flatten)]
    pub(crate) gpu: GpuArgs,
}

/// Options of `bench`.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// Model to measure.
    #[arg(long, value_name = "NAME", default_value = "resnet50")]
    pub(crate) model: String,
    /// Device to measure: cpu, cuda or cuda:N.
    #[arg(long, env = "FOREBAY_DEVICE", default_value = "cpu")]
    pub(crate) device: TrainDevice,
    /// Samples per step. Each of several numbers is measured.
    #[arg(long, value_name = "N,...", default_value = "32", value_delimiter = ',')]
    pub(crate) batch: Vec<Number<1, 65_536>>,
    /// Height and width of the images. Each of several numbers is measured.
    #[arg(long, visible_aliases = ["size", "img-size"], value_name = "PIXELS,...", default_value = "224", value_delimiter = ',')]
    pub(crate) image_size: Vec<Pixels>,
    /// Precision of activations. Each of several is measured; the default is that in which the device trains.
    #[arg(
        long,
        value_enum,
        value_name = "bf16,f16,f32",
        value_delimiter = ',',
        hide_possible_values = true
    )]
    pub(crate) precision: Vec<Precision>,
    #[command(flatten)]
    pub(crate) gpu: GpuArgs,
    /// Number of classes.
    #[arg(long, value_name = "N", default_value = "1000")]
    pub(crate) classes: Number<1, 100_000>,
    /// Refuse a model that needs more memory than this for its parameters, with their gradients and moments, and for
    /// a step.
    #[arg(long, env = "FOREBAY_MEMORY_LIMIT", value_name = "SIZE", default_value = "64GiB")]
    pub(crate) memory_limit: ByteSize,
    /// Steps to measure.
    #[arg(long, value_name = "N", default_value = "5")]
    pub(crate) steps: Number<1, 1_000_000>,
    /// Steps before these, in which clocks rise and libraries load their kernels.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) warm_up: Number<1, 1_000_000>,
    /// Write the measurements to this file as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}
