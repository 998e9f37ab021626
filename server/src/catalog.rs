//! The datasets and recipes of a server, and the pipeline that computes their microbatches.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use forebay::dataset::Dataset;
use forebay::plan::{MixKind, MixPlan, MixSample};
use forebay::recipe::{Recipe, RecipeError, RecipeSpec};
use forebay::{MixedBy, Pipeline, QueueStats, Rect, Request, Requester, Sampler, Timings, explain};
use forebay_proto::v1::{self, DescribeResponse, mix_parameters::Kind};

use crate::recipes;
use crate::source::{
    DatasetFacts, Done, Job, Load, Microbatch, MicrobatchName, PixelFormat, Source,
};
use crate::status::Refusal;

/// The [`Source`] of a server with a real pipeline.
#[derive(Debug)]
pub struct Catalog {
    datasets: BTreeMap<String, Arc<Dataset>>,
    recipes: BTreeMap<String, RecipeSpec>,
    pipeline: Arc<Pipeline>,
}

impl Catalog {
    /// Datasets and the user's own recipes, by name. A recipe must not have the name of a preset.
    pub const fn new(
        datasets: BTreeMap<String, Arc<Dataset>>,
        recipes: BTreeMap<String, RecipeSpec>,
        pipeline: Arc<Pipeline>,
    ) -> Self {
        Self { datasets, recipes, pipeline }
    }

    fn recipe(&self, requested: &v1::Recipe) -> Result<Recipe, RecipeError> {
        let spec = if requested.toml.is_empty() {
            recipes::by_name(&self.recipes, &requested.name)
        } else {
            RecipeSpec::text("the recipe of the request", requested.toml.as_str())
        };
        recipes::resolve(&self.recipes, &spec.with(requested.set.iter().cloned()))
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
            microbatches_pending: outstanding,
            microbatches_waiting_for_buffer: buffers.waiting(),
            drain_estimate: self.pipeline.drain_estimate(),
            buffer_bytes: buffers.bytes_in_use() as u64,
            cache_bytes: cache_bytes as u64,
            buffer_limit_bytes: buffers.limit() as u64,
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
        let requested = job.recipe.clone().unwrap_or_default();
        if requested.name.is_empty() == requested.toml.is_empty() {
            return Err(Refusal::invalid("job.recipe", "expected either a name or a TOML text"));
        }
        let recipe = self.recipe(&requested).map_err(forebay::Error::from)?;
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
    fn request(&self, name: MicrobatchName, format: PixelFormat) -> Request {
        Request {
            dataset: Arc::clone(&self.dataset),
            recipe: Arc::clone(&self.recipe),
            name,
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
        name: MicrobatchName,
        format: PixelFormat,
        requester: Requester,
        done: Done,
    ) -> Result<(), Refusal> {
        let request = self.request(name, format);
        self.pipeline.submit(request, requester, move |computed| {
            done(computed.map(microbatch).map_err(Refusal::from));
        })?;
        Ok(())
    }

    fn explain(&self, name: MicrobatchName) -> Result<String, Refusal> {
        let request = self.request(name, PixelFormat::default());
        let explanation = explain(&request)?;
        Ok(serde_json::to_string(&explanation).expect("plain values"))
    }
}

/// A microbatch for the wire. Its buffer returns to the pool once the payload has been sent.
fn microbatch(computed: forebay::Microbatch) -> Microbatch {
    Microbatch {
        mix: (computed.format.mixed_by == MixedBy::Trainer).then(|| mix_plan(&computed.plan)),
        timings: timings(&computed.timings),
        payload: Bytes::from_owner(computed.payload),
        shape: computed.shape,
        records: computed.records,
        label_a: computed.label_a,
        label_b: computed.label_b,
        lambda: computed.lambda,
        xxh3: computed.xxh3,
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
