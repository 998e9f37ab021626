//! Compiles a source to a shared library with g++, once for each content.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use super::source::{Declared, rewrite};

/// The headers that kernels include, and the code that runs them.
const HEADERS: [(&str, &str); 4] = [
    ("cuda_cpu.h", include_str!("cuda_cpu.h")),
    ("cuda_run.h", include_str!("cuda_run.h")),
    ("cuda_warp.h", include_str!("cuda_warp.h")),
    ("cuda_check.h", include_str!("cuda_check.h")),
];

/// Arithmetic as written; the alignment of each access and the bound of each array index are checked.
const FLAGS: [&str; 14] = [
    "-std=c++17",
    "-O2",
    "-g1",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-threadsafe-statics",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-fwrapv",
    "-fno-exceptions",
    "-fcf-protection=none",
    "-fsanitize=alignment,bounds,shift-exponent,integer-divide-by-zero,float-cast-overflow,return,unreachable",
    "-fno-sanitize-recover=all",
    "-Wno-attributes",
];

/// The library of a source. The error has the messages of the compiler.
pub(super) fn library(
    name: &str,
    options: &[&str],
    source: &str,
    cache: &Path,
) -> Result<PathBuf, String> {
    let whole = format!("{name}\n{options:?}\n{HEADERS:?}{FLAGS:?}\n{source}");
    let mut hasher = DefaultHasher::new();
    whole.hash(&mut hasher);
    let stem = format!("{:016x}", hasher.finish());
    let (library, known) = (cache.join(format!("{stem}.so")), cache.join(format!("{stem}.cu")));
    if library.exists() && fs::read_to_string(&known).is_ok_and(|text| text == whole) {
        return Ok(library);
    }
    let folder = Scratch::new(cache).map_err(|error| format!("{}: {error}", cache.display()))?;
    let write = |file: &str, text: &str| {
        fs::write(folder.0.join(file), text)
            .map_err(|error| format!("{}: {error}", folder.0.display()))
    };
    HEADERS.iter().try_for_each(|(name, text)| write(name, text))?;
    write("whole.cu", &whole)?;
    write("source.cc", &format!("# 1 \"{name}\"\n{source}"))?;
    let defines = preprocessor_options(options)?;
    let preprocess = run(Command::new("g++")
        .current_dir(&folder.0)
        .args(["-E", "-std=c++17"])
        .args(&defines)
        .arg("source.cc"))?;
    let (text, kernels) = rewrite(&String::from_utf8_lossy(&preprocess.stdout))?;
    if kernels.is_empty() {
        return Err(format!("{name}: no __global__ function"));
    }
    write("module.cc", &format!("#include \"cuda_cpu.h\"\n{text}\n{}", table(&kernels)))?;
    run(Command::new("g++").current_dir(&folder.0).args(FLAGS).args(["-c", "module.cc"]))?;
    // Linked separately, because the module itself defines the functions that -fsanitize calls.
    run(Command::new("g++").current_dir(&folder.0).args([
        "-shared",
        "-o",
        "module.so",
        "module.o",
    ]))?;
    let symbols = run(Command::new("nm").current_dir(&folder.0).args(["-S", "module.o"]))?;
    write("shared", &shared(&String::from_utf8_lossy(&symbols.stdout), &kernels)?)?;
    let keep = |from: &str, to: &Path| {
        fs::rename(folder.0.join(from), to).map_err(|error| format!("{}: {error}", to.display()))
    };
    keep("module.so", &library)?;
    keep("shared", &library.with_extension("shared"))?;
    keep("whole.cu", &known)?;
    Ok(library)
}

/// The static shared memory of each kernel: a line with name and bytes, from the output of `nm -S`.
fn shared(symbols: &str, kernels: &[Declared]) -> Result<String, String> {
    let mut lines = String::new();
    for kernel in kernels {
        let symbol = |line: &str| line.split_whitespace().last().map(str::to_owned);
        if !symbols.lines().any(|line| symbol(line).as_ref() == Some(&kernel.name)) {
            return Err(format!(
                "kernel {} is not extern \"C\", so its name is another one",
                kernel.name
            ));
        }
        // The mangled name of a function's variable: _ZZ, the function's name with its length, E.
        let mark = format!("_ZZ{}{}E", kernel.name.len(), kernel.name);
        let sizes = symbols.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let ours = matches!(fields[..], [_, _, "d" | "D" | "b" | "B", name] if name.starts_with(&mark));
            ours.then(|| u32::from_str_radix(fields[1], 16).unwrap_or(0))
        });
        let sum = sizes.sum::<u32>().to_string();
        lines.extend([kernel.name.as_str(), " ", &sum, "\n"]);
    }
    Ok(lines)
}

/// Reads the output of `shared` that is stored with a library.
pub(super) fn shared_of(library: &Path) -> Vec<(String, u32)> {
    let text = fs::read_to_string(library.with_extension("shared")).unwrap_or_default();
    let pair = |line: &str| {
        line.split_once(' ').map(|(name, bytes)| (name.to_owned(), bytes.parse().unwrap_or(0)))
    };
    text.lines().filter_map(pair).collect()
}

/// The end of the kernel code: the table of kernels.
fn table(kernels: &[Declared]) -> String {
    let entry = |kernel: &Declared| {
        let bounds = kernel.max_threads.as_deref().unwrap_or("0");
        format!("STANDIN_KERNEL({}, {bounds}),\n", kernel.name)
    };
    let entries: String = kernels.iter().map(entry).collect();
    format!(
        "\n# 1 \"cuda_run.h\"\n#include \"cuda_run.h\"\nSTANDIN_EXPORT const standin::Kernel standin_kernels[] = {{\n{entries}{{}}}};\n"
    )
}

/// Options with a value that have no effect here: they select the code of a GPU, or make it exact, which it always is here.
const WITH_VALUE: [&str; 14] = [
    "-std",
    "--std",
    "-fmad",
    "--fmad",
    "-ftz",
    "--ftz",
    "-prec-sqrt",
    "--prec-sqrt",
    "-prec-div",
    "--prec-div",
    "-maxrregcount",
    "--maxrregcount",
    "-Xptxas",
    "--ptxas-options",
];

/// Options without a value that have no effect here.
const PLAIN: [&str; 12] = [
    "-lineinfo",
    "--generate-line-info",
    "-G",
    "--device-debug",
    "-default-device",
    "--device-as-default-execution-space",
    "-restrict",
    "--restrict",
    "-w",
    "--disable-warnings",
    "-dopt",
    "--extra-device-vectorization",
];

/// Converts options of NVRTC to those of g++. Options that make arithmetic inexact and options that NVRTC does not have are errors.
pub(super) fn preprocessor_options(options: &[&str]) -> Result<Vec<String>, String> {
    let mut found =
        ["-D__CUDACC__=1", "-D__CUDACC_RTC__=1", "-D__NVCC__=1"].map(str::to_owned).to_vec();
    let mut arch = "900".to_owned();
    let mut list = options.iter();
    while let Some(option) = list.next() {
        let (key, value) =
            option.split_once('=').map_or((*option, None), |(key, value)| (key, Some(value)));
        let mut value =
            || value.or_else(|| list.next().copied()).ok_or_else(|| format!("{key} lacks a value"));
        match key {
            "-D" => found.push(format!("-D{}", list.next().ok_or("-D lacks a value")?)),
            "--define-macro" => found.push(format!("-D{}", value()?)),
            "-I" | "--include-path" => found.push(format!("-I{}", value()?)),
            "-arch" | "--gpu-architecture" => {
                let digits: String = value()?.chars().filter(char::is_ascii_digit).collect();
                arch = format!("{digits}0");
            }
            "-use_fast_math" | "--use_fast_math" => {
                return Err(format!("{key}: engine A has exact arithmetic only"));
            }
            key if WITH_VALUE.contains(&key) => {
                if value()? == "true" && key.ends_with("ftz") {
                    return Err(format!("{key}=true: engine A has exact arithmetic only"));
                }
            }
            key if PLAIN.contains(&key) || key.starts_with("--diag-") => {}
            _ if key.starts_with("-D") || key.starts_with("-I") => found.push((*option).to_owned()),
            _ => return Err(format!("{option}: no such option")),
        }
    }
    found.push(format!("-D__CUDA_ARCH__={arch}"));
    Ok(found)
}

fn run(command: &mut Command) -> Result<Output, String> {
    let output = command.output().map_err(|error| format!("g++ cannot be run: {error}"))?;
    if output.status.success() {
        Ok(output)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// A folder that is removed on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn new(cache: &Path) -> std::io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = cache.join(unique);
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A folder that cannot be removed stays in the cache, which is harmless.
        drop(fs::remove_dir_all(&self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_nvrtc_are_understood() {
        let options = [
            "-DA=1",
            "-D",
            "B=2",
            "--define-macro=C=3",
            "--gpu-architecture=sm_80",
            "--fmad=false",
            "--std=c++17",
        ];
        let found = preprocessor_options(&options).unwrap();
        for wanted in ["-DA=1", "-DB=2", "-DC=3", "-D__CUDA_ARCH__=800"] {
            assert!(found.iter().any(|option| option == wanted), "{wanted} in {found:?}");
        }
        assert!(preprocessor_options(&["--use_fast_math"]).is_err());
        assert!(preprocessor_options(&["--nonsense"]).is_err());
    }
}
