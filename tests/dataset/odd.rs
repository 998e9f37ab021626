//! Folders with files that are not what their names say.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::process::Command;

use forebay::dataset::Dataset;
use tempfile::tempdir;

use crate::make::{files, image, index, listing, message, opened};

pub(crate) fn pipes_and_devices_are_refused_and_never_read() {
    let root = tempdir().unwrap();
    files(root.path(), &[("a/1.jpg", image(1))]);
    let pipe = root.path().join("a/2.jpg");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let error = message(index(root.path()));
    assert!(error.contains("record 1 (a/2.jpg)") && error.contains("a named pipe"), "{error}");
    fs::remove_file(&pipe).unwrap();
    symlink("/dev/zero", &pipe).unwrap();
    let error = message(index(root.path()));
    assert!(error.contains("is a device and not a regular file"), "{error}");
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

pub(crate) fn a_huge_file_is_refused_before_it_is_read() {
    let root = tempdir().unwrap();
    files(root.path(), &[("a/1.jpg", image(1))]);
    // A sparse file takes no space; reading it would take 1 TiB of memory.
    fs::File::create(root.path().join("a/2.jpg")).unwrap().set_len(1 << 40).unwrap();
    let error = message(index(root.path()));
    assert!(error.contains("the limit for a record is 1073741824 bytes"), "{error}");
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
    let error = message(index(root.path()));
    assert!(error.contains("is not UTF-8; rename it"), "{error}");
}
