use std::sync::Arc;

use forebay::dataset::{Dataset, DatasetError};
use forebay::recipe::RecipeSpec;
use forebay::{MicrobatchName, PixelFormat, Request, explain, sampler};
use tempfile::tempdir;

use crate::make::{cut_image, files, image, listing, message, opened};

/// Two datasets of which each has a class that the other has not.
fn pair() -> (tempfile::TempDir, Dataset, Dataset) {
    let root = tempdir().unwrap();
    let of = |range: std::ops::Range<u8>, class: &str| {
        range.map(|n| (format!("{class}/{n}.jpg"), image(n))).collect::<Vec<_>>()
    };
    let write = |name: &str, all: Vec<(String, Vec<u8>)>| {
        let all: Vec<_> = all.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
        files(&root.path().join(name), &all);
        opened(&root.path().join(name))
    };
    let a = write("a", [of(0..6, "cat"), of(6..12, "dog")].concat());
    let mut second = [of(20..24, "ant"), of(24..28, "dog")].concat();
    second[3].1 = cut_image();
    let b = write("b", second);
    (root, a, b)
}

pub(crate) fn its_records_are_those_of_its_parts_one_after_the_other() {
    let (_root, a, b) = pair();
    let (digests, records) = ([a.digest(), b.digest()], [a.len(), b.len()]);
    let own: Vec<_> = listing(&a).into_iter().map(|(name, _)| name.to_owned()).collect();
    let mixed = Dataset::mix(vec![(a, 1.0), (b, 0.5)]).unwrap();
    assert_eq!((mixed.len(), records), (20, [12, 8]));
    assert_eq!(mixed.classes(), ["cat", "dog", "ant"]);
    assert!(!digests.contains(&mixed.digest()));
    let listed = listing(&mixed);
    assert!(listed[..12].iter().map(|(name, _)| *name).eq(own.iter().map(String::as_str)));
    assert_eq!(listed[11], ("dog/9.jpg", 1));
    assert_eq!([listed[12], listed[16]], [("ant/20.jpg", 2), ("dog/24.jpg", 1)]);
    assert_eq!(mixed.bad().map(|(id, _)| id).collect::<Vec<_>>(), [15]);
    assert_eq!((mixed.bad_count(), mixed.good_or_next(15), mixed.good_or_next(3)), (1, 16, 3));
    let mut scratch = Vec::new();
    assert_eq!(mixed.read(13, &mut scratch).unwrap(), image(21));
    assert_eq!(mixed.read(0, &mut scratch).unwrap(), image(0));
    let weights = mixed.parts().map(|part| part.path().file_name().unwrap().to_owned());
    assert!(weights.eq(["a", "b"]));
}

pub(crate) fn an_epoch_has_records_of_each_part_as_often_as_its_weight_says() {
    let (_root, a, b) = pair();
    let mixed = Arc::new(Dataset::mix(vec![(a, 2.0), (b, 0.5)]).unwrap());
    let changes = ["batch = 14", "microbatches = 1", "image_size = 32", "repeats = 1"];
    let recipe = RecipeSpec::preset("a2").with_changes(changes.map(String::from));
    let recipe = Arc::new(recipe.resolve().unwrap());
    let sampler = sampler(&mixed, &recipe, 3).unwrap();
    assert_eq!((sampler.samples_per_epoch(), sampler.is_even()), (28, false));
    let mut counts = [0; 20];
    for (epoch, step) in (0..2).flat_map(|epoch| [(epoch, 0), (epoch, 1)]) {
        let name = MicrobatchName { seed: 3, epoch, step, index: 0 };
        let (dataset, recipe) = (Arc::clone(&mixed), Arc::clone(&recipe));
        let request = Request { dataset, recipe, name, format: PixelFormat::default() };
        for sample in explain(&request).unwrap().samples {
            counts[usize::try_from(sample.record).unwrap()] += 1;
        }
    }
    // In two epochs each record of the first comes four times, and each of the second once, or for the bad one.
    let mut expected = [[4; 12].as_slice(), &[1; 8]].concat();
    (expected[15], expected[16]) = (0, 2);
    assert_eq!(counts.as_slice(), expected);
}

pub(crate) fn a_mix_of_one_dataset_is_that_dataset() {
    let (_root, a, b) = pair();
    let (digest, weighted) = (a.digest(), b.digest());
    assert_eq!(Dataset::mix(vec![(a, 1.0)]).unwrap().digest(), digest);
    assert_ne!(Dataset::mix(vec![(b, 0.5)]).unwrap().digest(), weighted);
}

pub(crate) fn the_digest_depends_on_parts_weights_and_order() {
    let digest = |weights: [f64; 2], swap: bool| {
        let (_root, a, b) = pair();
        let mut parts = vec![(a, weights[0]), (b, weights[1])];
        if swap {
            parts.reverse();
        }
        Dataset::mix(parts).unwrap().digest()
    };
    assert_eq!(digest([1.0, 0.5], false), digest([1.0, 0.5], false));
    assert_ne!(digest([1.0, 0.5], false), digest([1.0, 0.6], false));
    assert_ne!(digest([1.0, 1.0], false), digest([1.0, 1.0], true));
}

pub(crate) fn what_does_not_go_together_is_refused_with_the_reason() {
    let (root, a, _b) = pair();
    let tar = crate::make::tar(&[("0.jpg", image(1)), ("0.cls", b"0".to_vec())]);
    files(root.path(), &[("n/t.tar", tar)]);
    let numbered = opened(&root.path().join("n"));
    let error = message(Dataset::mix(vec![(a, 1.0), (numbered, 1.0)]));
    assert!(error.contains("/n: its classes have numbers, and those of"), "{error}");
    assert!(error.contains("put a classes.txt with the names beside"), "{error}");
    for (weight, expected) in [
        (0.0, "its weight is 0; expected a number above 0"),
        (f64::NAN, "its weight is NaN"),
        (0.05, "an epoch has none of its 12 records with the weight 0.05"),
        (1e12, "expected at most 2^40"),
    ] {
        let (_root, a, b) = pair();
        let error = message(Dataset::mix(vec![(b, 1.0), (a, weight)]));
        assert!(error.contains(expected), "{error}");
    }
}

pub(crate) fn weights_of_datasets_and_of_classes_are_not_combined() {
    let (_root, a, b) = pair();
    let recipe = |sampling: &str| {
        let changes = ["batch = 8", "microbatches = 1", "repeats = 1", sampling];
        RecipeSpec::preset("a2").with_changes(changes.map(String::from)).resolve().unwrap()
    };
    let even = Dataset::mix(vec![(a, 1.0), (b, 1.0)]).unwrap();
    assert!(!sampler(&even, &recipe("sampling.balance = 1"), 0).unwrap().is_even());
    assert!(sampler(&even, &recipe("smoothing = 0.0"), 0).is_ok_and(|sampler| sampler.is_even()));
    let (_root, a, b) = pair();
    let weighted: Result<Dataset, DatasetError> = Dataset::mix(vec![(a, 1.0), (b, 0.5)]);
    let error = sampler(&weighted.unwrap(), &recipe("sampling.balance = 1"), 0).unwrap_err();
    assert!(error.to_string().contains("either weights of classes or of datasets"), "{error}");
}
