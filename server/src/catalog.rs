//! The datasets and recipes that a server has, and the pipeline that makes their microbatches.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use forebay::dataset::Dataset;
use forebay::plan::{MixKind, MixPlan, MixSample};
use forebay::recipe::{Recipe, RecipeError, RecipeSource, RecipeSpec};
use forebay::{
    DType, Layout, MicrobatchName, MixedBy, Pipeline, PixelFormat, QueueStats, Rect, Request,
    Requester, Sampler, Timings, explain,
};
use forebay_proto::v1::{self, DescribeResponse, mix_parameters::Kind};

use crate::source::{DatasetFacts, Done, Job, Load, Microbatch, Name, Output, Source};
use crate::status::Refusal;

/// What a server serves.
#[derive(Debug)]
pub struct Catalog {
    datasets: BTreeMap<String, Arc<Dataset>>,
    recipes: BTreeMap<String, RecipeSpec>,
    pipeline: Arc<Pipeline>,
}

impl Catalog {
    /// Datasets and the user's own recipes, by name. A recipe of the user's may not take a preset's
    /// name.
    pub const fn new(
        datasets: BTreeMap<String, Arc<Dataset>>,
        recipes: BTreeMap<String, RecipeSpec>,
        pipeline: Arc<Pipeline>,
    ) -> Self {
        Self { datasets, recipes, pipeline }
    }

    fn recipe(&self, asked: &v1::Recipe) -> Result<Recipe, RecipeError> {
        let spec = if !asked.toml.is_empty() {
            RecipeSpec::text("the recipe sent", asked.toml.as_str())
        } else if let Some(own) = self.recipes.get(&asked.name) {
            own.clone()
        } else {
            RecipeSpec { source: RecipeSource::Preset(asked.name.clone()), set: Vec::new() }
        };
        let resolved = spec.with(asked.set.iter().cloned()).resolve();
        resolved.map_err(|error| match error {
            RecipeError::Unknown { name, known } => {
                let own = self.recipes.keys().cloned();
                let known = std::iter::once(known).chain(own).collect::<Vec<_>>().join(", ");
                RecipeError::Unknown { name, known }
            }
            other => other,
        })
    }
}

impl Source for Catalog {
    fn datasets(&self) -> Vec<String> {
        self.datasets.keys().cloned().collect()
    }

    fn about(&self) -> Vec<DatasetFacts> {
        let facts = |(name, dataset): (&String, &Arc<Dataset>)| DatasetFacts {
            name: name.clone(),
            records: dataset.len(),
            bad: dataset.bad().len() as u64,
            classes: dataset.classes().len(),
            digest: dataset.digest().to_string(),
        };
        self.datasets.iter().map(facts).collect()
    }

    fn load(&self) -> Load {
        let (totals, buffers) = (self.pipeline.totals(), self.pipeline.buffers());
        let QueueStats { outstanding, joined, cached, cache_bytes } = self.pipeline.queue_stats();
        Load {
            threads: self.pipeline.config().threads.get(),
            samples: totals.samples,
            decoded: totals.timings.stages.decoded,
            microbatches: totals.microbatches,
            joined,
            cached,
            asked: outstanding,
            wait: self.pipeline.drain_estimate(),
            cache_bytes: cache_bytes as u64,
            starved: buffers.waiting(),
            buffer_bytes: buffers.bytes_in_use() as u64,
            buffer_limit: buffers.limit() as u64,
        }
    }

    fn open(&self, job: &v1::Job) -> Result<Arc<dyn Job>, Refusal> {
        let only = self.datasets.values().next().filter(|_| self.datasets.len() == 1);
        let named = self.datasets.get(&job.dataset);
        let Some(dataset) = named.or(only.filter(|_| job.dataset.is_empty())) else {
            return Err(Refusal::UnknownDataset {
                name: job.dataset.clone(),
                served: self.datasets(),
            });
        };
        let asked = job.recipe.clone().unwrap_or_default();
        if asked.name.is_empty() == asked.toml.is_empty() {
            return Err(Refusal::invalid("job.recipe", "give either a name or a TOML text"));
        }
        let recipe = self.recipe(&asked).map_err(forebay::Error::from)?;
        let sampler =
            Sampler::new(dataset.len(), &recipe, job.seed).map_err(forebay::Error::from)?;
        Ok(Arc::new(CatalogJob {
            facts: facts(dataset, &recipe, &sampler),
            dataset: Arc::clone(dataset),
            recipe: Arc::new(recipe),
            sampler,
            pipeline: Arc::clone(&self.pipeline),
        }))
    }
}

fn facts(dataset: &Dataset, recipe: &Recipe, sampler: &Sampler) -> DescribeResponse {
    DescribeResponse {
        dataset_digest: Bytes::copy_from_slice(&dataset.digest().0),
        records: dataset.len(),
        bad_records: dataset.bad().len() as u64,
        classes: dataset.classes().to_vec(),
        recipe_digest: Bytes::copy_from_slice(&recipe.digest().0),
        recipe_toml: recipe.canonical(),
        samples_per_epoch: sampler.samples_per_epoch(),
        steps_per_epoch: sampler.steps_per_epoch(),
        batch: recipe.batch,
        microbatches: recipe.microbatches,
        image_size: recipe.image_size,
        smoothing: recipe.smoothing,
        mean: recipe.mean.to_vec(),
        std: recipe.std.to_vec(),
        ..DescribeResponse::default()
    }
}

/// A dataset with a recipe.
struct CatalogJob {
    facts: DescribeResponse,
    dataset: Arc<Dataset>,
    recipe: Arc<Recipe>,
    sampler: Sampler,
    pipeline: Arc<Pipeline>,
}

impl CatalogJob {
    fn request(&self, name: Name, format: PixelFormat) -> Request {
        let Name { seed, epoch, step, index } = name;
        Request {
            dataset: Arc::clone(&self.dataset),
            recipe: Arc::clone(&self.recipe),
            name: MicrobatchName { seed, epoch, step, index },
            format,
        }
    }
}

impl Job for CatalogJob {
    fn facts(&self) -> &DescribeResponse {
        &self.facts
    }

    fn microbatches(&self, step: u64) -> u32 {
        self.sampler.microbatches(step)
    }

    fn submit(
        &self,
        name: Name,
        output: Output,
        requester: Requester,
        done: Done,
    ) -> Result<(), Refusal> {
        let request = self.request(name, format_of(output));
        self.pipeline.submit(request, requester, move |made| {
            done(made.map(microbatch).map_err(Refusal::from));
        })?;
        Ok(())
    }

    fn explain(&self, name: Name) -> Result<String, Refusal> {
        let request = self.request(name, PixelFormat::default());
        let explanation = explain(&request)?;
        Ok(serde_json::to_string(&explanation).expect("plain values"))
    }
}

fn format_of(output: Output) -> PixelFormat {
    let dtype = match output.dtype {
        v1::DType::DtypeUnspecified | v1::DType::DtypeU8 => DType::U8,
        v1::DType::DtypeF16 => DType::F16,
        v1::DType::DtypeBf16 => DType::Bf16,
        v1::DType::DtypeF32 => DType::F32,
    };
    let layout = match output.layout {
        v1::Layout::Unspecified | v1::Layout::Nhwc => Layout::Nhwc,
        v1::Layout::Nchw => Layout::Nchw,
    };
    let mixed_by = if output.mixed { MixedBy::Server } else { MixedBy::Trainer };
    PixelFormat { dtype, layout, mixed_by }
}

/// A microbatch in the words of the wire. Its slab returns to the ring once the payload is sent.
fn microbatch(made: forebay::Microbatch) -> Microbatch {
    Microbatch {
        mix: (made.format.mixed_by == MixedBy::Trainer).then(|| mix_plan(&made.plan)),
        timings: timings(&made.timings),
        payload: Bytes::from_owner(made.payload),
        shape: made.shape,
        records: made.records,
        label_a: made.label_a,
        label_b: made.label_b,
        lambda: made.lambda,
        xxh3: made.xxh3,
    }
}

fn mix_plan(plan: &MixPlan) -> v1::MixPlan {
    let parameters = |sample: &MixSample| {
        let (kind, cut) = match sample.kind {
            MixKind::None => (Kind::Unspecified, None),
            MixKind::Mixup => (Kind::Mixup, None),
            MixKind::Cutmix(Rect { top, left, height, width }) => {
                (Kind::Cutmix, Some(v1::Rect { top, left, height, width }))
            }
        };
        let [lambda, partner_lambda] = sample.weights;
        v1::MixParameters { kind: kind.into(), lambda, partner_lambda, rect: cut }
    };
    v1::MixPlan { samples: plan.samples.iter().map(parameters).collect() }
}

fn timings(timings: &Timings) -> v1::Timings {
    let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let stages = &timings.stages;
    v1::Timings {
        queue: micros(timings.queue),
        make: micros(timings.total.saturating_sub(timings.queue)),
        read: micros(stages.read),
        decode: micros(stages.decode),
        resize: micros(stages.resize),
        augment: micros(stages.augment),
        mix: micros(stages.mix),
        digest: micros(stages.digest),
    }
}
