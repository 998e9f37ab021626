//! Options of `export`.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

/// Options of `export`.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("files").args(["safetensors", "torch", "onnx"]).required(true).multiple(true))]
pub(crate) struct ExportArgs {
    /// The model: a file of weights, a checkpoint, or the output folder of a run, of which the newest checkpoint is taken.
    #[arg(value_name = "CHECKPOINT")]
    pub(crate) checkpoint: PathBuf,
    /// Name of the model. The default is what the file or checkpoint says.
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Take the moving average of the model from the checkpoint.
    #[arg(long)]
    pub(crate) model_ema: bool,
    /// Write a safetensors file with timm's names.
    #[arg(long, value_name = "FILE")]
    pub(crate) safetensors: Option<PathBuf>,
    /// Write a state dict that torch.load reads.
    #[arg(long, value_name = "FILE")]
    pub(crate) torch: Option<PathBuf>,
    /// Write an ONNX file of opset 17. Its input is of normalized images: [batch, 3, height, width], each of any size.
    #[arg(long, value_name = "FILE")]
    pub(crate) onnx: Option<PathBuf>,
}
