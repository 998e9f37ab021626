//! Folders with files that are not what their names say.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use forebay::dataset::Dataset;
use tempfile::tempdir;

use crate::make::{files, image, index, index_skipping, listing, message, opened, skipped};

/// The one record of a folder, and what was skipped.
fn only_the_first(root: &Path) -> [(u64, String, Vec<String>); 1] {
    let dataset = opened(root);
    assert_eq!(listing(&dataset), [("a/1.jpg", 0)]);
    skipped(&dataset).try_into().unwrap()
}

pub(crate) fn pipes_and_devices_are_skipped_and_never_read() {
    let root = tempdir().unwrap();
    files(root.path(), &[("a/1.jpg", image(1))]);
    let [pipe, device] = ["a/2.jpg", "a/3.jpg"].map(|name| root.path().join(name));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    symlink("/dev/zero", &device).unwrap();
    let [(count, reason, names)] = only_the_first(root.path());
    assert_eq!((count, names), (2, vec!["a/2.jpg".to_owned(), "a/3.jpg".to_owned()]));
    assert_eq!(reason, "a pipe, a device or a socket in place of a file");
}

pub(crate) fn a_tar_or_an_index_that_is_a_pipe_is_refused() {
    let root = tempdir().unwrap();
    let pipe = |name: &str| {
        let status = Command::new("mkfifo").arg(root.path().join(name)).status();
        assert!(status.unwrap().success());
    };
    pipe("s.tar");
    assert!(message(index(&root.path().join("s.tar"))).contains("a named pipe"));
    files(root.path(), &[("train/a/1.jpg", image(1))]);
    pipe("train.forebay");
    let error = message(Dataset::open(&root.path().join("train"), None));
    assert!(error.contains("a named pipe"), "{error}");
}

pub(crate) fn a_huge_file_is_skipped_and_never_read() {
    let root = tempdir().unwrap();
    files(root.path(), &[("a/1.jpg", image(1))]);
    // A sparse file takes no space; reading it would take 1 TiB of memory.
    fs::File::create(root.path().join("a/2.jpg")).unwrap().set_len(1 << 40).unwrap();
    let [(count, reason, names)] = only_the_first(root.path());
    assert_eq!((count, names), (1, vec!["a/2.jpg".to_owned()]));
    assert!(reason.starts_with("more than 1 GiB"), "{reason}");
}

pub(crate) fn links_to_nothing_are_skipped_and_named() {
    let root = tempdir().unwrap();
    files(root.path(), &[("a/1.jpg", image(1))]);
    // As many as are named, and one more.
    for number in 2..6 {
        symlink("nowhere", root.path().join(format!("a/{number}.jpg"))).unwrap();
    }
    let [(count, reason, names)] = only_the_first(root.path());
    assert_eq!((count, names), (4, [2, 3, 4].map(|number| format!("a/{number}.jpg")).to_vec()));
    assert!(reason.starts_with("a symbolic link whose target does not exist"), "{reason}");
    // What a strict run says of it.
    let refused = message(index_skipping(0.0, root.path()));
    for part in ["4 of 5 samples", "at most 0", "a/2.jpg, a/3.jpg, a/4.jpg", "--max-skipped"] {
        assert!(refused.contains(part), "{refused}");
    }
}

pub(crate) fn more_skipped_samples_than_a_share_refuse_a_dataset() {
    let root = tempdir().unwrap();
    for number in 0..39_u8 {
        files(root.path(), &[(&format!("a/{number}.jpg"), image(number))]);
    }
    let link =
        |number: u32| symlink("nowhere", root.path().join(format!("a/x{number}.jpg"))).unwrap();
    (0..10).for_each(link);
    // A hundredth of 49 samples is none, and ten may always be skipped unless none may.
    let summary = index(root.path()).unwrap();
    assert_eq!((summary.records, summary.good, summary.skipped[0].count), (39, 39, 10));
    assert!(message(index_skipping(0.0, root.path())).contains("10 of 49 samples"));
    link(10);
    let refused = message(index(root.path()));
    assert!(refused.contains("11 of 50 samples") && refused.contains("at most 10"), "{refused}");
    assert_eq!(index_skipping(0.22, root.path()).unwrap().skipped[0].count, 11);
    assert!(message(index_skipping(0.21, root.path())).contains("at most 10 may be skipped"));
}

pub(crate) fn a_record_that_became_a_pipe_is_refused() {
    let root = tempdir().unwrap();
    files(root.path(), &[("a/1.jpg", image(1)), ("a/2.jpg", image(2))]);
    let dataset = opened(root.path());
    let path = root.path().join("a/2.jpg");
    fs::remove_file(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let error = message(dataset.read(1, &mut Vec::new()));
    assert!(error.contains("record 1 (a/2.jpg)") && error.contains("a named pipe"), "{error}");
    assert_eq!(dataset.read(0, &mut Vec::new()).unwrap(), image(1));
}

pub(crate) fn names_that_are_not_utf8_matter_only_for_images() {
    let root = tempdir().unwrap();
    files(root.path(), &[("a/1.jpg", image(1))]);
    fs::write(root.path().join(OsStr::from_bytes(b"a/\xFF.txt")), "notes").unwrap();
    fs::write(root.path().join(OsStr::from_bytes(b"\xFF")), "notes").unwrap();
    assert_eq!(listing(&opened(root.path())), [("a/1.jpg", 0)]);
    fs::write(root.path().join(OsStr::from_bytes(b"a/\xFF.jpg")), image(2)).unwrap();
    let [(count, reason, names)] = only_the_first(root.path());
    assert_eq!((count, names), (1, vec!["a/\u{fffd}.jpg".to_owned()]));
    assert!(reason.starts_with("a name that is not UTF-8"), "{reason}");
}
