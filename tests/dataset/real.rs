//! Trials on real files: ImageNet photos, tars that the webdataset library wrote, and files that showed faults.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use forebay::dataset::{Dataset, build};
use forebay::decode::Decoder;
use forebay_tests::{json, sha256};
use libtest_mimic::Trial;

pub(crate) fn trials(data: &Path) -> Vec<Trial> {
    let trial = |name: &str, check: fn(&Path)| {
        let data = data.to_path_buf();
        Trial::test(format!("real::{name}"), move || {
            check(&data);
            Ok(())
        })
    };
    vec![
        trial("imagenet_photos_are_all_good", imagenet),
        trial("cifar10_shards_have_their_counts_and_classes", cifar10),
        trial("webdataset_labels_are_those_of_the_files", labels),
        trial("files_of_other_layouts_have_the_labels_of_imagenet", formats),
        trial("a_file_of_the_hub_has_the_labels_of_its_images", parquet),
        trial("odd_files_have_the_verdict_and_the_pixels_of_pillow", odd),
        trial("odd_datasets_are_indexed_as_their_readers_read_them", odd_datasets),
    ]
}

/// The folder of real data may be read-only.
fn opened(path: &Path) -> Dataset {
    let indexes = tempfile::tempdir().unwrap();
    build(path, Some(indexes.path()), 2, &|_| {}).unwrap();
    Dataset::open(path, Some(indexes.path())).unwrap()
}

fn imagenet(data: &Path) {
    let dataset = opened(&data.join("imagenet-sample/train"));
    assert_eq!((dataset.len(), dataset.bad_count(), dataset.classes().len()), (200, 0, 200));
    assert!(dataset.classes().is_sorted() && dataset.classes()[0].starts_with('n'));
    assert!((0..200).all(|id| u64::from(dataset.record(id).label) == id));
}

fn cifar10(data: &Path) {
    for (pattern, count) in [("train-{000000..000001}.tar", 10_000), ("val-*.tar", 2000)] {
        let summary = opened(&data.join("cifar10-wds").join(pattern)).summary();
        assert_eq!((summary.records, summary.good), (count, count));
        assert_eq!(summary.classes.len(), 10);
        assert_eq!(summary.classes[0].class, "airplane");
        assert!(summary.classes.iter().all(|class| class.records == count / 10));
    }
}

fn labels(data: &Path) {
    let labels = json(&data.join("formats/labels.json"));
    let labels = labels.as_object().unwrap();
    let dataset = opened(&data.join("formats/wds-train-*.tar"));
    assert_eq!((dataset.len(), dataset.bad_count()), (20, 0));
    for id in 0..20 {
        let key = dataset.name(id).split_once('/').unwrap().1.strip_suffix(".jpg").unwrap();
        assert_eq!(labels[&format!("{key}.JPEG")], dataset.record(id).label, "{key}");
    }
}

/// The same 20 photos, as TensorFlow and Python's tarfile wrote them.
fn formats(data: &Path) {
    let formats = data.join("formats");
    let labels = json(&formats.join("labels.json"));
    let labels = labels.as_object().unwrap();
    let webdataset = opened(&formats.join("wds-train-*.tar"));
    for path in ["tfslim-train-*-of-00002", "tfds-imagenet2012-train.tfrecord-*"] {
        let dataset = opened(&formats.join(path));
        assert_eq!((dataset.len(), dataset.bad_count()), (20, 0), "{path}");
        for id in 0..20 {
            let name = dataset.name(id).split_once('/').unwrap().1;
            assert_eq!(labels[name], dataset.record(id).label, "{path}: {name}");
        }
        assert_eq!(dataset.summary().content, webdataset.summary().content, "{path}");
    }
    let dataset = opened(&formats.join("ILSVRC2012_img_train.tar"));
    assert_eq!((dataset.len(), dataset.bad_count(), dataset.classes().len()), (20, 0, 20));
    let mut scratch = Vec::new();
    for id in 0..20 {
        let name = dataset.name(id).split_once('/').unwrap().1;
        assert!(name.starts_with(&dataset.classes()[dataset.record(id).label as usize]), "{name}");
        let stem = name.strip_suffix(".JPEG").unwrap();
        let same = |other: &u64| webdataset.name(*other).ends_with(&format!("/{stem}.jpg"));
        let other = (0..20).find(same).unwrap();
        let bytes = dataset.read(id, &mut scratch).unwrap().to_vec();
        assert_eq!(bytes, webdataset.read(other, &mut scratch).unwrap(), "{name}");
    }
}

fn parquet(data: &Path) {
    let labels = json(&data.join("formats/labels.json"));
    let labels = labels.as_object().unwrap();
    let dataset = opened(&data.join("formats/hf-train-00000-of-00001.parquet"));
    assert_eq!((dataset.len(), dataset.bad_count()), (20, 0));
    let tars = opened(&data.join("formats/wds-train-*.tar"));
    let key = |name: &str| name.split_once('/').unwrap().1.rsplit_once('.').unwrap().0.to_owned();
    let checksums: BTreeMap<String, u64> =
        (0..20).map(|id| (key(tars.name(id)), tars.record(id).checksum)).collect();
    for id in 0..20 {
        let name = dataset.name(id).split_once('/').unwrap().1;
        assert_eq!(labels[name], dataset.record(id).label, "{name}");
        assert_eq!(checksums[&key(dataset.name(id))], dataset.record(id).checksum, "{name}");
    }
}

/// The files of `reports/` that Pillow opens and forebay does not decode, with the kind that each is refused as.
const NOT_DECODED: [(&str, &str); 4] = [
    ("as_AVIF.jpg", "AVIF is not supported"),
    ("as_JPEG2000.jpg", "JPEG 2000 is not supported"),
    ("lossless_gray.jpg", "lossless coding is not supported"),
    ("lossless_rgb_p1.jpg", "lossless coding is not supported"),
];

fn odd(data: &Path) {
    let reports = data.join("reports");
    let expected = json(&reports.join("expected.json"));
    let expected = expected["files"].as_object().unwrap();
    // All files are a dataset of one class.
    let root = tempfile::tempdir().unwrap();
    let class = root.path().join("c");
    fs::create_dir(&class).unwrap();
    for name in expected.keys() {
        fs::copy(reports.join(name), class.join(name.replace('/', "."))).unwrap();
    }
    let dataset = opened(root.path());
    assert_eq!(dataset.len(), expected.len() as u64);
    let ids: BTreeMap<_, _> = (0..dataset.len()).map(|id| (dataset.name(id), id)).collect();
    let bad: BTreeMap<_, _> = dataset.bad().collect();
    let (mut decoder, mut scratch) = (Decoder::default(), Vec::new());
    for (name, pillow) in expected {
        let id = ids[&*format!("c/{}", name.replace('/', "."))];
        let not_decoded = NOT_DECODED.iter().find(|(file, _)| name.ends_with(file));
        if let Some((_, kind)) = not_decoded {
            assert!(bad[&id].contains(kind), "{name}: {}", bad[&id]);
            continue;
        }
        if let Some(refusal) = pillow["refused"].as_str() {
            assert!(bad.contains_key(&id), "{name}: Pillow refuses it: {refusal}");
            continue;
        }
        assert!(!bad.contains_key(&id), "{name}: {}", bad[&id]);
        let size = dataset.record(id).size;
        assert_eq!(pillow["size"], serde_json::json!([size.height, size.width]), "{name}");
        let bytes = dataset.read(id, &mut scratch).unwrap();
        let entries = dataset.entry_points(id);
        let region = decoder.decode(bytes, size.whole(), entries).unwrap();
        let pixels = region.crop(size.whole());
        assert_eq!(pillow["rgb_sha256"], sha256(pixels.data()), "{name}");
    }
}

fn odd_datasets(data: &Path) {
    let reports = data.join("reports");
    for (path, good, skipped) in [
        ("02-wds-stray-member/hardlink.tar", 1, 1),
        ("02-wds-stray-member/missing_cls.tar", 2, 1),
        ("02-wds-stray-member/missing_img.tar", 2, 1),
        // README.md is a sample without an image. LICENSE has no extension, so it belongs to no sample.
        ("02-wds-stray-member/readme.tar", 1, 1),
        ("03-tars-beside-class-folders/train", 2, 0),
        ("14-shard-patterns/p{0..1}/s.tar", 2, 0),
        ("14-shard-patterns/p*/s.tar", 2, 0),
        ("14-shard-patterns/p0/?.tar", 1, 0),
    ] {
        let summary = opened(&reports.join(path)).summary();
        let found: u64 = summary.skipped.iter().map(|skipped| skipped.count).sum();
        assert_eq!((summary.good, found), (good, skipped), "{path}");
    }
    // Every folder of images, whole or damaged, is indexed or refused with a reason.
    for entry in fs::read_dir(&reports).unwrap() {
        let folder = entry.unwrap().path().join("ds");
        let indexes = tempfile::tempdir().unwrap();
        if folder.is_dir() {
            let built = build(&folder, Some(indexes.path()), 2, &|_| {});
            assert_eq!(built.is_err(), folder.parent().unwrap().ends_with("16-pillow-refuses"));
        }
    }
}
