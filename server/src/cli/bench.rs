//! `forebay bench`: what an image costs, stage by stage, without a network.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use forebay::dataset::Dataset;
use forebay::{MicrobatchName, Pipeline, PixelFormat, Request, Requester, Sampler, Stages};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use serde_json::{Map, Value};

use super::options::{DatasetOptions, DeviceOptions, RecipeOptions, pipeline_for};
use super::say;

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    dataset: DatasetOptions,
    /// The recipe; its batch is replaced by one microbatch a step, so that small datasets can be
    /// measured too.
    #[command(flatten)]
    recipe: RecipeOptions,
    /// Images to measure, rounded up to whole microbatches.
    #[arg(long, default_value_t = 2048)]
    images: u64,
    /// Worker threads; all cores where left out.
    #[arg(long, env = "FOREBAY_THREADS")]
    threads: Option<NonZeroUsize>,
    #[command(flatten)]
    on: DeviceOptions,
    /// Seed of the run.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Most samples of a microbatch that is measured: the paper's.
const MICROBATCH: u64 = 256;

pub(super) fn bench(args: &BenchArgs) -> anyhow::Result<()> {
    let DatasetOptions { dataset, index } = &args.dataset;
    let dataset = Arc::new(Dataset::open(dataset, index.index_dir.as_deref())?);
    let batch = (dataset.len() / 2 * 2).clamp(1, MICROBATCH);
    let set = [format!("batch = {batch}"), "microbatches = 1".into()];
    let recipe = Arc::new(args.recipe.spec()?.with(set).resolve()?);
    let steps = Sampler::new(dataset.len(), &recipe, args.seed)?.steps_per_epoch();
    let format = PixelFormat::default();
    let pipeline = pipeline_for(&recipe, format, args.threads, args.on)?;

    let request = |number: u64| Request {
        dataset: Arc::clone(&dataset),
        recipe: Arc::clone(&recipe),
        name: MicrobatchName {
            seed: args.seed,
            epoch: number / steps,
            step: number % steps,
            index: 0,
        },
        format,
    };
    // Fills buffers, scratch and the page cache.
    pipeline.make(request(0))?;
    let report =
        measure(&pipeline, args.images.div_ceil(batch).max(1), |number| request(number + 1))?;
    if args.json { say(serde_json::to_string_pretty(&report)?) } else { say(report) }
}

/// What `bench` found. The JSON form is documented in the README and stable.
#[derive(Debug, Serialize)]
struct Report {
    /// Images measured.
    images: u64,
    /// Worker threads.
    threads: usize,
    /// CPU time of the whole process, user and system, in ms.
    cpu_ms_per_image: f64,
    /// By wall time.
    images_per_s: f64,
    /// Decodes for each image: below 1 where repeats of a record share one.
    decoded_per_image: f64,
    /// CPU time of the workers by stage, in ms an image.
    stages: Map<String, Value>,
}

fn measure(
    pipeline: &Pipeline,
    microbatches: u64,
    request: impl Fn(u64) -> Request,
) -> anyhow::Result<Report> {
    let (started, cpu) = (Instant::now(), process_time());
    let (mut done, mut stages) = (0, Stages::default());
    // One microbatch ahead, as a stream has it: the workers never wait for this thread.
    let (sender, receiver) = std::sync::mpsc::sync_channel(2);
    let submit = |number| {
        let sender = sender.clone();
        let done = move |result| drop(sender.send(result));
        pipeline.submit(request(number), Requester::default(), done)
    };
    submit(0)?;
    for number in 1..=microbatches {
        if number < microbatches {
            submit(number)?;
        }
        let microbatch = receiver.recv()??;
        done += microbatch.records.len() as u64;
        stages += microbatch.timings.stages;
    }
    let (wall, cpu) = (started.elapsed(), process_time().saturating_sub(cpu));
    let per_image = |time: Duration| time.as_secs_f64() * 1000.0 / done as f64;
    let decoded_per_image = stages.decoded as f64 / done as f64;
    let stages = stages.named().map(|(name, time)| (name.to_owned(), per_image(time).into()));
    Ok(Report {
        images: done,
        threads: pipeline.config().threads.get(),
        cpu_ms_per_image: per_image(cpu),
        images_per_s: done as f64 / wall.as_secs_f64(),
        decoded_per_image,
        stages: stages.into_iter().collect(),
    })
}

fn process_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} images on {} threads", self.images, self.threads)?;
        for (stage, time) in &self.stages {
            writeln!(f, "  {stage:<8} {:8.3} ms", time.as_f64().unwrap_or_default())?;
        }
        writeln!(f, "  {:<8} {:8.3} ms of CPU an image", "all", self.cpu_ms_per_image)?;
        writeln!(f, "  {:.3} decodes an image", self.decoded_per_image)?;
        write!(f, "  {:.0} images/s", self.images_per_s)
    }
}
