//! Engine A: g++ compiles the source of a kernel, and the CPU runs it.
//!
//! The "PTX" of the stand-in's NVRTC is the source after two lines with its name and options. It is compiled once for each content
//! and kept in a folder (`build`). The threads of a block are fibers on one thread of the host (`cuda_run.h`), so barriers, shuffles
//! and shared memory work. Arithmetic is that of the host: IEEE, without contraction (`-ffp-contract=off`), whatever `--fmad` is.
//!
//! The engine cannot detect reads of unwritten memory, other than by its poison, or races that neither order of threads reveals.
//! Kernels that use functions that `cuda_cpu.h` does not have do not compile.

mod build;
mod run;
mod source;

use std::path::Path;

use crate::engine::Module;

/// The beginning of the text that the stand-in's NVRTC returns as PTX.
const MARK: &str = "// forebay-standin source";

/// Creates the text that stands for PTX.
pub(crate) fn wrap(name: &str, options: &[String], source: &str) -> String {
    format!("{MARK} {name}\n// {}\n{source}", options.join("\u{1f}"))
}

pub(crate) fn is_source(text: &str) -> bool {
    text.starts_with(MARK)
}

/// Compiles a text of [`wrap`], unless its library exists. The error has the messages of the compiler.
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

/// Loads the module of a text of [`wrap`].
pub(crate) fn load(text: &str, cache: &Path) -> Result<Box<dyn Module>, String> {
    let library = compile(text, cache)?;
    Ok(Box::new(run::Native::open(&library, &build::shared_of(&library))?))
}

/// Checks options of NVRTC.
pub(crate) fn check_options(options: &[String]) -> Result<(), String> {
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    build::preprocessor_options(&options).map(drop)
}
