//! Every layout that is read from buckets is found there as on disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use forebay::dataset::{self, Dataset, IndexOptions, RemotePlace, with_split};

use super::dataset::{Data, tar};
use super::writers::{cifar_meta, cifar_pickle, mds_index, mds_index_zstd, mds_shard};

/// Indexes a path of a bucket and the same one on disk, and compares them and their records. Returns the number of
/// records, or the error of the bucket, which that on disk must have as well.
fn compare(data: &Data, path: &str, split: Option<&str>) -> Result<u64, String> {
    let url = format!("s3://b/{path}");
    let place = RemotePlace { split: split.map(str::to_owned), ..data.place(&url, None) };
    compare_place(data, &place, &with_split(&data.folder.path().join(path), split))
}

fn compare_place(data: &Data, place: &RemotePlace, local: &Path) -> Result<u64, String> {
    let (indexes, options) = (tempfile::tempdir().unwrap(), IndexOptions::default());
    let remote = dataset::build_remote(place, Some(indexes.path()), 2, &options, &|_| {});
    let on_disk = dataset::build_with(local, Some(indexes.path()), 1, &options, &|_| {});
    let remote = match (remote, on_disk) {
        (Ok(remote), Ok(on_disk)) => {
            assert_eq!(remote, on_disk, "{}", local.display());
            Dataset::open_remote(place, Some(indexes.path())).unwrap()
        }
        (Err(remote), Err(on_disk)) => {
            let [remote, on_disk] = [remote, on_disk].map(|error| error.to_string());
            let local = format!("{}/", data.folder.path().display());
            assert_eq!(remote.replace("s3://b/", &local), on_disk);
            return Err(remote);
        }
        (remote, on_disk) => panic!("{remote:?}, and on disk {on_disk:?}"),
    };
    let on_disk = Dataset::open(local, Some(indexes.path())).unwrap();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for id in 0..remote.len() {
        assert_eq!(remote.read(id, &mut ours).unwrap(), on_disk.read(id, &mut theirs).unwrap());
        assert_eq!(remote.name(id), on_disk.name(id));
    }
    Ok(remote.len())
}

/// The images of [`Data`], each with its label.
fn images(data: &Data) -> Vec<(u8, Vec<u8>)> {
    let local = data.local();
    let read = |id| {
        let label = u8::try_from(local.record(id).label).unwrap();
        (label, local.read(id, &mut Vec::new()).unwrap().to_vec())
    };
    (0..local.len()).map(read).collect()
}

/// Shards of MDS with their `index.json`, of 20 images each.
fn put_mds(data: &Data, folder: &str, images: &[(u8, Vec<u8>)]) {
    let columns = [("image", "jpeg", None), ("label", "int", Some(8))];
    let sample = |(label, bytes): &(u8, Vec<u8>)| {
        vec![bytes.clone(), i64::from(*label).to_le_bytes().to_vec()]
    };
    let mut shards = Vec::new();
    for (number, images) in images.chunks(20).enumerate() {
        let shard = mds_shard(&columns, &images.iter().map(sample).collect::<Vec<_>>());
        shards.push((format!("shard.{number:05}.mds"), images.len(), shard));
    }
    let about = shards.iter().map(|(name, count, shard)| (name.as_str(), *count, shard.len()));
    let index = mds_index(&columns, &about.collect::<Vec<_>>());
    data.put_in(folder, "index.json", index.into_bytes());
    for (name, _, shard) in shards {
        data.put_in(folder, &name, shard);
    }
}

#[test]
fn shards_of_mds_are_those_that_their_index_names() {
    let data = Data::new();
    let images = images(&data);
    put_mds(&data, "mds", &images);
    // What it does not name is left alone.
    data.put_in("mds", "shard.00009.mds", b"of an earlier run".to_vec());
    let before = data.server.gets().len();
    assert_eq!(compare(&data, "mds", None), Ok(64));
    let gets = data.server.gets().split_off(before);
    let whole = |name: &str| gets.iter().filter(|(path, _)| path.ends_with(name)).count();
    // To find the shards, when they are indexed and when they are opened twice, and as a file beside them, once.
    assert_eq!(whole("index.json"), 4);
    // A web server needs no list for that.
    let web = data.place(&format!("http://{}/b/mds", data.server.address), None);
    assert_eq!(compare_place(&data, &web, &data.folder.path().join("mds")), Ok(64));
    data.put_in("mds", "classes.txt", b"ant\nbee\ncat\ndog\n".to_vec());
    assert_eq!(compare(&data, "mds", None), Ok(64));
    assert_eq!(compare_place(&data, &web, &data.folder.path().join("mds")), Ok(64));
    let refused = compare(&data, "mds", Some("val")).unwrap_err();
    assert!(refused.contains("no split \"val\""), "{refused}");
}

#[test]
fn the_plain_form_of_a_shard_of_mds_is_read_also_where_the_list_does_not_tell_of_it() {
    let data = Data::new();
    put_mds(&data, "mds", &images(&data));
    let written = fs::read_to_string(data.folder.path().join("mds/index.json")).unwrap();
    let index = mds_index_zstd(&written, &[1, 1, 1, 1]).replace("shard.", "0/shard.");
    data.put_in("below", "index.json", index.into_bytes());
    for number in 0..4 {
        let name = format!("shard.{number:05}.mds");
        let shard = fs::read(data.folder.path().join("mds").join(&name)).unwrap();
        data.put_in("below/0", &name, shard);
    }
    assert_eq!(compare(&data, "below", None), Ok(64));
    let web = data.place(&format!("http://{}/b/below", data.server.address), None);
    assert_eq!(compare_place(&data, &web, &data.folder.path().join("below")), Ok(64));
}

#[test]
fn a_parquet_file_in_a_bucket_is_of_the_split_that_its_name_says() {
    let data = Data::new();
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/formats/parquet");
    let bytes = fs::read(goldens.join("required.parquet")).unwrap();
    data.put_in("hub", "train-00000-of-00001.parquet", bytes);
    let file = "hub/train-00000-of-00001.parquet";
    let refused = compare(&data, file, Some("validation")).unwrap_err();
    assert!(refused.contains("no split \"validation\""), "{refused}");
    assert!(compare(&data, file, Some("train")).is_ok_and(|records| records > 0));
}

#[test]
fn splits_of_mds_are_folders_with_an_index_each() {
    let data = Data::new();
    let images = images(&data);
    put_mds(&data, "mds/train", &images[..40]);
    put_mds(&data, "mds/val", &images[40..]);
    let refused = compare(&data, "mds", None).unwrap_err();
    assert!(refused.contains("several splits: train, val"), "{refused}");
    assert_eq!(compare(&data, "mds", Some("train")), Ok(40));
    assert_eq!(compare(&data, "mds", Some("validation")), Ok(24));
    assert_eq!(compare(&data, "mds/val", None), Ok(24));
    let web = data.place(&format!("http://{}/b/mds#val", data.server.address), None);
    let local = with_split(&data.folder.path().join("mds"), Some("val"));
    assert_eq!(compare_place(&data, &web, &local), Ok(24));
}

#[test]
fn a_shard_of_mds_that_is_missing_or_damaged_is_an_error_with_its_address() {
    let data = Data::new();
    put_mds(&data, "mds", &images(&data));
    let place = data.place("s3://b/mds", None);
    let indexes = tempfile::tempdir().unwrap();
    let build = || {
        let options = IndexOptions::default();
        let built = dataset::build_remote(&place, Some(indexes.path()), 1, &options, &|_| {});
        built.unwrap_err().to_string()
    };
    let second = fs::read(data.folder.path().join("mds/shard.00001.mds")).unwrap();
    data.server.put("/b/mds/shard.00001.mds", second[..1000].to_vec());
    let error = build();
    assert!(error.contains("s3://b/mds/shard.00001.mds"), "{error}");
    assert!(error.contains("has 1000 bytes, and index.json says"), "{error}");
    data.server.remove("/b/mds/shard.00001.mds");
    let error = build();
    assert!(error.contains("no dataset at s3://b/mds/shard.00001.mds"), "{error}");
    data.server.put("/b/mds/index.json", b"{\"shards\": []}".to_vec());
    let error = build();
    assert!(
        error.contains("s3://b/mds/index.json") && error.contains("names no shards"),
        "{error}"
    );
}

#[test]
fn an_index_that_names_a_shard_twice_or_outside_of_its_folder_is_refused() {
    let data = Data::new();
    let shard = mds_shard(&[("image", "jpeg", None)], &[]);
    data.put_in("mds", "a.mds", shard);
    let place = data.place("s3://b/mds", None);
    for (names, says) in [
        (["a.mds", "a.mds"], "names the shard a.mds twice"),
        (["a.mds", "../train/t-0.tar"], "is outside of the folder"),
        (["a.mds", "/etc/passwd"], "is outside of the folder"),
    ] {
        let shards = names.map(|name| (name, 0, 8));
        let index = mds_index(&[("image", "jpeg", None), ("label", "int", Some(8))], &shards);
        data.server.put("/b/mds/index.json", index.into_bytes());
        let built = dataset::build_remote(&place, None, 1, &IndexOptions::default(), &|_| {});
        let refused = built.unwrap_err().to_string();
        assert!(refused.contains("s3://b/mds/index.json") && refused.contains(says), "{refused}");
    }
}

/// The files of each version of CIFAR, by folder. A batch has 20 images.
fn cifar() -> BTreeMap<&'static str, Vec<(String, Vec<u8>)>> {
    let image = |seed: u8| -> Vec<u8> {
        (0..3072_u32).map(|at| (at / 7).to_le_bytes()[0] ^ seed).collect()
    };
    let images = |batch: u8| -> Vec<Vec<u8>> { (0..20).map(|at| image(batch * 20 + at)).collect() };
    let labels: Vec<u8> = (0..20).map(|at| at % 10).collect();
    let ten = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
    let names: Vec<String> = (0..100).map(|label| format!("class-{label:02}")).collect();
    let hundred: Vec<&str> = names.iter().map(String::as_str).collect();
    let binary = |batch: u8, before: &[u8]| -> Vec<u8> {
        let record = |(image, label): (Vec<u8>, &u8)| [before, &[*label], &image].concat();
        images(batch).into_iter().zip(&labels).flat_map(record).collect()
    };
    let batch = |key: &str, batch| cifar_pickle(key, &images(batch), &labels);
    let numbered = |ending: &'static str| {
        (1..=5).map(move |batch: u8| (batch, format!("data_batch_{batch}{ending}")))
    };
    let mut ten_python: Vec<(String, Vec<u8>)> =
        numbered("").map(|(number, name)| (name, batch("labels", number))).collect();
    ten_python.push(("test_batch".to_owned(), batch("labels", 0)));
    ten_python.push(("batches.meta".to_owned(), cifar_meta("label_names", &ten)));
    let mut ten_binary: Vec<(String, Vec<u8>)> =
        numbered(".bin").map(|(number, name)| (name, binary(number, &[]))).collect();
    ten_binary.push(("test_batch.bin".to_owned(), binary(0, &[])));
    ten_binary.push(("batches.meta.txt".to_owned(), ten.join("\n").into_bytes()));
    let hundred_python = vec![
        ("train".to_owned(), batch("fine_labels", 1)),
        ("test".to_owned(), batch("fine_labels", 0)),
        ("meta".to_owned(), cifar_meta("fine_label_names", &hundred)),
    ];
    let hundred_binary = vec![
        ("train.bin".to_owned(), binary(1, &[7])),
        ("test.bin".to_owned(), binary(0, &[7])),
        ("fine_label_names.txt".to_owned(), hundred.join("\n").into_bytes()),
    ];
    BTreeMap::from([
        ("cifar-10-batches-py", ten_python),
        ("cifar-10-batches-bin", ten_binary),
        ("cifar-100-python", hundred_python),
        ("cifar-100-binary", hundred_binary),
    ])
}

#[test]
fn batches_of_cifar_are_found_by_their_names() {
    let data = Data::new();
    for (folder, files) in cifar() {
        // In a folder of any name, and where torchvision unpacks them.
        for parent in [format!("as-{folder}"), format!("in-{folder}/{folder}")] {
            for (name, bytes) in &files {
                data.put_in(&parent, name, bytes.clone());
            }
        }
        let train = if folder.contains("100") { 20 } else { 100 };
        for path in [format!("as-{folder}"), format!("in-{folder}")] {
            let refused = compare(&data, &path, None).unwrap_err();
            assert!(refused.contains("several splits: test, train"), "{refused}");
            assert_eq!(compare(&data, &path, Some("train")), Ok(train));
            assert_eq!(compare(&data, &path, Some("val")), Ok(20));
            let web = data.place(&format!("http://{}/b/{path}#train", data.server.address), None);
            let local = with_split(&data.folder.path().join(&path), Some("train"));
            assert_eq!(compare_place(&data, &web, &local), Ok(train));
        }
    }
    // Two versions in one folder.
    for (folder, files) in cifar() {
        for (name, bytes) in files {
            data.put_in(&format!("all/{folder}"), &name, bytes);
        }
    }
    let refused = compare(&data, "all", Some("train")).unwrap_err();
    assert!(refused.contains("several versions of CIFAR"), "{refused}");
}

#[test]
fn the_description_of_timm_says_the_shards_of_a_split_and_the_key_of_labels() {
    let data = Data::new();
    let images = images(&data);
    for (number, images) in images.chunks(24).enumerate() {
        let member = |(at, (label, bytes)): (usize, &(u8, Vec<u8>))| {
            let label = format!("{{\"label\": 9, \"fine\": {{\"id\": {label}}}}}");
            [(format!("{at}.json"), label.into_bytes()), (format!("{at}.jpg"), bytes.clone())]
        };
        let members: Vec<_> = images.iter().enumerate().flat_map(member).collect();
        data.put_in("wds", &format!("part-{number}.tar"), tar(&members));
    }
    let described = |first: &str, second: &str| {
        format!(
            r#"{{"splits": {{
                "{first}": {{"filenames": ["part-0.tar", "part-1.tar"], "alt_label": "fine.id"}},
                "{second}": {{"filenames": ["part-2.tar"], "alt_label": "fine.id"}}
            }}}}"#
        )
        .into_bytes()
    };
    data.put_in("wds", "_info.json", described("train", "validation"));
    let refused = compare(&data, "wds", None).unwrap_err();
    assert!(refused.contains("several splits: train, validation"), "{refused}");
    assert_eq!(compare(&data, "wds", Some("train")), Ok(48));
    assert_eq!(compare(&data, "wds", Some("val")), Ok(16));
    // It may have another name, and one of something else says nothing.
    data.server.remove("/b/wds/_info.json");
    fs::remove_file(data.folder.path().join("wds/_info.json")).unwrap();
    data.put_in("wds", "info.json", described("train", "test"));
    assert_eq!(compare(&data, "wds", Some("test")), Ok(16));
    data.put_in("wds", "info.json", b"{}".to_vec());
    let place = data.place("s3://b/wds#train", None);
    let built = dataset::build_remote(&place, None, 1, &IndexOptions::default(), &|_| {});
    let refused = built.unwrap_err().to_string();
    assert!(refused.contains("no split \"train\""), "{refused}");
}

#[test]
fn parquet_files_are_found_in_the_folder_of_the_hub() {
    let data = Data::new();
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/formats/parquet");
    for (name, file) in [
        ("train-00000-of-00002", "sorted_zstd"),
        ("train-00001-of-00002", "sorted_snappy"),
        ("test-00000-of-00001", "sorted_gzip"),
    ] {
        let bytes = fs::read(goldens.join(format!("{file}.parquet"))).unwrap();
        data.put_in("hub/data", &format!("{name}.parquet"), bytes);
    }
    data.put_in("hub", "README.md", b"# A dataset\n".to_vec());
    let indexes = tempfile::tempdir().unwrap();
    let all = data.place("s3://b/hub", None);
    let build = |place: &RemotePlace| {
        dataset::build_remote(place, Some(indexes.path()), 1, &IndexOptions::default(), &|_| {})
    };
    let refused = build(&all).unwrap_err().to_string();
    assert!(refused.contains("s3://b/hub has several splits: test, train"), "{refused}");
    let train = RemotePlace { split: Some("train".to_owned()), ..all };
    let local = with_split(&data.folder.path().join("hub"), Some("train"));
    let local = dataset::build(&local, None, 1, &|_| {}).unwrap();
    assert_eq!(build(&train).unwrap(), local);
    assert_eq!(Dataset::open_remote(&train, Some(indexes.path())).unwrap().len(), local.records);
}

#[test]
fn a_split_may_be_a_folder_of_shards() {
    let data = Data::new();
    for (split, shards) in [("train", 0..2), ("validation", 2..3)] {
        for number in shards {
            let name = format!("t-{number}.tar");
            let bytes = fs::read(data.folder.path().join("train").join(&name)).unwrap();
            data.put_in(&format!("folders/{split}"), &name, bytes);
        }
    }
    for (split, shards) in [("train", 2), ("val", 1)] {
        let records = compare(&data, "folders", Some(split)).unwrap();
        let place = data.place(&format!("s3://b/folders#{split}"), None);
        let indexes = tempfile::tempdir().unwrap();
        let options = IndexOptions::default();
        let summary =
            dataset::build_remote(&place, Some(indexes.path()), 1, &options, &|_| {}).unwrap();
        assert_eq!((summary.records, summary.shards), (records, shards));
    }
}

#[test]
fn what_would_cost_a_request_for_each_image_is_refused_with_what_to_do() {
    let data = Data::new();
    data.server.put("/b/folder/n01/0.jpg", vec![1; 10]);
    data.server.put("/b/csv/list.csv", b"path,label\n0.jpg,1\n".to_vec());
    for url in ["s3://b/folder", "s3://b/csv", "s3://b/csv/list.csv", "s3://b/folder#train"] {
        let place = data.place(url, None);
        let built = dataset::build_remote(&place, None, 1, &IndexOptions::default(), &|_| {});
        let refused = built.unwrap_err().to_string();
        assert!(
            refused.contains("each image would cost a request: write them to tars"),
            "{refused}"
        );
    }
    let web = data.place(&format!("http://{}/b/folder", data.server.address), None);
    let indexes = tempfile::tempdir().unwrap();
    let options = IndexOptions::default();
    let built = dataset::build_remote(&web, Some(indexes.path()), 1, &options, &|_| {});
    let refused = built.unwrap_err().to_string();
    assert!(refused.contains("or a folder of MDS or CIFAR"), "{refused}");
}
