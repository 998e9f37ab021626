//! Norms that are fused into convolutions: in f16, and in bf16 their statistics alone.

use forebay::gpu::Gpu;
use forebay_trainer::testing::{PassConfig, compare_operations};
use forebay_trainer::{
    Architecture, Backend as _, Block, ConvApi, ConvConfig, CudaBackend, CudaConfig, Cursor, Graph,
    Norms, Precision, Stem, TrainConfig, initial_state,
};

use crate::gpu::{Test, Trained, backend_config, cpu, graph, numbers, train_steps};
use crate::microbatches::settings;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("fused_norms_equal_the_cpu_except_for_rounding", layers),
    ("with_fused_norms_the_losses_follow_the_cpu", losses),
    ("with_fused_norms_a_resumed_training_gives_the_same_bits", resume),
    ("with_fused_norms_captured_graphs_change_no_bit", captured),
    ("norms_that_cudnn_does_not_fuse_are_separate", refused),
    ("in_bf16_convolutions_compute_the_statistics_of_norms_and_apply_none", bf16),
    ("fused_norms_need_half_precision_and_the_graph_api", unsuitable),
];

fn config(device: u32) -> CudaConfig {
    config_in(Precision::F16, device)
}

fn config_in(precision: Precision, device: u32) -> CudaConfig {
    let conv = ConvConfig { norms: Norms::Fused, ..ConvConfig::default() };
    CudaConfig { conv, ..CudaConfig::new(Gpu::open(device).unwrap(), precision) }
}

/// A backend in f16 with fused norms, which captures graphs or not.
pub(crate) fn open(device: u32, graphs: bool) -> CudaBackend {
    opened(CudaConfig { graphs, ..config(device) })
}

fn opened(config: CudaConfig) -> CudaBackend {
    let mut cuda = CudaBackend::new(config, backend_config("resnet20")).unwrap();
    cuda.load(&initial_state(&graph("resnet20"), 3)).unwrap();
    cuda
}

/// The numbers of norms that are applied and measured by convolutions.
fn fused(cuda: &CudaBackend, samples: usize) -> [usize; 2] {
    let pass = PassConfig { samples, train: true, drop_path: false };
    let ops = 0..cuda.graph().ops.len();
    let applied = ops.clone().filter(|op| !cuda.stores_output(*op, pass)).count();
    [applied, ops.filter(|op| cuda.measures_norm(*op, pass)).count()]
}

fn narrow(block: Block, layers: &[usize], channels: &[usize]) -> Graph {
    let (layers, channels) = (layers.to_vec(), channels.to_vec());
    let net = Architecture { stem: Stem::ImageNet, block, layers, channels, classes: 10 };
    Graph::new(&net, 37, 45)
}

fn layers(device: u32) {
    layers_in(Precision::F16, device);
}

fn layers_in(precision: Precision, device: u32) {
    let nets = [
        graph("resnet20"),
        narrow(Block::Basic, &[2, 1], &[64, 24]),
        narrow(Block::Bottleneck, &[1, 2], &[8, 16]),
    ];
    for net in &nets {
        let checks = compare_operations(&config_in(precision, device), net, 3).unwrap();
        assert!(checks.len() > 4 * net.ops.len(), "{} comparisons", checks.len());
        let wrong: Vec<_> = checks.iter().filter(|check| check.excess > 0.0).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

fn whole(cuda: &mut CudaBackend, training: &TrainConfig) -> Trained {
    train_steps(cuda, training, Cursor::default(), 99, false).unwrap().1
}

fn losses(device: u32) {
    losses_follow(&mut open(device, true), 0.005);
}

fn losses_follow(cuda: &mut CudaBackend, tolerance: f64) {
    let training = settings(2, 5);
    let (wanted, _) = train_steps(&mut *cpu(), &training, Cursor::default(), 99, false).unwrap().1;
    let (found, _) = whole(cuda, &training);
    assert_eq!(found.len(), 10);
    for (step, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
        let off = (found.loss - wanted.loss).abs() / wanted.loss;
        assert!(off <= tolerance, "step {step}: {off:.4} apart, {tolerance} allowed");
    }
}

/// ResNet-20 has 19 norms. The images have 3 channels, which are stored as 8, so the first one is measured too.
fn bf16(device: u32) {
    layers_in(Precision::Bf16, device);
    let mut cuda = opened(config_in(Precision::Bf16, device));
    let batch = backend_config("resnet20").batch;
    assert_eq!(fused(&cuda, batch), [0, 19]);
    assert_eq!(fused(&cuda, batch - 1), [0, 0]);
    losses_follow(&mut cuda, 0.02);
}

fn resume(device: u32) {
    let training = settings(2, 2);
    let (reports, state) = whole(&mut open(device, true), &training);
    let mut first = open(device, true);
    let (cursor, (_, middle)) =
        train_steps(&mut first, &training, Cursor::default(), 3, true).unwrap();
    let mut second = open(device, true);
    second.load(&middle).unwrap();
    let (_, (rest, end)) = train_steps(&mut second, &training, cursor, 99, false).unwrap();
    assert_eq!(numbers(&rest), numbers(&reports[3..]));
    assert!(end == state);
}

fn captured(device: u32) {
    let training = settings(2, 2);
    let mut backend = open(device, true);
    let (reports, state) = whole(&mut backend, &training);
    assert_eq!(backend.captured_graphs(), 3);
    let (other, single) = whole(&mut open(device, false), &training);
    assert_eq!(numbers(&reports), numbers(&other));
    assert!(state == single);
}

/// ResNet-20 has one norm in each of its nine blocks that the next convolution alone reads. In a net with channels that
/// are no multiple of 8, some of its kind are refused.
fn refused(device: u32) {
    let cuda = open(device, true);
    let batch = backend_config("resnet20").batch;
    assert_eq!(fused(&cuda, batch)[0], 9);
    assert_eq!(fused(&cuda, batch - 1), [0, 0]);
    let net = narrow(Block::Basic, &[1, 1], &[64, 12]);
    let config_of = |graph: &Graph| forebay_trainer::BackendConfig {
        train_graph: graph.clone(),
        batch: 3,
        eval_graph: graph.clone(),
        eval_batch: 3,
        ..backend_config("resnet20")
    };
    let cuda = CudaBackend::new(config(device), config_of(&net)).unwrap();
    assert_eq!(fused(&cuda, 3)[0], 1);
    let checks = compare_operations(&config(device), &net, 3).unwrap();
    let wrong: Vec<_> = checks.iter().filter(|check| check.excess > 0.0).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn unsuitable(device: u32) {
    let error = |config: CudaConfig| {
        let opened = CudaBackend::new(config, backend_config("resnet20"));
        opened.err().unwrap().to_string()
    };
    let f32 = error(config_in(Precision::F32, device));
    assert!(f32.contains("--norms") && f32.contains("--precision f16 or bf16"), "{f32}");
    let conv = ConvConfig { api: ConvApi::Legacy, norms: Norms::Fused, ..ConvConfig::default() };
    let legacy = error(CudaConfig { conv, ..config(device) });
    assert!(legacy.contains("--norms") && legacy.contains("graph API"), "{legacy}");
}
