//! `forebay-trainer gpu-selftest`: compares a GPU with the CPU, and measures its speed.

use super::cli::SelftestArgs;

#[cfg(not(feature = "cuda"))]
pub(crate) fn run(_args: &SelftestArgs) -> anyhow::Result<()> {
    anyhow::bail!(
        "this forebay-trainer was built without CUDA: build it with `--features cuda` to test a GPU"
    )
}

#[cfg(feature = "cuda")]
pub(crate) use gpu::run;

#[cfg(feature = "cuda")]
mod gpu {
    use anyhow::ensure;
    use forebay::gpu;

    use super::SelftestArgs;
    use crate::backend::conv_config::Norms;
    use crate::backend::cuda::{CudaBackend, CudaConfig, LIBRARIES};
    use crate::backend::device::{GpuConfig, TrainDevice, open_gpu};
    use crate::backend::precision::Precision;
    use crate::backend::{Backend as _, BackendConfig};
    use crate::command::{bench, output};
    use crate::init::initial_state;
    use crate::model::{Architecture, Graph};
    use crate::selftest;

    /// Height and width of the images to compare: odd, so that no size is a multiple of a tile.
    const SIDES: (usize, usize) = (75, 61);

    /// Lists the libraries of CUDA.
    fn libraries() -> anyhow::Result<()> {
        let table = gpu::LibraryTable::new(&LIBRARIES, &[gpu::Library::Nccl]);
        output::print(table.to_string().trim_end())?;
        ensure!(table.is_complete(), "libraries that training on a GPU needs are missing");
        output::print(
            "all libraries that training on a GPU needs were found; gpu-selftest without --libraries tests the GPU",
        )
    }

    pub(crate) fn run(args: &SelftestArgs) -> anyhow::Result<()> {
        if args.libraries {
            return libraries();
        }
        let TrainDevice::Cuda(device) = args.device.with_local_rank(0) else {
            anyhow::bail!("the self-test compares a GPU with the CPU: set --device cuda:N")
        };
        // A misspelled model is an error before anything is compared.
        let compare = args.compare.iter().map(|model| Architecture::named(model, 10));
        let compare = compare.collect::<Result<Vec<_>, _>>()?;
        let measured = Architecture::named(&args.model, 1000)?;
        let device = open_gpu(device.unwrap_or(0))?;
        output::print(&format!("{device:?}: {}", device.name()?))?;
        output::print(&gpu::libraries::describe())?;
        let cuda = |precision| {
            let GpuConfig { graphs, mut conv, .. } = args.gpu.config();
            // f32 has no fused norms.
            if precision == Precision::F32 {
                conv.norms = Norms::Separate;
            }
            CudaConfig { graphs, conv, ..CudaConfig::new(device.clone(), precision) }
        };
        for (model, architecture) in args.compare.iter().zip(&compare) {
            let graph = Graph::new(architecture, SIDES.0, SIDES.1);
            for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
                let checks = selftest::compare_operations(&cuda(precision), &graph, 3)?;
                for check in checks.iter().filter(|check| check.excess > 0.0) {
                    output::print(&format!(
                        "  {}: {:.1e} above the tolerance",
                        check.name, check.excess
                    ))?;
                }
                ensure!(
                    checks.iter().all(|check| check.excess <= 0.0),
                    "{model} in {} differs from the CPU: do not use this GPU",
                    precision.name()
                );
                output::print(&format!(
                    "{model}, {}: {} comparisons with the CPU, all within rounding",
                    precision.name(),
                    checks.len()
                ))?;
            }
            ensure!(
                selftest::is_deterministic(&cuda(Precision::Bf16), &graph, 3)?,
                "{model} is not deterministic: do not use this GPU"
            );
            output::print(&format!("{model}: deterministic, two runs in bf16 have the same bits"))?;
        }
        if args.steps.get() > 0 {
            time(args, &measured, cuda(args.precision))?;
        }
        output::print("passed")
    }

    fn time(
        args: &SelftestArgs,
        architecture: &Architecture,
        cuda: CudaConfig,
    ) -> anyhow::Result<()> {
        let (batch, side) = (args.batch.count(), args.image_size.count());
        let graph = Graph::new(architecture, side, side);
        let config = BackendConfig {
            train_graph: graph.clone(),
            batch,
            eval_graph: graph.clone(),
            eval_batch: 1,
            mean: [0.5; 3],
            std: [0.25; 3],
        };
        let bandwidth = cuda.device.bandwidth();
        let mut gpu = CudaBackend::new(cuda, config)?;
        gpu.load(&initial_state(&graph, 0)).map_err(anyhow::Error::msg)?;
        let measured = args.steps.get();
        let steps = bench::Steps { batch, side, classes: 1000, warm_up: measured.min(5), measured };
        let speed = bench::gpu_steps(&mut gpu, &steps)?.images_per_s;
        output::print(&format!(
            "{}, {side} px, batch {batch}, {}: {speed:.0} images/s",
            args.model,
            args.precision.name()
        ))?;
        output::print(
            "operations of a step, each alone and with an empty cache, in sums by kind:",
        )?;
        output::print(
            "kind                 count  forward ms  backward ms   GB/s  TFLOP/s  ms at full bandwidth",
        )?;
        for (kind, row) in selftest::time_operations(&mut gpu, batch, args.steps.as_u32())? {
            let time = row.forward + row.backward;
            let floor = bandwidth.map_or("?".to_owned(), |b| format!("{:.3}", row.bytes / b * 1e3));
            output::print(&format!(
                "{kind:<20} {:>5} {:>11.3} {:>12.3} {:>6.0} {:>8.1} {floor:>21}",
                row.count,
                row.forward * 1e3,
                row.backward * 1e3,
                row.bytes / time / 1e9,
                row.operations / time / 1e12,
            ))?;
        }
        Ok(())
    }
}
