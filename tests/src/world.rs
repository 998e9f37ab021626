//! A small dataset that all tests of a process share, and pipelines and servers on top of it.

#![expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "for tests")]

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use forebay::dataset::{self, Dataset};
use forebay::recipe::{Recipe, RecipeSpec};
use forebay::sample_data::{self, SampleData};
use forebay::{MicrobatchName, Pipeline, PipelineConfig, PixelFormat, Request};
use forebay_server::{Catalog, Limits, ListenAddress, Listeners, Setup};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Number of classes. With [`PER_CLASS`] images each, the dataset has 60 records, one of them damaged.
const CLASSES: u32 = 4;
const PER_CLASS: u32 = 15;

/// A dataset in a temporary folder.
#[derive(Debug)]
pub struct World {
    folder: TempDir,
    /// The opened dataset.
    pub dataset: Arc<Dataset>,
}

impl World {
    /// The folder of the dataset.
    pub fn train(&self) -> PathBuf {
        self.folder.path().join("train")
    }
}

/// The shared dataset.
pub static WORLD: LazyLock<World> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let spec = SampleData { classes: CLASSES, per_class: PER_CLASS, val_per_class: 0, seed: 7 };
    sample_data::write(folder.path(), &spec, |_| {}).unwrap();
    let train = folder.path().join("train");
    damage(&train);
    dataset::build(&train, None, 2, &|_| {}).unwrap();
    let dataset = Arc::new(Dataset::open(&train, None).unwrap());
    assert_eq!((dataset.len(), dataset.bad_count()), (60, 1));
    World { folder, dataset }
});

/// Truncates one image, as an interrupted download does.
fn damage(train: &Path) {
    let class = std::fs::read_dir(train).unwrap().map(|e| e.unwrap().path()).min().unwrap();
    let file = std::fs::read_dir(class).unwrap().map(|e| e.unwrap().path()).min().unwrap();
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
}

/// Changes to a recipe that make images and batches small and tests fast.
pub const SMALL: [&str; 3] = ["batch = 16", "microbatches = 8", "image_size = 48"];

/// A preset with [`SMALL`] and further changes.
pub fn recipe(base: &str, set: &[&str]) -> Arc<Recipe> {
    let set = SMALL.iter().chain(set).map(|change| (*change).to_owned());
    let spec = RecipeSpec::preset(base);
    let spec =
        if base == "eval" { spec.with_changes(["crop.resize = 50".to_owned()]) } else { spec };
    Arc::new(spec.with_changes(set).resolve().unwrap())
}

/// A request for a microbatch of [`WORLD`].
pub fn request(recipe: &Arc<Recipe>, epoch: u64, step: u64, index: u32) -> Request {
    Request {
        dataset: Arc::clone(&WORLD.dataset),
        recipe: Arc::clone(recipe),
        name: MicrobatchName { seed: 5, epoch, step, index },
        format: PixelFormat::default(),
    }
}

/// A pipeline on the tests' device.
pub fn pipeline(threads: usize) -> Pipeline {
    sharing_pipeline(threads, PipelineConfig::default().share_bytes)
}

/// A pipeline that keeps at most `share_bytes` of precomputed samples. It caches no microbatches, so
/// every request is computed.
pub fn sharing_pipeline(threads: usize, share_bytes: usize) -> Pipeline {
    let threads = NonZeroUsize::new(threads).unwrap();
    let defaults = PipelineConfig::default();
    let config = PipelineConfig { threads, share_bytes, cache_bytes: 0, ..defaults };
    Pipeline::with_mixer(&crate::mixer(), config).unwrap()
}

/// A server in this process.
#[derive(Debug)]
pub struct Server {
    /// Address that it listens on, with a free port.
    pub address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<forebay_server::Report>,
}

impl Server {
    /// Starts a server that mixes on the tests' device.
    pub async fn start(threads: usize) -> Self {
        Self::with(pipeline(threads)).await
    }

    /// Starts a server with this pipeline.
    pub async fn with(pipeline: Pipeline) -> Self {
        Self::of(&WORLD.dataset, Arc::new(pipeline), Limits::default()).await
    }

    /// Starts a server of one dataset, with the name `train`.
    pub async fn of(
        dataset: &Arc<Dataset>,
        pipeline: Arc<Pipeline>,
        setup: impl Into<Setup>,
    ) -> Self {
        let tcp = ListenAddress::Tcp(([127, 0, 0, 1], 0).into());
        Self::listening(&[tcp], dataset, pipeline, setup).await
    }

    /// Starts a server that listens on several addresses, the first of them a TCP port.
    pub async fn listening(
        addresses: &[ListenAddress],
        dataset: &Arc<Dataset>,
        pipeline: Arc<Pipeline>,
        setup: impl Into<Setup>,
    ) -> Self {
        let datasets = [("train".to_owned(), Arc::clone(dataset))].into();
        let shares_memory = pipeline.shares_memory();
        let catalog = Arc::new(Catalog::new(datasets, [].into(), pipeline));
        let listeners = Listeners::bind(addresses, 0o600, shares_memory).await.unwrap();
        let first = listeners.addresses().unwrap().remove(0);
        let ListenAddress::Tcp(address) = first else { panic!("not a TCP port: {first}") };
        let (stop, stopped) = oneshot::channel::<()>();
        let (setup, shutdown) = (setup.into(), async { drop(stopped.await) });
        let task = tokio::spawn(forebay_server::run(listeners, catalog, setup, shutdown));
        Self { address, stop, task }
    }

    /// The endpoint for clients.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Drains and stops the server.
    pub async fn stop(self) -> forebay_server::Report {
        self.stop.send(()).unwrap();
        self.task.await.unwrap()
    }
}
