use proptest::prelude::*;

use xxhash_rust::xxh3::xxh3_64;
use zerocopy::IntoBytes as _;

use super::format::{StoredHeader, StoredSection, write_strings};
use super::*;
use crate::decode::{Color, Format};
use crate::geometry::Size;

const HEADER: usize = size_of::<StoredHeader>();
const ROW: usize = size_of::<StoredSection>();
const RECORD: usize = size_of::<StoredRecord>();

fn sections() -> Vec<(u32, Vec<u8>)> {
    let record = |good, offset, start| Record {
        label: 1,
        size: Size { height: 5, width: 7 },
        length: 40,
        format: Some(Format::Jpeg),
        color: Some(Color::YCbCr),
        progressive: false,
        good,
        checksum: 3,
        shard: 0,
        offset,
        name: NameRange { start, length: 3 },
    };
    let records = [record(true, 0, 0), record(false, 60, 3)].map(StoredRecord::from);
    vec![
        (kind::META, [&[9; 32][..], &[1]].concat()),
        (kind::SHARD_SIZES, 100_u64.to_le_bytes().to_vec()),
        (kind::SHARD_NAMES, write_strings(["s.tar"].into_iter())),
        (kind::CLASSES, write_strings(["x", "y"].into_iter())),
        (kind::RECORDS, records.as_bytes().to_vec()),
        (kind::NAMES, b"a/bc/d".to_vec()),
        (kind::BAD, 1_u64.to_le_bytes().to_vec()),
        (kind::REASONS, write_strings(["cut"].into_iter())),
    ]
}

fn open(sections: &[(u32, Vec<u8>)]) -> Result<Index, DatasetError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.forebay");
    write(&path, sections, None).unwrap();
    Index::open(&path)
}

#[test]
fn an_index_is_read_as_it_was_written() {
    let index = open(&sections()).unwrap();
    assert_eq!(index.len(), 2);
    assert_eq!(index.classes, ["x", "y"]);
    assert_eq!(index.shards, [("s.tar".to_owned(), 100)]);
    assert_eq!(index.bad, [(1, "cut".to_owned())]);
    let record = index.record(1);
    assert_eq!((record.offset, record.length, record.good), (60, 40, false));
    assert_eq!(index.name(&record), "c/d");
}

#[test]
fn records_out_of_bounds_are_refused() {
    for (at, byte) in [(8, 61), (16, 4), (24, 101), (28, 2), (40, 1), (46, 9), (47, 0)] {
        let mut sections = sections();
        sections[4].1[at] = byte;
        let error = open(&sections).unwrap_err().to_string();
        assert!(error.contains("record 0 is malformed"), "byte {at}: {error}");
    }
}

#[test]
fn names_that_lead_out_of_the_folder_are_refused() {
    let of_folder = |name: &[u8; 6]| {
        let mut sections = sections();
        sections[0].1[32] = 0;
        sections[1].1.clear();
        sections[2].1 = write_strings(std::iter::empty());
        // The offsets in a shard.
        sections[4].1[8..16].fill(0);
        sections[4].1[RECORD + 8..RECORD + 16].fill(0);
        sections[5].1 = name.to_vec();
        open(&sections)
    };
    assert!(of_folder(b"a/bc/d").is_ok());
    for name in [b"../c/d", b"/bcc/d", b"a/b../", b"..a/.."] {
        let refused = of_folder(name).unwrap_err().to_string();
        assert!(refused.contains("is malformed"), "{refused}");
    }
}

/// What the index says about its records, without the parts that are only shown.
fn content(index: &Index) -> impl PartialEq + std::fmt::Debug {
    let records = (0..index.len()).map(|id| index.record(id));
    let records: Vec<_> = records.map(|record| (record, index.name(&record).to_owned())).collect();
    (records, index.digest, index.classes.clone(), index.shards.clone(), index.bad_runs.clone())
}

#[test]
fn a_record_that_is_longer_than_any_that_is_read_is_refused() {
    let with_length = |length: u32| {
        let mut sections = sections();
        sections[1].1 = u64::MAX.to_le_bytes().to_vec();
        sections[4].1[24..28].copy_from_slice(&length.to_le_bytes());
        open(&sections)
    };
    with_length(MAX_RECORD).unwrap();
    for length in [MAX_RECORD + 1, u32::MAX] {
        let refused = with_length(length).unwrap_err().to_string();
        assert!(refused.contains("record 0 is malformed"), "{refused}");
    }
}

#[test]
fn any_flipped_byte_is_refused_or_changes_no_record() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.forebay");
    let points = [&[1, 2, 3][..], &[4, 5]];
    let mut entries = EntryPointsFile::create(folder.path()).unwrap();
    let points = points.map(|points| entries.push(points).unwrap()).as_bytes().to_vec();
    let skipped = [
        (kind::POINTS, points),
        (kind::SKIPPED, 3_u64.to_le_bytes().to_vec()),
        (kind::SKIPPED_REASONS, write_strings(["no label", "a.jpg"].into_iter())),
        (kind::WORDS, write_strings(["some", "words"].into_iter())),
        (kind::FACTS, write_strings(["split", "val"].into_iter())),
    ];
    write(&path, &[sections(), skipped.to_vec()].concat(), Some(entries)).unwrap();
    let whole = Index::open(&path).unwrap();
    assert_eq!(
        (whole.entry_points(0), whole.entry_points(1)),
        (Some(&[1, 2, 3][..]), Some(&[4, 5][..]))
    );
    assert_eq!(whole.about.words, ["some", "words"]);
    assert_eq!(whole.about.facts, [("split".to_owned(), "val".to_owned())]);
    let bytes = std::fs::read(&path).unwrap();
    let table = super::sections(&bytes).unwrap();
    let head = HEADER + table.len() * ROW;
    let kind_at = |at| table.iter().find(|s| (s.start..s.end).contains(&at)).map(|s| s.kind);
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&path, damaged).unwrap();
        let opened = Index::open(&path);
        let kind = kind_at(at);
        let mild = [
            kind::BAD,
            kind::REASONS,
            kind::POINTS,
            kind::ENTRIES,
            kind::SKIPPED,
            kind::SKIPPED_REASONS,
            kind::WORDS,
            kind::FACTS,
        ];
        // The padding between sections is ignored.
        let refused = at < head || kind.is_some_and(|kind| !mild.contains(&kind));
        assert_eq!(opened.is_err(), refused, "byte {at} of section {kind:?}");
        let Ok(opened) = opened else { continue };
        assert_eq!(content(&opened), content(&whole), "byte {at} of section {kind:?}");
        let silent = kind.is_none_or(|kind| kind == kind::ENTRIES);
        assert_eq!(opened.damage.is_empty(), silent, "byte {at} of section {kind:?}");
        for id in 0..2 {
            let points = opened.entry_points(id);
            assert!(points.is_none() || points == whole.entry_points(id), "byte {at}");
        }
    }
    for cut in 0..bytes.len() {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        assert!(Index::open(&path).is_err(), "cut to {cut} bytes");
    }
}

#[test]
fn an_unknown_section_is_skipped_unless_it_is_required() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.forebay");
    let later = [sections(), vec![(77, vec![1, 2, 3])]].concat();
    write(&path, &later, None).unwrap();
    let error = Index::open(&path).unwrap_err().to_string();
    assert!(error.contains("section 77 needs a newer forebay"), "{error}");
    let mut bytes = std::fs::read(&path).unwrap();
    let row = HEADER + 8 * ROW;
    bytes[row + 4] = 0;
    let digest = xxh3_64(&bytes[HEADER..HEADER + 9 * ROW]);
    bytes[24..32].copy_from_slice(&digest.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(Index::open(&path).unwrap().len(), 2);
}

proptest! {
    #[test]
    fn records_of_hostile_indexes_are_within_bounds(
        changes in prop::collection::vec((0_usize..8, any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of((0_usize..8, any::<prop::sample::Index>())),
    ) {
        let mut sections = sections();
        for (section, at, byte) in changes {
            let bytes = &mut sections[section].1;
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some((section, at)) = cut {
            let bytes = &mut sections[section].1;
            bytes.truncate(at.index(bytes.len()));
        }
        if let Ok(index) = open(&sections) {
            for id in 0..index.len() {
                let record = index.record(id);
                prop_assert!(!index.name(&record).is_empty());
                prop_assert!((record.label as usize) < index.classes.len());
            }
        }
    }
}
