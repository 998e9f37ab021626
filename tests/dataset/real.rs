//! Trials on real files: ImageNet photos, and tars that the webdataset library wrote.

use std::path::Path;

use forebay::dataset::{Dataset, build};
use forebay_tests::json;
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
    assert_eq!((dataset.len(), dataset.bad().len(), dataset.classes().len()), (200, 0, 200));
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
    assert_eq!((dataset.len(), dataset.bad().len()), (20, 0));
    for id in 0..20 {
        let key = dataset.name(id).split_once('/').unwrap().1.strip_suffix(".jpg").unwrap();
        assert_eq!(labels[&format!("{key}.JPEG")], dataset.record(id).label, "{key}");
    }
}
