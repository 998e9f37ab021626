//! `forebay bench`: the cost of an image by stage, without a network.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use forebay::{MicrobatchName, Pipeline, PixelFormat, Request, StageTimes, SubmitOptions};
use serde::Serialize;
use serde_json::{Map, Value};

use forebay_types::process::cpu_time;
use forebay_types::settings::{AnyNumber, Number};

use super::options::{DatasetOptions, DeviceOptions, RecipeOptions, pipeline_for};
use super::output::say_lines;
use crate::config::Threads;

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    dataset: DatasetOptions,
    // Without --batch and --microbatches, a step is one microbatch, so that small datasets can be measured too.
    #[command(flatten)]
    recipe: RecipeOptions,
    /// Number of images to measure, rounded up to whole microbatches.
    #[arg(long, value_name = "N", default_value = "2048")]
    images: Number<1, 1_000_000_000_000>,
    /// Number of worker threads. Default: all cores.
    #[arg(long, value_name = "N", env = "FOREBAY_THREADS")]
    threads: Option<Threads>,
    #[command(flatten)]
    device: DeviceOptions,
    /// Seed of the job.
    #[arg(long, default_value = "0")]
    seed: AnyNumber,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Maximum samples of the microbatches that are measured: those of the paper's recipes.
const MAX_MICROBATCH: u64 = 256;

pub(super) fn bench(args: &BenchArgs) -> anyhow::Result<()> {
    let dataset = args.dataset.open()?;
    let changes = &args.recipe.changes;
    let mut set = Vec::new();
    if changes.batch.is_none() && changes.microbatches.is_none() {
        let batch = (dataset.len() / 2 * 2).clamp(1, MAX_MICROBATCH);
        set = vec![format!("batch = {batch}"), "microbatches = 1".into()];
    }
    let recipe = Arc::new(args.recipe.resolve(set)?);
    let steps = forebay::sampler(&dataset, &recipe, args.seed.get())?.steps_per_epoch();
    let per_step = u64::from(recipe.microbatches);
    let format = PixelFormat::default();
    let mixer = args.device.open()?;
    let pipeline = pipeline_for(&dataset, &recipe, format, args.threads, &mixer)?;

    let request = |number: u64| Request {
        dataset: Arc::clone(&dataset),
        recipe: Arc::clone(&recipe),
        name: MicrobatchName {
            seed: args.seed.get(),
            epoch: number / per_step / steps,
            step: number / per_step % steps,
            index: u32::try_from(number % per_step).expect("below the recipe's microbatches"),
        },
        format,
    };
    // Warm up buffers, scratch memory and the page cache.
    pipeline.make(request(0))?;
    let microbatches = args.images.get().div_ceil(u64::from(recipe.microbatch_size()));
    let device = mixer.device().to_string();
    let report = measure(&pipeline, device, microbatches, |number| request(number + 1))?;
    if args.json { say_lines(serde_json::to_string_pretty(&report)?) } else { say_lines(report) }
}

/// The result of `bench`. Its JSON form is documented and stable.
#[derive(Debug, Serialize)]
struct Report {
    /// Images measured.
    images: u64,
    /// Worker threads.
    threads: usize,
    /// The device that mixes.
    device: String,
    /// CPU time of the whole process, user and system, in milliseconds.
    cpu_ms_per_image: f64,
    /// Images per second of wall time.
    images_per_s: f64,
    /// Decodes per image; below 1 if repeats of a record share a decode.
    decoded_per_image: f64,
    /// CPU time of the workers by stage, in milliseconds per image.
    stages: Map<String, Value>,
}

fn measure(
    pipeline: &Pipeline,
    device: String,
    microbatches: u64,
    request: impl Fn(u64) -> Request,
) -> anyhow::Result<Report> {
    let (started, cpu) = (Instant::now(), cpu_time());
    let (mut done, mut decoded, mut stages) = (0, 0, StageTimes::default());
    // One microbatch is always queued, as in a stream, so that the workers never wait for this thread.
    let (sender, receiver) = std::sync::mpsc::sync_channel(2);
    let submit = |number| {
        let sender = sender.clone();
        let done = move |result| drop(sender.send(result));
        pipeline.submit(request(number), SubmitOptions::default(), done)
    };
    submit(0)?;
    for number in 1..=microbatches {
        if number < microbatches {
            submit(number)?;
        }
        let microbatch = receiver.recv()??;
        done += microbatch.records.len() as u64;
        decoded += microbatch.decoded;
        stages += microbatch.timings.stages;
    }
    let (wall, cpu) = (started.elapsed(), cpu_time().saturating_sub(cpu));
    let per_image = |time: Duration| time.as_secs_f64() * 1000.0 / done as f64;
    let decoded_per_image = decoded as f64 / done as f64;
    let stages = stages.named().map(|(name, time)| (name.to_owned(), per_image(time).into()));
    Ok(Report {
        images: done,
        threads: pipeline.config().threads.get(),
        device,
        cpu_ms_per_image: per_image(cpu),
        images_per_s: done as f64 / wall.as_secs_f64(),
        decoded_per_image,
        stages: stages.into_iter().collect(),
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} images on {} threads, mixed on {}; CPU time per image:",
            self.images, self.threads, self.device
        )?;
        for (stage, time) in &self.stages {
            writeln!(f, "  {stage:<8} {:8.3} ms", time.as_f64().unwrap_or_default())?;
        }
        writeln!(f, "  {:<8} {:8.3} ms, of the whole process", "all", self.cpu_ms_per_image)?;
        writeln!(f, "  {:.3} decodes per image", self.decoded_per_image)?;
        write!(f, "  {:.0} images/s", self.images_per_s)
    }
}
