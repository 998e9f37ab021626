//! `forebay explain`: the plan of a microbatch as JSON.

use clap::Args;
use forebay::PixelFormat;

use super::options::MicrobatchOptions;
use super::output::say_lines;

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    microbatch: MicrobatchOptions,
}

pub(super) fn explain(args: &ExplainArgs) -> anyhow::Result<()> {
    let explanation = forebay::explain(&args.microbatch.request(PixelFormat::default())?)?;
    say_lines(serde_json::to_string_pretty(&explanation)?)
}
