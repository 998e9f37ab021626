//! Generates `proto/src/gen`. With `--check` it writes nothing, and fails if the committed code is not current.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use prost::Message as _;
use xxhash_rust::xxh3::xxh3_64;

const PROTO: &str = "forebay/v1/forebay.proto";

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let check = std::env::args().nth(1).as_deref() == Some("--check");
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut stale = Vec::new();
    for (name, content) in generate(&proto)? {
        let path = proto.join("src/gen").join(name);
        if fs::read(&path).is_ok_and(|committed| committed == content) {
            continue;
        }
        stale.push(name);
        if !check {
            fs::write(path, content)?;
        }
    }
    match (stale.is_empty(), check) {
        (true, _) => println!("proto/src/gen is current"),
        (false, false) => println!("wrote {} to proto/src/gen", stale.join(", ")),
        (false, true) => {
            eprintln!(
                "{} of proto/src/gen do not match {PROTO}: run \
                 `cargo run --manifest-path proto/codegen/Cargo.toml` and commit",
                stale.join(", ")
            );
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The generated files: code, descriptors for reflection, and the hash by which a test of `forebay-proto`
/// notices an edit of the .proto file.
fn generate(proto: &Path) -> Result<[(&'static str, Vec<u8>); 3], Box<dyn Error>> {
    let descriptors = protox::compile([PROTO], [proto])?;
    let out = tempfile::tempdir()?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(true)
        .out_dir(out.path())
        .compile_fds(descriptors.clone())?;
    let code = fs::read(out.path().join("forebay.v1.rs"))?;
    let hash = format!("{:016x}\n", xxh3_64(&fs::read(proto.join(PROTO))?));
    Ok([
        ("forebay.v1.rs", code),
        ("forebay.v1.bin", descriptors.encode_to_vec()),
        ("forebay.v1.xxh3", hash.into_bytes()),
    ])
}
