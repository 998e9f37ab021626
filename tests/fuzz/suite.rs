//! The bodies of the fuzz targets on their seeds and on random changes of them: what a fuzzer does
//! for hours, a second each. `tests/fuzz/Cargo.toml` tells how to run the fuzzer.

use forebay_tests::fuzz::{self, seeds};
use proptest::prelude::*;
use proptest::sample::Index;

/// A change of some bytes, as fuzzers make them.
#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Copy { from: Index, to: Index, length: usize },
    Cut(Index),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let length = bytes.len();
        let place = |at: &Index| at.index(length + 1);
        let part = |at: &Index, count: usize| place(at)..(place(at) + count).min(length);
        match self {
            Self::Set(at, new) => bytes[part(at, 1)].fill(*new),
            Self::Flip(at, bits) => bytes[part(at, 1)].iter_mut().for_each(|byte| *byte ^= bits),
            Self::Insert(at, new) => drop(bytes.splice(part(at, 0), new.iter().copied())),
            Self::Remove(at, count) => drop(bytes.drain(part(at, *count))),
            Self::Copy { from, to, length } => {
                let copy = bytes[part(from, *length)].to_vec();
                drop(bytes.splice(part(to, 0), copy));
            }
            Self::Cut(at) => bytes.truncate(place(at)),
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    let interesting = prop_oneof![Just(0), Just(1), Just(0x7F), Just(0xFF), any::<u8>()];
    prop_oneof![
        6 => (at(), interesting).prop_map(|(at, byte)| Change::Set(at, byte)),
        4 => (at(), 0..8_u32).prop_map(|(at, bit)| Change::Flip(at, 1 << bit)),
        2 => (at(), prop::collection::vec(any::<u8>(), 1..9))
            .prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        2 => (at(), 1..40_usize).prop_map(|(at, length)| Change::Remove(at, length)),
        2 => (at(), at(), 1..200_usize)
            .prop_map(|(from, to, length)| Change::Copy { from, to, length }),
        1 => at().prop_map(Change::Cut),
    ]
}

/// Runs a body on the seeds of its target as they are, and on `cases` changed ones.
fn run(target: &str, cases: u32, body: fn(&[u8])) {
    let (_, seeds) = seeds::all().into_iter().find(|(name, _)| *name == target).expect("a target");
    for seed in &seeds {
        body(seed);
    }
    let changed = (any::<Index>(), prop::collection::vec(change(), 1..8));
    proptest!(ProptestConfig::with_cases(cases), |((seed, changes) in changed)| {
        let mut bytes = seed.get(&seeds).clone();
        for change in &changes {
            change.apply(&mut bytes);
        }
        body(&bytes);
    });
}

#[test]
fn a_hostile_jpeg_box_or_entry_point_does_no_harm() {
    run("region", 4000, fuzz::region);
}

#[test]
fn a_hostile_picture_is_an_error_or_a_picture() {
    run("picture", 4000, fuzz::picture);
}

#[test]
fn a_hostile_index_is_an_error_or_within_bounds() {
    run("index", 1000, fuzz::index);
}

#[test]
fn a_hostile_tar_is_an_error_or_read_as_it_lies() {
    run("tar", 1000, fuzz::tar);
}

#[test]
fn hostile_frames_are_an_error_or_what_their_header_says() {
    run("frames", 10_000, fuzz::frames);
}

#[test]
fn a_hostile_recipe_is_an_error_or_has_plans_within_bounds() {
    run("recipe", 3000, fuzz::recipe);
}
