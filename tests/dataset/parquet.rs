//! Parquet files that pyarrow and datasets wrote: `tests/formats/parquet/generate.py`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay::dataset::{
    Dataset, DatasetError, IndexOptions, Summary, build, build_with, with_split,
};
use forebay::recipe::RecipeSpec;
use forebay::{MicrobatchName, Pipeline, PipelineConfig, PixelFormat, Request};
use forebay_tests::json;
use tempfile::{TempDir, tempdir};

use crate::make::{files, index, listing, message, opened};

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("formats/parquet")
}

/// A folder with a copy of a file.
fn copied(file: &str) -> (TempDir, PathBuf) {
    let root = tempdir().unwrap();
    let path = root.path().join(file);
    fs::copy(goldens().join(file), &path).unwrap();
    (root, path)
}

fn image(number: u64) -> Vec<u8> {
    fs::read(goldens().join(format!("images/{number}.jpg"))).unwrap()
}

fn index_columns(path: &Path, image: &str, label: &str) -> Result<Summary, DatasetError> {
    let options = IndexOptions {
        image_column: Some(image.to_owned()),
        label_column: Some(label.to_owned()),
        ..IndexOptions::default()
    };
    build_with(path, None, 2, &options, &|_| {})
}

/// Cases whose columns have other names.
const OTHERS: [(&str, &str, &str); 2] =
    [("others.parquet", "picture", "class"), ("nested.parquet", "sample.image", "sample.label")];

/// Cases that are refused, and why.
const REFUSED: [(&str, &str); 8] = [
    ("brotli.parquet", "row group 0, column `label`: at byte"),
    ("brotli.parquet", "the compression BROTLI is not supported; write it with none, snappy"),
    ("lz4.parquet", "the compression LZ4"),
    ("delta.parquet", "the encoding DELTA_LENGTH_BYTE_ARRAY is not supported"),
    ("encrypted.parquet", "it is encrypted, which is not supported"),
    ("encrypted_columns.parquet", "column `image.bytes`: is encrypted, which is not supported"),
    ("list.parquet", "is a list, and not images"),
    ("names.parquet", "the names of its images have more than 16 times its bytes"),
];

pub(crate) fn files_of_pyarrow_and_datasets_have_their_images_labels_and_names() {
    let cases = json(&goldens().join("cases.json"));
    let mut read = 0;
    for (file, case) in cases.as_object().unwrap() {
        let rows = case["rows"].as_array().unwrap();
        if rows.is_empty() {
            continue;
        }
        let (_root, path) = copied(file);
        match OTHERS.iter().find(|(other, ..)| other == file) {
            Some((_, image, label)) => drop(index_columns(&path, image, label).unwrap()),
            None => drop(index(&path).unwrap()),
        }
        let dataset = Dataset::open(&path, None).unwrap();
        let classes: Vec<&str> =
            case["classes"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        assert_eq!(dataset.classes(), classes, "{file}");
        let rows = rows.iter().filter(|row| !row["image"].is_null() && !row["label"].is_null());
        let mut buffer = Vec::new();
        let mut count = 0;
        for (id, row) in (0..).zip(rows) {
            let record = dataset.record(id);
            let expected = image(row["image"].as_u64().unwrap());
            assert!(dataset.read(id, &mut buffer).unwrap() == expected, "{file}: record {id}");
            assert_eq!(row["label"], record.label, "{file}: record {id}");
            assert_eq!(row["name"], dataset.name(id), "{file}: record {id}");
            assert!(record.good, "{file}: record {id}");
            count += 1;
        }
        assert_eq!(dataset.len(), count, "{file}");
        read += 1;
    }
    assert!(read > 25, "{read} cases");
}

pub(crate) fn images_of_a_parquet_file_are_served_as_those_of_an_image_folder() {
    let root = tempdir().unwrap();
    let folder = root.path().join("train");
    // In the order of the classes, so that record ids are equal.
    let mut order = [(2, 0), (0, 1), (1, 2), (2, 3), (1, 4), (0, 5)];
    order.sort_unstable();
    for (label, number) in order {
        let class = ["cat", "dog", "emu"][label];
        files(&folder, &[(&format!("{class}/{number}.jpg"), image(number))]);
    }
    let folder = Arc::new(opened(&folder));
    let pipeline = Pipeline::new(PipelineConfig::default()).unwrap();
    let set = ["batch = 6", "microbatches = 1", "image_size = 32", "repeats = 1"];
    let spec = RecipeSpec::preset("a3").with_changes(set.map(str::to_owned));
    let recipe = Arc::new(spec.resolve().unwrap());
    let make = |dataset: &Arc<Dataset>, epoch| {
        let made = pipeline.make(Request {
            dataset: Arc::clone(dataset),
            recipe: Arc::clone(&recipe),
            name: MicrobatchName { seed: 3, epoch, step: 0, index: 0 },
            format: PixelFormat::default(),
        });
        let made = made.unwrap();
        (made.payload.to_vec(), made.label_a, made.label_b)
    };
    let expected: Vec<_> = (0..3).map(|epoch| make(&folder, epoch)).collect();
    for codec in ["none", "snappy", "zstd", "gzip"] {
        let (_root, path) = copied(&format!("sorted_{codec}.parquet"));
        let dataset = Arc::new(opened(&path));
        assert_eq!(dataset.classes(), folder.classes());
        for id in 0..6 {
            let (ours, theirs) = (dataset.record(id), folder.record(id));
            let content = |record: forebay::dataset::Record| {
                (record.label, record.length, record.checksum, record.size, record.good)
            };
            assert_eq!(content(ours), content(theirs), "{codec}: record {id}");
            assert_eq!(dataset.entry_points(id), folder.entry_points(id), "{codec}: record {id}");
        }
        for (epoch, expected) in (0..).zip(&expected) {
            assert!(make(&dataset, epoch) == *expected, "{codec}: epoch {epoch}");
        }
    }
}

/// A folder with a manifest and the images that it names.
fn manifest(file: &str) -> (TempDir, PathBuf) {
    let (root, path) = copied(file);
    for number in 0..6 {
        files(root.path(), &[(&format!("images/{number}.jpg"), image(number))]);
    }
    (root, path)
}

pub(crate) fn a_parquet_file_of_paths_is_a_manifest() {
    let (root, path) = manifest("manifest.parquet");
    let refused = message(index(&path));
    assert!(refused.contains("has several splits: , train, val"), "{refused}");
    let train = opened(&with_split(&path, Some("train")));
    let expected = [("images/0.jpg", 2), ("images/1.jpg", 0), ("images/3.jpg", 2)];
    assert_eq!(listing(&train), expected);
    assert_eq!(train.classes(), ["0", "1", "2"]);
    let summary = train.summary();
    assert_eq!((summary.layout, summary.shards), ("Parquet manifest", 0));
    assert_eq!(summary.facts["labels"], "numbers from 0");
    assert_eq!(train.read(1, &mut Vec::new()).unwrap(), image(1));
    // Its content and its digest are those of a CSV file of the same rows.
    let csv =
        "split,path,label\ntrain,images/0.jpg,2\ntrain,images/1.jpg,0\ntrain,images/3.jpg,2\n";
    files(root.path(), &[("list.csv", csv.into())]);
    assert_eq!(opened(&root.path().join("list.csv")).digest(), train.digest());
    assert_eq!(listing(&opened(&with_split(&path, Some("validation")))).len(), 2);
    let refused = message(index(&with_split(&path, Some("test"))));
    assert!(refused.contains("no split \"test\"; it has , train, val"), "{refused}");
    // A pattern names it, too.
    let pattern = root.path().join("*.parquet#train");
    assert_eq!(opened(&pattern).digest(), train.digest());
}

pub(crate) fn a_parquet_manifest_may_have_labels_of_text_and_nulls_are_skipped() {
    let (_root, path) = manifest("manifest_text.parquet");
    let dataset = opened(&path);
    let expected =
        [("images/0.jpg", 2), ("images/1.jpg", 0), ("images/2.jpg", 1), ("images/3.jpg", 2)];
    assert_eq!(listing(&dataset), expected);
    assert_eq!(dataset.classes(), ["cat", "dog", "emu"]);
    let skipped = dataset.summary().skipped;
    let skipped: Vec<_> =
        skipped.iter().map(|one| (one.count, &*one.reason, &*one.examples[0])).collect();
    assert_eq!(skipped, [(1, "no label", "images/4.jpg"), (1, "no path", "row 5")]);
    let options = IndexOptions { label_offset: Some(1), ..IndexOptions::default() };
    let refused = message(build_with(&path, None, 2, &options, &|_| {}));
    assert!(refused.contains("the column `class` is text; remove it"), "{refused}");
}

pub(crate) fn columns_of_a_parquet_manifest_are_given_by_flags() {
    let (_root, path) = manifest("manifest_classes.parquet");
    let refused = message(index(&path));
    let columns = "its columns are `photo` (text), `hash` (bytes), `kind` (int64)";
    assert!(refused.contains("the column of images is not known"), "{refused}");
    assert!(refused.contains("--image-column") && refused.contains(columns), "{refused}");
    index_columns(&path, "photo", "kind").unwrap();
    // The footer is not read again, and the columns are not known any more.
    let dataset = Dataset::open(&path, None).unwrap();
    assert_eq!((dataset.len(), dataset.classes()[2].as_str()), (6, "emu"));
    assert_eq!(dataset.record(5).label, 0);
    let options = IndexOptions {
        image_column: Some("photo".to_owned()),
        label_offset: Some(1),
        ..IndexOptions::default()
    };
    let refused = message(build_with(&path, None, 2, &options, &|_| {}));
    assert!(refused.contains("row 1: the label 0 is not a class from 1"), "{refused}");
}

pub(crate) fn a_parquet_manifest_is_a_dataset_by_its_own_path_only() {
    let (root, path) = manifest("manifest_text.parquet");
    let refused = message(index(root.path()));
    assert!(refused.contains("manifest_text.parquet: its column `image` names"), "{refused}");
    assert!(refused.contains("index it by its own path on a disk"), "{refused}");
    fs::copy(&path, root.path().join("other.parquet")).unwrap();
    let refused = message(index(&root.path().join("*.parquet")));
    assert!(refused.contains("a dataset by itself"), "{refused}");
    assert_eq!(index(&path).unwrap().records, 4);
    // A path that leads out of the folder.
    let inner = root.path().join("inner/list.parquet");
    files(root.path(), &[("inner/list.parquet", fs::read(&path).unwrap())]);
    let missing = message(index(&inner));
    assert!(missing.contains("inner/images/0.jpg"), "{missing}");
}

pub(crate) fn rows_without_an_image_or_a_label_are_skipped_and_counted() {
    for file in ["nulls_v1.parquet", "nulls_v2.parquet"] {
        let (_root, path) = copied(file);
        let skipped = index(&path).unwrap().skipped;
        let skipped: Vec<_> = skipped
            .iter()
            .map(|skipped| (skipped.count, &*skipped.reason, &*skipped.examples[0]))
            .collect();
        let no_image = "no image (null, or a path without bytes)";
        let expected = [
            (2, no_image, format!("{file}/1")),
            (1, "no label (null)", format!("{file}/im_1.jpg")),
        ];
        let expected = expected.each_ref().map(|(count, why, name)| (*count, *why, &**name));
        assert_eq!(skipped, expected);
    }
}

pub(crate) fn columns_of_other_names_are_given_by_flags() {
    let (_root, path) = copied("others.parquet");
    let refused = message(index(&path));
    let columns = "its columns are `id` (int64), `picture` (bytes), `class` (int64)";
    assert!(refused.contains("others.parquet: the column of images is not known"), "{refused}");
    assert!(refused.contains("--image-column") && refused.contains(columns), "{refused}");
    let refused = message(index_columns(&path, "id", "class"));
    assert!(refused.contains("`id` has values of type int64, and not images"), "{refused}");
    assert_eq!(index_columns(&path, "picture", "class").unwrap().records, 6);
    // What was indexed is in the index.
    assert_eq!(Dataset::open(&path, None).unwrap().record(0).label, 2);
}

pub(crate) fn an_offset_of_labels_that_are_text_is_refused() {
    let (_root, path) = copied("text.parquet");
    let options = IndexOptions { label_offset: Some(1), ..IndexOptions::default() };
    let refused = message(build_with(&path, None, 2, &options, &|_| {}));
    assert!(refused.contains("--label-offset is about labels that are numbers"), "{refused}");
    let (_root, path) = copied("snappy_v1_plain.parquet");
    assert!(!message(build_with(&path, None, 2, &options, &|_| {})).contains("--label-offset is"));
}

pub(crate) fn a_folder_has_the_files_of_one_split() {
    let root = tempdir().unwrap();
    let file = fs::read(goldens().join("datasets.parquet")).unwrap();
    let train = ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"];
    files(root.path(), &train.map(|name| (name, file.clone())));
    let both = opened(root.path());
    assert_eq!((both.len(), both.summary().shards), (12, 2));
    assert_eq!(listing(&both)[6], ("train-00001-of-00002.parquet/im_0.jpg", 2));
    for pattern in ["train-*.parquet", "train-{00000..00001}-of-00002.parquet"] {
        assert_eq!(opened(&root.path().join(pattern)).digest(), both.digest());
    }
    files(root.path(), &[("test-00000-of-00001.parquet", file)]);
    let refused = message(index(root.path()));
    assert!(refused.contains("several splits: test, train"), "{refused}");
    let of = |path: &Path, split| opened(&with_split(path, Some(split)));
    let (folder, pattern) = (root.path().to_owned(), root.path().join("*.parquet"));
    assert_eq!(of(&folder, "train").digest(), both.digest());
    assert_eq!((of(&folder, "test").len(), of(&pattern, "test").len()), (6, 6));
    let refused = message(index(&with_split(root.path(), Some("val"))));
    assert!(refused.contains("no split \"val\"; it has test, train"), "{refused}");
    assert_eq!(opened(&root.path().join("train-*.parquet")).digest(), both.digest());
    assert_eq!(opened(&root.path().join("*.parquet")).len(), 18);
}

pub(crate) fn the_folders_of_the_hub_and_its_cache_are_datasets() {
    let root = tempdir().unwrap();
    let file = fs::read(goldens().join("datasets.parquet")).unwrap();
    files(root.path(), &[("repository/data/train-00000-of-00001.parquet", file.clone())]);
    let repository = opened(&root.path().join("repository"));
    assert_eq!(repository.len(), 6);
    let cache = root.path().join("datasets--a--b");
    files(&cache, &[("blobs/0123", file), ("refs/main", b"abc".to_vec())]);
    let snapshot = cache.join("snapshots/abc/data");
    fs::create_dir_all(&snapshot).unwrap();
    symlink("../../../blobs/0123", snapshot.join("train-00000-of-00001.parquet")).unwrap();
    for path in [&cache, &cache.join("snapshots/abc"), &snapshot] {
        assert_eq!(opened(path).digest(), repository.digest());
    }
    fs::create_dir(cache.join("snapshots/def")).unwrap();
    let refused = message(index(&cache));
    assert!(refused.contains("it has 2 snapshots; name one of them"), "{refused}");
    // Class folders may have any name, and the files beside them that they came from.
    let images = root.path().join("images");
    files(&images, &[("data/1.jpg", image(0)), ("snapshots/2.jpg", image(1))]);
    assert_eq!(opened(&images).classes(), ["data", "snapshots"]);
    files(&images, &[("train.parquet", b"any".to_vec())]);
    let refused = message(index(&images));
    let both = "it has shards, such as train.parquet, and folders with images, such as data";
    assert!(refused.contains(both) && refused.contains("such as '*.parquet'"), "{refused}");
}

pub(crate) fn files_that_cannot_be_read_are_refused_with_the_reason() {
    for (file, expected) in REFUSED {
        let (_root, path) = copied(file);
        let refused = if file == "list.parquet" {
            message(index_columns(&path, "image.list.element", "label"))
        } else {
            message(index(&path))
        };
        assert!(refused.contains(file) && refused.contains(expected), "{refused}");
    }
    let root = tempdir().unwrap();
    files(root.path(), &[("a.parquet", b"PAR1".to_vec()), ("b.parquet", vec![b'x'; 100])]);
    for (file, expected) in [
        ("a.parquet", "it has 4 bytes and is not a Parquet file"),
        ("b.parquet", "it does not begin with PAR1"),
    ] {
        let refused = message(index(&root.path().join(file)));
        assert!(refused.contains(expected), "{refused}");
    }
    let mixed = message(index(&root.path().join("{a.parquet,../x.tar}")));
    assert!(mixed.contains("no dataset at"), "{mixed}");
}

pub(crate) fn a_truncated_file_is_refused() {
    let (_root, path) = copied("snappy_v1_plain.parquet");
    let whole = fs::read(&path).unwrap();
    for length in (0..whole.len()).step_by(37) {
        fs::write(&path, &whole[..length]).unwrap();
        let refused = message(index(&path));
        assert!(refused.contains("snappy_v1_plain.parquet: it "), "{length}: {refused}");
    }
    // Without its middle, it has a footer that speaks of pages that are not there.
    let cut = [&whole[..300], &whole[600..]].concat();
    fs::write(&path, cut).unwrap();
    message(index(&path));
}

pub(crate) fn a_flipped_byte_never_changes_an_image() {
    for file in
        ["snappy_v1_dictionary.parquet", "zstd_v2_plain.parquet", "none_v1_dictionary.parquet"]
    {
        let (_root, path) = copied(file);
        let dataset = opened(&path);
        let expected: Vec<Vec<u8>> =
            (0..6).map(|id| dataset.read(id, &mut Vec::new()).unwrap().to_vec()).collect();
        let whole = fs::read(&path).unwrap();
        let mut detected = 0;
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&path, flipped).unwrap();
            for (id, expected) in (0..).zip(&expected) {
                match dataset.read(id, &mut Vec::new()) {
                    Ok(bytes) => assert!(bytes == expected, "{file}: byte {at}"),
                    Err(error) => {
                        assert!(error.is_change(), "{file}: byte {at}: {error}");
                        detected += 1;
                    }
                }
            }
        }
        assert!(detected > 1000, "{file}: {detected}");
    }
}

pub(crate) fn a_negative_label_is_none_and_a_label_without_a_class_is_refused() {
    let (_root, path) = copied("unlabeled.parquet");
    let summary = index(&path).unwrap();
    assert_eq!((summary.records, &*summary.skipped[0].reason), (1, "a negative label"));
    let (root, path) = copied("binary.parquet");
    files(root.path(), &[("classes.txt", b"cat\ndog\n".to_vec())]);
    let refused = message(index(&path));
    assert!(refused.contains("has label 2, but the number of classes is 2"), "{refused}");
    let options = IndexOptions { label_offset: Some(2), ..IndexOptions::default() };
    let refused = message(build_with(&path, None, 2, &options, &|_| {}));
    assert!(refused.contains("row 1 has the label 0, expected a number from 2"), "{refused}");
}

pub(crate) fn class_names_are_those_of_the_file_or_of_classes_txt() {
    let (root, path) = copied("binary.parquet");
    files(root.path(), &[("classes.txt", b"cat\ndog\nemu\n".to_vec())]);
    assert_eq!(opened(&path).classes(), ["cat", "dog", "emu"]);
    for name in ["datasets.parquet", "marked.parquet"] {
        fs::copy(goldens().join(name), root.path().join(name)).unwrap();
    }
    files(root.path(), &[("classes.txt", b"x\n".to_vec())]);
    assert_eq!(opened(&root.path().join("datasets.parquet")).classes(), ["cat", "dog", "emu"]);
    let refused = message(index(&root.path().join("{datasets,marked}.parquet")));
    let expected = "its names of classes are others than those of datasets.parquet";
    assert!(refused.contains(expected), "{refused}");
}

pub(crate) fn labels_of_text_and_of_numbers_are_not_one_dataset() {
    let (root, _) = copied("text.parquet");
    fs::copy(goldens().join("binary.parquet"), root.path().join("binary.parquet")).unwrap();
    for (pattern, expected) in [
        ("{text,binary}.parquet", "text.parquet: its labels are text, and those of binary.parquet"),
        ("*.parquet", "text.parquet: its labels are text, and those of binary.parquet are numbers"),
    ] {
        let refused = message(index(&root.path().join(pattern)));
        assert!(refused.contains(expected), "{refused}");
    }
}

pub(crate) fn records_of_a_parquet_file_can_be_selected() {
    let (root, path) = copied("sorted_zstd.parquet");
    files(root.path(), &[("classes", b"emu\ncat\n".to_vec())]);
    let options = IndexOptions {
        classes: Some(root.path().join("classes")),
        limit_per_class: Some(1),
        ..IndexOptions::default()
    };
    build_with(&path, None, 2, &options, &|_| {}).unwrap();
    let dataset = Dataset::open(&path, None).unwrap();
    let labels: Vec<u32> = (0..dataset.len()).map(|id| dataset.record(id).label).collect();
    assert_eq!(
        (dataset.classes(), &labels[..]),
        (&["emu".to_owned(), "cat".to_owned()][..], &[1, 0][..])
    );
    let bytes = dataset.read(1, &mut Vec::new()).unwrap().to_vec();
    assert_eq!(bytes, image(0));
    let facts = dataset.summary().facts;
    assert_eq!(facts["columns"], "image image.bytes, label label from 0");
    assert!(facts["selected"].starts_with("2 of 6: classes of"), "{facts:?}");
}

pub(crate) fn a_changed_page_is_detected() {
    // Its pages have checksums, which are compared when it is indexed.
    let (_root, path) = copied("pages_zstd.parquet");
    let mut bytes = fs::read(&path).unwrap();
    bytes[700] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let refused = message(build(&path, None, 1, &|_| {}));
    assert!(refused.contains("the checksum of a page is wrong"), "{refused}");
}
