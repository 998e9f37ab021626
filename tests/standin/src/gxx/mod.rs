//! Engine A: g++ compiles the source of a kernel, and the CPU runs it.
//!
//! The "PTX" of the stand-in's NVRTC is the source with a first line that names the options. It is compiled once for each
//! content and kept in a folder (`build`). A block's threads are fibers on one thread of the host (`cuda_run.h`), so barriers, shuffles and
//! shared memory work, and arithmetic is that of the host: IEEE, without contraction (`-ffp-contract=off`), whatever `--fmad` says.
//!
//! What it cannot see: a read of memory never written, other than by its poison; races that the two orders of threads
//! hide; kernels that use what `cuda_cpu.h` does not have, which do not compile.

mod build;
mod run;
mod source;

use std::path::Path;

use crate::engine::Module;

/// How the text begins that the stand-in's NVRTC gives as PTX.
const MARK: &str = "// forebay-standin source";

/// Makes that text.
pub(crate) fn wrap(name: &str, options: &[String], source: &str) -> String {
    format!("{MARK} {name}\n// {}\n{source}", options.join("\u{1f}"))
}

pub(crate) fn is_source(text: &str) -> bool {
    text.starts_with(MARK)
}

/// Compiles what `wrap` made, unless that was done before. The error is the compiler's.
pub(crate) fn compile(text: &str, cache: &Path) -> Result<std::path::PathBuf, String> {
    let (name, rest) =
        text.strip_prefix(MARK).and_then(|rest| rest.split_once('\n')).ok_or("no source")?;
    let (options, source) = rest.split_once('\n').ok_or("no options")?;
    let options: Vec<&str> = options
        .trim_start_matches("// ")
        .split('\u{1f}')
        .filter(|option| !option.is_empty())
        .collect();
    build::library(name.trim(), &options, source, cache)
}

/// Loads a module of such a text.
pub(crate) fn load(text: &str, cache: &Path) -> Result<Box<dyn Module>, String> {
    let library = compile(text, cache)?;
    Ok(Box::new(run::Native::open(&library, &build::shared_of(&library))?))
}

/// Whether engine A takes these options of NVRTC.
pub(crate) fn check_options(options: &[String]) -> Result<(), String> {
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    build::preprocessor_options(&options).map(drop)
}
