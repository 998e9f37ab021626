//! `forebay preview`: a microbatch as a picture.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use forebay::mix::Output;
use forebay::pipeline::{self, ExplainedSample};

use super::options::{MicrobatchOptions, pipeline_for};
use super::say;
use crate::preview::{Tile, sheet};

#[derive(Debug, Args)]
pub(super) struct PreviewArgs {
    #[command(flatten)]
    microbatch: MicrobatchOptions,
    /// Samples to draw, from slot 0.
    #[arg(long, default_value_t = 32)]
    samples: usize,
    /// The PNG to write.
    #[arg(long, short, value_name = "FILE", default_value = "preview.png")]
    out: PathBuf,
}

pub(super) fn preview(args: &PreviewArgs) -> anyhow::Result<()> {
    let request = args.microbatch.request(Output::U8)?;
    let explanation = pipeline::explain(&request)?;
    let microbatch = pipeline_for(&request.recipe, Output::U8, None)?.make(request.clone())?;
    let size = forebay::Size::square(request.recipe.image_size);
    let classes = request.dataset.classes();
    let slots = microbatch.payload.chunks_exact(size.rgb_bytes()).zip(&explanation.samples);
    let tiles: Vec<Tile<'_>> = slots
        .take(args.samples)
        .map(|(pixels, sample)| {
            let partner = &explanation.samples[sample.partner];
            Tile { pixels, size, caption: caption(sample, partner, classes) }
        })
        .collect();
    sheet(&tiles)
        .save(&args.out)
        .with_context(|| format!("cannot write {}", args.out.display()))?;
    say(format!("{} samples in {}", tiles.len(), args.out.display()))
}

/// Label, record, crop, operations and mix, a line each.
pub(crate) fn caption(
    sample: &ExplainedSample,
    partner: &ExplainedSample,
    classes: &[String],
) -> Vec<String> {
    let class = |label: u32| classes.get(label as usize).map_or("?", String::as_str);
    let [top, left, height, width] = sample.source;
    let mut lines = vec![
        format!("{} {}", sample.label, class(sample.label)),
        format!("record {}", sample.record),
        format!("{width}x{height} at {left},{top} of {}x{}", sample.size[1], sample.size[0]),
    ];
    if sample.flip {
        lines.push("flipped".into());
    }
    lines.extend(sample.ops.iter().map(|op| match op.arg {
        Some(arg) => format!("{} {arg:.3}", op.name),
        None => op.name.to_owned(),
    }));
    if sample.mix_mode != "none" {
        let other = format!("{} {}", partner.label, class(partner.label));
        lines.push(format!("{} {:.3} with {other}", sample.mix_mode, sample.lambda));
    }
    lines
}
