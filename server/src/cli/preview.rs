//! `forebay preview`: a microbatch as a contact sheet.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use forebay::mix::Mixer;
use forebay::{ExplainedSample, Explanation, PixelFormat};
use forebay_report::sheet::{Tile, sheet};
use forebay_types::settings::Number;

use super::options::{MicrobatchOptions, pipeline_for};
use super::output::say;

#[derive(Debug, Args)]
pub(super) struct PreviewArgs {
    #[command(flatten)]
    microbatch: MicrobatchOptions,
    /// Number of samples to draw, from the first slot on.
    #[arg(long, value_name = "N", default_value = "32")]
    samples: Number<1, 4096>,
    /// PNG file to write.
    #[arg(long, short, value_name = "FILE", default_value = "preview.png")]
    out: PathBuf,
}

pub(super) fn preview(args: &PreviewArgs) -> anyhow::Result<()> {
    if !args.out.extension().is_some_and(|end| end.eq_ignore_ascii_case("png")) {
        bail!("cannot write {}: expected a name that ends in .png", args.out.display());
    }
    let request = args.microbatch.request(PixelFormat::default())?;
    let explanation = forebay::explain(&request)?;
    let pipeline =
        pipeline_for(&request.dataset, &request.recipe, PixelFormat::default(), None, &Mixer::Cpu)?;
    let microbatch = pipeline.make(request.clone())?;
    let size = forebay::Size::square(request.recipe.at(request.name.epoch).image_size);
    let classes = request.dataset.classes();
    let slots = microbatch.payload.chunks_exact(size.rgb_bytes()).zip(&explanation.samples);
    let tiles: Vec<Tile<'_>> = slots
        .take(args.samples.count())
        .map(|(pixels, sample)| Tile {
            pixels,
            width: size.width,
            height: size.height,
            caption: caption(&explanation, sample, classes),
        })
        .collect();
    sheet(&tiles)
        .save(&args.out)
        .with_context(|| format!("cannot write {}", args.out.display()))?;
    say(format!("{} samples in {}", tiles.len(), args.out.display()))
}

/// Label, record, crop, operations and mix, each on a line.
fn caption(all: &Explanation, sample: &ExplainedSample, classes: &[String]) -> Vec<String> {
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
    if sample.vflip {
        lines.push("flipped upside down".into());
    }
    let ops = sample.ops.iter().map(|op| (op.name, op.arg));
    let color = sample.color.iter().map(|op| (op.name, op.arg));
    lines.extend(ops.chain(color).map(|(name, arg)| match arg {
        Some(arg) => format!("{name} {arg:.3}"),
        None => name.to_owned(),
    }));
    if let Some(mixture) = &sample.augmix {
        lines.push(format!("AugMix {:.3}", mixture.weight));
        lines.extend(mixture.chains.iter().map(|chain| {
            let names: Vec<&str> = chain.ops.iter().map(|op| op.name).collect();
            format!("{:.3} {}", chain.weight, names.join(", "))
        }));
    }
    let (mode, lambda) = all.mix_of(sample);
    if mode != "none" {
        let partner = all.samples[sample.partner].label;
        lines.push(format!("{mode} {lambda:.3} with {partner} {}", class(partner)));
    }
    lines
}
