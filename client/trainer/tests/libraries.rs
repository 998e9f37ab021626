//! How the libraries of CUDA are found: `gpu-selftest --libraries` in environments where they are in one place or another.
//!
//! With `tests/standin/run.sh`, whose libraries have the names and sonames of CUDA 13's. Without it, only those tests run that
//! need none.
#![cfg(feature = "cuda")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::ffi::OsString;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The environment variables of a command.
type Variables<'a> = &'a [(&'a str, &'a Path)];

/// Runs the command in an environment of these variables and those of the stand-in only. Returns whether it succeeded, its output and
/// its error.
fn run(arguments: &[&str], variables: Variables<'_>) -> (bool, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay-trainer"));
    let kept: Vec<(OsString, OsString)> = std::env::vars_os()
        .filter(|(name, _)| name.to_string_lossy().starts_with("FOREBAY_STANDIN_"))
        .collect();
    command
        .arg("gpu-selftest")
        .args(arguments)
        .env_clear()
        .envs(kept)
        .envs(variables.iter().copied());
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn libraries(variables: Variables<'_>) -> (bool, String) {
    let (complete, table, _) = run(&["--libraries"], variables);
    (complete, table)
}

/// The folder of the stand-in's libraries, and the name of its libcuda. `None` without `run.sh`.
fn standin() -> Option<(PathBuf, &'static str)> {
    let paths = std::env::var_os("LD_LIBRARY_PATH")?;
    let folder = std::env::split_paths(&paths).find(|it| it.join("libnvrtc.so.13").exists())?;
    let cuda = ["libcuda.so.1", "libcuda.so"].into_iter().find(|name| folder.join(name).exists());
    std::env::var_os("FOREBAY_TEST_DEVICE")?;
    Some((folder, cuda?))
}

/// Links libraries of the stand-in into a folder.
fn link(names: &[&str], to: &Path) {
    let (from, _) = standin().unwrap();
    std::fs::create_dir_all(to).unwrap();
    for name in names {
        symlink(from.join(name), to.join(name)).unwrap();
    }
}

/// The libraries besides the driver, each with its folder among the packages for Python.
const PACKAGES: [(&str, &str); 5] = [
    ("libnvrtc.so.13", "cu13"),
    ("libcublasLt.so.13", "cu13"),
    ("libcublas.so.13", "cu13"),
    ("libcudnn.so.9", "cudnn"),
    ("libnccl.so.2", "nccl"),
];

/// Checks that the table has a library in a line with these words.
fn has(table: &str, library: &str, words: &[&str]) {
    let line = table.lines().find(|line| line.split_whitespace().next() == Some(library));
    let line = line.unwrap_or_else(|| panic!("no {library}: {table}"));
    assert!(words.iter().all(|word| line.contains(word)), "{words:?}: {table}");
}

#[test]
fn the_loader_finds_them_by_soname() {
    let Some((folder, cuda)) = standin() else { return };
    let (complete, table) = libraries(&[("LD_LIBRARY_PATH", &folder)]);
    assert!(complete, "{table}");
    has(&table, "libcuda", &["loader", cuda]);
    has(&table, "libcublas", &["13.0.0", "loader", "libcublas.so.13"]);
    has(&table, "libcublasLt", &["13.0.0", "loader", "libcublasLt.so.13"]);
    has(&table, "libcudnn", &["9.21.0", "13", "loader", "libcudnn.so.9"]);
    has(&table, "libnccl", &["2.30.3", "loader", "libnccl.so.2"]);
    has(&table, "libnvrtc", &["loader", "libnvrtc.so.13"]);
}

#[test]
fn the_variable_names_their_folder_and_comes_before_the_loader() {
    let Some((folder, cuda)) = standin() else { return };
    let root = tempfile::tempdir().unwrap();
    link(&PACKAGES.map(|(name, _)| name), root.path());
    link(&[cuda], root.path());
    let alone = [("FOREBAY_CUDA_LIBS", root.path())];
    let both = [("FOREBAY_CUDA_LIBS", root.path()), ("LD_LIBRARY_PATH", &folder)];
    for variables in [&alone[..], &both] {
        let (complete, table) = libraries(variables);
        assert!(complete, "{table}");
        for name in ["libnvrtc", "libcublasLt", "libcublas", "libcudnn", "libnccl"] {
            has(&table, name, &["FOREBAY_CUDA_LIBS", root.path().to_str().unwrap()]);
        }
    }
}

#[test]
fn packages_of_a_python_environment_are_found() {
    let Some((_, cuda)) = standin() else { return };
    let root = tempfile::tempdir().unwrap();
    let (env, driver) = (root.path().join("env"), root.path().join("driver"));
    link(&[cuda], &driver);
    let site_packages = env.join("lib/python3.12/site-packages");
    for (name, package) in PACKAGES {
        link(&[name], &site_packages.join("nvidia").join(package).join("lib"));
    }
    let bin = env.join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::fs::write(bin.join("python3"), "").unwrap();
    for (variable, value, origin) in [
        ("VIRTUAL_ENV", &env, "Python (VIRTUAL_ENV)"),
        ("CONDA_PREFIX", &env, "Python (CONDA_PREFIX)"),
        ("PATH", &bin, "Python (python3)"),
        ("FOREBAY_CUDA_LIBS", &env, "FOREBAY_CUDA_LIBS"),
        ("FOREBAY_CUDA_LIBS", &site_packages, "FOREBAY_CUDA_LIBS"),
    ] {
        let (complete, table) = libraries(&[("LD_LIBRARY_PATH", &driver), (variable, value)]);
        assert!(complete, "{table}");
        for (name, package) in PACKAGES {
            has(
                &table,
                name.split('.').next().unwrap(),
                &[origin, &format!("nvidia/{package}/lib/{name}")],
            );
        }
    }
}

/// The place that is there on some machines.
fn toolkit() -> &'static str {
    let exists = Path::new("/usr/local/cuda/lib64").exists();
    if exists { "/usr/local/cuda/lib64" } else { "/usr/local/cuda/lib64, which does not exist" }
}

const PIP: &str = "Install these libraries, those of CUDA 13 with \
    `pip install nvidia-cuda-nvrtc nvidia-cublas nvidia-cudnn-cu13 nvidia-nccl-cu13` or those of CUDA 12 with \
    `pip install nvidia-cuda-nvrtc-cu12 nvidia-cublas-cu12 nvidia-cudnn-cu12 nvidia-nccl-cu12`, or name the folders that \
    have them in FOREBAY_CUDA_LIBS or LD_LIBRARY_PATH";

#[test]
fn missing_libraries_are_listed_with_where_they_were_looked_for_and_what_to_do() {
    if Path::new(toolkit()).exists() || Path::new("/usr/lib/x86_64-linux-gnu/libcuda.so.1").exists()
    {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let at = root.path().display();
    let variables = [("FOREBAY_CUDA_LIBS", Path::new("/absent")), ("VIRTUAL_ENV", root.path())];
    let (complete, table, error) = run(&["--libraries"], &variables);
    assert!(
        !complete && error.contains("libraries that training on a GPU needs are missing"),
        "{error}"
    );
    let lines: Vec<String> = table.lines().skip(1).map(str::to_owned).collect();
    let expected = [
        "libcuda      missing: found no libcuda.so.1 or libcuda.so".to_owned(),
        "libnvrtc     missing: found no libnvrtc.so.13 or libnvrtc.so.12 or libnvrtc.so".to_owned(),
        "libcublasLt  missing: found no libcublasLt.so.13 or libcublasLt.so.12 or libcublasLt.so"
            .to_owned(),
        "libcublas    missing: found no libcublas.so.13 or libcublas.so.12 or libcublas.so"
            .to_owned(),
        "libcudnn     missing: found no libcudnn.so.9 or libcudnn.so".to_owned(),
        "libnccl      missing, only needed for several GPUs: found no libnccl.so.2 or libnccl.so"
            .to_owned(),
        "looked in, in this order:".to_owned(),
        "  FOREBAY_CUDA_LIBS, which names no folder that exists".to_owned(),
        "  the loader's folders (LD_LIBRARY_PATH is not set)".to_owned(),
        format!("  the Python environment {at} (VIRTUAL_ENV), which has no packages of NVIDIA"),
        format!("  {}", toolkit()),
        format!(
            "libcuda is a part of the NVIDIA driver: install the driver, or give the container a GPU (--gpus all). {PIP}"
        ),
    ];
    assert_eq!(lines, expected);

    // The error of a command that needs them says the same in one line, without what only several GPUs need.
    let (_, _, error) = run(&["--device", "cuda:3"], &variables);
    let missing: Vec<String> = expected[..5]
        .iter()
        .map(|text| {
            let (name, problem) = text.split_once(' ').unwrap();
            format!("{name}: {}", problem.trim_start().trim_start_matches("missing: "))
        })
        .collect();
    let places: Vec<&str> = expected[7..11].iter().map(|place| place.trim_start()).collect();
    let advice = expected[11].replace(" nvidia-nccl-cu13", "").replace(" nvidia-nccl-cu12", "");
    let expected = format!(
        "cuda:3: {}; looked in {}. {advice}; or use --device cpu",
        missing.join("; "),
        places.join("; ")
    );
    assert!(error.contains(&expected), "{error}");
}

#[test]
fn versions_that_do_not_fit_together_are_named() {
    let Some((folder, cuda)) = standin() else { return };
    let path = ("LD_LIBRARY_PATH", folder.as_path());
    let old = ("FOREBAY_STANDIN_DRIVER_VERSION", Path::new("12.4"));
    let (complete, table) = libraries(&[path, old]);
    let words = [
        "libcublas.so.13 is of CUDA 13",
        "the driver supports CUDA 12.4",
        "install a newer driver",
    ];
    assert!(!complete);
    has(&table, "libcublas", &words);
    // Only what this driver can run is suggested.
    assert!(
        table.contains("nvidia-cublas-cu12") && !table.contains("nvidia-cudnn-cu13"),
        "{table}"
    );

    let (complete, table) =
        libraries(&[path, ("FOREBAY_STANDIN_DRIVER_VERSION", Path::new("11.8"))]);
    assert!(!complete && table.contains("install version 525 or newer"), "{table}");

    if std::env::var_os("FOREBAY_STANDIN_NVRTC").is_none() {
        let (complete, table) =
            libraries(&[path, ("FOREBAY_STANDIN_NVRTC_VERSION", Path::new("12.9"))]);
        let note =
            "different versions of CUDA are mixed: libnvrtc of CUDA 12, libcublasLt of CUDA 13";
        assert!(complete && table.contains(note), "{table}");
    }

    // The toolkit's libraries for linking.
    let root = tempfile::tempdir().unwrap();
    let stubs = root.path().join("lib64/stubs");
    link(&[cuda], &stubs);
    let (complete, table) = libraries(&[("LD_LIBRARY_PATH", &stubs)]);
    assert!(!complete && table.contains("is a stub for linking"), "{table}");
}

#[test]
fn a_file_that_the_loader_refuses_is_named() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("libcudnn.so.9"), "not a library").unwrap();
    let (complete, table) = libraries(&[("FOREBAY_CUDA_LIBS", root.path())]);
    assert!(!complete);
    has(&table, "libcudnn", &["libcudnn.so.9: ", "missing"]);
}
