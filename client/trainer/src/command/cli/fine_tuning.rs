//! Options of fine-tuning.

use clap::Args;
use forebay_types::settings::positive;

use crate::fine_tuning::FineTuning;

/// What of the model is trained, and how fast.
#[derive(Args, Debug)]
#[command(next_help_heading = "Fine-tuning")]
pub(crate) struct FineTuningArgs {
    /// Layers that stay as they are, by timm's names, such as conv1,bn1,layer1,layer2.0. Their batch norms use the running
    /// statistics. On the CPU only.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub(crate) freeze: Vec<String>,
    /// Factor of the learning rate from one layer to the one before it, which are the classifier, each residual block, and
    /// the stem. On the CPU only.
    #[arg(long, value_name = "FACTOR", value_parser = positive)]
    pub(crate) layer_decay: Option<f64>,
}

impl FineTuningArgs {
    pub(crate) fn settings(&self) -> FineTuning {
        FineTuning { freeze: self.freeze.clone(), layer_decay: self.layer_decay }
    }
}
