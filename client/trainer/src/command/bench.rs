//! Speed of training steps on made-up images: what this machine can do without a server.

use std::time::{Duration, Instant};

use crate::backend::cpu::Cpu;
use crate::backend::{Backend as _, Batch, Part, Pixels};
use crate::model::{Architecture, Graph};
use crate::{init, preset};
use bytes::Bytes;

use super::cli::Bench;

pub(crate) fn run(args: &Bench) -> anyhow::Result<()> {
    let Bench { batch, image_size, classes, .. } = *args;
    let graph = Graph::new(&Architecture::named(&args.model, classes)?, image_size, image_size);
    let state = init::state(&graph, 0);
    let mut cpu: Cpu<f32> =
        Cpu::new(graph.clone(), batch, graph, 1, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    cpu.load(&state).map_err(anyhow::Error::msg)?;
    drop(state);
    let training = preset::training("a3", 0.0, 1, 1)?;
    let images = images(batch, image_size, classes)?;
    let part = Part { drops: None, loss: &training.loss, share: 1.0, last: true };
    let mut times = Vec::new();
    for step in 0..=args.steps {
        let (wall, busy) = (Instant::now(), cpu_time());
        cpu.accumulate(&images, &part)?;
        cpu.update(&training.lamb, 1e-3, None)?;
        cpu.outcome(false)?;
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
    super::print(&format!(
        "{} {image_size} px, batch {batch}: median step {wall:.3} s, {busy:.3} s of CPU time; {:.1} images/s on {} threads, {:.1} per CPU second",
        args.model,
        batch as f64 / wall,
        rayon::current_num_threads(),
        batch as f64 / busy,
    ));
    Ok(())
}

/// A microbatch of made-up images.
pub(super) fn images(batch: usize, side: usize, classes: usize) -> anyhow::Result<Batch> {
    let pixels: Vec<u8> = (0..batch * side * side * 3)
        .map(|i| u8::try_from(i * 31 % 251).expect("below 256"))
        .collect();
    let labels: Vec<u32> =
        (0..u32::try_from(batch)?).map(|i| i % u32::try_from(classes).unwrap_or(1)).collect();
    Ok(Batch {
        epoch: 0,
        step: 0,
        index: 0,
        size: (side, side),
        pixels: Pixels::Bytes(Bytes::from(pixels)),
        label_a: labels.clone(),
        label_b: labels,
        lambda: vec![1.0; batch],
    })
}

/// CPU time of the process so far.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
