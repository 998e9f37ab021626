//! What is fetched from a bucket ahead of requests.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay::Request;
use forebay::dataset::{
    self, Bucket, Dataset, IndexOptions, Object, OnFetched, RemotePlace, Storage, StoreError,
    Traffic,
};
use forebay::recipe::RecipeSpec;
use forebay_proto::v1::StreamRequest;
use forebay_server::PixelFormat;
use forebay_types::Layout;

use crate::pressure::complete_and_read;
use crate::support::{MICROBATCH_BYTES, Make, finish, patient, start, steps, until};

/// A folder as a bucket.
#[derive(Debug)]
struct Files(PathBuf);

impl Files {
    fn object(&self, key: &str) -> Option<Object> {
        let size = fs::metadata(self.0.join(key)).ok().filter(fs::Metadata::is_file)?.len();
        Some(Object { key: key.to_owned(), size, tag: "1".to_owned() })
    }
}

impl Bucket for Files {
    fn url(&self) -> &'static str {
        "s3://files"
    }

    fn has_lists(&self) -> bool {
        true
    }

    fn list(&self, folder: &str) -> Result<Vec<Object>, StoreError> {
        let entries = fs::read_dir(self.0.join(folder)).into_iter().flatten().flatten();
        let key = |entry: fs::DirEntry| format!("{folder}/{}", entry.file_name().display());
        Ok(entries.filter_map(|entry| self.object(&key(entry))).collect())
    }

    fn find(&self, keys: &[String]) -> Result<Vec<Option<Object>>, StoreError> {
        Ok(keys.iter().map(|key| self.object(key)).collect())
    }

    fn fetch(&self, object: &Object, range: Range<u64>, on_fetched: OnFetched) {
        let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).unwrap());
        on_fetched(Ok(fs::read(self.0.join(&object.key)).unwrap()[start..end].to_vec()));
    }

    fn write(&self, _key: &str, _file: &Path) -> Result<(), StoreError> {
        unreachable!("its index is in a folder")
    }

    fn traffic(&self) -> Traffic {
        Traffic::default()
    }
}

/// 24 images of CIFAR-100 in a bucket.
fn in_bucket(folder: &Path) -> Arc<Dataset> {
    let data = folder.join("cifar");
    fs::create_dir(&data).unwrap();
    let batch: Vec<u8> =
        (0..24).flat_map(|image| [&[0, image][..], &[image; 3072]].concat()).collect();
    for (name, bytes) in [
        ("train.bin", batch.clone()),
        ("test.bin", batch),
        (
            "fine_label_names.txt",
            (0..100).map(|label| label.to_string()).collect::<Vec<_>>().join("\n").into(),
        ),
    ] {
        fs::write(data.join(name), bytes).unwrap();
    }
    let storage = Arc::new(Storage::new(None, 64 << 20).unwrap());
    let bucket = Arc::new(Files(folder.to_owned()));
    let place = RemotePlace::find(bucket, "cifar#train", storage).unwrap();
    let options = IndexOptions::default();
    dataset::build_remote(&place, Some(folder), 1, &options, &|_| {}).unwrap();
    Arc::new(Dataset::open_remote(&place, Some(folder)).unwrap())
}

#[tokio::test]
async fn what_was_fetched_ahead_is_dropped_when_it_was_used_and_not_when_the_reader_comes() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = in_bucket(folder.path());
    let storage = Arc::clone(dataset.storage().unwrap());
    let changes = ["batch = 8", "microbatches = 4", "image_size = 32", "repeats = 1"];
    let recipe = RecipeSpec::preset("a2").with_changes(changes.map(String::from));
    let recipe = Arc::new(recipe.resolve().unwrap());
    let server = start(Make::Held, patient()).await;
    let ahead = move |name| {
        let (dataset, recipe) = (Arc::clone(&dataset), Arc::clone(&recipe));
        Request { dataset, recipe, name, format: PixelFormat::default() }.fetch_ahead(2)
    };
    assert!(server.fake.ahead.set(Box::new(ahead)).is_ok());
    let request = StreamRequest { window_bytes: 3 * MICROBATCH_BYTES, ..steps(2) };
    let mut stream = server.client().await.stream(request).await.unwrap().into_inner();
    complete_and_read(&server, &mut stream, 5).await;
    until("the others are submitted", || server.fake.held.lock().unwrap().len() == 3).await;
    until("they are fetched", || storage.totals().held_bytes >= 6 * 3072).await;
    let held = std::mem::take(&mut *server.fake.held.lock().unwrap());
    let names = server.fake.names.lock().unwrap()[5..].to_vec();
    for ((_cancelled, done), name) in held.into_iter().zip(names) {
        finish(name, Layout::Nhwc, &server.fake.live, done);
    }
    until("nothing is kept", || storage.totals().held_bytes == 0).await;
    assert!(server.fake.live() > 0, "the reader has not taken them");
    drop(stream);
}
