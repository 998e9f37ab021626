//! Whole datasets: indexed, opened and read through the network, compared with the same files on disk.

use std::fs;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use forebay::dataset::{
    self, Bucket, Cache, Dataset, DatasetError, IndexOptions, Object, OnFetched, RemotePlace,
    Storage, StoreError, Summary, Traffic, with_split,
};
use forebay::recipe::RecipeSpec;
use forebay::sample_data::{self, SampleData};
use forebay::{MicrobatchName, Pipeline, PipelineConfig, PixelFormat, Request};
use forebay_remote::Network;

use super::server::{Fault, Server};

/// A tar of members.
pub(crate) fn tar(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, data) in members {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
        header[156] = b'0';
        header[257..263].copy_from_slice(b"ustar\0");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes.extend(header);
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// Three tars of 64 records, in a folder and in a bucket.
pub(crate) struct Data {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) server: Server,
    network: Arc<Network>,
}

impl Data {
    pub(crate) fn new() -> Self {
        let images = tempfile::tempdir().unwrap();
        let spec = SampleData { classes: 4, per_class: 16, val_per_class: 0, seed: 3 };
        sample_data::write(images.path(), &spec, |_| {}).unwrap();
        let mut shards = vec![Vec::new(); 3];
        let train = images.path().join("train");
        let mut classes: Vec<_> = fs::read_dir(train).unwrap().map(Result::unwrap).collect();
        classes.sort_by_key(fs::DirEntry::file_name);
        for (label, class) in classes.iter().enumerate() {
            let mut files: Vec<_> =
                fs::read_dir(class.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
            files.sort();
            for (number, file) in files.iter().enumerate() {
                let shard = &mut shards[(label * 7 + number) % 3];
                let key = format!("{label}_{number}");
                shard.push((format!("{key}.cls"), label.to_string().into_bytes()));
                shard.push((format!("{key}.jpg"), fs::read(file).unwrap()));
            }
        }
        let data = Self {
            folder: tempfile::tempdir().unwrap(),
            server: Server::start(),
            network: Network::new().unwrap(),
        };
        for (number, members) in shards.iter().enumerate() {
            data.put(&format!("t-{number}.tar"), tar(members));
        }
        data.put("classes.txt", b"ant\nbee\ncat\ndog\n".to_vec());
        data
    }

    fn put(&self, name: &str, bytes: Vec<u8>) {
        self.put_in("train", name, bytes);
    }

    pub(crate) fn put_in(&self, folder: &str, name: &str, bytes: Vec<u8>) {
        fs::create_dir_all(self.folder.path().join(folder)).unwrap();
        fs::write(self.folder.path().join(folder).join(name), &bytes).unwrap();
        self.server.put(&format!("/b/{folder}/{name}"), bytes);
    }

    pub(crate) fn local(&self) -> Arc<Dataset> {
        let path = self.folder.path().join("train");
        dataset::build(&path, None, 1, &|_| {}).unwrap();
        Arc::new(Dataset::open(&path, None).unwrap())
    }

    pub(crate) fn place(&self, url: &str, cache: Option<(&Path, u64)>) -> RemotePlace {
        let settings = self.server.settings();
        let settings: Vec<(&str, &str)> =
            settings.iter().map(|(key, value)| (*key, &**value)).collect();
        let (bucket, path) = forebay_remote::open_with(&self.network, url, &settings).unwrap();
        let cache = cache.map(|(folder, limit)| Cache::open(folder, limit).unwrap());
        let storage = Arc::new(Storage::new(cache, 64 << 20).unwrap());
        RemotePlace::find(bucket, &path, storage).unwrap()
    }
}

/// Indexes with the default options.
fn index(place: &RemotePlace, index_dir: Option<&Path>) -> Result<Summary, DatasetError> {
    dataset::build_remote(place, index_dir, 1, &IndexOptions::default(), &|_| {})
}

/// Digests of all microbatches of an epoch.
fn epoch(dataset: &Arc<Dataset>, epoch: u64) -> Vec<u64> {
    epoch_with(dataset, epoch, 3)
}

/// The same with another number of repeats of each record.
fn epoch_with(dataset: &Arc<Dataset>, epoch: u64, repeats: u32) -> Vec<u64> {
    let (pipeline, request) = (pipeline(), requests(dataset, repeats));
    let names = (0..4).flat_map(|step| [(step, 0), (step, 1)]);
    names.map(|(step, index)| pipeline.make(request(epoch, step, index)).unwrap().xxh3).collect()
}

/// A pipeline of one thread.
fn pipeline() -> Pipeline {
    let threads = std::num::NonZeroUsize::MIN;
    Pipeline::new(PipelineConfig { cache_bytes: 0, threads, ..PipelineConfig::default() }).unwrap()
}

/// Requests by epoch, step and index.
fn requests(dataset: &Arc<Dataset>, repeats: u32) -> impl Fn(u64, u64, u32) -> Request {
    let changes = ["batch = 16", "microbatches = 2", "image_size = 32"].map(String::from);
    let changes = changes.into_iter().chain([format!("repeats = {repeats}")]);
    let recipe = Arc::new(RecipeSpec::preset("a2").with_changes(changes).resolve().unwrap());
    move |epoch, step, index| Request {
        dataset: Arc::clone(dataset),
        recipe: Arc::clone(&recipe),
        name: MicrobatchName { seed: 5, epoch, step, index },
        format: PixelFormat::default(),
    }
}

#[test]
fn a_dataset_in_a_bucket_is_the_same_as_on_disk() {
    let data = Data::new();
    let (local, cache, indexes) =
        (data.local(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let place = data.place("s3://b/train", Some((cache.path(), 1 << 30)));
    let done = Mutex::new(0);
    let summary = dataset::build_remote(
        &place,
        Some(indexes.path()),
        2,
        &IndexOptions::default(),
        &|progress| {
            let mut done = done.lock().unwrap();
            *done = progress.done.max(*done);
        },
    );
    assert_eq!(summary.unwrap(), local.summary());
    assert_eq!(done.into_inner().unwrap(), 64);
    let objects = data.server.gets().len();
    assert_eq!(objects, 4, "each shard and the list of classes are read once");
    let remote = Arc::new(Dataset::open_remote(&place, Some(indexes.path())).unwrap());
    assert_eq!((remote.digest(), remote.classes()), (local.digest(), local.classes()));
    for number in 0..2 {
        assert_eq!(epoch(&remote, number), epoch(&local, number));
    }
    let totals = remote.storage().unwrap().totals();
    assert_eq!((totals.late_reads, totals.damaged), (0, 0));
    assert!(totals.cache_bytes > 0 && totals.remote_bytes > 0, "{totals:?}");
}

#[test]
fn a_mix_of_buckets_and_a_disk_is_the_same_as_one_of_disks() {
    let data = Data::new();
    for number in 0..3 {
        let name = format!("t-{number}.tar");
        let shard = fs::read(data.folder.path().join("train").join(&name)).unwrap();
        data.put_in("other", &name, shard);
    }
    data.put_in("other", "classes.txt", b"cow\nbee\ncat\nant\n".to_vec());
    let local = |name: &str| {
        let path = data.folder.path().join(name);
        dataset::build(&path, None, 1, &|_| {}).unwrap();
        Dataset::open(&path, None).unwrap()
    };
    let mix = |parts: Vec<(Dataset, f64)>| Arc::new(Dataset::mix(parts).unwrap());
    let disks = mix(vec![(local("train"), 1.0), (local("other"), 0.5), (local("train"), 0.25)]);
    let places = ["s3://b/train", "s3://b/other"].map(|url| data.place(url, None));
    let storage = Arc::clone(&places[0].storage);
    let places = places.map(|place| RemotePlace { storage: Arc::clone(&storage), ..place });
    let [train, other] = places.each_ref().map(|place| {
        index(place, None).unwrap();
        Dataset::open_remote(place, None).unwrap()
    });
    let mixed = mix(vec![(train, 1.0), (other, 0.5), (local("train"), 0.25)]);
    assert_eq!((mixed.digest(), mixed.classes()), (disks.digest(), disks.classes()));
    for number in 0..2 {
        assert_eq!(epoch(&mixed, number), epoch(&disks, number));
    }
    let totals = storage.totals();
    assert_eq!(totals.late_reads, 0);
    assert!(totals.remote_bytes > 0 && mixed.traffic().unwrap().bytes >= totals.remote_bytes);
    // What fetches for one of them would not know the shards of the other.
    let apart = Dataset::open_remote(&data.place("s3://b/other", None), None).unwrap();
    let train = Dataset::open_remote(&places[0], None).unwrap();
    let error = Dataset::mix(vec![(train, 1.0), (apart, 1.0)]).unwrap_err().to_string();
    assert!(error.contains("need the same `Storage`"), "{error}");
}

#[test]
fn an_index_lies_beside_its_dataset_in_the_bucket_and_is_found_by_name() {
    let data = Data::new();
    let place = data.place("s3://b/train/", None);
    let missing = Dataset::open_remote(&place, None).unwrap_err().to_string();
    assert!(missing.contains("no index at s3://b/train.forebay"), "{missing}");
    index(&place, None).unwrap();
    assert!(data.server.has("/b/train.forebay"));
    let remote = Arc::new(Dataset::open_remote(&place, None).unwrap());
    assert_eq!(epoch(&remote, 0), epoch(&data.local(), 0));
    // A process with a cache keeps the index in it.
    let cache = tempfile::tempdir().unwrap();
    let place = data.place("s3://b/train", Some((cache.path(), 1 << 30)));
    let before = data.server.gets().len();
    for _ in 0..2 {
        Dataset::open_remote(&place, None).unwrap();
    }
    assert_eq!(data.server.gets().len(), before + 1);
    // A folder of indexes that lacks it falls back to the bucket.
    Dataset::open_remote(&place, Some(cache.path())).unwrap();
}

#[test]
fn indexing_goes_on_where_it_was_interrupted() {
    let data = Data::new();
    let indexes = tempfile::tempdir().unwrap();
    let place = data.place("s3://b/train", None);
    // The last shard cannot be read.
    let good = fs::read(data.folder.path().join("train/t-2.tar")).unwrap();
    data.server.put("/b/train/t-2.tar", good[..good.len() / 2].to_vec());
    let error = index(&place, Some(indexes.path())).unwrap_err().to_string();
    assert!(error.contains("s3://b/train/t-2.tar") && error.contains("truncated"), "{error}");
    data.server.put("/b/train/t-2.tar", good);
    let before = data.server.gets();
    let summary = index(&place, Some(indexes.path())).unwrap();
    assert_eq!(summary, data.local().summary());
    let after: Vec<_> = data.server.gets().split_off(before.len());
    let shards: Vec<_> = after.iter().filter(|(path, _)| path.contains("/t-")).collect();
    let again: Vec<_> = shards.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(again, ["/b/train/t-2.tar"]);
    let left: Vec<_> =
        fs::read_dir(indexes.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 1, "only the index is left: {left:?}");
}

/// A bucket that never answers requests for the bytes of one object.
#[derive(Debug)]
struct Silent(Arc<dyn Bucket>, &'static str);

impl Bucket for Silent {
    fn url(&self) -> &str {
        self.0.url()
    }

    fn has_lists(&self) -> bool {
        self.0.has_lists()
    }

    fn list(&self, folder: &str) -> Result<Vec<Object>, StoreError> {
        self.0.list(folder)
    }

    fn find(&self, keys: &[String]) -> Result<Vec<Option<Object>>, StoreError> {
        self.0.find(keys)
    }

    fn fetch(&self, object: &Object, range: Range<u64>, on_fetched: OnFetched) {
        if object.key == self.1 {
            std::mem::forget(on_fetched);
        } else {
            self.0.fetch(object, range, on_fetched);
        }
    }

    fn write(&self, key: &str, file: &Path) -> Result<(), StoreError> {
        self.0.write(key, file)
    }

    fn traffic(&self) -> Traffic {
        self.0.traffic()
    }
}

#[test]
fn indexing_that_is_cancelled_ends_although_a_shard_is_still_read() {
    let data = Data::new();
    let indexes = tempfile::tempdir().unwrap();
    let place = data.place("s3://b/train", None);
    let silent = Arc::new(Silent(Arc::clone(&place.bucket), "train/t-2.tar"));
    let silent = RemotePlace { bucket: silent, ..place.clone() };
    // A thread that checks records unwinds, and none of those that read.
    let is_cancelled = AtomicBool::new(false);
    let cancel = |_: dataset::Progress| {
        let checks = thread::current().name().is_some_and(|name| name.starts_with("index-"));
        if checks && !is_cancelled.swap(true, Ordering::Relaxed) {
            resume_unwind(Box::new("cancelled"));
        }
    };
    let options = IndexOptions::default();
    let build = || dataset::build_remote(&silent, Some(indexes.path()), 1, &options, &cancel);
    let payload = catch_unwind(AssertUnwindSafe(build)).unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&"cancelled"));
    // It leaves no shards and holds no lock.
    let folder = fs::read_dir(indexes.path()).unwrap().next().unwrap().unwrap().path();
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let shards = names.filter(|name| name.to_string_lossy().starts_with("shard-"));
    assert_eq!(shards.count(), 0);
    assert_eq!(index(&place, Some(indexes.path())).unwrap(), data.local().summary());
}

/// A shard whose first record has another label, of the same size.
fn relabeled(shard: &[u8]) -> Vec<u8> {
    let mut bytes = shard.to_vec();
    bytes[512] = if bytes[512] == b'0' { b'1' } else { b'0' };
    bytes
}

#[test]
fn an_index_of_a_server_without_tags_is_read_again() {
    let data = Data::new();
    data.server.remove_tags();
    let [cache, indexes] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let web = format!("http://{}/b/train/t-{{0..2}}.tar", data.server.address);
    let place = data.place(&web, Some((cache.path(), 1 << 30)));
    let shard = data.folder.path().join("train/t-0.tar");
    for labels in 0..2 {
        if labels == 1 {
            let relabeled = relabeled(&fs::read(&shard).unwrap());
            data.put("t-0.tar", relabeled);
        }
        index(&place, Some(indexes.path())).unwrap();
        let made = Dataset::open_remote(&place, Some(indexes.path())).unwrap().digest();
        assert_eq!(made, data.local().digest());
        let key = "/b/train/t-_0..2_.tar.forebay";
        data.server.put(key, fs::read(place.index_path(indexes.path())).unwrap());
        assert_eq!(Dataset::open_remote(&place, None).unwrap().digest(), made);
    }
}

#[test]
fn a_part_of_a_server_without_tags_is_made_again() {
    let data = Data::new();
    data.server.remove_tags();
    let indexes = tempfile::tempdir().unwrap();
    let web = format!("http://{}/b/train/t-{{0..2}}.tar", data.server.address);
    let place = data.place(&web, None);
    let shard = |number: u32| data.folder.path().join(format!("train/t-{number}.tar"));
    let good = fs::read(shard(2)).unwrap();
    data.server.put("/b/train/t-2.tar", good[..good.len() / 2].to_vec());
    index(&place, Some(indexes.path())).unwrap_err();
    data.server.put("/b/train/t-2.tar", good);
    let relabeled = relabeled(&fs::read(shard(0)).unwrap());
    data.put("t-0.tar", relabeled);
    index(&place, Some(indexes.path())).unwrap();
    let made = Dataset::open_remote(&place, Some(indexes.path())).unwrap();
    assert_eq!(made.digest(), data.local().digest());
}

#[test]
fn a_web_server_may_deny_what_it_does_not_have() {
    let data = Data::new();
    for number in 0..3 {
        let bytes = fs::read(data.folder.path().join(format!("train/t-{number}.tar"))).unwrap();
        data.put_in("plain", &format!("t-{number}.tar"), bytes);
    }
    data.server.hide_missing();
    let indexes = tempfile::tempdir().unwrap();
    let web = |names: &str| format!("http://{}/b/plain/{names}", data.server.address);
    let place = data.place(&web("t-{0..2}.tar"), None);
    assert_eq!(index(&place, Some(indexes.path())).unwrap().shards, 3);
    let error = Dataset::open_remote(&place, None).unwrap_err().to_string();
    assert!(error.contains("no index at"), "{error}");
    // A shard is not optional.
    let place = data.place(&web("t-{0..3}.tar"), None);
    let error = index(&place, Some(indexes.path())).unwrap_err().to_string();
    assert!(error.contains("/b/plain/t-3.tar: access is denied"), "{error}");
}

#[test]
fn patterns_and_single_shards_name_objects() {
    let data = Data::new();
    for (url, shards) in [
        ("s3://b/train/t-{0..1}.tar", 2),
        ("s3://b/train/t-?.tar", 3),
        ("s3://b/train/t-[12].tar", 2),
        ("s3://b/train/t-1.tar", 1),
    ] {
        let indexes = tempfile::tempdir().unwrap();
        let place = data.place(url, None);
        let summary = index(&place, Some(indexes.path())).unwrap();
        assert_eq!(summary.shards, shards, "{url}");
    }
    // A web server has no lists.
    let web = format!("http://{}/b/train/t-{{0..2}}.tar", data.server.address);
    let indexes = tempfile::tempdir().unwrap();
    let place = data.place(&web, None);
    let summary = index(&place, Some(indexes.path())).unwrap();
    assert_eq!(summary, data.local().summary());
    let before = data.server.gets().len();
    let refused = index(&place, None).unwrap_err().to_string();
    assert!(refused.contains("a web server takes no files; use --index-dir"), "{refused}");
    assert_eq!(data.server.gets().len(), before, "it is refused before anything is read");
    let refused = |url: &str| {
        let place = data.place(url, None);
        index(&place, Some(indexes.path())).unwrap_err().to_string()
    };
    for (url, says) in [
        (format!("http://{}/b/train", data.server.address), "no list of files"),
        (
            "s3://b/none".to_owned(),
            "s3://b/none is not a dataset: expected tars, TFRecords or Parquet",
        ),
        ("s3://b/train/t-{0..3}.tar".to_owned(), "no dataset at s3://b/train/t-3.tar"),
        ("s3://b/*/t.tar".to_owned(), "in one folder"),
        (
            "s3://b/train/classes.txt".to_owned(),
            "folders of images and lists of image files are not read",
        ),
    ] {
        let error = refused(&url);
        assert!(error.contains(says), "{url}: {error}");
    }
}

#[test]
fn a_hash_in_a_url_is_before_a_split_unless_the_path_exists() {
    let data = Data::new();
    let shard =
        |number: u32| fs::read(data.folder.path().join(format!("train/t-{number}.tar"))).unwrap();
    for (name, number) in
        [("c#1/t-0.tar", 0), ("two/x-train-0.tar", 1), ("two/x-val-0.tar", 2), ("two/x#val.tar", 0)]
    {
        data.server.put(&format!("/b/{name}"), shard(number));
    }
    let indexes = tempfile::tempdir().unwrap();
    for (url, path, split, shards) in [
        ("s3://b/c#1", "c#1", None, 1),
        ("s3://b/c#1/", "c#1", None, 1),
        ("s3://b/c#1/t-{0..0}.tar", "c#1/t-{0..0}.tar", None, 1),
        ("s3://b/two#train", "two", Some("train"), 1),
        ("s3://b/two/#val", "two", Some("val"), 2),
        ("s3://b/two/x#val.tar", "two/x#val.tar", None, 1),
    ] {
        let place = data.place(url, None);
        assert_eq!((&*place.path, place.split.as_deref()), (path, split), "{url}");
        assert_eq!(index(&place, Some(indexes.path())).unwrap().shards, shards, "{url}");
        Dataset::open_remote(&place, Some(indexes.path())).unwrap();
    }
    // What is behind the # is no split of what is before it.
    let place = data.place("s3://b/two#2024", None);
    let refused = index(&place, Some(indexes.path())).unwrap_err().to_string();
    assert!(refused.contains("s3://b/two has no split \"2024\"; it has train, val"), "{refused}");
    // The address of a web server never has a # in its path.
    let web = format!("http://{}/b/two/x-{{train,val}}-0.tar#val", data.server.address);
    let place = data.place(&web, None);
    assert_eq!(place.split.as_deref(), Some("val"));
    assert_eq!(index(&place, Some(indexes.path())).unwrap().shards, 1);
    for wrong in ["#", "#a/b", "#a#val"] {
        let url = format!("http://{}/b/two{wrong}", data.server.address);
        let refused = forebay_remote::open(&data.network, &url).unwrap_err().to_string();
        assert!(refused.contains("only a split may be behind its #"), "{refused}");
    }
}

#[test]
fn a_flag_about_other_layouts_is_refused_with_the_url() {
    let data = Data::new();
    let place = data.place("s3://b/train", None);
    let options = IndexOptions { label_offset: Some(1), ..IndexOptions::default() };
    let refused =
        dataset::build_remote(&place, None, 1, &options, &|_| {}).unwrap_err().to_string();
    let says = "--label-offset does not apply to s3://b/train, which has the layout WebDataset";
    assert!(refused.starts_with(says), "{refused}");
}

#[test]
fn a_shard_that_changed_is_refused_when_it_is_opened_and_when_it_is_read() {
    let data = Data::new();
    let indexes = tempfile::tempdir().unwrap();
    let place = data.place("s3://b/train", None);
    index(&place, Some(indexes.path())).unwrap();
    let open = || Dataset::open_remote(&place, Some(indexes.path()));
    let remote = open().unwrap();
    let good = fs::read(data.folder.path().join("train/t-1.tar")).unwrap();
    let mut changed = good.clone();
    changed[600] ^= 1;
    data.server.put("/b/train/t-1.tar", changed);
    let error = open().unwrap_err();
    assert!(error.is_change() && error.to_string().contains("its ETag is"), "{error}");
    let record = (0..remote.len()).find(|&id| remote.record(id).shard == 1).unwrap();
    let error = remote.read(record, &mut Vec::new()).unwrap_err();
    assert!(error.is_change(), "{error}");
    data.server.put("/b/train/t-1.tar", good[..good.len() - 512].to_vec());
    let error = open().unwrap_err();
    assert!(error.is_change() && error.to_string().contains("bytes and had"), "{error}");
    data.server.put("/b/train/t-1.tar", good);
    data.server.put("/b/train/t-3.tar", tar(&[]));
    let error = open().unwrap_err().to_string();
    assert!(error.contains("has 4 shards and had 3 others"), "{error}");
}

#[test]
fn bytes_that_are_wrong_on_the_way_are_fetched_again() {
    let data = Data::new();
    let indexes = tempfile::tempdir().unwrap();
    let place = data.place("s3://b/train", None);
    index(&place, Some(indexes.path())).unwrap();
    let remote = Arc::new(Dataset::open_remote(&place, Some(indexes.path())).unwrap());
    data.server.fail([Fault::Wrong(0)]);
    assert_eq!(epoch(&remote, 0), epoch(&data.local(), 0));
    assert!(remote.storage().unwrap().totals().damaged <= 1);
}

#[test]
fn a_late_read_that_hangs_refuses_no_other_record_of_its_shard() {
    let data = Data::new();
    let indexes = tempfile::tempdir().unwrap();
    // Nothing fits into the memory, so that each record is read late.
    let storage = Arc::new(Storage::new(None, 1).unwrap());
    let place = RemotePlace { storage, ..data.place("s3://b/train", None) };
    index(&place, Some(indexes.path())).unwrap();
    let remote = Arc::new(Dataset::open_remote(&place, Some(indexes.path())).unwrap());
    let (pipeline, request) = (pipeline(), requests(&remote, 1));
    let hanging = pipeline.make(request(0, 0, 0)).unwrap().records[0];
    let hanging = remote.record(hanging);
    let shard = format!("/b/train/t-{}.tar", hanging.shard);
    data.server.hang_at(&shard, usize::try_from(hanging.offset).unwrap());
    let error = pipeline.make(request(0, 0, 0)).unwrap_err().to_string();
    assert!(error.contains("took longer than"), "{error}");
    assert_eq!(remote.stuck_reads(), 1);
    for step in 0..4 {
        for index in 0..2 {
            if (step, index) != (0, 0) {
                pipeline.make(request(0, step, index)).unwrap();
            }
        }
    }
    assert_eq!(remote.stuck_reads(), 1);
}

#[test]
fn an_epoch_from_half_a_cache_hits_exactly_what_is_cached() {
    let data = Data::new();
    let (indexes, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bytes: u64 = (0..3)
        .map(|number| {
            fs::metadata(data.folder.path().join(format!("train/t-{number}.tar"))).unwrap().len()
        })
        .sum();
    let place = data.place("s3://b/train", Some((folder.path(), bytes / 2)));
    index(&place, Some(indexes.path())).unwrap();
    let remote = Arc::new(Dataset::open_remote(&place, Some(indexes.path())).unwrap());
    let local = data.local();
    let hits = |number| {
        let before = remote.storage().unwrap().totals();
        assert_eq!(epoch_with(&remote, number, 1), epoch_with(&local, number, 1));
        let after = remote.storage().unwrap().totals();
        assert_eq!(after.late_reads, 0);
        (after.cache_bytes - before.cache_bytes, after.remote_bytes - before.remote_bytes)
    };
    hits(0);
    // Every epoch reads every record once, whatever their order.
    let (cached, remote_bytes) = hits(1);
    assert_eq!(hits(2), (cached, remote_bytes));
    assert!(cached > 0 && remote_bytes > 0, "{cached} {remote_bytes}");
    let used = remote.storage().unwrap().cache().unwrap().used();
    assert!(used <= bytes / 2, "{used}");
}

#[test]
fn parquet_files_of_a_split_in_a_bucket_are_the_same_as_on_disk() {
    let (data, indexes) = (Data::new(), tempfile::tempdir().unwrap());
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/formats/parquet");
    for (name, file) in [
        ("train-00000-of-00002", "sorted_zstd"),
        ("train-00001-of-00002", "sorted_snappy"),
        ("test-00000-of-00001", "sorted_gzip"),
    ] {
        let bytes = fs::read(goldens.join(format!("{file}.parquet"))).unwrap();
        data.put_in("hub", &format!("{name}.parquet"), bytes);
    }
    let all = data.place("s3://b/hub", None);
    let build = |place: &RemotePlace, options: &IndexOptions| {
        dataset::build_remote(place, Some(indexes.path()), 1, options, &|_| {})
    };
    let refused = build(&all, &IndexOptions::default()).unwrap_err().to_string();
    assert!(refused.contains("several splits: test, train"), "{refused}");
    let train = RemotePlace { split: Some("train".to_owned()), ..all };
    let path = with_split(&data.folder.path().join("hub"), Some("train"));
    for (limit_per_class, records) in [(None, 12), (Some(1), 3)] {
        let options = IndexOptions { limit_per_class, ..IndexOptions::default() };
        let summary = build(&train, &options).unwrap();
        assert_eq!(summary.records, records);
        assert_eq!(summary, dataset::build_with(&path, None, 1, &options, &|_| {}).unwrap());
        let remote = Dataset::open_remote(&train, Some(indexes.path())).unwrap();
        let local = Dataset::open(&path, None).unwrap();
        for id in 0..records {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            let ours = remote.read(id, &mut ours).unwrap();
            assert_eq!(ours, local.read(id, &mut theirs).unwrap(), "record {id}");
        }
    }
}

#[test]
fn text_labels_that_are_numerals_are_not_joined_by_their_order_in_a_shard() {
    let (data, indexes) = (Data::new(), tempfile::tempdir().unwrap());
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/formats/parquet");
    let text = fs::read(goldens.join("text.parquet")).unwrap();
    let with_names = |names: [&[u8; 3]; 3]| {
        let mut bytes = text.clone();
        for (old, new) in [b"cat", b"dog", b"emu"].iter().zip(names) {
            let at = bytes.windows(3).position(|found| found == *old).unwrap();
            bytes[at..at + 3].copy_from_slice(new);
        }
        bytes
    };
    let shard = |number: u32| format!("train-0000{number}-of-00002.parquet");
    let build = |folder: &str, second: [&[u8; 3]; 3]| {
        data.put_in(folder, &shard(0), with_names([b"000", b"000", b"000"]));
        data.put_in(folder, &shard(1), with_names(second));
        let place = data.place(&format!("s3://b/{folder}"), None);
        let options = IndexOptions::default();
        dataset::build_remote(&place, Some(indexes.path()), 1, &options, &|_| {})
    };
    let same = build("same", [b"000", b"000", b"000"]).unwrap();
    let names: Vec<&str> = same.classes.iter().map(|class| &*class.class).collect();
    assert_eq!(names, ["000"]);
    assert!(!same.facts.contains_key("class names"), "{:?}", same.facts);
    let refused = build("others", [b"111", b"111", b"111"]).unwrap_err().to_string();
    assert!(refused.contains("different classes, such as train-00001-of-00002"), "{refused}");
}

#[test]
fn compressed_shards_in_a_bucket_are_not_left_out_silently() {
    let data = Data::new();
    data.put("t-3.tar.gz", b"gz".to_vec());
    let refused = index(&data.place("s3://b/train", None), None).unwrap_err().to_string();
    assert!(refused.contains("t-3.tar.gz") && refused.contains("decompress it"), "{refused}");
}

#[test]
fn a_manifest_in_a_bucket_is_refused() {
    let (data, indexes) = (Data::new(), tempfile::tempdir().unwrap());
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/formats/parquet");
    let bytes = fs::read(goldens.join("manifest_text.parquet")).unwrap();
    data.put_in("lists", "train.parquet", bytes);
    let place = data.place("s3://b/lists/train.parquet", None);
    let refused = index(&place, Some(indexes.path())).unwrap_err().to_string();
    let says = "s3://b/lists/train.parquet: its column `image` names image files; such a manifest is a dataset by itself: \
                index it by its own path on a disk";
    assert!(refused.starts_with(says), "{refused}");
}
