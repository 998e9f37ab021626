//! Writes the seeds of each target to its corpus: `tests/fuzz/corpus/TARGET/seed-N`, and `FORMAT-N` of the odd pictures.

use std::path::Path;
use std::{fs, io};

use bodies::seeds;

fn main() -> io::Result<()> {
    for (target, seeds) in seeds::all() {
        write(target, "seed", &seeds)?;
    }
    for format in seeds::FORMATS {
        write("picture", format, &seeds::odd(format))?;
    }
    Ok(())
}

fn write(target: &str, name: &str, seeds: &[Vec<u8>]) -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder)?;
    for (number, seed) in seeds.iter().enumerate() {
        fs::write(folder.join(format!("{name}-{number}")), seed)?;
    }
    Ok(())
}
