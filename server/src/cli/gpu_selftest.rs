//! `forebay gpu-selftest`: whether a GPU mixes as the CPU does, and how quickly.

use anyhow::{bail, ensure};
use clap::Args;
use forebay::mix::{Device, MixJob, Mixer, NormalizeTable};
use forebay::plan::{self, MixPlan};
use forebay::recipe::{Recipe, RecipeSpec};
use forebay::{DType, Layout, MicrobatchName, MixedBy, PixelFormat, Size};

use super::say;
use crate::config::ByteSize;

#[derive(Debug, Args)]
pub(super) struct SelfTestArgs {
    /// The GPU: cuda:N.
    #[arg(long, default_value = "cuda:0", env = "FOREBAY_DEVICE")]
    device: Device,
    /// Memory that is taken on the GPU.
    #[arg(long, value_name = "BYTES", default_value = "64MiB", env = "FOREBAY_DEVICE_BYTES")]
    device_bytes: ByteSize,
    /// Samples of the batch that is timed.
    #[arg(long, default_value_t = 256)]
    images: u32,
    /// Its height and width.
    #[arg(long, default_value_t = 224)]
    size: u32,
}

pub(super) fn selftest(args: &SelfTestArgs) -> anyhow::Result<()> {
    if args.device == Device::Cpu {
        bail!("the self-test compares a GPU with the CPU; give --device cuda:N");
    }
    let bytes = usize::try_from(args.device_bytes.0)?;
    let mixer = Mixer::open(args.device, bytes)?;
    say(mixer.description()?)?;
    let batches = compare(&mixer)?;
    say(format!("{batches} batches equal the CPU's, bit for bit"))?;
    time(&mixer, args)
}

const DTYPES: [(DType, &str); 4] =
    [(DType::U8, "u8"), (DType::F16, "f16"), (DType::Bf16, "bf16"), (DType::F32, "f32")];
const LAYOUTS: [(Layout, &str); 2] = [(Layout::Nhwc, "NHWC"), (Layout::Nchw, "NCHW")];

fn recipe(size: u32, mode: &str) -> anyhow::Result<Recipe> {
    let set = [format!("image_size = {size}"), format!("mix.mode = \"{mode}\"")];
    Ok(RecipeSpec::preset("a2").with(set).resolve()?)
}

fn plan_of(recipe: &Recipe, seed: u64, n: usize) -> MixPlan {
    plan::mix(recipe, MicrobatchName { seed, epoch: 0, step: 0, index: 0 }, n)
}

/// Bytes that differ from their neighbours, over the whole range.
fn pixels(n: usize, size: Size) -> Vec<u8> {
    (0..n * size.rgb_bytes()).map(|i| (i * 37 + i / 251).to_le_bytes()[0]).collect()
}

/// Mixes batches on both and counts them.
fn compare(mixer: &Mixer) -> anyhow::Result<usize> {
    let mut batches = 0;
    // One pixel, odd sides, rows of whole 16 bytes, the real thing.
    for (side, n) in [(1, 2_usize), (21, 1), (21, 3), (21, 6), (48, 4), (224, 2)] {
        let size = Size::square(side);
        let unmixed = pixels(n, size);
        for (seed, mode) in [(0, "batch"), (1, "batch"), (0, "pair"), (0, "elem")] {
            let recipe = recipe(side, mode)?;
            let (plan, normalize) = (plan_of(&recipe, seed, n), NormalizeTable::new(&recipe));
            for (dtype, dtype_name) in DTYPES {
                for (layout, layout_name) in LAYOUTS {
                    let format = PixelFormat { dtype, layout, mixed_by: MixedBy::Server };
                    let job = MixJob { size, plan: &plan, format, normalize: &normalize };
                    let (got, expected) =
                        (mixer.apply(&unmixed, &job)?, Mixer::Cpu.apply(&unmixed, &job)?);
                    let differ = got.iter().zip(&expected).position(|(got, cpu)| got != cpu);
                    ensure!(
                        differ.is_none() && got.len() == expected.len(),
                        "{n} samples of {side}x{side}, {mode}, {dtype_name} {layout_name}, differ \
                         from the CPU's at byte {differ:?}: this GPU must not be used"
                    );
                    batches += 1;
                }
            }
        }
    }
    Ok(batches + compare_targets(mixer)?)
}

fn compare_targets(mixer: &Mixer) -> anyhow::Result<usize> {
    let (classes, n) = (1000, 65);
    let labels: Vec<[u32; 2]> = (0..n).map(|i| [i * 13 % classes, i * 29 % classes]).collect();
    let lambda: Vec<f64> = (0..n).map(|i| f64::from(i) / 64.0).collect();
    let on = |mixer: &Mixer| mixer.dense_targets(&labels, &lambda, 0.1, classes as usize);
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    ensure!(
        bits(on(mixer)?) == bits(on(&Mixer::Cpu)?),
        "dense targets differ from the CPU's: this GPU must not be used"
    );
    Ok(1)
}

/// Prints what each form takes, in microseconds an image.
fn time(mixer: &Mixer, args: &SelfTestArgs) -> anyhow::Result<()> {
    let (size, n) = (Size::square(args.size), args.images as usize);
    let recipe = recipe(args.size, "elem")?;
    let (plan, normalize) = (plan_of(&recipe, 0, n), NormalizeTable::new(&recipe));
    let bandwidth = mixer.bandwidth();
    say(format!("{n} samples of {0}x{0}, microseconds an image:", args.size))?;
    say("             copy in  kernel   floor  copy out  all, overlapping")?;
    for (dtype, layout) in [
        (DTYPES[0], LAYOUTS[0]),
        (DTYPES[2], LAYOUTS[0]),
        (DTYPES[2], LAYOUTS[1]),
        (DTYPES[3], LAYOUTS[1]),
    ] {
        let format = PixelFormat { dtype: dtype.0, layout: layout.0, mixed_by: MixedBy::Server };
        let job = MixJob { size, plan: &plan, format, normalize: &normalize };
        let times = mixer.measure(&job)?;
        let each = |time: std::time::Duration| time.as_secs_f64() * 1e6 / n as f64;
        // Every byte is read once and written once.
        let moved = (size.rgb_bytes() * (1 + format.dtype.bytes())) as f64;
        let floor = bandwidth.map_or("?".into(), |bytes| format!("{:.3}", moved / bytes * 1e6));
        say(format!(
            "  {:<4} {:<4}  {:8.3} {:7.3} {floor:>7}  {:8.3} {:17.3}",
            dtype.1,
            layout.1,
            each(times.upload),
            each(times.kernel),
            each(times.download),
            each(times.whole),
        ))?;
    }
    match bandwidth {
        Some(bytes) => say(format!(
            "floor: each byte read and written once at {:.0} GB/s, what this memory does at best",
            bytes / 1e9
        )),
        None => say("floor: unknown, the driver does not tell the memory's clock and width"),
    }
}
