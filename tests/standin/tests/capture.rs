//! Captures of a stream: what a graph repeats, and calls that are not allowed inside a capture.

use cudarc::driver::CudaGraph;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};

use crate::gpu::{Failure, Gpu, Outcome, grid, launch};

const THREAD_LOCAL: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;

fn expect(found: f32, wanted: f32) -> Outcome {
    let equal = found.to_bits() == wanted.to_bits();
    if equal { Ok(()) } else { Err(Failure(format!("found {found} instead of {wanted}"))) }
}

/// Captures what `enqueue` puts on the first stream.
fn capture(gpu: &Gpu, enqueue: impl FnOnce() -> Outcome) -> Result<CudaGraph, Failure> {
    gpu.one.begin_capture(THREAD_LOCAL)?;
    let enqueued = enqueue();
    let graph = gpu.one.end_capture(CUgraphInstantiate_flags(0));
    enqueued?;
    graph?.ok_or_else(|| Failure("no graph".to_owned()))
}

/// A graph reads memory at each launch, and the arguments of its kernels are those of the capture.
pub(crate) fn a_graph_repeats_its_launches(gpu: &Gpu) -> Outcome {
    let mut number = gpu.one.clone_htod(&[20.0f32])?;
    gpu.one.synchronize()?;
    let mut count = 1i32;
    let graph = capture(gpu, || {
        launch!(gpu.one, gpu.kernel("add_one")?, grid(1, 1), &mut number, &count)?;
        launch!(gpu.one, gpu.kernel("add_one")?, grid(1, 1), &mut number, &count)?;
        Ok(())
    })?;
    count -= 1;
    expect(gpu.one.clone_dtoh(&number)?[0], 20.0)?;
    for _ in 0..5 {
        graph.launch()?;
    }
    expect(gpu.one.clone_dtoh(&number)?[0], 30.0)?;
    gpu.one.memcpy_htod(&[count as f32], &mut number)?;
    for _ in 0..3 {
        graph.launch()?;
    }
    expect(gpu.one.clone_dtoh(&number)?[0], 6.0)
}

/// Other streams run while one is captured.
pub(crate) fn other_streams_run_during_a_capture(gpu: &Gpu) -> Outcome {
    let mut number = gpu.one.clone_htod(&[1.0f32])?;
    let mut other = gpu.two.clone_htod(&[5.0f32])?;
    gpu.one.synchronize()?;
    let graph = capture(gpu, || {
        launch!(gpu.one, gpu.kernel("add_one")?, grid(1, 1), &mut number, &1i32)?;
        launch!(gpu.two, gpu.kernel("add_one")?, grid(1, 1), &mut other, &1i32)?;
        Ok(())
    })?;
    graph.launch()?;
    expect(gpu.one.clone_dtoh(&number)?[0], 2.0)?;
    expect(gpu.two.clone_dtoh(&other)?[0], 6.0)
}

/// Captures one launch and the mistake. The error of the mistake must be the one expected, and the capture invalid.
fn with_mistake(gpu: &Gpu, mistake: impl FnOnce() -> Outcome) -> Outcome {
    let mut number = gpu.one.clone_htod(&[1.0f32])?;
    gpu.one.synchronize()?;
    gpu.one.begin_capture(THREAD_LOCAL)?;
    launch!(gpu.one, gpu.kernel("add_one")?, grid(1, 1), &mut number, &1i32)?;
    let made = mistake();
    let ended = gpu.one.end_capture(CUgraphInstantiate_flags(0)).err().map(|error| error.0);
    if ended != Some(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED) {
        return Err(Failure(format!("the capture is still valid: {ended:?}")));
    }
    // The stream can be used as before.
    expect(gpu.one.clone_dtoh(&number)?[0], 1.0)?;
    made
}

pub(crate) fn waiting_for_a_captured_stream(gpu: &Gpu) -> Outcome {
    with_mistake(gpu, || Ok(gpu.one.synchronize()?))
}

pub(crate) fn allocating_during_a_capture(gpu: &Gpu) -> Outcome {
    with_mistake(gpu, || gpu.pinned::<u8>(64).map(drop))
}

pub(crate) fn waiting_for_a_captured_event(gpu: &Gpu) -> Outcome {
    let event = gpu.event()?;
    with_mistake(gpu, || {
        event.record(&gpu.one)?;
        Ok(event.synchronize()?)
    })
}

pub(crate) fn depending_on_uncaptured_work(gpu: &Gpu) -> Outcome {
    let event = gpu.event()?;
    event.record(&gpu.two)?;
    with_mistake(gpu, || Ok(gpu.one.wait(&event)?))
}

pub(crate) fn reading_results_during_a_capture(gpu: &Gpu) -> Outcome {
    let number = gpu.one.clone_htod(&[1.0f32])?;
    gpu.one.synchronize()?;
    with_mistake(gpu, || gpu.one.clone_dtoh(&number).map(drop).map_err(Failure::from))
}

pub(crate) fn ending_a_capture_that_did_not_begin(gpu: &Gpu) -> Outcome {
    Ok(gpu.one.end_capture(CUgraphInstantiate_flags(0)).map(drop)?)
}
