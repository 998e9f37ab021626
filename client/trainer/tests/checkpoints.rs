//! Checkpoints where the disk or the permissions are against them: what is lost, and what is said.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "fixtures/dump.rs"]
mod dump;
#[path = "fixtures/microbatches.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod microbatches;

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use dump::dump;
use forebay_trainer::{
    Cursor, load_latest_checkpoint, remove_old_checkpoints, save_checkpoint, write_model,
};
use microbatches::{backend, run_metadata, train_config};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

fn save(folder: &Path, updates: u64) -> PathBuf {
    let mut state = backend("resnet20").state().unwrap();
    state.updates = updates;
    let cursor = Cursor { epoch: 0, step: updates };
    save_checkpoint(folder, &state, &run_metadata(train_config(2), cursor, &state)).unwrap()
}

/// Takes from this thread what lets root ignore permissions.
fn obey_permissions() {
    let mut sets = capabilities(None).unwrap();
    sets.effective -= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    set_capabilities(None, sets).unwrap();
}

fn permit(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn trainer(folder: &Path, shell: &str, more: &[&str]) -> Output {
    let mut command = Command::new("sh");
    command.current_dir(folder).args(["-c", &format!("{shell} exec \"$0\" \"$@\"")]);
    command.arg(env!("CARGO_BIN_EXE_forebay-trainer"));
    command.args(["train", "--replay", "dump", "--model", "resnet20", "--recipe", "a3"]);
    let out: &[&str] = if more.contains(&"--output") { &[] } else { &["--output", "out"] };
    command.args(["--epochs", "2"]).args(out).args(more).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

#[test]
fn a_checkpoint_that_cannot_be_read_is_not_used_and_the_older_one_is() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    save(folder, 3);
    let newest = save(folder, 7);
    let falls_back = |words: &[&str]| {
        let loaded = load_latest_checkpoint(folder).unwrap().unwrap();
        assert!(loaded.path.ends_with("step-00000003"), "{words:?}");
        let error = loaded.unusable[0].to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
    };
    for name in ["run.json", "model.safetensors", "optimizer.safetensors"] {
        let (file, away) = (newest.join(name), folder.join("away"));
        std::fs::rename(&file, &away).unwrap();
        // Reading a process's memory at 0 is an error of input and output.
        symlink("/proc/self/mem", &file).unwrap();
        falls_back(&[name, "Input/output error"]);
        std::fs::remove_file(&file).unwrap();
        falls_back(&[name, "No such file"]);
        std::fs::rename(&away, &file).unwrap();
    }
    obey_permissions();
    for (path, mode) in [(newest.join("model.safetensors"), 0o644), (newest.clone(), 0o755)] {
        permit(&path, 0);
        falls_back(&["Permission denied"]);
        permit(&path, mode);
    }
    assert!(load_latest_checkpoint(folder).unwrap().unwrap().path == newest);
    // Not as if there were none.
    permit(folder, 0o300);
    let error = load_latest_checkpoint(folder).unwrap_err().to_string();
    permit(folder, 0o755);
    assert!(error.contains("Permission denied"), "{error}");
}

#[test]
fn a_folder_that_cannot_be_written_keeps_its_checkpoints_and_the_error_says_which() {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), 3);
    obey_permissions();
    permit(folder.path(), 0o555);
    let state = backend("resnet20").state().unwrap();
    let run = run_metadata(train_config(2), Cursor::default(), &state);
    let error = save_checkpoint(folder.path(), &state, &run).unwrap_err().to_string();
    let model = folder.path().join("model.safetensors");
    let other = write_model(&model, &state.model, 0).unwrap_err().to_string();
    permit(folder.path(), 0o755);
    for error in [error, other] {
        let path = folder.path().to_str().unwrap();
        assert!(error.contains(path) && error.contains("Permission denied"), "{error}");
        assert!(error.contains("--output"), "{error}");
    }
    let loaded = load_latest_checkpoint(folder.path()).unwrap().unwrap();
    assert!(loaded.path.ends_with("step-00000003") && loaded.unusable.is_empty());
}

#[test]
fn as_many_checkpoints_are_kept_as_were_asked_for_and_those_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let first = save(folder.path(), 1);
    for updates in 2..6 {
        save(folder.path(), updates);
        remove_old_checkpoints(folder.path(), updates, 3, |path| path == first).unwrap();
    }
    let there = |updates: u64| folder.path().join(format!("step-{updates:08}")).exists();
    assert_eq!([1, 2, 3, 4, 5].map(there), [true, false, true, true, true]);
}

#[test]
fn a_full_disk_ends_a_run_with_advice_and_costs_the_steps_since_the_last_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    dump(&at("dump"), 1);
    let first = trainer(folder.path(), "", &["--stop-after", "1"]);
    assert!(first.status.success(), "{}", said(&first));
    // No file may get longer than 256 KiB, of which a model has four times as many.
    let limited = "trap '' XFSZ; ulimit -f 512;";
    let full = trainer(folder.path(), limited, &["--resume", "--checkpoint-steps", "1"]);
    let text = said(&full);
    assert_eq!(full.status.code(), Some(1), "{text}");
    for part in ["cannot write ", "/out/.step-", "File too large", "the free space"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let left = || -> Vec<String> {
        let names = std::fs::read_dir(at("out")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains("step-")).collect()
    };
    assert_eq!(left(), ["step-00000001"], "no half of a checkpoint");
    let second = trainer(folder.path(), "", &["--resume"]);
    assert!(second.status.success(), "{}", said(&second));
    let log = std::fs::read_to_string(at("out/log.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 6, "each step once: {log}");
}

#[test]
fn others_may_read_the_files_of_a_run_as_far_as_the_umask_permits() {
    let folder = tempfile::tempdir().unwrap();
    dump(&folder.path().join("dump"), 1);
    for (umask, bits) in [("022", 0o055), ("027", 0o050)] {
        let out = format!("out-{umask}");
        let run = trainer(folder.path(), &format!("umask {umask};"), &["--output", &out]);
        assert!(run.status.success(), "{}", said(&run));
        let mut folders = vec![folder.path().join(&out)];
        let mut files = 0;
        while let Some(path) = folders.pop() {
            let mode = path.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o077, bits, "{}", path.display());
            for entry in std::fs::read_dir(&path).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let mode = path.metadata().unwrap().permissions().mode();
                assert_eq!(mode & 0o077, bits & 0o044, "{}", path.display());
                files += 1;
            }
        }
        assert!(files > 8, "{files}");
    }
}
