//! The datasets and recipes of a server, and the pipeline that computes their microbatches.

use std::collections::BTreeMap;
use std::sync::{Arc, Once};

use bytes::Bytes;
use forebay::dataset::{Cache, Dataset, StorageTotals, Traffic};
use forebay::plan::{MixKind, MixPlan, MixSample};
use forebay::recipe::{Recipe, RecipeError, RecipeSpec};
use forebay::{
    FetchAhead, MixedBy, Pipeline, QueueStats, Rect, Request, Sampler, SubmitOptions,
    explain_samples,
};
use forebay_proto::frame::Bounds;
use forebay_proto::v1::{self, DescribeResponse, ImageSizeFrom, mix_parameters::Kind};

use crate::config::PriceSettings;
use crate::recipes;
use crate::source::{
    DatasetFacts, Done, EXPLAIN_BYTES, Load, MicrobatchName, OpenJob, PixelFormat, Source,
    StorageLoad, WireMicrobatch,
};
use crate::status::Refusal;

/// Maximum number of samples of one answer to Explain.
const EXPLAIN_SAMPLES: usize = 1024;

/// The [`Source`] of a server with a real pipeline.
#[derive(Debug)]
pub struct Catalog {
    datasets: BTreeMap<String, Arc<Served>>,
    recipes: BTreeMap<String, RecipeSpec>,
    pipeline: Arc<Pipeline>,
    prices: PriceSettings,
}

impl Catalog {
    /// Datasets and the user's own recipes, by name. A recipe must not have the name of a preset.
    pub fn new(
        datasets: BTreeMap<String, Arc<Dataset>>,
        recipes: BTreeMap<String, RecipeSpec>,
        pipeline: Arc<Pipeline>,
    ) -> Self {
        let served = |(name, dataset): (String, _)| {
            let served = Served { name: name.clone(), dataset, warned: Warned::default() };
            (name, Arc::new(served))
        };
        let datasets = datasets.into_iter().map(served).collect();
        Self { datasets, recipes, pipeline, prices: PriceSettings::default() }
    }

    /// The same catalog with prices of requests to buckets.
    #[must_use]
    pub(crate) fn with_prices(self, prices: PriceSettings) -> Self {
        Self { prices, ..self }
    }

    /// What reading from buckets has cost. Datasets share what fetches for them.
    fn storage(&self, images: u64) -> Option<StorageLoad> {
        let datasets = self.datasets.values().map(|served| &served.dataset);
        let storage = datasets.clone().find_map(|dataset| dataset.storage())?;
        let traffic = datasets.filter_map(|dataset| dataset.traffic());
        let Traffic { requests, bytes, retries, hedges, throttled } =
            traffic.reduce(|sum, traffic| sum + traffic).unwrap_or_default();
        let totals = storage.totals();
        let StorageTotals { cache_bytes, remote_bytes, late_reads, damaged, .. } = totals;
        let cache = storage.cache();
        Some(StorageLoad {
            cache_bytes,
            remote_bytes,
            fetched_bytes: bytes,
            requests,
            retries,
            hedges,
            throttled,
            damaged,
            late_reads,
            microbatches_waiting: totals.waiting,
            waited: totals.waited,
            held_bytes: totals.held_bytes,
            held_limit_bytes: storage.limit(),
            disk_cache_bytes: cache.map_or(0, Cache::used),
            disk_cache_limit_bytes: cache.map_or(0, Cache::limit),
            disk_cache_failed: cache.is_some_and(Cache::has_failed),
            disk_cache_given_up_blocks: cache.map_or(0, Cache::given_up_blocks),
            cost_per_million_images: self.cost(requests, bytes, images),
        })
    }

    /// Cost of a million images at the prices, if there are any.
    fn cost(&self, requests: u64, bytes: u64, images: u64) -> Option<f64> {
        let PriceSettings { request_price, transfer_price } = self.prices;
        if request_price.is_none() && transfer_price.is_none() || images == 0 {
            return None;
        }
        let of_requests = request_price.map_or(0.0, |price| price.get() * requests as f64 / 1e6);
        let gibibytes = bytes as f64 / (1_u64 << 30) as f64;
        let of_bytes = transfer_price.map_or(0.0, |price| price.get() * gibibytes);
        Some((of_requests + of_bytes) * 1e6 / images as f64)
    }

    fn recipe(&self, requested: &v1::Recipe) -> Result<Recipe, RecipeError> {
        let spec = if requested.toml.is_empty() {
            recipes::by_name(&self.recipes, &requested.name)
        } else {
            RecipeSpec::from_toml("the recipe of the request", requested.toml.as_str())
        };
        recipes::resolve(&self.recipes, &spec.with_changes(requested.set.iter().cloned()))
    }
}

/// A dataset of the server.
#[derive(Debug)]
struct Served {
    name: String,
    dataset: Arc<Dataset>,
    warned: Warned,
}

/// The warnings that are given once.
#[derive(Debug)]
struct Warned {
    /// That entry points are damaged.
    slowed: Once,
    /// That the disk cache takes nothing any more.
    cache_failed: Once,
    /// That the disk cache had wrong bytes.
    cache_damaged: Once,
    /// That the disk of the cache cannot read some blocks.
    cache_unreadable: Once,
}

impl Default for Warned {
    fn default() -> Self {
        Self {
            slowed: Once::new(),
            cache_failed: Once::new(),
            cache_damaged: Once::new(),
            cache_unreadable: Once::new(),
        }
    }
}

impl Served {
    /// Warns, once each, of what nothing else shows but slower decodes and more requests.
    fn warn_if_slowed(&self) {
        if let Some(storage) = self.dataset.storage() {
            let damaged = storage.totals().damaged;
            if storage.cache().is_some_and(Cache::has_failed) {
                self.warned.cache_failed.call_once(|| {
                    tracing::warn!(
                        dataset = self.name,
                        "the disk cache cannot be written, or its disk is full: nothing is added to it until the \
                         server is restarted; free some space, or lower --disk-cache-bytes"
                    );
                });
            }
            let blocks = storage.cache().map_or(0, Cache::given_up_blocks);
            if blocks > 0 {
                self.warned.cache_unreadable.call_once(|| {
                    tracing::warn!(
                        dataset = self.name,
                        blocks,
                        "the disk of the cache cannot read what was written to it: these blocks are fetched each time; \
                         check the disk, or name a folder on another one"
                    );
                });
            }
            if damaged > 0 {
                self.warned.cache_damaged.call_once(|| {
                    tracing::warn!(
                        dataset = self.name,
                        damaged,
                        "the disk cache had wrong bytes, which were fetched again; check the disk"
                    );
                });
            }
        }
        if self.dataset.damaged_entry_points() > 0 {
            self.warned.slowed.call_once(|| {
                tracing::warn!(
                    dataset = self.name,
                    "entry points in the index are damaged: those images are decoded from their start, \
                     which takes longer; run \"forebay index\" again"
                );
            });
        }
    }
}

impl Source for Catalog {
    fn datasets(&self) -> Vec<String> {
        self.datasets.keys().cloned().collect()
    }

    fn about(&self) -> Vec<DatasetFacts> {
        let facts = |Served { name, dataset, .. }: &Served| DatasetFacts {
            name: name.clone(),
            records: dataset.len(),
            bad: dataset.bad_count(),
            classes: dataset.classes().len(),
            digest: dataset.digest().to_string(),
            damaged_entry_points: dataset.damaged_entry_points(),
        };
        self.datasets.values().map(|served| facts(served)).collect()
    }

    fn load(&self) -> Load {
        let (totals, buffers) = (self.pipeline.totals(), self.pipeline.buffers());
        let QueueStats { pending, joined, cached, cache_bytes, .. } = self.pipeline.queue_stats();
        Load {
            threads: self.pipeline.config().threads.get(),
            samples: totals.samples,
            decoded: totals.decoded,
            microbatches: totals.microbatches,
            joined,
            cached,
            microbatches_pending: pending,
            microbatches_waiting_for_buffer: buffers.waiting(),
            drain_estimate: self.pipeline.drain_estimate(),
            stuck_reads: self.datasets.values().map(|served| served.dataset.stuck_reads()).sum(),
            buffer_bytes: buffers.bytes_in_use() as u64,
            cache_bytes: cache_bytes as u64,
            buffer_limit_bytes: buffers.limit() as u64,
            storage: self.storage(totals.samples),
        }
    }

    fn open(&self, job: &v1::Job) -> Result<Arc<dyn OpenJob>, Refusal> {
        let only = self.datasets.values().next().filter(|_| self.datasets.len() == 1);
        let named = self.datasets.get(&job.dataset);
        let Some(served) = named.or(only.filter(|_| job.dataset.is_empty())) else {
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
            forebay::sampler(&served.dataset, &recipe, job.seed).map_err(forebay::Error::from)?;
        Ok(Arc::new(CatalogJob {
            facts: facts(&served.dataset, &recipe, &sampler),
            served: Arc::clone(served),
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
        bad_records: dataset.bad_count(),
        class_count: dataset.classes().len() as u64,
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
        weighted: !sampler.is_even(),
        image_sizes: recipe
            .image_sizes()
            .into_iter()
            .map(|(from_epoch, image_size)| ImageSizeFrom { from_epoch, image_size })
            .collect(),
        ..DescribeResponse::default()
    }
}

/// A dataset with a recipe.
struct CatalogJob {
    facts: DescribeResponse,
    served: Arc<Served>,
    recipe: Arc<Recipe>,
    sampler: Sampler,
    pipeline: Arc<Pipeline>,
}

impl CatalogJob {
    fn request(&self, name: MicrobatchName, format: PixelFormat) -> Request {
        Request {
            dataset: Arc::clone(&self.served.dataset),
            recipe: Arc::clone(&self.recipe),
            name,
            format,
        }
    }
}

impl OpenJob for CatalogJob {
    fn facts(&self) -> &DescribeResponse {
        &self.facts
    }

    fn classes(&self) -> &[String] {
        self.served.dataset.classes()
    }

    fn microbatches(&self, step: u64) -> u32 {
        self.sampler.microbatches(step)
    }

    fn check(&self, format: PixelFormat) -> Result<(), Refusal> {
        let (facts, recipe) = (&self.facts, &*self.recipe);
        // The first microbatch of an epoch is a largest one.
        let samples = if facts.steps_per_epoch == 0 { 0 } else { self.sampler.samples(0, 0) };
        let mixed_size =
            (format.mixed_by == MixedBy::Trainer).then_some(recipe.largest_image_size());
        let classes = facts.class_count;
        Bounds { samples, records: facts.records, classes, mixed_size }.check()?;
        Ok(self.pipeline.check(&self.served.dataset, recipe, format, samples)?)
    }

    fn submit(
        &self,
        name: MicrobatchName,
        format: PixelFormat,
        options: SubmitOptions,
        done: Done,
    ) -> Result<(), Refusal> {
        let request = self.request(name, format);
        let served = Arc::clone(&self.served);
        self.pipeline.submit(request, options, move |computed| {
            served.warn_if_slowed();
            done(computed.map(microbatch).map_err(Refusal::from));
        })?;
        Ok(())
    }

    fn fetch_ahead_limit(&self) -> u64 {
        // Half of the memory is left for what is requested.
        self.served.dataset.storage().map_or(0, |storage| storage.limit() / 2)
    }

    fn fetch_ahead(&self, name: MicrobatchName) -> Option<FetchAhead> {
        let samples = self.sampler.samples(name.step, name.index);
        self.request(name, PixelFormat::default()).fetch_ahead(samples)
    }

    fn explain(&self, name: MicrobatchName, first: u32) -> Result<(String, u32), Refusal> {
        let request = self.request(name, PixelFormat::default());
        let samples = self.sampler.samples(name.step, name.index);
        explain_page(&request, first as usize, samples, [EXPLAIN_SAMPLES, EXPLAIN_BYTES])
    }
}

/// A plan from its sample `first` on, of at most `max_samples`, whose JSON has at most `max_bytes` unless
/// it is the first one. Returns the sample after the last one too, or 0 if there is none.
fn explain_page(
    request: &Request,
    first: usize,
    samples: u64,
    [max_samples, max_bytes]: [usize; 2],
) -> Result<(String, u32), Refusal> {
    let mut page = explain_samples(request, first..first + max_samples)?;
    let mut bytes = 0;
    let fitting = page.samples.iter().take_while(|sample| {
        bytes += serde_json::to_vec(sample).expect("plain values").len();
        bytes <= max_bytes
    });
    let fitting = fitting.count().max(1);
    page.samples.truncate(fitting);
    let next = (first + fitting) as u64;
    let next = if next < samples { u32::try_from(next).unwrap_or_default() } else { 0 };
    Ok((serde_json::to_string(&page).expect("plain values"), next))
}

/// A microbatch for the wire. Its buffer returns to the pool once the payload has been sent.
fn microbatch(computed: forebay::MadeMicrobatch) -> WireMicrobatch {
    WireMicrobatch {
        mix: (computed.format.mixed_by == MixedBy::Trainer).then(|| mix_plan(&computed.plan)),
        timings: computed.timings,
        shared: computed.payload.shared().is_some().then(|| computed.payload.clone()),
        payload: Bytes::from_owner(computed.payload),
        shape: computed.shape,
        records: computed.records,
        label_a: computed.label_a,
        label_b: computed.label_b,
        lambda: computed.lambda,
        xxh3: computed.xxh3,
    }
}

fn mix_plan(plan: &MixPlan) -> v1::TrainerMix {
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
    v1::TrainerMix { samples: plan.samples.iter().map(parameters).collect() }
}

#[cfg(test)]
mod tests {
    use forebay::dataset;
    use forebay::sample_data::{self, SampleData};

    use super::*;

    /// A dataset of 8 records in 2 classes.
    fn dataset() -> Arc<Dataset> {
        let folder = tempfile::tempdir().unwrap();
        let spec = SampleData { classes: 2, per_class: 4, val_per_class: 0, seed: 7 };
        sample_data::write(folder.path(), &spec, |_| {}).unwrap();
        let train = folder.path().join("train");
        dataset::build(&train, None, 1, &|_| {}).unwrap();
        Arc::new(Dataset::open(&train, None).unwrap())
    }

    #[test]
    fn what_can_never_be_sent_is_refused_before_any_work() {
        let config = forebay::PipelineConfig { buffer_bytes: 60_000, ..Default::default() };
        let pipeline = Arc::new(Pipeline::new(config).unwrap());
        let datasets = BTreeMap::from([("train".to_owned(), dataset())]);
        let catalog = Catalog::new(datasets, BTreeMap::new(), Arc::clone(&pipeline));
        let job = |set: &[&str]| {
            let set = set.iter().map(|change| (*change).to_owned()).collect();
            let recipe = v1::Recipe { name: "eval".into(), set, ..v1::Recipe::default() };
            catalog.open(&v1::Job { recipe: Some(recipe), ..v1::Job::default() }).unwrap()
        };
        // 8 samples of 48 x 48 pixels are 55,296 bytes, and twice as many in f16.
        let set = ["batch = 8", "microbatches = 1", "crop.resize = 48", "image_size = 48"];
        let (u8, f16) = (PixelFormat::default(), forebay_types::DType::F16);
        job(&set).check(u8).unwrap();
        let refused = job(&set).check(PixelFormat { dtype: f16, ..u8 }).unwrap_err();
        let budget = forebay::Error::BufferBudget { need: 2 * 55_296, limit: 60_000 };
        assert_eq!(refused.to_string(), budget.to_string());
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        // A microbatch has at most as many samples as the dataset.
        job(&["batch = 1048576", "microbatches = 1", "crop.resize = 48", "image_size = 48"])
            .check(u8)
            .unwrap();
        assert_eq!(pipeline.totals().samples, 0);
    }

    #[test]
    fn pages_of_a_plan_are_the_whole_plan() {
        let changes = ["batch = 8", "microbatches = 1", "crop.resize = 32", "image_size = 32"];
        let recipe =
            RecipeSpec::preset("eval").with_changes(changes.map(str::to_owned)).resolve().unwrap();
        let request = Request {
            dataset: dataset(),
            recipe: Arc::new(recipe),
            name: MicrobatchName { seed: 0, epoch: 0, step: 0, index: 0 },
            format: PixelFormat::default(),
        };
        let whole = serde_json::to_value(forebay::explain(&request).unwrap()).unwrap();
        for limits in [[100, 1 << 20], [3, 1 << 20], [100, 600], [100, 0]] {
            let (mut first, mut samples, mut pages) = (0, Vec::new(), 0);
            loop {
                let (json, next) = explain_page(&request, first, 8, limits).unwrap();
                let page: serde_json::Value = serde_json::from_str(&json).unwrap();
                assert_eq!(page["mix"], whole["mix"]);
                samples.extend(page["samples"].as_array().unwrap().iter().cloned());
                pages += 1;
                if next == 0 {
                    break;
                }
                first = next as usize;
            }
            assert_eq!(whole["samples"], serde_json::Value::Array(samples), "{limits:?}");
            assert_eq!(pages > 1, limits != [100, 1 << 20], "{limits:?}");
        }
        let past = explain_page(&request, 8, 8, [100, 100]).unwrap_err();
        assert_eq!(past.to_string(), "sample 8 is out of range: expected 0 to 7");
    }
}
