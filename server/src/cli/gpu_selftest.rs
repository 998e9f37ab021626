//! `forebay gpu-selftest`: compares a GPU's mixing with the CPU's, and measures its speed.

use anyhow::{bail, ensure};
use clap::Args;
use forebay::mix::{Device, MixJob, Mixer, NormalizeTable};
use forebay::plan::{self, MixPlan};
use forebay::recipe::{Recipe, RecipeSpec};
use forebay::{DType, Layout, MicrobatchName, MixedBy, PixelFormat, Size};
use forebay_types::settings::{NonZeroByteSize, Number};

use super::output::say;

#[derive(Debug, Args)]
pub(super) struct SelfTestArgs {
    /// Only list the libraries of CUDA, their versions, and where they were found. Needs no GPU.
    #[arg(long)]
    libraries: bool,
    /// GPU to test, as cuda:N.
    #[arg(long, default_value = "cuda:0", env = "FOREBAY_DEVICE")]
    device: Device,
    /// Memory to allocate on the GPU.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", env = "FOREBAY_DEVICE_BYTES")]
    device_bytes: NonZeroByteSize,
    /// Number of samples of the batch that is timed.
    #[arg(long, value_name = "N", default_value = "256")]
    images: Number<1, 65_536>,
    /// Height and width of the images that are timed.
    #[arg(long, value_name = "PIXELS", default_value = "224")]
    size: Number<1, 4096>,
}

pub(super) fn selftest(args: &SelfTestArgs) -> anyhow::Result<()> {
    if args.libraries {
        return libraries(args.device);
    }
    if args.device == Device::Cpu {
        bail!(
            "invalid --device cpu: the self-test compares a GPU with the CPU; set --device cuda:N"
        );
    }
    let bytes = usize::try_from(args.device_bytes.get())?;
    let mixer = Mixer::open(args.device, bytes)?;
    say(mixer.description()?)?;
    mixer.libraries().map_or(Ok(()), say)?;
    let batches = compare(&mixer)?;
    say(format!("{batches} batches are bit-identical to the CPU's"))?;
    time(&mixer, args)
}

#[cfg(feature = "cuda")]
fn libraries(_device: Device) -> anyhow::Result<()> {
    use forebay::gpu::{Library, LibraryTable};
    let table = LibraryTable::new(&[Library::Driver, Library::Nvrtc], &[]);
    table.to_string().lines().try_for_each(say)?;
    ensure!(table.is_complete(), "libraries that mixing on a GPU needs are missing");
    say(
        "all libraries that mixing on a GPU needs were found; gpu-selftest without --libraries tests the GPU",
    )
}

#[cfg(not(feature = "cuda"))]
fn libraries(device: Device) -> anyhow::Result<()> {
    // The error says that this build cannot use a GPU.
    Ok(Mixer::open(device, 0).map(drop)?)
}

const DTYPES: [(DType, &str); 4] =
    [(DType::U8, "u8"), (DType::F16, "f16"), (DType::Bf16, "bf16"), (DType::F32, "f32")];
const LAYOUTS: [(Layout, &str); 2] = [(Layout::Nhwc, "NHWC"), (Layout::Nchw, "NCHW")];

fn recipe(size: u32, mode: &str) -> anyhow::Result<Recipe> {
    let set = [format!("image_size = {size}"), format!("mix.mode = \"{mode}\"")];
    Ok(RecipeSpec::preset("a2").with_changes(set).resolve()?)
}

fn plan_of(recipe: &Recipe, seed: u64, n: usize) -> MixPlan {
    plan::mix(recipe, MicrobatchName { seed, epoch: 0, step: 0, index: 0 }, n)
}

/// Bytes of the whole range that differ from their neighbors.
fn pixels(n: usize, size: Size) -> Vec<u8> {
    (0..n * size.rgb_bytes()).map(|i| (i * 37 + i / 251).to_le_bytes()[0]).collect()
}

/// Mixes batches on both devices and returns how many were compared.
fn compare(mixer: &Mixer) -> anyhow::Result<usize> {
    let mut batches = 0;
    // One pixel, odd sides, rows that are multiples of 16 bytes, and the usual size for ImageNet.
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
                         from the CPU's at byte {differ:?}: do not use this GPU"
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
        "dense targets differ from the CPU's: do not use this GPU"
    );
    Ok(1)
}

/// Prints the time of each format in microseconds per image.
fn time(mixer: &Mixer, args: &SelfTestArgs) -> anyhow::Result<()> {
    let side = u32::try_from(args.size.get())?;
    let (size, n) = (Size::square(side), args.images.count());
    let recipe = recipe(side, "elem")?;
    let (plan, normalize) = (plan_of(&recipe, 0, n), NormalizeTable::new(&recipe));
    let bandwidth = mixer.bandwidth();
    say(format!("{n} samples of {side}x{side}, microseconds per image:"))?;
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
        // The lower bound: every byte is read once and written once.
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
            "floor: each byte read and written once at {:.0} GB/s, the peak bandwidth of this memory",
            bytes / 1e9
        )),
        None => {
            say("floor: unknown, because the driver does not report the memory's clock and width")
        }
    }
}
