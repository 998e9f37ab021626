//! Repeats of a record share a decode, which does not change their pixels.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use forebay::recipe::Recipe;
use forebay::{MixedBy, Pipeline, PixelFormat, Request, Size, SubmitOptions};

use forebay_tests::world::{recipe, request, sharing_pipeline};

/// Microbatches of a step.
const MICROBATCHES: u32 = 8;
/// Bytes of a sample.
const SAMPLE: usize = Size::square(48).rgb_bytes();

type Name = (u64, u64, u32);

fn repeating() -> Arc<Recipe> {
    recipe("a2", &["repeats = 3"])
}

/// Makes all microbatches at once. Returns their pixels and the number of decodes.
fn make_all(
    pipeline: &Pipeline,
    recipe: &Arc<Recipe>,
    names: &[Name],
) -> (Vec<(Name, Vec<u8>)>, u64) {
    make_all_for(&SubmitOptions::default(), pipeline, recipe, names)
}

fn make_all_for(
    options: &SubmitOptions,
    pipeline: &Pipeline,
    recipe: &Arc<Recipe>,
    names: &[Name],
) -> (Vec<(Name, Vec<u8>)>, u64) {
    let (sender, receiver) = sync_channel(names.len());
    for &name in names {
        let (epoch, step, index) = name;
        let sender = sender.clone();
        let done = move |made| sender.send((name, made)).unwrap();
        pipeline.submit(request(recipe, epoch, step, index), options.clone(), done).unwrap();
    }
    let made = names.iter().map(|_| {
        let (name, made) = receiver.recv().unwrap();
        let made: forebay::MadeMicrobatch = made.unwrap();
        (name, made.payload.to_vec(), made.decoded)
    });
    let made: Vec<_> = made.collect();
    let decoded = made.iter().map(|(_, _, decoded)| decoded).sum();
    (made.into_iter().map(|(name, pixels, _)| (name, pixels)).collect(), decoded)
}

fn steps(indices: &[u32]) -> Vec<Name> {
    let steps = [(0, 0), (0, 1), (1, 2)];
    let names = |(epoch, step)| indices.iter().map(move |&index| (epoch, step, index));
    steps.into_iter().flat_map(names).collect()
}

/// The reference: one thread, and nothing precomputed.
fn unshared(recipe: &Arc<Recipe>) -> (BTreeMap<Name, Vec<u8>>, u64) {
    let (made, decoded) =
        make_all(&sharing_pipeline(1, 0), recipe, &steps(&[0, 1, 2, 3, 4, 5, 6, 7]));
    (made.into_iter().collect(), decoded)
}

#[test]
fn sharing_changes_no_pixels_whatever_is_requested_in_any_order() {
    let recipe = repeating();
    let (expected, decoded) = unshared(&recipe);
    assert_eq!(decoded, 48, "each sample by a decode of its own");
    let orders: [&[u32]; 5] = [
        &[0, 1, 2, 3, 4, 5, 6, 7],
        &[7, 6, 5, 4, 3, 2, 1, 0],
        &[3, 0, 5, 7, 1, 6, 2, 4],
        // One rank of four; two clients with equal requests.
        &[1, 5],
        &[0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7],
    ];
    for order in orders {
        for threads in [1, 8] {
            for share_bytes in [96 << 20, 3 * SAMPLE, SAMPLE - 1] {
                let pipeline = sharing_pipeline(threads, share_bytes);
                // Some samples may be cached in the second round.
                for _ in 0..2 {
                    for (name, pixels) in make_all(&pipeline, &recipe, &steps(order)).0 {
                        let what = format!("{name:?} of {order:?}, {threads}, {share_bytes}");
                        assert!(expected[&name] == pixels, "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_repeats_of_a_step_are_decoded_once_across_microbatches() {
    let recipe = repeating();
    let names = steps(&[0, 1, 2, 3, 4, 5, 6, 7]);
    for threads in [1, 8] {
        let (_, decoded) = make_all(&sharing_pipeline(threads, 96 << 20), &recipe, &names);
        // Three steps of 16 samples show 18 records; boxes that are far apart are decoded one by one.
        assert!((18..36).contains(&decoded), "{decoded} with {threads} threads");
    }
    let order: Vec<Name> = names.into_iter().rev().collect();
    let (_, decoded) = make_all(&sharing_pipeline(2, 96 << 20), &recipe, &order);
    assert!((18..36).contains(&decoded), "{decoded} in reverse");
}

#[test]
fn an_isolated_request_precomputes_nothing_and_uses_what_is_cached() {
    let recipe = repeating();
    let (expected, _) = unshared(&recipe);
    let names = steps(&[0, 1, 2, 3, 4, 5, 6, 7]);
    let isolated = SubmitOptions { isolated: true, ..SubmitOptions::default() };
    let pipeline = sharing_pipeline(1, 96 << 20);
    let (made, decoded) = make_all_for(&isolated, &pipeline, &recipe, &names);
    assert_eq!(decoded, 48, "each sample by a decode of its own");
    assert!(made.into_iter().all(|(name, pixels)| expected[&name] == pixels));
    let pipeline = sharing_pipeline(1, 96 << 20);
    let (streamed, fetched): (Vec<Name>, _) = names.into_iter().partition(|name| name.2 == 0);
    let (_, decoded) = make_all(&pipeline, &recipe, &streamed);
    let (made, more) = make_all_for(&isolated, &pipeline, &recipe, &fetched);
    assert!((18..36).contains(&(decoded + more)), "{decoded} and {more}");
    assert!(made.into_iter().all(|(name, pixels)| expected[&name] == pixels));
}

#[test]
fn neighboring_slots_share_a_decode_and_equal_those_of_separate_microbatches() {
    let one = recipe("a2", &["repeats = 3", "microbatches = 1"]);
    let eight = repeating();
    let unmixed = |recipe: &Arc<Recipe>, index| {
        let format = PixelFormat { mixed_by: MixedBy::Trainer, ..PixelFormat::default() };
        Request { format, ..request(recipe, 0, 1, index) }
    };
    let whole = sharing_pipeline(2, 0).make(unmixed(&one, 0)).unwrap();
    assert!((6..16).contains(&whole.decoded), "{}", whole.decoded);
    let pipeline = sharing_pipeline(2, 0);
    for index in 0..MICROBATCHES {
        let part = pipeline.make(unmixed(&eight, index)).unwrap();
        for (slot, pixels) in part.payload.chunks(SAMPLE).enumerate() {
            let at = (slot * MICROBATCHES as usize + index as usize) * SAMPLE;
            assert_eq!(whole.payload[at..at + SAMPLE], *pixels);
        }
    }
}
