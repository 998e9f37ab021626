//! `forebay-trainer gpu-selftest`: whether a GPU computes what the CPU does, and how quickly.

use super::cli::SelfTest;

#[cfg(not(feature = "cuda"))]
pub(crate) fn run(_args: &SelfTest) -> anyhow::Result<()> {
    anyhow::bail!(
        "this forebay-trainer was built without CUDA: build it with `--features cuda` to test a GPU"
    )
}

#[cfg(feature = "cuda")]
pub(crate) use gpu::run;

#[cfg(feature = "cuda")]
mod gpu {
    use std::time::Instant;

    use anyhow::{Context as _, ensure};
    use forebay::gpu;
    use forebay_client::Rank;

    use super::SelfTest;
    use crate::backend::cuda::{BUCKET, Cuda, Number, Setting};
    use crate::backend::{Backend as _, Device, Networks};
    use crate::model::{Architecture, Graph};
    use crate::{command, selftest};

    /// Images of the comparisons: odd, so that no size is a multiple of anything.
    const SIDES: (usize, usize) = (75, 61);

    pub(crate) fn run(args: &SelfTest) -> anyhow::Result<()> {
        let Device::Cuda(device) = args.device.or(0) else {
            anyhow::bail!("the self-test compares a GPU with the CPU; give --device cuda:N")
        };
        let device = gpu::Gpu::open(device.unwrap_or(0))?;
        command::print(&format!("{device:?}: {}", device.name()?));
        let setting = |number| Setting {
            device: device.clone(),
            number,
            place: Rank::SINGLE,
            bucket: BUCKET,
        };
        for model in ["resnet20", "resnet18", "resnet50"] {
            let graph = Graph::new(&Architecture::named(model, 10)?, SIDES.0, SIDES.1);
            for number in [Number::F32, Number::Bf16] {
                let checks = selftest::layers(&setting(number), &graph, 3)?;
                for check in checks.iter().filter(|check| check.excess > 0.0) {
                    command::print(&format!("  {}: {:.1e} too far", check.what, check.excess));
                }
                ensure!(
                    checks.iter().all(|check| check.excess <= 0.0),
                    "{model} in {number:?} is not the CPU's: this GPU must not be used"
                );
                command::print(&format!(
                    "{model}, {number:?}: {} comparisons with the CPU, all within rounding",
                    checks.len()
                ));
            }
            ensure!(
                selftest::repeats(&setting(Number::Bf16), &graph, 3)?,
                "{model} gives other bits the second time: this GPU must not be used"
            );
            command::print(&format!("{model}: the same bits twice"));
        }
        if args.steps > 0 { time(args, setting(Number::Bf16)) } else { Ok(()) }
    }

    fn time(args: &SelfTest, setting: Setting) -> anyhow::Result<()> {
        let (batch, side) = (args.batch, args.image_size);
        let graph = Graph::new(&Architecture::named(&args.model, 1000)?, side, side);
        let [training, evaluation] = [graph.clone(), graph.clone()];
        let (mean, std) = ([0.5; 3], [0.25; 3]);
        let networks = Networks { training, batch, evaluation, eval_batch: 1, mean, std };
        let bandwidth = setting.device.bandwidth();
        let mut gpu = Cuda::new(setting, networks)?;
        gpu.load(&crate::init::state(&graph, 0)).map_err(anyhow::Error::msg)?;
        let speed = speed(&mut gpu, args)?;
        command::print(&format!("{} {side} px, batch {batch}: {speed:.0} images/s", args.model));
        command::print(
            "kind                 count  forward ms  backward ms   GB/s  TFLOP/s  ms at full bandwidth",
        );
        for (kind, row) in selftest::times(&mut gpu, batch, args.steps)? {
            let time = row.forward + row.backward;
            let floor = bandwidth.map_or("?".to_owned(), |b| format!("{:.3}", row.bytes / b * 1e3));
            command::print(&format!(
                "{kind:<20} {:>5} {:>11.3} {:>12.3} {:>6.0} {:>8.1} {floor:>21}",
                row.count,
                row.forward * 1e3,
                row.backward * 1e3,
                row.bytes / time / 1e9,
                row.operations / time / 1e12,
            ));
        }
        Ok(())
    }

    /// Images a second of whole steps, fed from this process's memory.
    fn speed(gpu: &mut Cuda, args: &SelfTest) -> anyhow::Result<f64> {
        let images = command::bench::images(args.batch, args.image_size, 1000)?;
        let training = crate::preset::training("a3", 0.0, 1, 1)?;
        let part =
            crate::backend::Part { drops: None, loss: &training.loss, share: 1.0, last: true };
        let mut begin = None;
        for step in 0..=args.steps {
            if step == 1 {
                gpu.wait()?;
                begin = Some(Instant::now());
            }
            gpu.accumulate(&images, &part)?;
            gpu.update(&training.lamb, 1e-3, None)?;
            gpu.outcome(false)?;
        }
        gpu.wait()?;
        let seconds = begin.context("no steps")?.elapsed().as_secs_f64();
        while gpu.outcome(true)?.is_some() {}
        Ok(f64::from(args.steps) * args.batch as f64 / seconds)
    }
}
