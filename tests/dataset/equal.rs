//! The same images in every layout are the same dataset: equal labels, content and pixels.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use forebay::dataset::{Dataset, with_split};
use forebay::recipe::{Recipe, RecipeSpec};
use forebay::sample_data::{self, SampleData};
use forebay::{MicrobatchName, Pipeline, PipelineConfig, PixelFormat, Request};
use forebay_tests::fuzz::writers::{
    Feature, cifar_meta, cifar_pickle, example, gzip, mds_index, mds_index_zstd, mds_shard,
    meta_mat, tf_record, zstd,
};
use tempfile::tempdir;

use crate::make::{files, opened, tar};

/// An image: its class, its name and its bytes.
type Image = (usize, String, Vec<u8>);

/// 200 procedural images in 10 classes that are named as those of ImageNet, in the order of an
/// `ImageFolder`.
fn images() -> Vec<Image> {
    let folder = tempdir().unwrap();
    let spec = SampleData { classes: 10, per_class: 20, val_per_class: 0, seed: 3 };
    sample_data::write(folder.path(), &spec, |_| {}).unwrap();
    let mut images = Vec::new();
    let list = |path: &Path| {
        let mut paths: Vec<_> =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    };
    for (class, path) in list(&folder.path().join("train")).iter().enumerate() {
        for (number, file) in list(path).iter().enumerate() {
            let name = format!("{}_{number}.JPEG", wnid(class));
            images.push((class, name, fs::read(file).unwrap()));
        }
    }
    images.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    assert_eq!(images.len(), 200);
    images
}

fn wnid(class: usize) -> String {
    format!("n0144{class:04}")
}

fn image_folder(root: &Path, images: &[Image]) {
    for (class, name, bytes) in images {
        files(&root.join(wnid(*class)), &[(name, bytes.clone())]);
    }
}

/// Microbatches of a training recipe and of evaluation.
fn pixels(dataset: &Arc<Dataset>) -> Vec<(Vec<u8>, Vec<u32>)> {
    let config = PipelineConfig { cache_bytes: 0, ..PipelineConfig::default() };
    let pipeline = Pipeline::new(config).unwrap();
    let recipe = |base: &str, set: &[&str]| -> Arc<Recipe> {
        let small = ["batch = 16", "microbatches = 1", "image_size = 48"];
        let set = small.iter().chain(set).map(|change| (*change).to_owned());
        Arc::new(RecipeSpec::preset(base).with_changes(set).resolve().unwrap())
    };
    let make = |recipe: &Arc<Recipe>, step| {
        let name = MicrobatchName { seed: 5, epoch: 1, step, index: 0 };
        let (dataset, recipe) = (Arc::clone(dataset), Arc::clone(recipe));
        let made = pipeline.make(Request { dataset, recipe, name, format: PixelFormat::default() });
        let made = made.unwrap();
        (made.payload.to_vec(), made.label_a)
    };
    let (train, eval) = (recipe("a2", &[]), recipe("eval", &["crop.resize = 50"]));
    vec![make(&train, 0), make(&train, 1), make(&eval, 0), make(&eval, 1)]
}

/// The labels of a dataset and what it is made of.
fn labels(dataset: &Dataset) -> Vec<u32> {
    (0..dataset.len()).map(|id| dataset.record(id).label).collect()
}

pub(crate) fn the_same_images_in_every_layout_have_the_same_labels_content_and_pixels() {
    let root = tempdir().unwrap();
    let root = root.path();
    let images = images();
    let at = |name: &str| root.join(name);
    image_folder(&at("folder"), &images);
    let folder = Arc::new(opened(&at("folder")));
    let expected = (labels(&folder), folder.summary().content, pixels(&folder));
    let class_names: Vec<String> = (0..10).map(wnid).collect();

    webdataset(&at("wds"), &images);
    tf_slim(&at("slim"), &images);
    tfds(&at("tfds"), &images);
    official(&at("ilsvrc"), &images);
    kaggle(&at("kaggle"), &images);
    mds(&at("mds"), &images);
    manifest(&at("csv"), &images);
    let cases = [
        (at("wds"), "WebDataset"),
        (with_split(&at("slim"), Some("train")), "TFRecord"),
        (at("slim/train-0000[01]-of-00002"), "TFRecord"),
        (at("tfds/imagenet2012-train.tfrecord-{00000..00001}-of-00002"), "TFRecord"),
        (with_split(&at("ilsvrc"), Some("train")), "ILSVRC tars"),
        (at("ilsvrc/ILSVRC2012_img_val.tar"), "ILSVRC tars"),
        (at("ilsvrc/classes"), "ILSVRC tars"),
        (with_split(&at("kaggle"), Some("train")), "Kaggle ImageNet"),
        (with_split(&at("kaggle"), Some("val")), "Kaggle ImageNet"),
        (at("kaggle/ILSVRC/Data/CLS-LOC/val"), "Kaggle ImageNet"),
        (at("kaggle/ILSVRC/Data/CLS-LOC/train"), "ImageFolder"),
        (with_split(&at("mds"), Some("train")), "MosaicML MDS"),
        (with_split(&at("mds"), Some("test")), "MosaicML MDS"),
        (with_split(&at("csv/list.csv"), Some("train")), "CSV manifest"),
        (at("csv/numbers.csv"), "CSV manifest"),
    ];
    let mut digests = BTreeMap::new();
    for (path, layout) in cases {
        let shown = path.display().to_string();
        let dataset = Arc::new(opened(&path));
        let summary = dataset.summary();
        assert_eq!((summary.layout, summary.bad.len()), (layout, 0), "{shown}");
        assert_eq!(summary.suspicious, [""; 0], "{shown}");
        assert_eq!(
            (labels(&dataset), summary.content),
            (expected.0.clone(), expected.1),
            "{shown}"
        );
        assert!(pixels(&dataset) == expected.2, "{shown}: other pixels");
        let is_named =
            !shown.contains("mds") && !shown.contains("numbers") && !shown.contains("wds");
        if is_named {
            assert_eq!(dataset.classes(), class_names, "{shown}");
        }
        digests.insert(shown.rsplit_once('/').unwrap().1.to_owned(), dataset.digest());
    }
    // Layouts in which the images have the names of an `ImageFolder` have its digest.
    let of_folder = |name: &str| assert_eq!(digests[name], folder.digest(), "{name}");
    ["ilsvrc#train", "classes", "kaggle#train", "train", "list.csv#train"]
        .into_iter()
        .for_each(of_folder);
    assert_eq!(digests["ILSVRC2012_img_val.tar"], digests["kaggle#val"]);
    assert_eq!(digests["mds#test"], digests["mds#train"]);
}

fn webdataset(root: &Path, images: &[Image]) {
    let members: Vec<(String, Vec<u8>)> = images
        .iter()
        .enumerate()
        .flat_map(|(id, (class, _, bytes))| {
            [
                (format!("{id:04}.cls"), class.to_string().into_bytes()),
                (format!("{id:04}.jpg"), bytes.clone()),
            ]
        })
        .collect();
    for (shard, members) in members.chunks(100).enumerate() {
        let members: Vec<_> =
            members.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
        files(root, &[(&format!("imagenet-train-{shard}.tar"), tar(&members))]);
    }
}

/// Two shards of records, and one of another split.
fn shards(root: &Path, names: [&str; 3], records: &[Vec<u8>]) {
    let (first, second) = records.split_at(90);
    let shards = [first, second, &records[..1]].map(<[Vec<u8>]>::concat);
    for (name, shard) in names.into_iter().zip(shards) {
        files(root, &[(name, shard)]);
    }
}

fn tf_slim(root: &Path, images: &[Image]) {
    let record = |(class, name, bytes): &Image| {
        let wnid = wnid(*class);
        tf_record(&example(&[
            ("image/class/text", Feature::Bytes(b"some words")),
            ("image/class/label", Feature::Int(i64::try_from(class + 1).unwrap())),
            ("image/encoded", Feature::Bytes(bytes)),
            ("image/class/synset", Feature::Bytes(wnid.as_bytes())),
            ("image/filename", Feature::Bytes(name.as_bytes())),
            ("image/height", Feature::Int(12)),
        ]))
    };
    let names = ["train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"];
    shards(root, names, &images.iter().map(record).collect::<Vec<_>>());
}

fn tfds(root: &Path, images: &[Image]) {
    let record = |(class, name, bytes): &Image| {
        tf_record(&example(&[
            ("file_name", Feature::Bytes(name.as_bytes())),
            ("image", Feature::Bytes(bytes)),
            ("label", Feature::Int(i64::try_from(*class).unwrap())),
        ]))
    };
    let names = [
        "imagenet2012-train.tfrecord-00000-of-00002",
        "imagenet2012-train.tfrecord-00001-of-00002",
        "imagenet2012-validation.tfrecord-00000-of-00001",
    ];
    shards(root, names, &images.iter().map(record).collect::<Vec<_>>());
    let features = br#"{"pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "featuresDict": {"features": {
        "file_name": {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text"},
        "image": {"pythonClassName": "tensorflow_datasets.core.features.image_feature.Image"},
        "label": {"pythonClassName": "tensorflow_datasets.core.features.class_label_feature.ClassLabel",
                  "classLabel": {"numClasses": "10"}}}}}"#;
    let names = lines((0..10).map(wnid));
    files(root, &[("features.json", features.to_vec()), ("label.labels.txt", names.into_bytes())]);
}

/// Class tars as they are unpacked from the tar of training images: not in the order of an `ImageFolder`.
fn class_tars(images: &[Image]) -> Vec<(String, Vec<u8>)> {
    let class_tar = |class: usize| {
        let of_class = images.iter().rev().filter(|(of, ..)| *of == class);
        let members: Vec<_> =
            of_class.map(|(_, name, bytes)| (name.as_str(), bytes.clone())).collect();
        (format!("{}.tar", wnid(class)), tar(&members))
    };
    (0..10).rev().map(class_tar).collect()
}

/// The number of a validation image, so that it has the place of the training image.
fn validation_name(number: usize) -> String {
    format!("ILSVRC2012_val_{:08}.JPEG", number + 1)
}

fn official(root: &Path, images: &[Image]) {
    let inner = class_tars(images);
    let members: Vec<_> = inner.iter().map(|(name, tar)| (name.as_str(), tar.clone())).collect();
    for (name, bytes) in &members {
        files(&root.join("classes"), &[(name, bytes.clone())]);
    }
    let names: Vec<String> = (0..images.len()).map(validation_name).collect();
    let validation: Vec<_> =
        names.iter().zip(images).map(|(name, image)| (name.as_str(), image.2.clone())).collect();
    files(
        root,
        &[
            ("ILSVRC2012_img_train.tar", tar(&members)),
            ("ILSVRC2012_img_val.tar", tar(&validation)),
            ("ILSVRC2012_devkit_t12.tar.gz", gzip(&devkit(images))),
        ],
    );
}

fn lines(lines: impl Iterator<Item = String>) -> String {
    lines.map(|line| line + "\n").collect()
}

/// A development kit whose ids are not in the order of the synsets, as those of ILSVRC.
fn devkit(images: &[Image]) -> Vec<u8> {
    let wnids: Vec<String> = (0..10).map(wnid).collect();
    let mut synsets: Vec<_> = wnids
        .iter()
        .zip((1..=10).rev())
        .map(|(wnid, id)| (id, wnid.as_str(), "some words", 0))
        .collect();
    synsets.push((11, "n00000001", "all of them", 10));
    let truth = lines(images.iter().map(|(class, ..)| (10 - class).to_string()));
    tar(&[
        ("ILSVRC2012_devkit_t12/readme.txt", b"text".to_vec()),
        ("ILSVRC2012_devkit_t12/data/meta.mat", meta_mat(&synsets)),
        ("ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", truth.into_bytes()),
    ])
}

fn kaggle(root: &Path, images: &[Image]) {
    let inner = root.join("ILSVRC/Data/CLS-LOC");
    image_folder(&inner.join("train"), images);
    let mut solution = "ImageId,PredictionString\n".to_owned();
    for (number, (class, _, bytes)) in images.iter().enumerate().rev() {
        let name = validation_name(number);
        files(&inner.join("val"), &[(&name, bytes.clone())]);
        let stem = name.strip_suffix(".JPEG").unwrap();
        writeln!(solution, "{stem},{0} 85 1 499 272 {0} 1 2 3 4 ", wnid(*class)).unwrap();
    }
    let mapping = lines((0..10).map(|class| wnid(class) + " some, words"));
    files(
        root,
        &[
            ("LOC_val_solution.csv", solution.into_bytes()),
            ("LOC_synset_mapping.txt", mapping.into_bytes()),
        ],
    );
}

fn mds(root: &Path, images: &[Image]) {
    let columns = [("file", "str", None), ("image", "jpeg", None), ("label", "int", Some(8))];
    let sample = |(class, name, bytes): &Image| {
        let label = i64::try_from(*class).unwrap().to_le_bytes();
        vec![name.clone().into_bytes(), bytes.clone(), label.to_vec()]
    };
    let samples: Vec<_> = images.iter().map(sample).collect();
    let (first, second) = samples.split_at(110);
    let shards = [first, second].map(|samples| (samples.len(), mds_shard(&columns, samples)));
    let names = ["shard.00000.mds", "shard.00001.mds"];
    let sizes: Vec<_> = names
        .iter()
        .zip(&shards)
        .map(|(name, (count, bytes))| (*name, *count, bytes.len()))
        .collect();
    let index = mds_index(&columns, &sizes);
    for split in ["train", "val"] {
        for (name, (_, bytes)) in names.iter().zip(&shards) {
            files(&root.join(split), &[(name, bytes.clone())]);
        }
        files(&root.join(split), &[("index.json", index.clone().into_bytes())]);
    }
    let zips = shards.each_ref().map(|(_, bytes)| zstd(bytes));
    for (name, zip) in names.iter().zip(&zips) {
        files(&root.join("test"), &[(&format!("{name}.zstd"), zip.clone())]);
    }
    let index = mds_index_zstd(&index, &zips.map(|zip| zip.len()));
    files(&root.join("test"), &[("index.json", index.into_bytes())]);
}

fn manifest(root: &Path, images: &[Image]) {
    image_folder(root, images);
    let (mut list, mut numbers) = ("split,label,path\n".to_owned(), String::new());
    for (class, name, _) in images {
        write!(list, "train,{0},\"./{0}/{name}\"\r\n", wnid(*class)).unwrap();
        writeln!(numbers, "{}/{name}, {class}", wnid(*class)).unwrap();
    }
    writeln!(list, "val,{0},{0}/{1}", wnid(0), images[0].1).unwrap();
    files(root, &[("list.csv", list.into_bytes()), ("numbers.csv", numbers.into_bytes())]);
}

/// Raw images of 32x32 pixels in planes, and the same as PNG files.
pub(crate) fn batches_of_cifar_have_the_pixels_of_png_files() {
    let root = tempdir().unwrap();
    let root = root.path();
    let plane = |number: usize, channel: usize, at: usize| {
        u8::try_from((number * 7 + channel * 50 + at * (channel + 1)) % 251).unwrap()
    };
    let planar: Vec<Vec<u8>> = (0..40)
        .map(|number| {
            (0..3).flat_map(|channel| (0..1024).map(move |at| plane(number, channel, at))).collect()
        })
        .collect();
    let labels: Vec<u8> = (0..40).map(|number| number / 4).collect();
    for (number, label) in labels.iter().enumerate() {
        let rgb: Vec<u8> = (0..1024)
            .flat_map(|at| (0..3).map(move |channel| plane(number, channel, at)))
            .collect();
        let path = root.join(format!("png/class_{label}/{number:02}.png"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::save_buffer(path, &rgb, 32, 32, image::ColorType::Rgb8).unwrap();
    }
    let folder = Arc::new(opened(&root.join("png")));
    let expected = (self::labels(&folder), pixels(&folder));
    let names: Vec<String> = (0..10).map(|label| format!("class_{label}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();

    let python = root.join("cifar-10-batches-py");
    let binary = root.join("bin");
    for (number, (images, labels)) in planar.chunks(8).zip(labels.chunks(8)).enumerate() {
        let name = format!("data_batch_{}", number + 1);
        let records =
            images.iter().zip(labels).flat_map(|(image, label)| [&[*label][..], image].concat());
        files(&binary, &[(&format!("{name}.bin"), records.collect())]);
        files(&python, &[(&name, cifar_pickle("labels", images, labels))]);
    }
    files(&python, &[("test_batch", cifar_pickle("labels", &planar[..1], &[0]))]);
    files(&python, &[("batches.meta", cifar_meta("label_names", &names))]);
    let mut test = vec![0];
    test.extend(&planar[0]);
    let meta = (names.join("\n") + "\n\n").into_bytes();
    files(&binary, &[("test_batch.bin", test), ("batches.meta.txt", meta)]);
    // torchvision's root is the folder above.
    for path in [root.join("bin#train"), python.join("#train"), with_split(root, Some("train"))] {
        let dataset = Arc::new(opened(&path));
        let shown = path.display();
        assert_eq!(dataset.classes(), names, "{shown}");
        let found = (self::labels(&dataset), pixels(&dataset));
        assert!(found == expected, "{shown}: other labels or pixels");
        assert!(dataset.summary().formats.contains_key("raw RGB rgb"), "{shown}");
    }
    assert_eq!(opened(&root.join("bin#test")).len(), 1);
    assert_eq!(opened(&root.join("bin#val")).name(0), "test_batch.bin/0");

    // CIFAR-100 has two labels for each image, of which the fine one is taken.
    let hundred = root.join("cifar-100-binary");
    let records: Vec<u8> = planar
        .iter()
        .zip(&labels)
        .flat_map(|(image, label)| [&[9, *label][..], image].concat())
        .collect();
    let meta = names.join("\n").into_bytes();
    files(
        &hundred,
        &[("train.bin", records.clone()), ("test.bin", records), ("fine_label_names.txt", meta)],
    );
    let dataset = Arc::new(opened(&hundred.join("#train")));
    assert!((self::labels(&dataset), pixels(&dataset)) == expected);
}
