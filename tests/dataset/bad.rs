use std::fs;
use std::path::Path;

use forebay::dataset::{Dataset, DatasetError, index_path};
use tempfile::tempdir;

use crate::make::{cut_image, files, image, index, message, opened, tar};

/// Asserts that indexing fails, and that the message contains all of these parts.
fn refused(path: &Path, parts: &[&str]) {
    let message = message(index(path));
    for part in parts {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

pub(crate) fn paths_that_are_not_datasets_are_refused() {
    let root = tempdir().unwrap();
    refused(&root.path().join("none"), &["no dataset at", "none"]);
    refused(root.path(), &["is not a dataset", "a folder for each class"]);
    files(root.path(), &[("file", b"".to_vec())]);
    refused(&root.path().join("file"), &["is not a dataset", "WebDataset or ILSVRC tars"]);
    files(root.path(), &[("x/a/1.jpg", image(1)), ("x/s.tar", tar(&[]))]);
    refused(&root.path().join("x/s.tar"), &["has no images with labels"]);
    files(root.path(), &[("junk.tar", vec![7; 2000])]);
    refused(&root.path().join("junk.tar"), &["at byte 0: expected a tar header"]);
    let missing = Dataset::open(&root.path().join("none"), None);
    assert!(matches!(missing, Err(DatasetError::Missing { .. })));
}

pub(crate) fn classes_without_images_are_refused_as_by_torchvision() {
    let root = tempdir().unwrap();
    files(root.path(), &[("a/1.jpg", image(1)), ("b/notes.txt", image(2))]);
    refused(root.path(), &["class folder", "/b has no images", ".jpeg"]);
}

pub(crate) fn a_dataset_without_good_records_is_refused() {
    let root = tempdir().unwrap();
    files(root.path(), &[("a/1.jpg", cut_image()), ("a/2.jpg", cut_image())]);
    refused(root.path(), &["all 2 records are bad", "a/1.jpg", "truncated"]);
}

pub(crate) fn a_missing_or_damaged_index_is_refused_with_advice() {
    let root = tempdir().unwrap();
    files(root.path(), &[("train/a/1.jpg", image(1))]);
    let path = root.path().join("train");
    let error = message(Dataset::open(&path, None));
    assert!(error.contains("no index at") && error.contains("run \"forebay index "), "{error}");
    opened(&path);
    let file = index_path(&path, None);
    let whole = fs::read(&file).unwrap();
    let name = whole.windows(7).position(|bytes| bytes == b"a/1.jpg").unwrap();
    let cases: [(Vec<u8>, &str); 5] = [
        (Vec::new(), "it has only 0 bytes"),
        (b"PNG".repeat(100), "not an index of forebay"),
        (whole[..whole.len() - 8].to_vec(), "bytes and should have"),
        ([&whole[..8], &[9, 0, 0, 0], &whole[12..]].concat(), "version 9"),
        ([&whole[..name], b"b", &whole[name + 1..]].concat(), "is damaged"),
    ];
    for (bytes, expected) in cases {
        fs::write(&file, bytes).unwrap();
        let error = message(Dataset::open(&path, None));
        assert!(
            error.contains(expected) && error.contains("run \"forebay index\" again"),
            "{error}"
        );
    }
}

pub(crate) fn a_changed_file_is_detected() {
    let root = tempdir().unwrap();
    files(root.path(), &[("a/1.jpg", image(1)), ("a/2.jpg", image(2)), ("a/3.jpg", image(3))]);
    let dataset = opened(root.path());
    files(root.path(), &[("a/1.jpg", image(9)), ("a/2.jpg", cut_image())]);
    fs::remove_file(root.path().join("a/3.jpg")).unwrap();
    let read = |id| message(dataset.read(id, &mut Vec::new()));
    assert_eq!(
        read(0),
        "record 0 (a/1.jpg): checksum mismatch, the file changed since it was indexed; \
         run \"forebay index\" again"
    );
    let lengths = format!("has {} bytes and had {}", cut_image().len(), image(2).len());
    assert!(
        read(1).contains(&lengths) && read(1).contains("\"forebay index\" again"),
        "{}",
        read(1)
    );
    assert!(read(2).starts_with("record 2 (a/3.jpg): cannot open"), "{}", read(2));
}

pub(crate) fn a_changed_shard_is_detected() {
    let root = tempdir().unwrap();
    let shard = |number| tar(&[("a.jpg", image(number)), ("a.cls", b"0".to_vec())]);
    files(root.path(), &[("s/1.tar", shard(1))]);
    let path = root.path().join("s");
    opened(&path);
    files(root.path(), &[("s/1.tar", shard(2))]);
    let dataset = Dataset::open(&path, None).unwrap();
    assert!(message(dataset.read(0, &mut Vec::new())).contains("(1.tar/a.jpg): checksum mismatch"));
    files(root.path(), &[("s/1.tar", [shard(1), vec![0; 512]].concat())]);
    assert!(message(Dataset::open(&path, None)).contains("1.tar has 4096 bytes and had 3584"));
    files(root.path(), &[("s/1.tar", shard(1)), ("s/2.tar", shard(2))]);
    assert!(message(Dataset::open(&path, None)).contains("has 2 shards and had 1"));
}

/// A dataset of tars with one sample each.
fn shards(root: &Path, count: usize) -> Dataset {
    for number in 0..count {
        let image = image(u8::try_from(number % 250).unwrap());
        let members = [("a.jpg", image), ("a.cls", b"0".to_vec())];
        files(root, &[(&format!("s/{number:04}.tar"), tar(&members))]);
    }
    opened(&root.join("s"))
}

pub(crate) fn a_shard_that_is_truncated_while_open_loses_only_its_end() {
    let root = tempdir().unwrap();
    let samples = ["a.jpg", "a.cls", "b.jpg", "b.cls"];
    let data = [image(1), b"0".to_vec(), image(2), b"1".to_vec()];
    let members: Vec<_> = samples.into_iter().zip(data).collect();
    files(root.path(), &[("s/1.tar", tar(&members))]);
    let dataset = opened(&root.path().join("s"));
    let shard = fs::OpenOptions::new().write(true).open(root.path().join("s/1.tar")).unwrap();
    // Within the second image. Touching the missing part in a memory map would end this process.
    let second = dataset.record(1);
    shard.set_len(second.offset + 10).unwrap();
    let error = message(dataset.read(1, &mut Vec::new()));
    for part in ["s/1.tar has", "bytes and had", "run \"forebay index\" again"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(dataset.read(0, &mut Vec::new()).unwrap(), image(1));
    shard.set_len(0).unwrap();
    assert!(message(dataset.read(0, &mut Vec::new())).contains("1.tar has 0 bytes and had"));
}

pub(crate) fn a_shard_that_was_replaced_while_open_is_read_by_its_path() {
    let root = tempdir().unwrap();
    let dataset = shards(root.path(), 1);
    let (shard, copy) = (root.path().join("s/0000.tar"), root.path().join("copy"));
    fs::copy(&shard, &copy).unwrap();
    // The open file stays truncated, as the handle of a file on a network stays stale.
    fs::OpenOptions::new().write(true).open(&shard).unwrap().set_len(0).unwrap();
    let error = message(dataset.read(0, &mut Vec::new()));
    assert!(error.contains("0000.tar has 0 bytes and had"), "{error}");
    fs::rename(&copy, &shard).unwrap();
    assert_eq!(dataset.read(0, &mut Vec::new()).unwrap(), image(0));
}

/// Number of open files in a folder. Other tests of this process have open files elsewhere.
fn open_below(folder: &Path) -> usize {
    let folder = folder.canonicalize().unwrap();
    let files = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let paths = files.filter_map(|file| fs::read_link(file.path()).ok());
    paths.filter(|path| path.starts_with(&folder)).count()
}

pub(crate) fn shards_beyond_the_limit_of_open_files_are_read() {
    let root = tempdir().unwrap();
    let dataset = shards(root.path(), 300);
    let opened = open_below(root.path());
    assert!((1..290).contains(&opened), "{opened} files open");
    let mut scratch = Vec::new();
    for id in 0..300 {
        let number = u8::try_from(id % 250).unwrap();
        assert_eq!(dataset.read(id, &mut scratch).unwrap(), image(number));
    }
    // A shard that is kept open can be read after it was removed; the others cannot.
    fs::remove_file(root.path().join("s/0000.tar")).unwrap();
    fs::remove_file(root.path().join("s/0299.tar")).unwrap();
    dataset.read(0, &mut scratch).unwrap();
    let error = message(dataset.read(299, &mut scratch));
    assert!(error.contains("cannot open") && error.contains("0299.tar"), "{error}");
    // A shard that was replaced is detected.
    let other = tar(&[("a.jpg", image(7)), ("a.cls", b"0".to_vec())]);
    files(root.path(), &[("s/0298.tar", other)]);
    let error = message(dataset.read(298, &mut scratch));
    assert!(error.contains("(0298.tar/a.jpg): checksum mismatch"), "{error}");
}
