//! The layouts other than `ImageFolder` and plain tars: what they say about themselves, and what they refuse.

use std::fs;
use std::path::Path;

use forebay::dataset::{
    Dataset, DatasetError, IndexOptions, LabelSource, Summary, build_with, with_split,
};
use forebay_tests::fuzz::writers::{
    Feature, cifar_pickle, example, gzip, mds_index, mds_index_zstd, mds_shard, tf_record, zstd,
};
use tempfile::tempdir;

use crate::make::{cut_image, files, image, index, listing, message, opened, tar};

fn index_with(path: &Path, options: &IndexOptions) -> Result<Summary, DatasetError> {
    build_with(path, None, 2, options, &|_| {})
}

/// A record as TF-slim writes it.
fn slim(image: &[u8], label: i64) -> Vec<u8> {
    tf_record(&example(&[
        ("image/encoded", Feature::Bytes(image)),
        ("image/class/label", Feature::Int(label)),
    ]))
}

/// A record as TensorFlow Datasets writes it.
fn tfds(image: &[u8], label: i64) -> Vec<u8> {
    tf_record(&example(&[("image", Feature::Bytes(image)), ("label", Feature::Int(label))]))
}

pub(crate) fn the_first_label_of_tfrecords_depends_on_their_writer_and_is_told() {
    let root = tempdir().unwrap();
    let path = root.path().join("x.tfrecord");
    files(root.path(), &[("x.tfrecord", [slim(&image(1), 1), slim(&image(2), 3)].concat())]);
    let summary = index(&path).unwrap();
    let dataset = Dataset::open(&path, None).unwrap();
    assert_eq!(listing(&dataset), [("x.tfrecord/0", 0), ("x.tfrecord/1", 2)]);
    assert_eq!(dataset.read(1, &mut Vec::new()).unwrap(), image(2));
    assert_eq!(summary.facts["labels"], "image/class/label, minus 1 (TF-slim)");
    assert!(summary.suspicious[0].contains("1 classes have no records: 1"), "{summary}");

    let zero = IndexOptions { label_offset: Some(0), ..IndexOptions::default() };
    assert_eq!(index_with(&path, &zero).unwrap().classes.len(), 4);
    files(root.path(), &[("x.tfrecord", slim(&image(1), 0))]);
    let refused = message(index(&path));
    assert!(refused.contains("x.tfrecord: at byte 12: "), "{refused}");
    assert!(refused.contains("not in 1 to") && refused.contains("--label-offset"), "{refused}");
    assert_eq!(index_with(&path, &zero).unwrap().records, 1);

    files(root.path(), &[("x.tfrecord", [tfds(&image(1), 0), tfds(&image(2), -1)].concat())]);
    let summary = index(&path).unwrap();
    assert_eq!(summary.facts["labels"], "label, from 0 (TensorFlow Datasets)");
    assert_eq!((summary.records, summary.skipped[0].count), (1, 1));
}

pub(crate) fn labels_of_another_field_of_tfrecords_begin_at_0_and_have_no_names_of_others() {
    let root = tempdir().unwrap();
    let path = root.path().join("x.tfrecord");
    let jpg = image(1);
    let record = |image, label| {
        tf_record(&example(&[
            (image, Feature::Bytes(&jpg)),
            (label, Feature::Int(1)),
            ("other", Feature::Int(0)),
        ]))
    };
    let other = IndexOptions { label_column: Some("other".to_owned()), ..IndexOptions::default() };
    files(root.path(), &[("x.tfrecord", record("image/encoded", "image/class/label"))]);
    let summary = index_with(&path, &other).unwrap();
    assert_eq!(summary.facts["labels"], "other, from 0 (--label-column)");
    assert_eq!(listing(&Dataset::open(&path, None).unwrap()), [("x.tfrecord/0", 0)]);
    // TensorFlow Datasets names the classes of one field.
    let features =
        br#"{"content": {"image": {"type": "x.Image"}, "label": {"type": "x.ClassLabel"}}}"#;
    files(
        root.path(),
        &[
            ("x.tfrecord", record("image", "label")),
            ("features.json", features.to_vec()),
            ("label.labels.txt", b"cat\ndog\n".to_vec()),
        ],
    );
    assert_eq!(opened(&path).classes(), ["cat", "dog"]);
    index_with(&path, &other).unwrap();
    assert_eq!(Dataset::open(&path, None).unwrap().classes(), ["0"]);
}

pub(crate) fn a_dataset_of_tensorflow_may_have_classes_at_two_levels() {
    let root = tempdir().unwrap();
    let path = root.path().join("x.tfrecord");
    let jpg = image(1);
    let record = tf_record(&example(&[
        ("coarse_label", Feature::Int(1)),
        ("image", Feature::Bytes(&jpg)),
        ("label", Feature::Int(0)),
    ]));
    let features =
        br#"{"content": {"coarse_label": {"type": "x.ClassLabel"}, "image": {"type": "x.Image"},
        "label": {"type": "x.ClassLabel"}}}"#;
    files(
        root.path(),
        &[
            ("x.tfrecord", record),
            ("features.json", features.to_vec()),
            ("label.labels.txt", b"apple\nbear\n".to_vec()),
            ("coarse_label.labels.txt", b"mammal\nfruit\n".to_vec()),
        ],
    );
    let dataset = opened(&path);
    assert_eq!((dataset.record(0).label, dataset.classes()), (0, &names(["apple", "bear"])[..]));
    let label_column = Some("coarse_label".to_owned());
    index_with(&path, &IndexOptions { label_column, ..IndexOptions::default() }).unwrap();
    let dataset = Dataset::open(&path, None).unwrap();
    assert_eq!((dataset.record(0).label, dataset.classes()), (1, &names(["mammal", "fruit"])[..]));
}

fn names(names: [&str; 2]) -> [String; 2] {
    names.map(str::to_owned)
}

pub(crate) fn flags_about_other_layouts_are_refused_by_name() {
    let root = tempdir().unwrap();
    let root = root.path();
    let columns = [("image", "jpeg", None), ("label", "uint8", Some(1))];
    let shard = mds_shard(&columns, &[vec![image(1), vec![0]]]);
    let mds = mds_index(&columns, &[("0.mds", 1, shard.len())]).into_bytes();
    let batch = cifar_pickle("labels", &[vec![1; 3072]], &[0]);
    let class_tar = tar(&[("n01440764.tar", tar(&[("n01440764_1.JPEG", image(1))]))]);
    files(
        root,
        &[
            ("folder/a/1.jpg", image(1)),
            ("folder/list.csv", b"a/1.jpg,0\n".to_vec()),
            ("x.tar", tar(&[("a.jpg", image(1)), ("a.cls", b"0".to_vec())])),
            ("x.tfrecord", tfds(&image(1), 0)),
            ("ILSVRC2012_img_train.tar", class_tar),
            ("kaggle/ILSVRC/Data/CLS-LOC/train/n1/1.JPEG", image(1)),
            ("mds/0.mds", shard),
            ("mds/index.json", mds),
            ("cifar/batches.meta", batch.clone()),
            ("cifar/test_batch", batch),
        ],
    );
    let name = || Some("x".to_owned());
    let none = IndexOptions::default;
    let flags = [
        ("--label", IndexOptions { label: Some(LabelSource::Cls), ..none() }),
        ("--image-column", IndexOptions { image_column: name(), ..none() }),
        ("--label-column", IndexOptions { label_column: name(), ..none() }),
        ("--label-offset", IndexOptions { label_offset: Some(1), ..none() }),
    ];
    let named = &["--image-column", "--label-column"][..];
    for (path, layout, fits) in [
        ("folder", "ImageFolder", &[][..]),
        ("x.tar", "WebDataset", &["--label"]),
        ("x.tfrecord", "TFRecord", &["--image-column", "--label-column", "--label-offset"]),
        ("ILSVRC2012_img_train.tar", "ILSVRC tars", &[]),
        ("kaggle#train", "Kaggle ImageNet", &[]),
        ("mds", "MosaicML MDS", named),
        ("cifar#test", "CIFAR batches", &[]),
        ("folder/list.csv", "CSV manifest", named),
    ] {
        for (flag, options) in &flags {
            let result = index_with(&root.join(path), options);
            if fits.contains(flag) {
                let ignored = matches!(result, Err(DatasetError::Option { .. }));
                assert!(!ignored, "{path} {flag}");
                continue;
            }
            let refused = message(result);
            let starts = format!("{flag} does not apply to {}", root.display());
            let says = format!("has the layout {layout}: it is about ");
            assert!(refused.starts_with(&starts) && refused.contains(&says), "{path}: {refused}");
        }
    }
}

pub(crate) fn names_of_classes_come_from_the_synsets_of_tfrecords() {
    let root = tempdir().unwrap();
    let record = |number, label, synset: &str| {
        tf_record(&example(&[
            ("image/encoded", Feature::Bytes(&image(number))),
            ("image/class/label", Feature::Int(label)),
            ("image/class/synset", Feature::Bytes(synset.as_bytes())),
            ("image/class/text", Feature::Bytes(b"tench, Tinca tinca")),
            ("image/filename", Feature::Bytes(b"a.JPEG")),
        ]))
    };
    let path = root.path().join("train-00000-of-00001");
    files(root.path(), &[("train-00000-of-00001", record(1, 2, "n01440764"))]);
    let dataset = opened(&path);
    assert_eq!(dataset.classes(), ["0", "n01440764"]);
    assert_eq!(dataset.summary().classes[1].words, "tench, Tinca tinca");
    assert_eq!(dataset.name(0), "train-00000-of-00001/a.JPEG");
    // Records that disagree name no class.
    let both = [record(1, 2, "n01440764"), record(2, 2, "n01443537")].concat();
    files(root.path(), &[("train-00000-of-00001", both)]);
    assert_eq!(opened(&path).classes(), ["0", "1"]);
}

pub(crate) fn a_damaged_tfrecord_is_bad_and_a_damaged_length_ends_its_file() {
    let root = tempdir().unwrap();
    let path = root.path().join("x.tfrecord");
    let records = [tfds(&image(1), 0), tfds(&image(2), 1), tfds(&image(3), 1)];
    let second = records[0].len();
    let with_flipped = |at: usize| {
        let mut bytes = records.concat();
        bytes[at] ^= 4;
        files(root.path(), &[("x.tfrecord", bytes)]);
        index(&path)
    };
    // A byte of the second image that a decoder does not look at: only the checksum tells.
    let end = second + records[1].windows(2).rposition(|pair| pair == [0xFF, 0xD9]).unwrap();
    let summary = with_flipped(end + 2).unwrap();
    assert_eq!((summary.records, summary.good), (3, 2));
    assert_eq!(summary.bad[0].reason, "the checksum (CRC-32C) of its TFRecord is wrong");
    for at in [second, second + 9] {
        let refused = message(with_flipped(at));
        let says =
            format!("x.tfrecord: at byte {second}: the checksum of a record's length is wrong");
        assert!(refused.contains(&says), "{refused}");
    }
    // Without a label that can be believed, a record is skipped.
    let summary = with_flipped(second + 12).unwrap();
    assert_eq!((summary.records, summary.skipped[0].count), (2, 1));
    assert!(summary.skipped[0].reason.contains("CRC-32C"), "{}", summary.skipped[0].reason);
    for length in [second + 5, second + 20, second + records[1].len() - 1] {
        files(root.path(), &[("x.tfrecord", records.concat()[..length].to_vec())]);
        let refused = message(index(&path));
        assert!(refused.contains(&format!("at byte {second}: the file is truncated")), "{refused}");
    }
}

pub(crate) fn a_flipped_bit_of_a_tfrecord_costs_its_record_and_nothing_of_others() {
    let root = tempdir().unwrap();
    let path = root.path().join("x.tfrecord");
    let record = |number, label: i64, synset: &str| {
        let jpg = image(number);
        let fields = [
            ("image/encoded", Feature::Bytes(&jpg)),
            ("image/class/synset", Feature::Bytes(synset.as_bytes())),
            ("image/class/label", Feature::Int(label)),
        ];
        tf_record(&example(&fields))
    };
    // The second record has changed since its checksum was made.
    let with = |before: &[u8], after: &[u8]| {
        assert_eq!(before.len(), after.len());
        let data = 12..before.len() - 4;
        let damaged = [&before[..12], &after[data], &before[before.len() - 4..]].concat();
        let shard = [record(1, 1, "n1"), damaged, record(3, 2, "n2"), record(4, 1, "n1")].concat();
        files(root.path(), &[("x.tfrecord", shard)]);
        let summary = index(&path).unwrap();
        let classes = Dataset::open(&path, None).unwrap().classes().to_vec();
        (classes, summary.records, summary.good, summary.skipped.first().cloned())
    };
    let names = ["n1", "n2"].map(str::to_owned).to_vec();
    // A label that makes more classes than there are.
    let (classes, records, good, skipped) = with(&record(2, 1, "n1"), &record(2, 99, "n1"));
    assert_eq!((classes, records, good), (names.clone(), 3, 3));
    assert!(skipped.unwrap().reason.contains("CRC-32C"));
    // One that another record has behind it: the record is bad, as with any other damage.
    let (classes, records, good, skipped) = with(&record(2, 1, "n1"), &record(2, 2, "n1"));
    assert_eq!((classes, records, good, skipped), (names.clone(), 4, 3, None));
    // A synset that others of its label do not have.
    let (classes, ..) = with(&record(2, 1, "n1"), &record(2, 1, "x1"));
    assert_eq!(classes, names);
    let (classes, ..) = with(&record(2, 2, "n2"), &record(2, 2, "x2"));
    assert_eq!(classes, names);
    // Without a label, by its bytes.
    let unlabeled = record(2, 1, "n1");
    let at = unlabeled.windows(5).position(|bytes| bytes == b"label").unwrap();
    let mut changed = unlabeled.clone();
    changed[at] = b'L';
    let (_, records, _, skipped) = with(&unlabeled, &changed);
    assert!(records == 3 && skipped.unwrap().reason.contains("CRC-32C"));
    // With the list of names, a label of no class refuses the dataset only if the record says so.
    files(root.path(), &[("classes.txt", b"a\nb\n".to_vec())]);
    let (classes, records, ..) = with(&record(2, 1, "n1"), &record(2, 3, "n1"));
    assert_eq!((classes.len(), records), (2, 3));
    files(root.path(), &[("x.tfrecord", record(2, 3, "n1"))]);
    assert!(message(index(&path)).contains("has label 2, but the number of classes is 2"));
}

pub(crate) fn tfrecords_of_other_forms_are_refused_with_advice() {
    let root = tempdir().unwrap();
    let path = root.path().join("x.tfrecord");
    files(root.path(), &[("x.tfrecord", gzip(&tfds(&image(1), 0)))]);
    let refused = message(index(&path));
    assert!(refused.contains("write it again without compression"), "{refused}");

    let jpg = image(1);
    let fields = [("img", Feature::Bytes(&jpg)), ("cls", Feature::Int(1))];
    files(root.path(), &[("x.tfrecord", tf_record(&example(&fields)))]);
    let refused = message(index(&path));
    assert!(refused.contains("no feature \"image\"; its columns are img, cls"), "{refused}");
    assert!(refused.contains("--image-column"), "{refused}");
    let options = IndexOptions {
        image_column: Some("img".to_owned()),
        label_column: Some("cls".to_owned()),
        ..IndexOptions::default()
    };
    assert_eq!(index_with(&path, &options).unwrap().good, 1);
    files(root.path(), &[("x.tfrecord", tf_record(b"not a message"))]);
    assert!(message(index(&path)).contains("not a tf.train.Example"));
    // The index lies beside the file, and the pattern that it was made by matches both.
    files(root.path(), &[("y.tfrecord", tfds(&image(1), 0))]);
    let pattern = root.path().join("y.tfrecord*");
    assert_eq!((opened(&pattern).len(), opened(&pattern).len()), (1, 1));
    // A name that says nothing: the file is recognized by its first bytes.
    files(root.path(), &[("plain", tfds(&image(1), 0)), ("other", b"text".to_vec())]);
    assert_eq!(opened(&root.path().join("plain")).len(), 1);
    assert!(
        message(index(&root.path().join("other"))).contains("expected a folder for each class")
    );
}

pub(crate) fn one_of_several_splits_must_be_selected() {
    let root = tempdir().unwrap();
    let record = |number| tfds(&image(number), 0);
    files(
        root.path(),
        &[
            ("tf/train-00000-of-00002", record(1)),
            ("tf/train-00001-of-00002", record(2)),
            ("tf/validation-00000-of-00001", record(3)),
            ("folders/train/train-00000-of-00001", record(1)),
            ("folders/validation/validation-00000-of-00001", record(2)),
            ("tree/train/a/1.jpg", image(1)),
            ("tree/val/a/2.jpg", image(2)),
        ],
    );
    let refused = message(index(&root.path().join("tf")));
    assert!(refused.contains("several splits: train, validation"), "{refused}");
    let of = |path: &str, split: &str| {
        let dataset = opened(&with_split(&root.path().join(path), Some(split)));
        dataset.name(dataset.len() - 1).to_owned()
    };
    assert_eq!(of("tf", "train"), "train-00001-of-00002/0");
    assert_eq!(of("tf", "val"), "validation-00000-of-00001/0");
    assert_eq!(of("folders", "val"), "validation-00000-of-00001/0");
    assert_eq!(of("tree", "val"), "a/2.jpg");
    let refused = message(index(&root.path().join("folders")));
    assert!(refused.contains("several splits: train, validation"), "{refused}");
    let refused = message(index(&root.path().join("tree#test")));
    assert!(refused.contains("no split \"test\"; it has train, val"), "{refused}");
    // Folders of the names of splits are not two classes, unless there are others.
    files(root.path(), &[("tree/.cache/3.jpg", image(3))]);
    let refused = message(index(&root.path().join("tree")));
    assert!(refused.contains("several splits: train, val"), "{refused}");
    files(root.path(), &[("vehicles/bus/1.jpg", image(1)), ("vehicles/train/2.jpg", image(2))]);
    assert_eq!(opened(&root.path().join("vehicles")).classes(), ["bus", "train"]);
    // Each split has an index of its own.
    assert!(root.path().join("tf#train.forebay").exists());
    assert!(root.path().join("tf#val.forebay").exists());
}

pub(crate) fn tars_of_ilsvrc_are_refused_without_what_belongs_to_them() {
    let root = tempdir().unwrap();
    let val = || tar(&[("ILSVRC2012_val_00000001.JPEG", image(1))]);
    files(root.path(), &[("ILSVRC2012_img_val.tar", val())]);
    let refused = message(index(root.path()));
    assert!(refused.contains("put ILSVRC2012_devkit_t12.tar.gz"), "{refused}");
    let synsets = "imagenet_2012_validation_synset_labels.txt";
    files(root.path(), &[(synsets, b"n2\nn1\n".to_vec())]);
    let dataset = opened(root.path());
    assert_eq!(listing(&dataset), [("ILSVRC2012_val_00000001.JPEG", 1)]);
    let third = tar(&[("ILSVRC2012_val_00000003.JPEG", image(1))]);
    files(root.path(), &[("ILSVRC2012_img_val.tar", third)]);
    let refused = message(index(root.path()));
    assert!(
        refused.contains("labels of 2 images, and none of ILSVRC2012_val_00000003"),
        "{refused}"
    );
    files(root.path(), &[("ILSVRC2012_devkit_t12.tar.gz", gzip(&tar(&[("a", b"b".to_vec())])))]);
    let refused = message(index(root.path()));
    assert!(refused.contains("has no data/meta.mat"), "{refused}");

    // A tar inside of a tar that is cut is refused, as is one without images.
    let root = tempdir().unwrap();
    let path = root.path().join("ILSVRC2012_img_train.tar");
    let inner = tar(&[("n01440764_1.JPEG", image(1))]);
    let outer = |inner: Vec<u8>| tar(&[("README", b"text".to_vec()), ("n01440764.tar", inner)]);
    files(root.path(), &[("ILSVRC2012_img_train.tar", outer(inner[..700].to_vec()))]);
    let refused = message(index(root.path()));
    assert!(refused.contains("at byte 1536: the file is truncated"), "{refused}");
    files(root.path(), &[("ILSVRC2012_img_train.tar", outer(tar(&[])))]);
    let refused = message(index(root.path()));
    assert!(refused.contains("n01440764.tar has no images"), "{refused}");
    files(root.path(), &[("ILSVRC2012_img_train.tar", outer(inner))]);
    let summary = index(root.path()).unwrap();
    assert_eq!((summary.records, summary.skipped[0].count), (1, 1));
    assert_eq!(summary.skipped[0].examples, ["README"]);
    assert_eq!(opened(&path).read(0, &mut Vec::new()).unwrap(), image(1));
}

pub(crate) fn validation_images_of_kaggle_without_a_label_are_skipped() {
    let root = tempdir().unwrap();
    let images = root.path().join("ILSVRC/Data/CLS-LOC/val");
    files(&images, &[("a_1.JPEG", image(1)), ("a_2.JPEG", image(2)), ("x.txt", b"".to_vec())]);
    let refused = message(index(root.path()));
    assert!(refused.contains("put LOC_val_solution.csv into a folder above"), "{refused}");
    let solution = b"ImageId,PredictionString\na_2,n2 1 2 3 4\nb,n1 1 2 3 4\n".to_vec();
    files(root.path(), &[("LOC_val_solution.csv", solution)]);
    let dataset = opened(root.path());
    assert_eq!(listing(&dataset), [("a_2.JPEG", 1)]);
    assert_eq!(dataset.classes(), ["n1", "n2"]);
    for above in ["ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC", "ILSVRC/Data/CLS-LOC/val"] {
        assert_eq!(opened(&root.path().join(above)).digest(), dataset.digest(), "{above}");
    }
    assert_eq!(dataset.summary().skipped[0].reason, "no label in LOC_val_solution.csv");
}

pub(crate) fn labels_of_webdataset_may_be_any_key_of_json() {
    let root = tempdir().unwrap();
    let json = |text: &str| text.as_bytes().to_vec();
    let shard = tar(&[
        ("a.png", image(1)),
        ("a.cls", b"9".to_vec()),
        ("a.json", json(r#"{"label": 7, "meta": {"fine": 2}}"#)),
        ("b.webp", image(2)),
        ("b.cls", b"9".to_vec()),
        ("b.json", json(r#"{"label": 7, "meta": {"fine": -1}}"#)),
        ("c.webp", image(3)),
        ("c.cls", b"9".to_vec()),
    ]);
    let path = root.path().join("x-train-0.tar");
    files(root.path(), &[("x-train-0.tar", shard.clone()), ("x-validation-0.tar", shard)]);
    let options = |label: &str| IndexOptions {
        label: Some(label.parse().unwrap()),
        ..IndexOptions::default()
    };
    let summary = index_with(&path, &options("json:meta.fine")).unwrap();
    assert_eq!(listing(&Dataset::open(&path, None).unwrap()), [("x-train-0.tar/a.png", 2)]);
    assert_eq!(summary.facts["labels"], "meta.fine of .json");
    let skipped: Vec<_> = summary.skipped.iter().map(|skipped| skipped.reason.as_str()).collect();
    assert_eq!(skipped, ["a negative label", "no label (.cls or .json)"]);
    let refused = message(index_with(&path, &options("json:text")));
    assert!(refused.contains("the key of --label"), "{refused}");
    assert_eq!(index_with(&path, &options("cls")).unwrap().records, 3);

    // timm's description of the shards says where the labels of a split are.
    let info = br#"{"splits": {"train": {"name": "train", "num_samples": 3, "filenames": ["x-train-0.tar"],
        "shard_lengths": [3], "alt_label": "meta.fine"}}}"#;
    files(root.path(), &[("_info.json", info.to_vec())]);
    let summary = index(&with_split(root.path(), Some("train"))).unwrap();
    assert_eq!((summary.records, summary.shards), (1, 1));
    assert_eq!(index(&with_split(root.path(), Some("val"))).unwrap().records, 3);
    // Without a split, one must be selected if there are several, by what is described or by the names.
    let refused = message(index(root.path()));
    assert!(refused.contains("several splits: train, validation"), "{refused}");
    fs::rename(root.path().join("x-validation-0.tar"), root.path().join("y-0.tar")).unwrap();
    let summary = index(root.path()).unwrap();
    assert_eq!((summary.records, summary.facts["split"].as_str()), (1, "train"));
    assert_eq!(summary.facts["labels"], "meta.fine of .json");
    let info =
        br#"{"splits": {"a": {"filenames": ["x-train-0.tar"]}, "b": {"filenames": ["y-0.tar"]}}}"#;
    files(root.path(), &[("_info.json", info.to_vec())]);
    fs::rename(root.path().join("x-train-0.tar"), root.path().join("x-0.tar")).unwrap();
    let refused = message(index(root.path()));
    assert!(refused.contains("several splits: a, b"), "{refused}");
    fs::remove_file(root.path().join("_info.json")).unwrap();
    assert_eq!(index(root.path()).unwrap().records, 6);
}

pub(crate) fn tars_of_several_splits_are_not_one_dataset_unless_a_pattern_names_them() {
    let root = tempdir().unwrap();
    let shard = |number| tar(&[("a.jpg", image(number)), ("a.cls", b"0".to_vec())]);
    files(root.path(), &[("x-train-0.tar", shard(1)), ("x-validation-0.tar", shard(2))]);
    let refused = message(index(root.path()));
    assert!(refused.contains("several splits: train, validation"), "{refused}");
    let summary = index(&root.path().join("*.tar")).unwrap();
    assert_eq!(summary.records, 2);
    assert!(summary.suspicious.iter().any(|what| what.contains("train, validation")), "{summary}");
    assert_eq!(index(&with_split(root.path(), Some("val"))).unwrap().records, 1);
}

pub(crate) fn shards_of_a_split_and_of_none_are_not_mixed_silently() {
    let root = tempdir().unwrap();
    let shards = ["train-00000-of-00001", "extra-00000-of-00001"];
    files(root.path(), &shards.map(|name| (name, tfds(&image(1), 0))));
    let refused = message(index(root.path()));
    assert!(refused.contains("of the split train") && refused.contains(shards[1]), "{refused}");
    assert_eq!(index(&with_split(root.path(), Some("train"))).unwrap().records, 1);
    assert_eq!(index(&root.path().join("*-of-00001")).unwrap().records, 2);
}

pub(crate) fn validation_images_of_imagenet_in_a_webdataset_have_the_labels_beside_them() {
    let root = tempdir().unwrap();
    let (jpg, cls) = ("ILSVRC2012_val_00000001.jpg", "ILSVRC2012_val_00000001.cls");
    let label = || b"7".to_vec();
    for shard in [tar(&[(cls, label()), (jpg, image(1))]), tar(&[(jpg, image(1)), (cls, label())])]
    {
        files(root.path(), &[("x.tar", shard)]);
        let dataset = opened(&root.path().join("x.tar"));
        assert_eq!(listing(&dataset), [(format!("x.tar/{jpg}").as_str(), 7)]);
    }
    let flat = ["ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG"];
    files(root.path(), &[("x.tar", tar(&flat.map(|name| (name, image(1)))))]);
    let refused = message(index(&root.path().join("x.tar")));
    assert!(refused.contains("put ILSVRC2012_devkit_t12.tar.gz"), "{refused}");
}

pub(crate) fn shards_of_mds_that_cannot_be_read_in_place_are_refused_by_name() {
    let root = tempdir().unwrap();
    let label = |label: u8| vec![label];
    let write = |encodings: [&str; 2], bytes: Option<usize>, json: fn(String) -> String| {
        let columns = [("image", encodings[0], None), ("label", encodings[1], Some(1))];
        let shard = mds_shard(&columns, &[vec![image(1), label(0)], vec![image(2), label(1)]]);
        let index = mds_index(&columns, &[("shard.00000.mds", 2, bytes.unwrap_or(shard.len()))]);
        files(root.path(), &[("shard.00000.mds", shard), ("index.json", json(index).into_bytes())]);
        index_with(root.path(), &IndexOptions::default())
    };
    let summary = write(["jpeg", "uint8"], None, |json| json).unwrap();
    assert_eq!(
        (summary.records, summary.facts["columns"].as_str()),
        (2, "image image, label label from 0")
    );
    let says = |result: Result<Summary, DatasetError>, says: &str| {
        let refused = message(result);
        assert!(refused.contains(says), "{refused}");
    };
    says(write(["pil", "uint8"], None, |json| json), "encoding pil, which is not an image file");
    says(write(["jpeg", "str"], None, |json| json), "its columns are image (jpeg), label (str)");
    says(write(["jpeg", "int"], None, |json| json), "this label is not a class from 0, as int");
    says(write(["jpeg", "uint8"], Some(9), |json| json), "index.json says 9");
    says(
        write(["jpeg", "uint8"], None, |json| json.replace("\"samples\": 2", "\"samples\": 3")),
        "index.json says that it has 3 samples",
    );
    says(write(["jpeg", "uint8"], None, |json| json.replace("shard.0", "../shard.0")), "outside");
    says(write(["jpeg", "uint8"], None, |json| json.replace("\"mds\"", "\"xsv\"")), "expected mds");
    fs::remove_file(root.path().join("shard.00000.mds")).unwrap();
    let index = fs::read_to_string(root.path().join("index.json")).unwrap();
    let index = mds_index_zstd(&index.replace("\"xsv\"", "\"mds\""), &[9]);
    for (method, name) in [("gz", "gz"), ("br:11", "br"), ("snappy", "snappy"), ("bz2:9", "bz2")] {
        let index = index.replace("zstd:7", method).replace("mds.zstd", &format!("mds.{name}"));
        files(root.path(), &[("index.json", index.into_bytes())]);
        let refused = format!(
            "shard.00000.mds.{name} is not a dataset: it is compressed by {name}, and only zstd"
        );
        says(index_with(root.path(), &IndexOptions::default()), &refused);
    }
}

pub(crate) fn compressed_shards_of_mds_are_read_in_place() {
    let root = tempdir().unwrap();
    let path = root.path();
    let columns = [("image", "jpeg", None), ("label", "uint8", Some(1))];
    let sample = |number: u8| vec![image(number), vec![number % 3]];
    let samples: Vec<_> = (0..60).map(sample).collect();
    let shard = mds_shard(&columns, &samples);
    let plain = mds_index(&columns, &[("shard.00000.mds", 60, shard.len())]);
    let write = |zip: Vec<u8>| {
        let index = mds_index_zstd(&plain, &[zip.len()]);
        files(path, &[("shard.00000.mds.zstd", zip), ("index.json", index.into_bytes())]);
        index_with(path, &IndexOptions::default())
    };
    let summary = write(zstd(&shard)).unwrap();
    assert_eq!((summary.records, summary.bad.len(), summary.shards), (60, 0, 1));
    let cost = &summary.facts["compression"];
    assert!(cost.contains("MiB for each record; decompress all shards (zstd -d)"), "{cost}");
    let dataset = Dataset::open(path, None).unwrap();
    assert_eq!(dataset.name(7), "shard.00000.mds/7");
    for id in [59, 0, 30, 31, 5, 59] {
        let number = u8::try_from(id).unwrap();
        assert_eq!(dataset.read(id, &mut Vec::new()).unwrap(), image(number), "{id}");
    }
    // A shard that was changed is noticed, and one that was decompressed must be indexed again.
    let mut changed = zstd(&shard);
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    files(path, &[("shard.00000.mds.zstd", changed)]);
    let read = |id| dataset.read(id, &mut Vec::new()).map(<[u8]>::to_vec);
    let wrong = (0..60).filter(|id| read(*id).is_err()).count();
    assert_eq!(wrong, 1, "the others are as they were");
    files(path, &[("shard.00000.mds", shard.clone())]);
    let refused = message(Dataset::open(path, None));
    assert!(refused.contains("run \"forebay index\" again"), "{refused}");
    assert!(!index(path).unwrap().facts.contains_key("compression"));
    fs::remove_file(path.join("shard.00000.mds")).unwrap();

    let says = |zip: Vec<u8>, says: &str| {
        let refused = message(write(zip));
        assert!(refused.contains("shard.00000.mds.zstd") && refused.contains(says), "{refused}");
    };
    says(zstd(&shard[1..]), "does not decompress to what index.json says");
    says(zstd(&[&shard[..], &[0]].concat()), "does not decompress to what index.json says");
    let whole = zstd(&shard);
    says(whole[..whole.len() - 1].to_vec(), "does not decompress to what index.json says");
    // Its bytes are not those that index.json has, or they are more than can be read in place.
    let index = |bytes: usize| {
        let index = mds_index(&columns, &[("shard.00000.mds", 60, bytes)]);
        let index = mds_index_zstd(&index, &[whole.len()]);
        files(path, &[("shard.00000.mds.zstd", whole.clone()), ("index.json", index.into_bytes())]);
        message(index_with(path, &IndexOptions::default()))
    };
    assert!(index((1 << 30) + 1).contains("at most 1 GiB can be decompressed in place"));
    assert!(index(1 << 30).contains("more than 4096 times as long"));
}

pub(crate) fn a_manifest_says_which_line_is_wrong() {
    let root = tempdir().unwrap();
    let path = root.path().join("list.csv");
    files(root.path(), &[("a/1.jpg", image(1)), ("a/2.jpg", image(2)), ("b.jpg", cut_image())]);
    let write = |text: &str| {
        files(root.path(), &[("list.csv", text.as_bytes().to_vec())]);
        index(&path)
    };
    let summary =
        write("Path,Class,extra\na/2.jpg,dog,1\na/1.jpg,cat,2\nb.jpg,dog,\na/1.jpg,,3\n").unwrap();
    assert_eq!((summary.records, summary.good, summary.skipped[0].count), (3, 2, 1));
    let dataset = Dataset::open(&path, None).unwrap();
    assert_eq!(listing(&dataset), [("a/2.jpg", 1), ("a/1.jpg", 0), ("b.jpg", 1)]);
    assert_eq!(dataset.classes(), ["cat", "dog"]);
    assert_eq!(write("a/1.jpg,3\na/2.jpg,0\n").unwrap().classes.len(), 4);
    let summary = write("a/1.jpg,1\na/2.jpg,-1\n").unwrap();
    assert_eq!((summary.records, &*summary.skipped[0].reason), (1, "a negative label"));
    for (text, says) in [
        (
            "a/1.jpg,cat\na/2.jpg,1\n",
            "line 1: the label \"cat\" is a name, and that of line 2 is the number 1",
        ),
        ("path,label\na/1.jpg,cat\n../x.jpg,cat\n", "line 3: the path \"../x.jpg\" does not lead"),
        ("path,label\na/1.jpg\n", "line 2: it has 1 columns; expected 2"),
        ("path,text,more\na/1.jpg,x,y\n", "no column of labels; its columns are path, text, more"),
        ("a,b,c,d\n", "no header that names the columns"),
        ("a/1.jpg,cat,train\na/2.jpg,cat,val\n", "several splits: train, val"),
        ("a/1.jpg,\"cat\na/2.jpg,cat\n", "line 1: a quoted cell does not end"),
        ("", "it is empty"),
        ("a/none.jpg,cat\n", "a/none.jpg"),
    ] {
        let refused = message(write(text));
        assert!(refused.contains(says), "{text:?}: {refused}");
    }
}

pub(crate) fn a_manifest_of_two_columns_has_a_header_if_a_flag_names_one() {
    let root = tempdir().unwrap();
    let path = root.path().join("list.csv");
    files(root.path(), &[("a.jpg", image(1)), ("list.csv", b"photo,kind\na.jpg,cat\n".to_vec())]);
    let with = |image: Option<&str>, label: Option<&str>| {
        let name = |name: &str| name.to_owned();
        let (image_column, label_column) = (image.map(name), label.map(name));
        index_with(&path, &IndexOptions { image_column, label_column, ..IndexOptions::default() })
    };
    let refused = message(with(Some("photo"), None));
    assert!(refused.contains("no column of labels; its columns are photo, kind"), "{refused}");
    let refused = message(with(None, Some("kind")));
    assert!(refused.contains("no column of paths; its columns are photo, kind"), "{refused}");
    assert_eq!(with(Some("photo"), Some("kind")).unwrap().records, 1);
}

pub(crate) fn batches_of_cifar_that_are_damaged_are_refused() {
    let root = tempdir().unwrap();
    let batch = cifar_pickle("labels", &[vec![1; 3072]], &[0]);
    let names = ["batches.meta", "test_batch"];
    let write = |bytes: Vec<u8>| {
        files(root.path(), &names.map(|name| (name, bytes.clone())));
        message(index(&root.path().join("#test")))
    };
    for (bytes, says) in [
        (batch[..batch.len() - 1].to_vec(), "the file is truncated"),
        (b"cos\nsystem\n(S'true'\ntR.".to_vec(), "its operation 0x53 is not known"),
        (cifar_pickle("names", &[vec![1; 3072]], &[0]), "no list \"labels\" of whole numbers"),
        (cifar_pickle("labels", &[vec![1; 3071]], &[0]), "3072 bytes for each label"),
        (cifar_pickle("labels", &[vec![1; 3072]], &[9]), "has label 9"),
    ] {
        let refused = write(bytes);
        assert!(refused.contains(says), "{refused}");
    }
    let binary = tempdir().unwrap();
    let meta = b"cat\ndog\n".to_vec();
    files(binary.path(), &[("test_batch.bin", vec![0; 3074]), ("batches.meta.txt", meta)]);
    let refused = message(index(&binary.path().join("#test")));
    assert!(refused.contains("not a multiple of 3073"), "{refused}");
}

pub(crate) fn versions_of_cifar_in_one_folder_are_refused_by_name() {
    let root = tempdir().unwrap();
    let batch = || cifar_pickle("labels", &[vec![1; 3072]], &[0]);
    for (folder, meta, test) in [
        ("cifar-10-batches-py", "batches.meta", "test_batch"),
        ("cifar-100-python", "meta", "test"),
    ] {
        files(&root.path().join(folder), &[(meta, batch()), (test, batch())]);
    }
    let refused = message(index(&root.path().join("#test")));
    assert!(
        refused.contains("cifar-10-batches-py, cifar-100-python; name the folder"),
        "{refused}"
    );
}

pub(crate) fn classes_of_one_name_cannot_be_selected() {
    let root = tempdir().unwrap();
    let path = root.path().join("x.tar");
    let members = [("a.jpg", image(1)), ("a.cls", b"0".to_vec())];
    let names = b"crane\nowl\ncrane\n".to_vec();
    files(root.path(), &[("x.tar", tar(&members)), ("classes.txt", names)]);
    let select = |text: &str| {
        files(root.path(), &[("wanted", text.as_bytes().to_vec())]);
        let classes = Some(root.path().join("wanted"));
        index_with(&path, &IndexOptions { classes, ..IndexOptions::default() })
    };
    let refused = message(select("owl\ncrane\n"));
    assert!(refused.contains("line 2: the dataset has several classes"), "{refused}");
    assert!(message(select("owl\n")).contains("no images"));
}

pub(crate) fn classes_and_records_can_be_selected() {
    let root = tempdir().unwrap();
    let images: Vec<(String, Vec<u8>)> = ["a", "b", "c"]
        .iter()
        .flat_map(|class| {
            (0..4).map(move |number| (format!("{class}/{number}.jpg"), image(number)))
        })
        .collect();
    let path = root.path().join("train");
    for (name, bytes) in &images {
        files(&path, &[(name, bytes.clone())]);
    }
    let lists = std::cell::Cell::new(0);
    let list = |text: &str| {
        let name = format!("list-{}.txt", lists.replace(lists.get() + 1));
        files(root.path(), &[(&name, text.as_bytes().to_vec())]);
        Some(root.path().join(name))
    };
    let options = IndexOptions {
        classes: list("c\na\n"),
        limit_per_class: Some(2),
        ..IndexOptions::default()
    };
    let summary = index_with(&path, &options).unwrap();
    let dataset = Dataset::open(&path, None).unwrap();
    assert_eq!(dataset.classes(), ["c", "a"]);
    assert_eq!(listing(&dataset), [("a/0.jpg", 1), ("a/1.jpg", 1), ("c/0.jpg", 0), ("c/1.jpg", 0)]);
    assert!(summary.facts["selected"].starts_with("4 of 12: classes of "), "{:?}", summary.facts);

    // Sorted classes are the dataset that only has these.
    let options = IndexOptions { classes: list("a\nc"), ..IndexOptions::default() };
    let digest = index_with(&path, &options).unwrap().digest;
    fs::rename(path.join("b"), root.path().join("b")).unwrap();
    assert_eq!(index(&path).unwrap().digest, digest);

    let options = IndexOptions { records: list("c/3.jpg\n\na/1.jpg\n"), ..IndexOptions::default() };
    index_with(&path, &options).unwrap();
    let dataset = Dataset::open(&path, None).unwrap();
    assert_eq!(listing(&dataset), [("a/1.jpg", 0), ("c/3.jpg", 1)]);
    for (options, says) in [
        (
            IndexOptions { classes: list("a\nx"), ..IndexOptions::default() },
            "line 2: the dataset has no class \"x\"",
        ),
        (
            IndexOptions { records: list("a/9.jpg"), ..IndexOptions::default() },
            "no record \"a/9.jpg\"",
        ),
    ] {
        let refused = message(index_with(&path, &options));
        assert!(refused.contains(says), "{refused}");
    }
    let options = IndexOptions { classes: list("a\na"), ..IndexOptions::default() };
    assert!(
        message(index_with(&path, &options)).contains("line 2: the class \"a\" is named twice")
    );
}

pub(crate) fn copies_and_images_with_several_labels_are_suspicious() {
    let root = tempdir().unwrap();
    let copies = [
        ("a/1.jpg", image(1)),
        ("a/2.jpg", image(1)),
        ("b/3.jpg", image(1)),
        ("b/4.jpg", image(2)),
    ];
    files(root.path(), &copies);
    let summary = index(root.path()).unwrap();
    assert_eq!(
        summary.suspicious,
        [
            "2 records are copies of others: a/1.jpg = a/2.jpg",
            "1 images have several labels: a/1.jpg = b/3.jpg",
        ]
    );
    let shown = summary.to_string();
    assert!(shown.contains("suspicious 2 records are copies"), "{shown}");
    assert!(shown.contains("layout     ImageFolder"), "{shown}");
}

/// What is said about the images that a split has in common with others.
fn common(path: &Path, index_dir: Option<&Path>) -> Vec<String> {
    Dataset::open(path, index_dir).unwrap().common_with_other_splits(path, index_dir)
}

pub(crate) fn images_of_one_split_that_are_in_another_are_suspicious() {
    let root = tempdir().unwrap();
    let path = root.path();
    for (name, number) in [("train/a/1.jpg", 1), ("train/a/2.jpg", 2), ("train/b/3.jpg", 3)] {
        files(path, &[(name, image(number))]);
    }
    for (name, number) in [("val/a/x.jpg", 2), ("val/b/y.jpg", 4), ("val/b/z.jpg", 2)] {
        files(path, &[(name, image(number))]);
    }
    let train = path.join("train");
    opened(&train);
    assert_eq!(common(&train, None), [""; 0], "the other has no index");
    opened(&path.join("val"));
    let expected =
        "2 records of the split val are in this one, too: a/x.jpg = a/2.jpg, b/z.jpg = a/2.jpg";
    assert_eq!(common(&train, None), [expected]);
    let other = "1 records of the split train are in this one, too: a/2.jpg = a/x.jpg";
    assert_eq!(common(&path.join("val"), None), [other]);
    files(path, &[("test/b/3.jpg", image(9))]);
    opened(&path.join("test"));
    let other = "the split test has other classes: the label 0 is a here and b there";
    assert!(common(&train, None).iter().any(|said| said == other));
    fs::remove_file(path.join("test.forebay")).unwrap();
    fs::write(path.join("val.forebay"), b"any").unwrap();
    let said = &common(&train, None)[0];
    assert!(said.starts_with("the split val cannot be compared: cannot use the index"), "{said}");

    // Splits of one path, whose indexes may be in another folder.
    let list =
        "path,label,split\ntrain/a/1.jpg,0,train\nval/b/y.jpg,1,val\ntrain/a/1.jpg,0,pool-2\n";
    files(path, &[("list.csv", list.into())]);
    let indexes = path.join("indexes");
    for index_dir in [None, Some(indexes.as_path())] {
        for split in ["train", "val", "pool-2"] {
            let path = with_split(&path.join("list.csv"), Some(split));
            build_with(&path, index_dir, 1, &IndexOptions::default(), &|_| {}).unwrap();
        }
        let of = |split| common(&with_split(&path.join("list.csv"), Some(split)), index_dir);
        let both =
            "1 records of the split pool-2 are in this one, too: train/a/1.jpg = train/a/1.jpg";
        assert_eq!((of("train"), of("val")), (vec![both.to_owned()], Vec::new()));
    }
}

pub(crate) fn labels_of_two_kinds_are_suspicious() {
    let root = tempdir().unwrap();
    files(root.path(), &[("7/1.jpg", image(1)), ("8/2.jpg", image(2)), ("cat/3.jpg", image(3))]);
    let suspicious = index(root.path()).unwrap().suspicious;
    let expected =
        "labels are of two kinds: 2 classes are numbers, such as 7, and 1 are names, such as cat";
    assert_eq!(suspicious, [expected]);
    fs::remove_dir_all(root.path().join("cat")).unwrap();
    assert_eq!(index(root.path()).unwrap().suspicious, [""; 0]);
}

pub(crate) fn labels_of_two_kinds_of_members_are_told() {
    let root = tempdir().unwrap();
    let path = root.path().join("x.tar");
    let json = |number| (number, br#"{"label": 1}"#.to_vec());
    let write = |members: &[(&str, Vec<u8>)]| files(root.path(), &[("x.tar", tar(members))]);
    let cls = ("1.cls", b"0".to_vec());
    write(&[("1.jpg", image(1)), cls.clone(), json("1.json"), ("2.jpg", image(2)), json("2.json")]);
    let told = "of .cls, and of .json where a sample has no .cls";
    assert_eq!(index(&path).unwrap().facts["labels"], told);
    write(&[("1.jpg", image(1)), cls, json("1.json")]);
    assert!(!index(&path).unwrap().facts.contains_key("labels"));
}
