//! `forebay dump`: one microbatch as safetensors.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use forebay::decode::Decoder;
use forebay::{MadeMicrobatch, MixedBy, PixelFormat, Request};

use super::options::{DeviceOptions, MicrobatchOptions, pipeline_for};
use super::output::say;
use super::safetensors::{self, Tensor};

#[derive(Debug, Args)]
pub(super) struct DumpArgs {
    #[command(flatten)]
    microbatch: MicrobatchOptions,
    /// Whether to write the pixels after or before mixing.
    #[arg(long, value_enum, default_value_t = MixWhen::After)]
    mix: MixWhen,
    #[command(flatten)]
    device: DeviceOptions,
    /// File to write.
    #[arg(long, short, value_name = "FILE", default_value = "microbatch.safetensors")]
    out: PathBuf,
    /// Also write the decoded image of each record as DIR/<record>.png.
    #[arg(long, value_name = "DIR")]
    decoded: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MixWhen {
    /// Write pixels after MixUp and CutMix, as trainers receive them.
    After,
    /// Write pixels before MixUp and CutMix.
    None,
}

pub(super) fn dump(args: &DumpArgs) -> anyhow::Result<()> {
    let mixed_by = match args.mix {
        MixWhen::After => MixedBy::Server,
        MixWhen::None => MixedBy::Trainer,
    };
    let format = PixelFormat { mixed_by, ..PixelFormat::default() };
    let request = args.microbatch.request(format)?;
    let mixer = args.device.open()?;
    let pipeline = pipeline_for(&request.dataset, &request.recipe, format, None, &mixer)?;
    let microbatch = pipeline.make(request.clone())?;
    write(&args.out, &request, &microbatch)
        .with_context(|| format!("cannot write {}", args.out.display()))?;
    if let Some(folder) = &args.decoded {
        write_decoded(folder, &request, &microbatch)?;
    }
    say(format!(
        "{} samples, XXH3 {:016x}, in {}",
        microbatch.records.len(),
        microbatch.xxh3,
        args.out.display()
    ))
}

/// Writes `pixels` u8 [N, H, W, 3]; `label_a`, `label_b`, `record` i64 [N]; `lambda` f32 [N]; digests and
/// the name in the metadata.
fn write(path: &Path, request: &Request, microbatch: &MadeMicrobatch) -> anyhow::Result<()> {
    let n = microbatch.records.len();
    let wide = |values: &mut dyn Iterator<Item = u64>| -> Vec<u8> {
        values.flat_map(u64::to_le_bytes).collect()
    };
    let label_a = wide(&mut microbatch.label_a.iter().map(|&label| u64::from(label)));
    let label_b = wide(&mut microbatch.label_b.iter().map(|&label| u64::from(label)));
    let record = wide(&mut microbatch.records.iter().copied());
    let lambda: Vec<u8> = microbatch.lambda.iter().flat_map(|value| value.to_le_bytes()).collect();
    let shape = microbatch.shape.iter().map(|&side| side as usize).collect();
    let tensors = [
        Tensor { name: "label_a", dtype: "I64", shape: vec![n], bytes: &label_a },
        Tensor { name: "label_b", dtype: "I64", shape: vec![n], bytes: &label_b },
        Tensor { name: "record", dtype: "I64", shape: vec![n], bytes: &record },
        Tensor { name: "lambda", dtype: "F32", shape: vec![n], bytes: &lambda },
        Tensor { name: "pixels", dtype: "U8", shape, bytes: &microbatch.payload },
    ];
    let name = request.name;
    let metadata = [
        ("dataset_digest", request.dataset.digest().to_string()),
        ("recipe_digest", request.recipe.digest().to_string()),
        ("seed", name.seed.to_string()),
        ("epoch", name.epoch.to_string()),
        ("step", name.step.to_string()),
        ("index", name.index.to_string()),
        ("mixed", (microbatch.format.mixed_by == MixedBy::Server).to_string()),
        ("xxh3", format!("{:016x}", microbatch.xxh3)),
    ];
    Ok(safetensors::write(path, &metadata, &tensors)?)
}

/// Writes whole images as forebay decodes them, to compare the later stages with other tools.
fn write_decoded(
    folder: &Path,
    request: &Request,
    microbatch: &MadeMicrobatch,
) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let (mut decoder, mut scratch) = (Decoder::default(), Vec::new());
    let records: BTreeSet<u64> = microbatch.records.iter().copied().collect();
    for record in records {
        let stored = request.dataset.record(record);
        let size = stored.size;
        let bytes = request.dataset.read(record, &mut scratch)?;
        let region = decoder.decode_stored(bytes, stored.planar(), size.whole(), &[])?;
        let pixels = region.crop(size.whole());
        let path = folder.join(format!("{record}.png"));
        image::save_buffer(&path, pixels.data(), size.width, size.height, image::ColorType::Rgb8)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
