//! A small dataset, made once, and pipelines and servers over it.

#![expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "for tests")]

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use forebay::dataset::{self, Dataset};
use forebay::mix::Output;
use forebay::plan::MicrobatchName;
use forebay::recipe::{Recipe, RecipeSpec};
use forebay::sample_data::{self, SampleData};
use forebay::{Pipeline, Request, pipeline};
use forebay_server::catalog::Catalog;
use forebay_server::{Limits, Setup};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Classes and pictures of each: 60 records, of which one is damaged.
const CLASSES: u32 = 4;
const PER_CLASS: u32 = 15;

/// A dataset in a temporary folder.
#[derive(Debug)]
pub struct World {
    folder: TempDir,
    /// Opened.
    pub dataset: Arc<Dataset>,
}

impl World {
    /// Its folder.
    pub fn train(&self) -> PathBuf {
        self.folder.path().join("train")
    }
}

/// Lives until the process ends.
pub static WORLD: LazyLock<World> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let what = SampleData { classes: CLASSES, per_class: PER_CLASS, val_per_class: 0, seed: 7 };
    sample_data::write(folder.path(), &what, |_| {}).unwrap();
    let train = folder.path().join("train");
    damage(&train);
    dataset::build(&train, None, 2, &|_| {}).unwrap();
    let dataset = Arc::new(Dataset::open(&train, None).unwrap());
    assert_eq!((dataset.len(), dataset.bad().len()), (60, 1));
    World { folder, dataset }
});

/// Cuts one picture, as a download that stopped.
fn damage(train: &Path) {
    let class = std::fs::read_dir(train).unwrap().map(|e| e.unwrap().path()).min().unwrap();
    let file = std::fs::read_dir(class).unwrap().map(|e| e.unwrap().path()).min().unwrap();
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
}

/// Small pictures: the arithmetic is the same, and tests stay quick.
pub const SMALL: [&str; 3] = ["batch = 16", "microbatches = 8", "image_size = 48"];

/// A preset for small pictures, with changes.
pub fn recipe(base: &str, set: &[&str]) -> Arc<Recipe> {
    let set = SMALL.iter().chain(set).map(|change| (*change).to_owned());
    let spec = RecipeSpec::preset(base);
    let spec = if base == "eval" { spec.with(["crop.resize = 50".to_owned()]) } else { spec };
    Arc::new(spec.with(set).resolve().unwrap())
}

/// A microbatch of the world.
pub fn request(recipe: &Arc<Recipe>, epoch: u64, step: u64, index: u32) -> Request {
    Request {
        dataset: Arc::clone(&WORLD.dataset),
        recipe: Arc::clone(recipe),
        name: MicrobatchName { seed: 5, epoch, step, index },
        output: Output::U8,
    }
}

/// A pipeline on the tests' device.
pub fn pipeline(threads: usize) -> Pipeline {
    sharing_pipeline(threads, pipeline::Settings::default().share_bytes)
}

/// A pipeline that keeps so many bytes of samples made early. It keeps no microbatch ready: each that is
/// asked for after another is made anew.
pub fn sharing_pipeline(threads: usize, share_bytes: usize) -> Pipeline {
    let threads = NonZeroUsize::new(threads).unwrap();
    let defaults = pipeline::Settings::default();
    let settings = pipeline::Settings { threads, share_bytes, cache_bytes: 0, ..defaults };
    Pipeline::on(&crate::mixer(), settings).unwrap()
}

/// A server in this process, on a free port.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<forebay_server::Report>,
}

impl Server {
    /// Starts one on the tests' device.
    pub async fn start(threads: usize) -> Self {
        Self::with(pipeline(threads)).await
    }

    /// Starts one that makes its microbatches so.
    pub async fn with(pipeline: Pipeline) -> Self {
        Self::of(&WORLD.dataset, Arc::new(pipeline), Limits::default()).await
    }

    /// Starts one of such a dataset.
    pub async fn of(
        dataset: &Arc<Dataset>,
        pipeline: Arc<Pipeline>,
        setup: impl Into<Setup>,
    ) -> Self {
        let datasets = [("train".to_owned(), Arc::clone(dataset))].into();
        let catalog = Arc::new(Catalog::new(datasets, [].into(), pipeline));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (setup, shutdown) = (setup.into(), async { drop(stopped.await) });
        let task = tokio::spawn(forebay_server::run(listener, catalog, setup, shutdown));
        Self { address, stop, task }
    }

    /// What clients are given.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Drains it.
    pub async fn stop(self) -> forebay_server::Report {
        self.stop.send(()).unwrap();
        self.task.await.unwrap()
    }
}
