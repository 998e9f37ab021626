//! The plans of convolutions: which are made, and what is remembered of them.

use std::fs;
use std::path::Path;

use forebay::gpu::Gpu;
use forebay_trainer::{
    Backend as _, BackendConfig, ConvApi, ConvConfig, CudaBackend, CudaConfig, Cursor, MicroStep,
    Precision, initial_state,
};
use serde_json::{Map, Value, json};

use crate::gpu::{Test, backend_config, graph};
use crate::microbatches::{SAMPLES, batch, settings};
use crate::standin::refuse_plans;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("convolutions_are_planned_for_the_passes_that_run", only_those_that_run),
    ("a_small_workspace_passes_over_plans_and_refuses_no_convolution", small_workspace),
    ("plans_are_measured_once_and_then_remembered", remembered),
    ("remembered_plans_that_cannot_be_used_are_replaced", replaced),
    ("ranks_that_share_a_plan_cache_choose_alike", shared),
    ("both_interfaces_of_cudnn_give_the_same_results", alike),
];

/// Tests that need the stand-in, which refuses plans.
pub(crate) const STANDIN_TESTS: &[(&str, Test)] =
    &[("what_the_graph_api_refuses_the_legacy_api_computes", refused)];

/// The plans of a backend for microbatches of 6 samples in training and 5 in evaluation.
fn plans(device: u32, precision: Precision, conv: ConvConfig) -> Vec<String> {
    let cuda = CudaConfig::new(Gpu::open(device).unwrap(), precision);
    let cuda = CudaConfig { conv, ..cuda };
    let config = BackendConfig { eval_batch: 5, ..backend_config("resnet20") };
    CudaBackend::new(cuda, config).unwrap().convolution_plans()
}

fn refused(device: u32) {
    refuse_plans(true);
    let planned = plans(device, Precision::Bf16, with(ConvApi::Auto));
    let cuda = CudaConfig::new(Gpu::open(device).unwrap(), Precision::Bf16);
    let cuda = CudaConfig { conv: with(ConvApi::Graph), ..cuda };
    let error = CudaBackend::new(cuda, backend_config("resnet20")).unwrap_err().to_string();
    let mut by_legacy = opened(device, Precision::Bf16, ConvApi::Auto);
    refuse_plans(false);
    assert!(planned.iter().all(|plan| plan.contains("legacy API")), "{planned:#?}");
    assert!(error.contains("planning a convolution"), "{error}");
    // It computes what the legacy API computes from the start.
    let mut legacy = opened(device, Precision::Bf16, ConvApi::Legacy);
    assert!(results(&mut by_legacy, 0) == results(&mut legacy, 0));
}

/// A backend of ResNet-20 whose convolutions are those of one interface.
fn opened(device: u32, precision: Precision, api: ConvApi) -> CudaBackend {
    let cuda = CudaConfig::new(Gpu::open(device).unwrap(), precision);
    let cuda = CudaConfig { conv: with(api), ..cuda };
    let mut backend = CudaBackend::new(cuda, backend_config("resnet20")).unwrap();
    backend.load(&initial_state(&graph("resnet20"), 3)).unwrap();
    backend
}

/// The logits of a microbatch in training, and the gradient of each parameter.
fn results(backend: &mut CudaBackend, step: u64) -> Vec<Vec<f32>> {
    let training = settings(1, 2);
    let micro = MicroStep { drop_path: None, loss: &training.loss, weight: 1.0, last: true };
    let images = batch(&training, Cursor { epoch: 0, step }, 0);
    backend.forward(&images, &micro).unwrap();
    let logits = backend.last_logits(SAMPLES).unwrap().to_vec();
    backend.backward(&images, &micro).unwrap();
    let parameters = backend.graph().parameters.len();
    let gradients = (0..parameters).map(|index| backend.gradient(index).unwrap());
    std::iter::once(logits).chain(gradients).collect()
}

/// Sums are added in another order: in f32 they differ by 2^-13 of the largest value in each operation, forward and backward. In
/// bf16 and f16 one rounding of each operation can go the other way; they are independent, so their squares add up.
fn alike(device: u32) {
    let largest = |values: &[f32]| values.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
    let off = |found: &[f32], wanted: &[f32]| {
        let off: Vec<f32> = found.iter().zip(wanted).map(|(a, b)| a - b).collect();
        // The gradients before a norm whose gamma begins at zero are zero.
        largest(&off) / largest(wanted).max(f32::MIN_POSITIVE)
    };
    for precision in [Precision::F32, Precision::F16, Precision::Bf16] {
        let [mut graph, mut legacy] =
            [ConvApi::Graph, ConvApi::Legacy].map(|api| opened(device, precision, api));
        let operations = 2.0 * graph.graph().ops.len() as f32;
        let allowed = match precision {
            Precision::F32 => operations / 8192.0,
            Precision::F16 => operations.sqrt() / 1024.0,
            Precision::Bf16 => operations.sqrt() / 128.0,
        };
        let (found, wanted) = (results(&mut graph, 0), results(&mut legacy, 0));
        for (index, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            let off = off(found, wanted);
            assert!(off <= allowed, "{precision:?}, {index}: {off} of {allowed}");
        }
        // Another microbatch is further away than that.
        assert!(off(&results(&mut graph, 1)[0], &wanted[0]) > allowed, "{precision:?}");
    }
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
    // Also while another process measures, for which a convolution that is not remembered would wait.
    let lock = fs::File::open(folder.path().join("conv-plans.lock")).unwrap();
    lock.lock().unwrap();
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
    // So where the file cannot be written.
    let taken = tempfile::tempdir().unwrap();
    fs::create_dir(taken.path().join("conv-plans.json")).unwrap();
    assert_ne!(first, plain);
    assert_eq!(plans(device, Precision::Bf16, caching(taken.path())), plain);
}

fn shared(device: u32) {
    let folder = tempfile::tempdir().unwrap();
    let open = || plans(device, Precision::Bf16, caching(folder.path()));
    let [first, second] = std::thread::scope(|scope| {
        [scope.spawn(open), scope.spawn(open)].map(|thread| thread.join().unwrap())
    });
    assert_eq!(first, second);
}
