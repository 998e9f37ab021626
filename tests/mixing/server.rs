//! A server that mixes on the device returns the bytes of a server that mixes on the CPU.

use std::num::NonZeroUsize;

use forebay::mix::{MixJob, Mixer, NormalizeTable};
use forebay::plan::{MixKind, MixPlan, MixSample};
use forebay::{DType, Layout, MixedBy, Pipeline, PipelineConfig, PixelFormat, Rect, Size};
use forebay_client::{Client, Cursor, End, Job, Options, Rank};
use forebay_tests::world::{SMALL, Server, recipe};
use libtest_mimic::{Failed, Trial};

use crate::batch::same;

pub(crate) fn trials(mixer: &Mixer) -> Vec<Trial> {
    let device = mixer.device();
    let with = |name: &str, test: fn(&Mixer) -> Result<(), Failed>| {
        let mixer = mixer.clone();
        Trial::test(format!("{device}/{name}"), move || test(&mixer))
    };
    let mut trials =
        vec![with("a_trainer_that_mixes_gets_the_bytes_of_a_server_that_mixes", trainer_mixes)];
    if !matches!(mixer, Mixer::Cpu) {
        trials.push(with("a_server_streams_the_bytes_of_a_server_on_the_cpu", load_test));
    }
    trials
}

fn pipeline_on(mixer: &Mixer) -> Pipeline {
    let threads = NonZeroUsize::new(2).unwrap();
    Pipeline::with_mixer(mixer, PipelineConfig { threads, ..PipelineConfig::default() }).unwrap()
}

fn job(set: &[&str]) -> Job {
    let set = SMALL.iter().chain(set).map(|change| (*change).to_owned()).collect();
    Job { set, seed: 5, ..Job::new("train", "a2") }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(work)
}

/// Compares checksums of three steps in several modes, dtypes and layouts.
fn load_test(mixer: &Mixer) -> Result<(), Failed> {
    block_on(async {
        let (cpu, gpu) = (pipeline_on(&Mixer::Cpu), pipeline_on(mixer));
        let (cpu, gpu) = (Server::with(cpu).await, Server::with(gpu).await);
        for mode in ["batch", "pair", "elem"] {
            for (dtype, layout) in
                [(DType::U8, Layout::Nhwc), (DType::Bf16, Layout::Nhwc), (DType::F32, Layout::Nchw)]
            {
                let mut checksums = Vec::new();
                for server in [&cpu, &gpu] {
                    let format = PixelFormat { dtype, layout, ..PixelFormat::default() };
                    let client = Options { format, ..Options::new([server.endpoint()]) };
                    let mode = format!("mix.mode = \"{mode}\"");
                    let options = forebay_loadtest::Options::new(client, job(&[&mode]), 3);
                    let options = forebay_loadtest::Options { trainers: 2, ..options };
                    let report = forebay_loadtest::run(options).await?;
                    assert!(report.violations.is_empty(), "{:?}", report.violations);
                    assert_eq!(report.images, 48);
                    checksums.push(report.checksum);
                }
                assert_eq!(checksums[0], checksums[1], "{mode} {dtype:?} {layout:?}");
            }
        }
        cpu.stop().await;
        gpu.stop().await;
        Ok(())
    })
}

/// Applies the plan that unmixed microbatches contain, as a trainer does.
fn trainer_mixes(mixer: &Mixer) -> Result<(), Failed> {
    let size = Size::square(48);
    let normalize = NormalizeTable::new(&recipe("a2", &[]));
    block_on(async {
        let server = Server::with(pipeline_on(&Mixer::Cpu)).await;
        for mode in ["batch", "elem"] {
            let job = job(&[&format!("mix.mode = \"{mode}\"")]);
            for format in [
                PixelFormat::default(),
                mixed(DType::Bf16, Layout::Nchw),
                mixed(DType::F32, Layout::Nhwc),
            ] {
                let ready = Options { format, ..Options::new([server.endpoint()]) };
                let by_trainer =
                    PixelFormat { mixed_by: MixedBy::Trainer, ..PixelFormat::default() };
                let unmixed = Options { format: by_trainer, ..Options::new([server.endpoint()]) };
                let (ready, unmixed) = (stream(ready, &job).await?, stream(unmixed, &job).await?);
                assert_eq!(ready.len(), unmixed.len());
                for (ready, unmixed) in ready.iter().zip(&unmixed) {
                    let plan = MixPlan { samples: unmixed.mix.iter().map(planned).collect() };
                    let mix_job = MixJob { size, plan: &plan, format, normalize: &normalize };
                    same(&mixer.apply(&unmixed.pixels, &mix_job)?, &ready.pixels, &mix_job)?;
                }
            }
        }
        server.stop().await;
        Ok(())
    })
}

const fn mixed(dtype: DType, layout: Layout) -> PixelFormat {
    PixelFormat { dtype, layout, mixed_by: MixedBy::Server }
}

async fn stream(
    options: Options,
    job: &Job,
) -> Result<Vec<forebay_client::Microbatch>, forebay_client::Error> {
    let client = Client::connect(options)?;
    let mut stream = client.stream(job, Cursor::default(), End::Steps(1), Rank::SINGLE).await?;
    let mut received = Vec::new();
    while let Some(microbatch) = stream.next().await {
        received.push(microbatch?);
    }
    Ok(received)
}

/// The plan of a sample, from its form in the header.
fn planned(mix: &forebay_client::Mix) -> MixSample {
    match *mix {
        forebay_client::Mix::Keep => MixSample::UNMIXED,
        forebay_client::Mix::MixUp { lambda, partner_lambda } => {
            MixSample::given(MixKind::Mixup, [lambda, partner_lambda])
        }
        forebay_client::Mix::CutMix { top, left, height, width } => {
            let cut = MixKind::Cutmix(Rect { top, left, height, width });
            MixSample::given(cut, [1.0, 0.0])
        }
    }
}
