//! The command, fine-tuning a model and exporting it.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "fixtures/dump.rs"]
mod dump;

use std::path::Path;
use std::process::Command;

use dump::dump;
use forebay_trainer::{
    Architecture, Graph, StateDict, initial_state, load_latest_checkpoint, read_model, write_model,
};

fn trainer(folder: &Path, args: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay-trainer"));
    let output = command.current_dir(folder).args(args).output().unwrap();
    let text = [output.stderr, output.stdout].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn train(folder: &Path, output: &str, more: &[&str]) -> (bool, String) {
    let common =
        ["train", "--device", "cpu", "--replay", "dump", "--model", "resnet20", "--recipe", "a3"];
    let rest = ["--epochs", "1", "--warmup-epochs", "0", "--output", output];
    trainer(folder, &[&common[..], &rest, more].concat())
}

fn untrained(classes: usize) -> StateDict {
    let graph = Graph::new(&Architecture::named("resnet20", classes).unwrap(), 8, 8);
    initial_state(&graph, 0).model
}

#[test]
fn frozen_layers_stay_with_their_statistics_and_moments_and_all_others_are_trained() {
    let folder = tempfile::tempdir().unwrap();
    dump(&folder.path().join("dump"), 2);
    let freeze = ["--freeze", "conv1,bn1,layer1,layer3.0", "--layer-decay", "0.5"];
    let (trained, said) = train(folder.path(), "run", &freeze);
    assert!(trained, "{said}");
    let is_frozen = |name: &str| {
        ["conv1.", "bn1.", "layer1.", "layer3.0."].iter().any(|prefix| name.starts_with(prefix))
    };
    let before = untrained(10);
    let checkpoint = load_latest_checkpoint(&folder.path().join("run")).unwrap().unwrap();
    for (name, tensor) in &checkpoint.state.model {
        assert_eq!(*tensor == before[name], is_frozen(name), "{name}");
    }
    for (name, tensor) in &checkpoint.state.exp_avg_sq {
        let is_zero = tensor.values.iter().all(|value| *value == 0.0);
        assert_eq!(is_zero, is_frozen(name), "{name}");
    }
    let other = ["--resume", "--freeze", "conv1", "--layer-decay", "0.5"];
    let (resumed, said) = train(folder.path(), "run", &other);
    assert!(!resumed && said.contains("fine-tuning.freeze"), "{said}");
    let (trained, said) = train(folder.path(), "none", &["--freeze", "layer9"]);
    assert!(!trained && said.contains("no layer \"layer9\""), "{said}");
}

#[test]
fn a_model_of_other_classes_gets_a_new_classifier_and_a_line_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    dump(&folder.path().join("dump"), 2);
    let weights = folder.path().join("other.safetensors");
    write_model(&weights, &untrained(7), 0, None).unwrap();
    let (trained, said) =
        train(folder.path(), "run", &["--initial-checkpoint", "other.safetensors"]);
    assert!(trained && said.contains("other.safetensors has 7 classes instead of 10"), "{said}");
    // Any other difference is an error with the tensor and both shapes.
    let mut odd = untrained(10);
    let stem = odd.get_mut("conv1.weight").unwrap();
    stem.shape = vec![16, 3, 9];
    write_model(&weights, &odd, 0, None).unwrap();
    let (trained, said) =
        train(folder.path(), "odd", &["--initial-checkpoint", "other.safetensors"]);
    assert!(
        !trained && said.contains("conv1.weight has shape [16, 3, 9], expected [16, 3, 3, 3]"),
        "{said}"
    );
}

#[test]
fn an_exported_model_is_read_back_and_the_file_says_which_it_is() {
    let folder = tempfile::tempdir().unwrap();
    dump(&folder.path().join("dump"), 2);
    let (trained, said) = train(folder.path(), "run", &[]);
    assert!(trained, "{said}");
    let at = |name: &str| folder.path().join(name);
    let all =
        ["export", "run", "--torch", "m.pth", "--safetensors", "m.safetensors", "--onnx", "m.onnx"];
    let (exported, said) = trainer(folder.path(), &all);
    assert!(exported && said.contains("resnet20 of 10 classes: m.onnx"), "{said}");
    let model = read_model(&at("run/model.safetensors")).unwrap();
    assert_eq!(read_model(&at("m.safetensors")).unwrap(), model);
    let from_torch = read_model(&at("m.pth")).unwrap();
    assert_eq!(from_torch, model);
    // From a file, which says of which model it is, and from one that does not.
    let (exported, said) =
        trainer(folder.path(), &["export", "m.safetensors", "--onnx", "again.onnx"]);
    assert!(exported, "{said}");
    assert!(std::fs::read(at("m.onnx")).unwrap() == std::fs::read(at("again.onnx")).unwrap());
    let (exported, said) = trainer(folder.path(), &["export", "m.pth", "--onnx", "none.onnx"]);
    assert!(!exported && said.contains("set --model"), "{said}");
    for (args, part) in [
        (&["export", "m.pth", "--model", "resnet32", "--onnx", "none.onnx"][..], "check --model"),
        (&["export", "run", "--model-ema", "--onnx", "none.onnx"][..], "no moving average"),
        (&["export", "run"][..], "--onnx"),
    ] {
        let (exported, said) = trainer(folder.path(), args);
        assert!(!exported && said.contains(part), "{said}");
    }
}
