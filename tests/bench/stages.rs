//! Time per stage: `cargo bench -p forebay-tests`, or `-- decode` for a filter.
//!
//! Every iteration uses the next of 100 images, and a sample is a pass over all of them: the median is over passes,
//! and the time is per image (per pair in `mix`). The images are the photographs of `FOREBAY_DATA` if it is set,
//! otherwise the procedural dataset.

#![expect(clippy::unwrap_used, reason = "a bench")]

use std::path::Path;
use std::sync::LazyLock;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use forebay::dataset::{Dataset, build};
use forebay::decode::{Decoder, Region};
use forebay::plan::{self, MixSample, SamplePlan, cutmix_f64, mixup_f64};
use forebay::recipe::RecipeSpec;
use forebay::sample_data::{self, SampleData};
use forebay::testing::{Augmenter, Drawn, Hparams, Resample, Resizer, TimmOp, mix_pair};
use forebay::{Interpolation, Op, Rect, Simd, Size, View};
use xxhash_rust::xxh3::xxh3_64;

const IMAGES: u32 = 100;

const SLOT: Size = Size { height: 224, width: 224 };

fn main() {
    divan::main();
}

/// A record, its plan under recipe a2, and the results of each stage.
struct Sample {
    bytes: Vec<u8>,
    entries: Vec<u8>,
    size: Size,
    plan: SamplePlan,
    /// Pixels of the crop.
    crop: Vec<u8>,
    /// The crop, resized.
    slot: Vec<u8>,
}

impl Sample {
    fn decode<'d>(&self, decoder: &'d mut Decoder, region: Rect, entries: &[u8]) -> Region<'d> {
        decoder.decode(&self.bytes, region, entries).unwrap()
    }

    fn resize(&self, resizer: &mut Resizer, slot: &mut [u8]) {
        let SamplePlan { source, resized, filter, flip, .. } = self.plan;
        let to = Resample { flip, ..Resample::whole(resized, filter) };
        resizer.resize(View::new(&self.crop, source.size()), &to, slot);
    }
}

static SAMPLES: LazyLock<Vec<Sample>> = LazyLock::new(|| {
    let place = tempfile::tempdir().unwrap();
    if let Some(data) = forebay_tests::data() {
        return samples(&data.join("imagenet-sample/train"), place.path());
    }
    let spec = SampleData { classes: 10, per_class: IMAGES / 10, val_per_class: 0, seed: 0 };
    let made = place.path().join("made");
    sample_data::write(&made, &spec, |_| ()).unwrap();
    samples(&made.join("train"), place.path())
});

fn samples(folder: &Path, index: &Path) -> Vec<Sample> {
    build(folder, Some(index), 1, &|_| {}).unwrap();
    let dataset = Dataset::open(folder, Some(index)).unwrap();
    let recipe = RecipeSpec::preset("a2").resolve().unwrap();
    let (mut decoder, mut resizer) = (Decoder::default(), Resizer::default());
    let load = |id: u64| {
        let id = dataset.good_or_next(id % dataset.len());
        let size = dataset.record(id).size;
        let mut sample = Sample {
            bytes: dataset.read(id, &mut Vec::new()).unwrap().to_vec(),
            entries: dataset.entry_points(id).to_vec(),
            size,
            plan: plan::sample(&recipe, 0, 0, id, size),
            crop: Vec::new(),
            slot: Vec::new(),
        };
        let source = sample.plan.source;
        let crop = sample.decode(&mut decoder, source, &sample.entries).crop(source);
        sample.crop = (0..source.height).flat_map(|y| crop.row(y)).copied().collect();
        let mut slot = vec![0; SLOT.rgb_bytes()];
        sample.resize(&mut resizer, &mut slot);
        Sample { slot, ..sample }
    };
    (0..u64::from(IMAGES)).map(load).collect()
}

/// The samples in an endless cycle.
fn cycle() -> impl Iterator<Item = &'static Sample> {
    SAMPLES.iter().cycle()
}

/// Decodes the region, from the entry points, that a function chooses.
fn decode(
    bencher: Bencher<'_, '_>,
    choose: impl Fn(&'static Sample) -> (Rect, &'static [u8]) + Sync,
) {
    let (mut decoder, mut samples) = (Decoder::default(), cycle());
    bencher.bench_local(|| {
        let sample = samples.next().unwrap();
        let (region, entries) = choose(sample);
        black_box(sample.decode(&mut decoder, region, entries).pixels.data().len())
    });
}

#[divan::bench(sample_size = IMAGES)]
fn decode_crop_from_entry_points(bencher: Bencher<'_, '_>) {
    decode(bencher, |sample| (sample.plan.source, &sample.entries));
}

#[divan::bench(sample_size = IMAGES)]
fn decode_crop_without_entry_points(bencher: Bencher<'_, '_>) {
    decode(bencher, |sample| (sample.plan.source, &[]));
}

#[divan::bench(sample_size = IMAGES)]
fn decode_whole(bencher: Bencher<'_, '_>) {
    decode(bencher, |sample| (sample.size.whole(), &[]));
}

#[divan::bench(sample_size = IMAGES)]
fn resize(bencher: Bencher<'_, '_>) {
    let (mut resizer, mut samples) = (Resizer::default(), cycle());
    let mut slot = vec![0; SLOT.rgb_bytes()];
    bencher.bench_local(|| {
        samples.next().unwrap().resize(&mut resizer, &mut slot);
        black_box(slot[0])
    });
}

/// Applies operations to copies of the slots.
fn augmented(bencher: Bencher<'_, '_>, ops: impl Fn(&'static Sample) -> Vec<Op>) {
    let (mut augmenter, mut samples) = (Augmenter::default(), cycle());
    let fill = RecipeSpec::preset("a2").resolve().unwrap().fill();
    bencher
        .with_inputs(|| {
            let sample = samples.next().unwrap();
            (sample.slot.clone(), ops(sample))
        })
        .bench_local_refs(|(slot, ops)| augmenter.apply(ops, slot, SLOT, fill));
}

/// One operation at a2's magnitude.
#[divan::bench(args = TimmOp::ALL.map(TimmOp::name), sample_size = IMAGES)]
fn op(bencher: Bencher<'_, '_>, name: &str) {
    let op = TimmOp::named(name).unwrap();
    let hparams = Hparams { translate_const: 100.0, translate_pct: 0.45 };
    augmented(bencher, |sample| {
        let negative = sample.plan.flip;
        let drawn = Drawn { negative, radius: 0.5, filter: Interpolation::Bicubic };
        vec![op.at(7.0, &hparams, &drawn)]
    });
}

/// The operations that a2 draws: none, one or two.
#[divan::bench(sample_size = IMAGES)]
fn randaugment(bencher: Bencher<'_, '_>) {
    augmented(bencher, |sample| sample.plan.ops.clone());
}

#[divan::bench(args = ["MixUp", "CutMix"], sample_size = IMAGES)]
fn mix(bencher: Bencher<'_, '_>, kind: &str) {
    let sample: MixSample = match kind {
        "MixUp" => mixup_f64(0.4),
        _ => cutmix_f64(0.4, (100, 90), SLOT),
    };
    let mut samples = cycle();
    let mut row = vec![0; SLOT.width as usize * 3];
    let mut next = move || samples.next().unwrap().slot.clone();
    let simd = Simd::detect();
    bencher
        .counter(ItemsCount::new(2_u32))
        .with_inputs(|| [next(), next()])
        .bench_local_refs(|[a, b]| mix_pair(simd, a, b, SLOT, [sample; 2], &mut row));
}

#[divan::bench(sample_size = IMAGES)]
fn digest(bencher: Bencher<'_, '_>) {
    let mut samples = cycle();
    bencher
        .counter(BytesCount::new(SLOT.rgb_bytes()))
        .bench_local(|| xxh3_64(&samples.next().unwrap().slot));
}
