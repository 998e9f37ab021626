//! `forebay explain`.

use clap::Args;
use forebay::mix::Output;
use forebay::pipeline;

use super::options::MicrobatchOptions;
use super::say;

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    microbatch: MicrobatchOptions,
}

pub(super) fn explain(args: &ExplainArgs) -> anyhow::Result<()> {
    let explanation = pipeline::explain(&args.microbatch.request(Output::U8)?)?;
    say(serde_json::to_string_pretty(&explanation)?)
}
