//! Runs the fuzz targets for a second each on their seeds and on random mutations. `tests/fuzz/Cargo.toml` says how
//! to run the fuzzer itself.

use forebay_tests::HANG;
use forebay_tests::fuzz::{self, seeds};
use forebay_types::process::{cpu_time, memory};
use proptest::prelude::*;
use proptest::sample::Index;

/// A mutation of some bytes, of the kinds that fuzzers use.
#[derive(Clone, Debug)]
enum Mutation {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Copy { from: Index, to: Index, length: usize },
    Cut(Index),
}

impl Mutation {
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

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    let interesting = prop_oneof![Just(0), Just(1), Just(0x7F), Just(0xFF), any::<u8>()];
    prop_oneof![
        6 => (at(), interesting).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        4 => (at(), 0..8_u32).prop_map(|(at, bit)| Mutation::Flip(at, 1 << bit)),
        2 => (at(), prop::collection::vec(any::<u8>(), 1..9))
            .prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        2 => (at(), 1..40_usize).prop_map(|(at, length)| Mutation::Remove(at, length)),
        2 => (at(), at(), 1..200_usize)
            .prop_map(|(from, to, length)| Mutation::Copy { from, to, length }),
        1 => at().prop_map(Mutation::Cut),
    ]
}

/// Runs a body on the seeds of its target, and on `cases` mutations.
fn run(target: &str, cases: u32, body: fn(&[u8])) {
    let (_, seeds) = seeds::all().into_iter().find(|(name, _)| *name == target).expect("a target");
    run_on(&seeds, cases, body);
}

/// Runs a body on seeds, and on `cases` mutations of them.
fn run_on(seeds: &[Vec<u8>], cases: u32, body: fn(&[u8])) {
    for seed in seeds {
        body(seed);
    }
    let mutated = (any::<Index>(), prop::collection::vec(mutation(), 1..8));
    proptest!(ProptestConfig::with_cases(cases), |((seed, mutations) in mutated)| {
        let mut bytes = seed.get(seeds).clone();
        for mutation in &mutations {
            mutation.apply(&mut bytes);
        }
        body(&bytes);
    });
}

#[test]
fn hostile_jpegs_boxes_and_entry_points_are_harmless() {
    run("region", 4000, fuzz::region);
}

#[test]
fn a_hostile_image_is_an_error_or_an_image() {
    run("picture", 4000, fuzz::picture);
}

/// Memory that the pictures of a format, one after another, may need at most. Each has at most 2^18 pixels.
const MAX_BYTES: u64 = 256 << 20;

/// Runs `picture` on the odd files of a format and on mutations of them, and bounds what each costs.
fn run_odd(format: &str) {
    let before = memory().expect("Linux").peak_resident;
    run_on(&seeds::odd(format), 1000, |bytes| {
        let start = cpu_time();
        fuzz::picture(bytes);
        assert!(cpu_time().saturating_sub(start) < HANG, "unbounded time");
    });
    let used = memory().expect("Linux").peak_resident - before;
    assert!(used <= MAX_BYTES, "{used} bytes");
}

macro_rules! hostile {
    ($($name:ident: $format:literal),* $(,)?) => {
        $(#[test] fn $name() { run_odd($format); })*
    };
}

hostile! {
    a_hostile_bmp_is_an_error_or_an_image: "bmp",
    a_hostile_gif_is_an_error_or_an_image: "gif",
    a_hostile_jpeg_is_an_error_or_an_image: "jpeg",
    a_hostile_png_is_an_error_or_an_image: "png",
    a_hostile_pnm_is_an_error_or_an_image: "pnm",
    a_hostile_tiff_is_an_error_or_an_image: "tiff",
    a_hostile_webp_is_an_error_or_an_image: "webp",
}

#[test]
fn a_hostile_index_is_an_error_or_within_bounds() {
    run("index", 1000, fuzz::index);
}

#[test]
fn a_hostile_tar_is_an_error_or_read_exactly() {
    run("tar", 1000, fuzz::tar);
}

#[test]
fn a_hostile_file_of_any_layout_is_an_error_or_read_within_bounds() {
    run("layouts", 2000, fuzz::layouts);
}

#[test]
fn a_hostile_parquet_file_is_an_error_or_read_as_it_was_indexed() {
    run("parquet", 1000, fuzz::parquet);
}

#[test]
fn hostile_frames_are_an_error_or_match_their_header() {
    run("frames", 10_000, fuzz::frames);
}

#[test]
fn a_hostile_recipe_is_an_error_or_its_plans_are_within_bounds() {
    run("recipe", 3000, fuzz::recipe);
}
