//! `forebay-trainer bench`: the speed of training steps on generated images, without a server.
//!
//! ```text
//! bench.rs          each combination of precision, size and batch
//! bench/measure.rs  the steps of one of them
//! bench/report.rs   what is printed and written
//! ```

mod measure;
mod report;

use anyhow::ensure;
use forebay_types::Rank;

use super::cli::BenchArgs;
use super::{output, setup};
#[cfg(feature = "cuda")]
use crate::backend::Backend as _;
use crate::backend::BackendConfig;
#[cfg(feature = "cuda")]
use crate::backend::device::open_gpu;
use crate::backend::device::{GpuConfig, TrainDevice};
use crate::backend::precision::Precision;
use crate::init::initial_state;
use crate::model::{Architecture, Graph};
pub(super) use measure::Steps;
#[cfg(feature = "cuda")]
pub(super) use measure::gpu_steps;
use measure::host_steps;
use report::{Measured, Report, Run};

pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let device = args.device.with_local_rank(0);
    let precisions = precisions(args, device)?;
    // What the device lacks is reported once, and not for each combination.
    device.check()?;
    let mut report = Report::new(args, device);
    for &precision in &precisions {
        for side in &args.image_size {
            for batch in &args.batch {
                let (side, batch) = (side.count(), batch.count());
                let measured = measure(args, device, precision, side, batch);
                let run = report.add(Run::new(batch, side, precision, measured));
                output::print(&run)?;
                if let Some(path) = &args.json {
                    // After each run, so that one that never ends costs only itself.
                    report.write(path)?;
                }
            }
        }
    }
    ensure!(report.complete(), "not everything could be measured, for the reasons above");
    Ok(())
}

/// The precisions to measure, by default that in which the device trains.
fn precisions(args: &BenchArgs, device: TrainDevice) -> anyhow::Result<Vec<Precision>> {
    let on_cpu = device == TrainDevice::Cpu;
    if args.precision.is_empty() {
        return Ok(vec![if on_cpu { Precision::F32 } else { Precision::Bf16 }]);
    }
    if let Some(other) = args.precision.iter().find(|&&precision| precision != Precision::F32) {
        ensure!(
            !on_cpu,
            "invalid --precision {}: the CPU computes in f32; set --device cuda:N",
            other.name()
        );
    }
    Ok(args.precision.clone())
}

/// Opens the device for microbatches of a size, and measures steps.
fn measure(
    args: &BenchArgs,
    device: TrainDevice,
    precision: Precision,
    side: usize,
    batch: usize,
) -> anyhow::Result<Measured> {
    let graph = Graph::new(&Architecture::named(&args.model, args.classes.count())?, side, side);
    let state = initial_state(&graph, 0);
    let config = BackendConfig {
        train_graph: graph.clone(),
        batch,
        eval_graph: graph,
        eval_batch: 1,
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    };
    setup::check_memory(&config, device, precision, args.memory_limit)?;
    let steps = Steps {
        batch,
        side,
        classes: args.classes.count(),
        warm_up: args.warm_up.get(),
        measured: args.steps.get(),
    };
    let gpu = GpuConfig { precision, ..args.gpu.config() };
    #[cfg(feature = "cuda")]
    if let TrainDevice::Cuda(number) = device {
        return on_gpu(number.unwrap_or(0), gpu, config, &state, &steps);
    }
    let mut backend = device.open_with(config, Rank::SINGLE, gpu)?;
    backend.load(&state).map_err(anyhow::Error::msg)?;
    host_steps(&mut *backend, &steps)
}

#[cfg(feature = "cuda")]
fn on_gpu(
    number: u32,
    gpu: GpuConfig,
    config: BackendConfig,
    state: &crate::state::TrainState,
    steps: &Steps,
) -> anyhow::Result<Measured> {
    use crate::backend::cuda::{CudaBackend, CudaConfig};
    let GpuConfig { precision, graphs, conv } = gpu;
    let device = open_gpu(number)?;
    let cuda = CudaConfig { graphs, conv, ..CudaConfig::new(device, precision) };
    let mut gpu = CudaBackend::new(cuda, config)?;
    gpu.load(state).map_err(anyhow::Error::msg)?;
    gpu_steps(&mut gpu, steps)
}
