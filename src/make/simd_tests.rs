//! Every instruction set makes the same microbatch, from the bytes of records to mixed pixels.

use crate::augment::Augmenter;
use crate::dataset::{Dataset, build};
use crate::decode::{Decoder, PIXEL_LIMIT};
use crate::geometry::Size;
use crate::mix::cpu::mix_pair;
use crate::plan::{self, MixSample, cutmix_f64, mixup_f64};
use crate::recipe::{Recipe, RecipeSpec};
use crate::resize::{Resample, Resizer};
use crate::sample_data::{self, SampleData};
use crate::simd::Simd;

const SLOT: Size = Size::square(96);

#[test]
fn every_instruction_set_makes_the_same_microbatch() {
    let folder = tempfile::tempdir().unwrap();
    let spec = SampleData { classes: 4, per_class: 6, val_per_class: 0, seed: 0 };
    sample_data::write(&folder.path().join("data"), &spec, |_| ()).unwrap();
    let train = folder.path().join("data/train");
    build(&train, Some(folder.path()), 1, &|_| {}).unwrap();
    let dataset = Dataset::open(&train, Some(folder.path())).unwrap();
    let recipe = RecipeSpec::preset("a2").resolve().unwrap();

    let scalar = microbatch(Simd::SCALAR, &dataset, &recipe);
    for simd in Simd::all() {
        assert!(microbatch(simd, &dataset, &recipe) == scalar, "{simd:?}");
    }
}

/// All records of a dataset, augmented, and mixed in pairs.
fn microbatch(simd: Simd, dataset: &Dataset, recipe: &Recipe) -> Vec<u8> {
    let mut decoder = Decoder::new(simd, PIXEL_LIMIT);
    let (mut resizer, mut augmenter) = (Resizer::new(simd), Augmenter::new(simd));
    let mut pixels = vec![0; usize::try_from(dataset.len()).unwrap() * SLOT.rgb_bytes()];
    for (slot, id) in pixels.chunks_exact_mut(SLOT.rgb_bytes()).zip(0..) {
        let plan = plan::sample(recipe, 0, 0, id, dataset.record(id).size);
        let bytes = dataset.read(id, &mut Vec::new()).unwrap().to_vec();
        let entries = dataset.entry_points(id);
        let source = decoder.decode(&bytes, plan.source, entries).unwrap().crop(plan.source);
        let to = Resample { flip: plan.flip, ..Resample::whole(SLOT, plan.filter) };
        resizer.resize(source, &to, slot);
        augmenter.apply(&plan.ops, slot, SLOT, recipe.fill());
    }
    let mixup = mixup_f64(0.3);
    let mixes = [mixup, cutmix_f64(0.6, (40, 50), SLOT), mixup_f64(0.9), MixSample::UNMIXED];
    let mut row = vec![0; SLOT.width as usize * 3];
    for (pair, mix) in pixels.chunks_exact_mut(2 * SLOT.rgb_bytes()).zip(mixes.iter().cycle()) {
        let (a, b) = pair.split_at_mut(SLOT.rgb_bytes());
        mix_pair(simd, a, b, SLOT, [*mix, mixup], &mut row);
    }
    pixels
}
