//! Options that only an evaluation by itself has.

use std::path::PathBuf;

use clap::Args;

/// How each image is evaluated, and what is written about it.
#[derive(Args, Debug)]
pub(crate) struct EvalReportArgs {
    /// Average the logits of each image with those of its mirror image.
    #[arg(long)]
    pub(crate) tta_flip: bool,
    /// Write the accuracy of each class, and which class was taken for which, to this file as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write a page with a picture of which class was taken for which.
    #[arg(long, value_name = "FILE.html")]
    pub(crate) confusion: Option<PathBuf>,
}
