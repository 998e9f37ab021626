//! A bucket behind forebay's interface: requests run on threads of their own, and callers wait or are called.

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use forebay::dataset::{Bucket, Object, OnFetched, StoreError, Traffic};
use forebay_types::file;
use futures_util::{StreamExt as _, stream};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _, PutPayload, WriteMultipart};
use tokio::runtime::{Builder, Runtime};

use crate::address::{Address, Service};
use crate::fault::{Fault, Kind};
use crate::fetch::{Fetcher, tag};

/// Threads for all buckets.
const THREADS: usize = 2;

/// Objects that are looked up at the same time.
const LOOKUPS: usize = 32;

/// Largest file that is written by one request, and bytes of a part of a larger one.
const WHOLE: u64 = 16 << 20;
const PART: usize = 16 << 20;

/// The threads on which requests run.
#[derive(Debug)]
pub struct Network(Option<Runtime>);

impl Network {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the operating system refuses them.
    pub fn new() -> io::Result<Arc<Self>> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("network")
            .enable_all()
            .build()?;
        Ok(Arc::new(Self(Some(runtime))))
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.0 {
            runtime.spawn(task);
        }
    }

    /// Runs a task and waits for it. `None` if the process shuts down.
    fn wait<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let (sender, receiver) = sync_channel(1);
        self.spawn(async move { drop(sender.send(task.await)) });
        receiver.recv().ok()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Nothing waits for requests that are still on their way.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A bucket of `object_store`.
#[derive(Debug)]
pub(crate) struct ObjectBucket {
    network: Arc<Network>,
    address: Address,
    fetcher: Arc<Fetcher>,
}

impl ObjectBucket {
    pub(crate) fn new(
        network: Arc<Network>,
        address: Address,
        store: Arc<dyn ObjectStore>,
    ) -> Self {
        let fetcher = Arc::new(Fetcher::new(store, address.service));
        Self { network, address, fetcher }
    }

    fn url_of(&self, key: &str) -> String {
        format!("{}/{key}", self.address.base)
    }

    /// Runs a request and waits for it.
    fn run<T: Send + 'static, F>(
        &self,
        action: &'static str,
        key: &str,
        request: impl FnOnce(Arc<Fetcher>) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        let stopped = || Err(Fault::new(Kind::Final, "the process is shutting down"));
        let result = self.network.wait(request(Arc::clone(&self.fetcher))).unwrap_or_else(stopped);
        result.map_err(|fault| fault.into_error(action, self.url_of(key)))
    }
}

fn object(meta: &ObjectMeta) -> Object {
    Object {
        key: meta.location.as_ref().to_owned(),
        size: meta.size,
        tag: tag(meta.e_tag.as_deref()),
    }
}

fn path(key: &str) -> Result<Path, Fault> {
    Path::parse(key)
        .map_err(|error| Fault::new(Kind::Final, format!("the path is malformed: {error}")))
}

impl Bucket for ObjectBucket {
    fn url(&self) -> &str {
        &self.address.base
    }

    fn has_lists(&self) -> bool {
        self.address.service != Service::Web
    }

    fn list(&self, folder: &str) -> Result<Vec<Object>, StoreError> {
        let prefix = folder.to_owned();
        self.run("list", folder, |fetcher| async move {
            let prefix = path(&prefix)?;
            let list = || fetcher.store().list_with_delimiter(Some(&prefix));
            let found = fetcher.call(list).await?;
            let mut objects: Vec<Object> = found.objects.iter().map(object).collect();
            objects.sort_unstable();
            Ok(objects)
        })
    }

    fn find(&self, keys: &[String]) -> Result<Vec<Option<Object>>, StoreError> {
        let own = keys.to_vec();
        let what = keys.first().map_or("", String::as_str);
        self.run("find", what, |fetcher| async move {
            let find = |key: String| {
                let fetcher = Arc::clone(&fetcher);
                async move {
                    let path = path(&key)?;
                    match fetcher.call(|| fetcher.store().head(&path)).await {
                        Ok(meta) => Ok(Some(object(&meta))),
                        Err(fault) if fault.kind == Kind::Missing => Ok(None),
                        Err(fault) => Err(fault),
                    }
                }
            };
            let answers = stream::iter(own).map(find).buffered(LOOKUPS);
            let answers: Vec<Result<Option<Object>, Fault>> = answers.collect().await;
            answers.into_iter().collect()
        })
    }

    fn fetch(&self, object: &Object, range: Range<u64>, on_fetched: OnFetched) {
        let (fetcher, object) = (Arc::clone(&self.fetcher), object.clone());
        let url = self.url_of(&object.key);
        self.network.spawn(async move {
            let result = fetcher.fetch(&object, &range).await;
            on_fetched(result.map_err(|fault| fault.into_error("read", url)));
        });
    }

    fn write(&self, key: &str, file: &FilePath) -> Result<(), StoreError> {
        let unreadable = |error: io::Error| StoreError::Remote {
            action: "write",
            url: self.url_of(key),
            what: format!("{}: {error}", file.display()),
        };
        let (file, metadata) = file::open(file).map_err(io::Error::from).map_err(unreadable)?;
        let (key, length) = (key.to_owned(), metadata.len());
        self.run("write", &key.clone(), |fetcher| async move {
            let path = path(&key)?;
            let written = if length <= WHOLE {
                put(&fetcher, &path, file, length).await
            } else {
                put_parts(&fetcher, &path, file).await
            };
            written.map_err(|fault| match fault.kind {
                Kind::Final | Kind::Missing => {
                    fault.advise("or use --index-dir to keep the index elsewhere")
                }
                _ => fault,
            })
        })
    }

    fn traffic(&self) -> Traffic {
        self.fetcher.traffic()
    }
}

fn unreadable(error: &io::Error) -> Fault {
    Fault::new(Kind::Final, format!("the file cannot be read: {error}"))
}

async fn put(fetcher: &Fetcher, path: &Path, mut file: File, length: u64) -> Result<(), Fault> {
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    file.read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    let bytes = Bytes::from(bytes);
    let put = || fetcher.store().put(path, PutPayload::from_bytes(bytes.clone()));
    fetcher.call(put).await.map(drop)
}

/// Writes a large file in parts, which become an object at the end, or not at all.
async fn put_parts(fetcher: &Fetcher, path: &Path, mut file: File) -> Result<(), Fault> {
    let upload = fetcher.call(|| fetcher.store().put_multipart(path)).await?;
    let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
    let mut part = vec![0; PART];
    loop {
        let read = file.read(&mut part).map_err(|error| unreadable(&error))?;
        if read == 0 {
            break;
        }
        let room = upload.wait_for_capacity(4).await;
        room.map_err(|error| Fault::new(Kind::Final, format!("a part was not written: {error}")))?;
        upload.write(&part[..read]);
    }
    let finished = upload.finish().await;
    finished.map_err(|error| Fault::new(Kind::Final, format!("it was not written: {error}")))?;
    Ok(())
}
