//! `forebay-trainer bench`: the speed of training steps on generated images, without a server.

use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_types::MicrobatchName;
use forebay_types::process::cpu_time;

use super::cli::BenchArgs;
use super::setup;
use crate::backend::cpu::CpuBackend;
use crate::backend::device::TrainDevice;
use crate::backend::{Backend as _, BackendConfig, MicroStep};
use crate::batch::{Batch, Pixels};
use crate::init::initial_state;
use crate::model::{Architecture, Graph};
use crate::training_loop::TrainConfig;

pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let (batch, side, classes) =
        (args.batch.count(), args.image_size.count(), args.classes.count());
    let graph = Graph::new(&Architecture::named(&args.model, classes)?, side, side);
    let config = BackendConfig {
        train_graph: graph.clone(),
        batch,
        eval_graph: graph,
        eval_batch: 1,
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    };
    setup::check_memory(&config, TrainDevice::Cpu, args.memory_limit)?;
    let mut cpu = CpuBackend::<f32>::new(config);
    cpu.load(&initial_state(cpu.graph(), 0)).map_err(anyhow::Error::msg)?;
    let config = TrainConfig::preset("a3", 0.0, 1, 1)?;
    let images = generated_batch(batch, side, classes)?;
    let micro = MicroStep { drop_path: None, loss: &config.loss, weight: 1.0, last: true };
    let mut times = Vec::new();
    for step in 0..=args.steps.get() {
        let (wall, busy) = (Instant::now(), cpu_time());
        cpu.forward(&images, &micro)?;
        cpu.backward(&images, &micro)?;
        cpu.update(&config.optimizer, 1e-3, None)?;
        cpu.poll_report(false)?;
        if step > 0 {
            times.push((wall.elapsed(), cpu_time().saturating_sub(busy)));
        }
    }
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times.get(times.len() / 2).map_or(0.0, Duration::as_secs_f64)
    };
    let wall = median(times.iter().map(|t| t.0).collect());
    let busy = median(times.iter().map(|t| t.1).collect());
    super::output::print(&format!(
        "{} {side} px, batch {batch}: median step {wall:.3} s, {busy:.3} s of CPU time; {:.1} images/s on {} threads, {:.1} per CPU second",
        args.model,
        batch as f64 / wall,
        rayon::current_num_threads(),
        batch as f64 / busy,
    ))
}

/// A microbatch of generated images.
pub(super) fn generated_batch(batch: usize, side: usize, classes: usize) -> anyhow::Result<Batch> {
    let pixels: Vec<u8> = (0..batch * side * side * 3)
        .map(|i| u8::try_from(i * 31 % 251).expect("below 256"))
        .collect();
    let labels: Vec<u32> =
        (0..u32::try_from(batch)?).map(|i| i % u32::try_from(classes).unwrap_or(1)).collect();
    Ok(Batch {
        name: MicrobatchName { seed: 0, epoch: 0, step: 0, index: 0 },
        size: (side, side),
        pixels: Pixels::Bytes(Bytes::from(pixels)),
        label_a: labels.clone(),
        label_b: labels,
        lambda: vec![1.0; batch],
    })
}
