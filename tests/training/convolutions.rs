//! The plans of convolutions: which are made, and what is remembered of them.

use std::fs;
use std::path::Path;

use forebay::gpu::Gpu;
use forebay_trainer::{BackendConfig, ConvApi, ConvConfig, CudaBackend, CudaConfig, Precision};
use serde_json::{Map, Value, json};

use crate::gpu::{Test, backend_config};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("convolutions_are_planned_for_the_passes_that_run", only_those_that_run),
    ("a_small_workspace_passes_over_plans_and_refuses_no_convolution", small_workspace),
    ("plans_are_measured_once_and_then_remembered", remembered),
    ("remembered_plans_that_cannot_be_used_are_replaced", replaced),
    ("ranks_that_share_a_plan_cache_choose_alike", shared),
];

/// The plans of a backend for microbatches of 6 samples in training and 5 in evaluation.
fn plans(device: u32, precision: Precision, conv: ConvConfig) -> Vec<String> {
    let cuda = CudaConfig::new(Gpu::open(device).unwrap(), precision);
    let cuda = CudaConfig { conv, ..cuda };
    let config = BackendConfig { eval_batch: 5, ..backend_config("resnet20") };
    CudaBackend::new(cuda, config).unwrap().convolution_plans()
}

fn with(api: ConvApi) -> ConvConfig {
    ConvConfig { api, ..ConvConfig::default() }
}

fn caching(folder: &Path) -> ConvConfig {
    ConvConfig { plan_cache: Some(folder.to_owned()), ..with(ConvApi::Graph) }
}

/// Bytes of workspace of each plan.
fn workspaces(plans: &[String]) -> Vec<usize> {
    let bytes = |plan: &String| {
        let text = plan.strip_suffix(" bytes of workspace").unwrap();
        text.rsplit(' ').next().unwrap().parse().unwrap()
    };
    plans.iter().map(bytes).collect()
}

fn only_those_that_run(device: u32) {
    for (api, name) in [(ConvApi::Graph, "graph API"), (ConvApi::Legacy, "legacy API")] {
        let plans = plans(device, Precision::Bf16, with(api));
        let starting = |start: &str| plans.iter().filter(|plan| plan.starts_with(start)).count();
        let shapes = starting("forward of 5 images");
        assert!(shapes > 3, "{plans:#?}");
        assert_eq!(starting("forward of 6 images"), shapes);
        assert_eq!(starting("backward filter of 6 images"), shapes);
        // Some convolutions add in one block and overwrite in another, and the images have no gradient.
        assert!(starting("backward data") >= shapes - 1);
        assert!(!plans.iter().any(|p| p.starts_with("backward data") && p.contains("x3, ")));
        assert_eq!(starting("backward filter of 5") + starting("backward data of 5"), 0);
        assert!(plans.iter().all(|plan| plan.contains(name)), "{plans:#?}");
    }
}

fn small_workspace(device: u32) {
    for api in [ConvApi::Graph, ConvApi::Legacy] {
        for precision in [Precision::F32, Precision::Bf16] {
            let usual = workspaces(&plans(device, precision, with(api)));
            let conv = ConvConfig { workspace_limit: 0, ..with(api) };
            let small = workspaces(&plans(device, precision, conv));
            assert_eq!(usual.len(), small.len());
            assert!(usual.iter().zip(&small).all(|(usual, small)| small <= usual), "{small:?}");
        }
    }
}

/// Reads the file of a plan cache.
fn read(folder: &Path) -> Value {
    let text = fs::read_to_string(folder.join("conv-plans.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn write(folder: &Path, contents: &Value) {
    fs::write(folder.join("conv-plans.json"), contents.to_string()).unwrap();
}

fn remembered(device: u32) {
    let folder = tempfile::tempdir().unwrap();
    let open = || plans(device, Precision::Bf16, caching(folder.path()));
    let first = open();
    let contents = read(folder.path());
    assert_eq!(contents["plans"].as_object().unwrap().len(), first.len());
    assert_eq!(open(), first);
    assert_eq!(read(folder.path()), contents);
    // Another file's choices are used as they are, although the first ones were the fastest.
    let other = tempfile::tempdir().unwrap();
    let conv = ConvConfig { workspace_limit: 0, ..caching(other.path()) };
    let small = plans(device, Precision::Bf16, conv);
    assert_ne!(small, first);
    write(folder.path(), &read(other.path()));
    assert_eq!(open(), small);
}

fn replaced(device: u32) {
    let folder = tempfile::tempdir().unwrap();
    let open = || plans(device, Precision::Bf16, caching(folder.path()));
    let first = open();
    let valid = read(folder.path());
    let changed = |change: &dyn Fn(String, Value) -> (String, Value)| {
        let entries = valid["plans"].as_object().unwrap().clone();
        let entries: Map<String, Value> = entries.into_iter().map(|(k, v)| change(k, v)).collect();
        json!({"version": 1, "plans": entries})
    };
    // An engine that does not exist.
    write(folder.path(), &changed(&|key, _| (key, json!({"engine": 9999, "knobs": {}}))));
    assert_eq!(open().len(), first.len());
    assert!(!read(folder.path()).to_string().contains("9999"));
    // Another GPU's plans are neither used nor forgotten.
    let unusable = json!({"engine": 9999, "knobs": {}});
    write(folder.path(), &changed(&|key, _| (format!("Another {key}"), unusable.clone())));
    assert_eq!(open().len(), first.len());
    assert_eq!(read(folder.path())["plans"].as_object().unwrap().len(), 2 * first.len());
    // A file that is no JSON.
    fs::write(folder.path().join("conv-plans.json"), "{\"version\": 1, \"pl").unwrap();
    assert_eq!(open().len(), first.len());
    assert_eq!(read(folder.path())["plans"].as_object().unwrap().len(), first.len());
    // A folder that cannot be made: the heuristics' plans, unmeasured.
    let below_a_file = caching(&folder.path().join("conv-plans.json/folder"));
    let plain = plans(device, Precision::Bf16, with(ConvApi::Graph));
    assert_eq!(plans(device, Precision::Bf16, below_a_file), plain);
}

fn shared(device: u32) {
    let folder = tempfile::tempdir().unwrap();
    let open = || plans(device, Precision::Bf16, caching(folder.path()));
    let [first, second] = std::thread::scope(|scope| {
        [scope.spawn(open), scope.spawn(open)].map(|thread| thread.join().unwrap())
    });
    assert_eq!(first, second);
}
