//! Generates the code under `src/gen` and fails if it was not current: run twice after an edit of
//! the .proto, then commit.

use std::fs;
use std::path::Path;

use prost::Message as _;

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors = protox::compile(["forebay/v1/forebay.proto"], [root]).unwrap();
    let out = tempfile::tempdir().unwrap();
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(true)
        .out_dir(out.path())
        .compile_fds(descriptors.clone())
        .unwrap();
    let code = fs::read(out.path().join("forebay.v1.rs")).unwrap();
    let fresh = [("forebay.v1.rs", code), ("forebay.v1.bin", descriptors.encode_to_vec())];
    let stale: Vec<_> = fresh
        .iter()
        .filter(|(name, bytes)| {
            let path = root.join("src/gen").join(name);
            let current = fs::read(&path).is_ok_and(|old| old == *bytes);
            if !current {
                fs::write(&path, bytes).unwrap();
            }
            !current
        })
        .map(|(name, _)| name)
        .collect();
    assert!(stale.is_empty(), "{stale:?} differed from the .proto and were written anew: commit");
}
