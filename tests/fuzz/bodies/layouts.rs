//! Datasets of all layouts but tars and folders of images, which have targets of their own.

use std::fs;

use forebay::dataset::{Dataset, IndexOptions, build_with};

use super::{Input, seeds};

/// The hostile file of each kind of input, in the folder of its dataset.
const HOSTILE: [&str; 9] = [
    "x.tfrecord",
    "ILSVRC2012_img_train.tar",
    "ILSVRC2012_devkit_t12/data/meta.mat",
    "shard.00000.mds",
    "index.json",
    "list.csv",
    "data_batch_1",
    "features.json",
    "shard.00000.mds.zstd",
];

/// A hostile file is an error, or a dataset whose records are slices of it or of files in its folder.
///
/// Input: kind (u8: 0 TFRecord, 1 tar of class tars, 2 the table of synsets beside a validation tar, 3 MDS
/// shard, 4 index of MDS shards, 5 manifest, 6 pickled batch of CIFAR, 7 description of TFRecords, 8
/// compressed MDS shard), the file.
pub fn layouts(bytes: &[u8]) {
    let mut input = Input(bytes);
    let kind = usize::from(input.u8()) % HOSTILE.len();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path().join("d");
    let path = seeds::surroundings(&root, kind, input.0.len());
    fs::write(root.join(HOSTILE[kind]), input.0).expect("room for the file");
    let indexes = folder.path().join("i");
    if build_with(&path, Some(&indexes), 1, &IndexOptions::default(), &|_| {}).is_err() {
        return;
    }
    let dataset = Dataset::open(&path, Some(&indexes)).expect("just built");
    check(&dataset);
}

fn check(dataset: &Dataset) {
    let mut buffer = Vec::new();
    drop(dataset.summary());
    for id in 0..dataset.len() {
        let record = dataset.record(id);
        assert!((record.label as usize) < dataset.classes().len());
        let read = dataset.read(id, &mut buffer).expect("just built");
        assert_eq!(read.len(), record.length as usize);
        assert!(dataset.record(dataset.good_or_next(id)).good);
        assert!(!dataset.name(id).is_empty());
    }
}
