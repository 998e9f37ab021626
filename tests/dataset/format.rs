//! Digests and index files that must never change: trainers compare digests, and servers read indexes of
//! earlier versions.

use std::fs;
use std::path::Path;

use forebay::dataset::{Dataset, build, index_path};
use tempfile::tempdir;
use xxhash_rust::xxh3::xxh3_64;

use crate::make::{cut_image, files, image, tar};

/// Asserts the digest of a dataset and of its index file, if its bytes do not depend on the reason of a
/// bad record.
fn check(path: &Path, digest: &str, index: Option<u64>) {
    build(path, None, 2, &|_| {}).unwrap();
    assert_eq!(Dataset::open(path, None).unwrap().digest().to_string(), digest);
    if let Some(index) = index {
        let bytes = fs::read(index_path(path, None)).unwrap();
        assert_eq!(xxh3_64(&bytes), index);
    }
}

pub(crate) fn the_digest_and_index_of_a_folder_never_change() {
    let root = tempdir().unwrap();
    let path = root.path().join("train");
    files(&path, &[("b/2.jpg", image(1)), ("b/10.JPEG", image(2)), ("a/s/1.jpg", image(3))]);
    let digest = "14f2cb217c09cfc55bcd7f0e608349fa786d0d93de7575e89af1905e2cd2ccdd";
    let index = 0x52a8_32e2_1732_1933;
    check(&path, digest, Some(index));
    files(&path, &[("a/bad.jpg", cut_image())]);
    check(&path, "a88883dfadf3b949d5397a1e8b09e0f34303036e23241b99f6e12a0d217b17d1", None);
}

pub(crate) fn the_digest_and_index_of_tars_never_change() {
    let root = tempdir().unwrap();
    let path = root.path().join("t-*.tar");
    let first = tar(&[("a.jpg", image(1)), ("a.cls", b"1".to_vec())]);
    let second = [("b.cls", b"0\n".to_vec()), ("b.JPG", image(2))];
    files(root.path(), &[("t-0.tar", first), ("t-1.tar", tar(&second))]);
    let digest = "8eec0ec384e489b77a6330958cede9567385bdc9d28ccaea737c3ff61506e32f";
    let index = 0x219f_4020_4970_417b;
    check(&path, digest, Some(index));
    let bad = [("c.cls", b"1".to_vec()), ("c.jpg", cut_image())];
    let classes = b"cat\ndog\n".to_vec();
    files(root.path(), &[("t-1.tar", tar(&[second, bad].concat())), ("classes.txt", classes)]);
    check(&path, "b2a4d545d618d54c2e28271281ec3bb6e8fb817a0fc609eeff3ddd18f708d44f", None);
}

pub(crate) fn the_digest_and_index_of_parquet_files_never_change() {
    let root = tempdir().unwrap();
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("formats/parquet");
    for (file, digest, index) in [
        (
            "datasets.parquet",
            "7b48878880d0f37349917455528b8e1844c379aabcae19d46e94493170c99ca6",
            0x5514_a2a0_a1b9_44db,
        ),
        (
            "zstd_v1_plain.parquet",
            "3bb2db336d26c17fc5f559a88bfbe41546664216bdfa8725fb9d15967afef7a7",
            0x4665_485f_c304_fcd8,
        ),
    ] {
        let path = root.path().join(file);
        fs::copy(goldens.join(file), &path).unwrap();
        check(&path, digest, Some(index));
    }
}
