//! Indexes with damaged bytes: the same pixels, or a refusal.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use forebay::dataset::{Dataset, DatasetError, index_path};
use forebay::recipe::{Recipe, RecipeSpec};
use forebay::sample_data::{self, SampleData};
use forebay::{Error, MicrobatchName, Pipeline, PipelineConfig, PixelFormat, Request};
use tempfile::tempdir;

use crate::make::{cut_image, files, index, tar};

/// Four images with entry points and a bad one, as a folder.
fn folder(root: &Path) {
    let spec = SampleData { classes: 2, per_class: 2, val_per_class: 0, seed: 3 };
    sample_data::write(root, &spec, |_| {}).unwrap();
    let class = fs::read_dir(root.join("train")).unwrap().map(|e| e.unwrap().path()).min().unwrap();
    fs::write(class.join("bad.jpg"), cut_image()).unwrap();
}

fn recipe() -> Arc<Recipe> {
    let set = ["batch = 4", "microbatches = 1", "image_size = 32", "repeats = 1"];
    let spec = RecipeSpec::preset("a3").with_changes(set.map(str::to_owned));
    Arc::new(spec.resolve().unwrap())
}

fn pipeline() -> Pipeline {
    Pipeline::new(PipelineConfig { cache_bytes: 0, ..PipelineConfig::default() }).unwrap()
}

/// Pixels and labels.
type Made = (Vec<u8>, Vec<u32>);

/// A microbatch of each of two epochs, which has four of the five records.
fn made(
    pipeline: &Pipeline,
    dataset: &Arc<Dataset>,
    recipe: &Arc<Recipe>,
) -> Result<Vec<Made>, Error> {
    let make = |epoch| {
        let made = pipeline.make(Request {
            dataset: Arc::clone(dataset),
            recipe: Arc::clone(recipe),
            name: MicrobatchName { seed: 1, epoch, step: 0, index: 0 },
            format: PixelFormat::default(),
        })?;
        Ok((made.payload.to_vec(), made.label_a))
    };
    (0..2).map(make).collect()
}

/// Flips a bit of the bytes of the index, and expects the same pixels and labels or a refusal. Returns
/// how many were refused, were done without when the index was opened, and when they were read. Entry
/// points are most of it, and every byte of them is treated alike, so that some of them are enough.
fn flip_every_byte(path: &Path) -> [usize; 3] {
    index(path).unwrap();
    let (recipe, pipeline) = (recipe(), pipeline());
    let open = || Dataset::open(path, None).map(Arc::new);
    let intact = open().unwrap();
    let expected = made(&pipeline, &intact, &recipe).unwrap();
    let file = index_path(path, None);
    let whole = fs::read(&file).unwrap();
    let points: usize = (0..intact.len()).map(|id| intact.entry_points(id).len()).sum();
    let points = whole.len() - points..whole.len();
    let mut counts = [0; 3];
    for at in (0..points.start).chain(points.clone().step_by(points.len() / 100)) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        // An index is replaced, because one that is open is mapped.
        fs::remove_file(&file).unwrap();
        fs::write(&file, flipped).unwrap();
        match open() {
            Err(error) => {
                assert!(matches!(error, DatasetError::Index { .. }), "byte {at}: {error}");
                assert!(error.to_string().contains("run \"forebay index\" again"), "{error}");
                counts[0] += 1;
            }
            Ok(dataset) => {
                let made = made(&pipeline, &dataset, &recipe).unwrap_or_else(|error| {
                    panic!("byte {at}: {error}");
                });
                assert!(made == expected, "byte {at} changes pixels or labels");
                counts[1] += usize::from(!dataset.index_damage().is_empty());
                counts[2] += usize::from(dataset.damaged_entry_points() > 0);
            }
        }
    }
    fs::write(&file, whole).unwrap();
    counts
}

pub(crate) fn a_flipped_byte_of_an_index_never_changes_a_pixel() {
    let root = tempdir().unwrap();
    folder(root.path());
    let train = root.path().join("train");
    let [refused, ignored, slower] = flip_every_byte(&train);
    assert!(refused > 0 && ignored > 0 && slower > 0, "{refused} {ignored} {slower}");

    let mut members = Vec::new();
    let dataset = Dataset::open(&train, None).unwrap();
    for id in 0..dataset.len() {
        let bytes = fs::read(train.join(dataset.name(id))).unwrap();
        let label = dataset.record(id).label.to_string().into_bytes();
        members.extend([(format!("{id}.jpg"), bytes), (format!("{id}.cls"), label)]);
    }
    // Members without a label are skipped, which the index counts.
    members.push(("skipped.jpg".to_owned(), cut_image()));
    let members: Vec<_> = members.iter().map(|(name, data)| (&**name, data.clone())).collect();
    files(root.path(), &[("s.tar", tar(&members))]);
    let [refused, ignored, slower] = flip_every_byte(&root.path().join("s.tar"));
    assert!(refused > 0 && ignored > 0 && slower > 0, "{refused} {ignored} {slower}");
}

pub(crate) fn damaged_entry_points_cost_time_and_nothing_else() {
    let root = tempdir().unwrap();
    folder(root.path());
    let train = root.path().join("train");
    index(&train).unwrap();
    let (recipe, pipeline) = (recipe(), pipeline());
    let open = || Arc::new(Dataset::open(&train, None).unwrap());
    let whole = open();
    let expected = made(&pipeline, &whole, &recipe).unwrap();
    assert_eq!((whole.damaged_entry_points(), whole.index_damage()), (0, Vec::new()));
    // The entry points are the last section.
    let length: usize = (0..whole.len()).map(|id| whole.entry_points(id).len()).sum();
    assert!(length > 100, "{length}");
    let file = index_path(&train, None);
    let mut bytes = fs::read(&file).unwrap();
    let start = bytes.len() - length;
    bytes[start..].iter_mut().for_each(|byte| *byte ^= 0x55);
    fs::remove_file(&file).unwrap();
    fs::write(&file, bytes).unwrap();
    let damaged = open();
    assert!(made(&pipeline, &damaged, &recipe).unwrap() == expected);
    assert_eq!(damaged.damaged_entry_points(), 8, "of two epochs of four samples");
    assert!(damaged.index_damage().is_empty());
}
