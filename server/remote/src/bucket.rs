//! A bucket behind forebay's interface: requests run on threads of their own, and callers wait or are called.

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use forebay::dataset::{Bucket, Object, OnFetched, StoreError, Traffic};
use forebay_types::file;
use futures_util::{StreamExt as _, stream};
use object_store::list::PaginatedListOptions;
use object_store::multipart::PartId;
use object_store::path::Path;
use object_store::{MultipartId, ObjectMeta, ObjectStoreExt as _, PutPayload};
use tokio::runtime::{Builder, Runtime};

use crate::address::{Address, Service};
use crate::client::{Cloud, Store};
use crate::fault::{Fault, Kind};
use crate::fetch::{Fetcher, tag};

/// Threads for all buckets.
const THREADS: usize = 2;

/// Objects that are looked up at the same time.
const LOOKUPS: usize = 32;

/// Most objects of a folder. So many are no shards.
const MOST_LISTED: usize = 1 << 20;

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
    cloud: Option<Arc<dyn Cloud>>,
}

impl ObjectBucket {
    pub(crate) fn new(network: Arc<Network>, address: Address, store: Store) -> Self {
        let Store { objects, cloud } = store;
        let fetcher = Arc::new(Fetcher::new(objects, address.service));
        Self { network, address, fetcher, cloud }
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
        let result = self.network.wait(request(Arc::clone(&self.fetcher)));
        let result = result.unwrap_or_else(|| Err(stopped()));
        result.map_err(|fault| fault.into_error(action, self.url_of(key)))
    }
}

fn stopped() -> Fault {
    Fault::new(Kind::Final, "the process is shutting down")
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
        let (cloud, folder_path) = (self.cloud.clone(), path(folder));
        self.run("list", folder, |fetcher| async move {
            let no_lists = || Fault::new(Kind::Final, "a web server has no list of files");
            let (cloud, folder) = (cloud.ok_or_else(no_lists)?, folder_path?);
            let prefix = (!folder.as_ref().is_empty()).then(|| format!("{folder}/"));
            let (mut objects, mut token) = (Vec::new(), None);
            loop {
                let options = || PaginatedListOptions {
                    delimiter: Some("/".into()),
                    page_token: token.clone(),
                    ..PaginatedListOptions::default()
                };
                let list = || cloud.list_paginated(prefix.as_deref(), options());
                let page = fetcher.call(list).await?;
                objects.extend(page.result.objects.iter().map(object));
                if objects.len() > MOST_LISTED {
                    let what =
                        format!("it has more than {MOST_LISTED} objects; name a folder of shards");
                    return Err(Fault::new(Kind::Final, what));
                }
                match page.page_token {
                    None => break,
                    next if next == token => {
                        return Err(Fault::new(Kind::Final, "the list has the same page twice"));
                    }
                    next => token = next,
                }
            }
            objects.sort_unstable();
            Ok(objects)
        })
    }

    fn find(&self, keys: &[String]) -> Result<Vec<Option<Object>>, StoreError> {
        let (own, fetcher) = (keys.to_vec(), Arc::clone(&self.fetcher));
        let found = self.network.wait(async move {
            let find = |key: String| {
                let fetcher = Arc::clone(&fetcher);
                async move {
                    let found = async {
                        let path = path(&key)?;
                        fetcher.call(|| fetcher.store().head(&path)).await
                    };
                    match found.await {
                        Ok(meta) => Ok(Some(object(&meta))),
                        Err(fault) if fault.kind == Kind::Missing => Ok(None),
                        Err(fault) => Err((fault, key)),
                    }
                }
            };
            let answers = stream::iter(own).map(find).buffered(LOOKUPS);
            let answers: Vec<Result<Option<Object>, (Fault, String)>> = answers.collect().await;
            answers.into_iter().collect()
        });
        let key = || keys.first().cloned().unwrap_or_default();
        let found = found.unwrap_or_else(|| Err((stopped(), key())));
        found.map_err(|(fault, key)| fault.into_error("find", self.url_of(&key)))
    }

    fn fetch(&self, object: &Object, range: Range<u64>, on_fetched: OnFetched) {
        let (fetcher, object) = (Arc::clone(&self.fetcher), object.clone());
        let (url, turn) = (self.url_of(&object.key), self.fetcher.line_up());
        self.network.spawn(async move {
            let result = fetcher.fetch(turn, &object, &range).await;
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
        let (key, length, cloud) = (key.to_owned(), metadata.len(), self.cloud.clone());
        self.run("write", &key.clone(), |fetcher| async move {
            let path = path(&key)?;
            let written = match cloud.filter(|_| length > WHOLE) {
                Some(cloud) => put_parts(&fetcher, &*cloud, &path, file).await,
                None => put(&fetcher, &path, file, length).await,
            };
            written.map_err(|fault| match fault.kind {
                Kind::Final | Kind::Missing | Kind::Denied => {
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
    fetcher.send(bytes.len(), put).await.map(drop)
}

/// Writes a large file in parts, which become an object at the end, or not at all.
async fn put_parts(
    fetcher: &Fetcher,
    cloud: &dyn Cloud,
    path: &Path,
    file: File,
) -> Result<(), Fault> {
    let id = fetcher.call(|| cloud.create_multipart(path)).await?;
    let (fault, is_last) = match send_parts(fetcher, cloud, (path, &id), &file).await {
        Err(fault) => (fault, false),
        Ok(parts) => {
            // The parts are put together before it is answered, which takes longer for more of them.
            let all = parts.len() * PART;
            let complete = || cloud.complete_multipart(path, &id, parts.clone());
            match fetcher.send(all, complete).await {
                Ok(_written) => return Ok(()),
                Err(fault) => (fault, true),
            }
        }
    };
    // The answer to the last request may have been lost after it was done; sent again, it is refused.
    let is_written = is_last && has_content(fetcher, path, &file).await.unwrap_or(false);
    // Parts that no object has are paid for until they are removed. If they cannot be, the first error says why.
    drop(fetcher.call(|| cloud.abort_multipart(path, &id)).await);
    if is_written { Ok(()) } else { Err(fault) }
}

async fn send_parts(
    fetcher: &Fetcher,
    cloud: &dyn Cloud,
    (path, id): (&Path, &MultipartId),
    mut file: &File,
) -> Result<Vec<PartId>, Fault> {
    let mut parts = Vec::new();
    loop {
        let mut part = Vec::with_capacity(PART);
        let read = file.by_ref().take(PART as u64).read_to_end(&mut part);
        if read.map_err(|error| unreadable(&error))? == 0 {
            return Ok(parts);
        }
        let (part, number) = (Bytes::from(part), parts.len());
        let put = || cloud.put_part(path, id, number, PutPayload::from_bytes(part.clone()));
        parts.push(fetcher.send(part.len(), put).await?);
    }
}

/// Whether an object has the content of a file. It is read back: an older object may have the same size.
async fn has_content(fetcher: &Fetcher, path: &Path, file: &File) -> Result<bool, Fault> {
    let object = object(&fetcher.call(|| fetcher.store().head(path)).await?);
    let length = file.metadata().map_err(|error| unreadable(&error))?.len();
    if object.size != length {
        return Ok(false);
    }
    for start in (0..length).step_by(PART) {
        let range = start..length.min(start + PART as u64);
        let theirs = fetcher.fetch(fetcher.line_up(), &object, &range).await?;
        let mut ours = vec![0; theirs.len()];
        file.read_exact_at(&mut ours, start).map_err(|error| unreadable(&error))?;
        if ours != theirs {
            return Ok(false);
        }
    }
    Ok(true)
}
